//! The stand-in game server without its HTTP: games are made, played by themselves after a while, and reported.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use uuid::Uuid;

use crate::fault::Faults;
use crate::game::{Games, Made, NotAGame, Order, Outcome, State};
use crate::report::Reporter;
use crate::strength::Strengths;

/// So many results are reported at once when the server stops.
const FAREWELLS_AT_ONCE: usize = 16;

/// How games go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Play {
    pub strengths: Strengths,
    /// A game takes half of this to one and a half.
    pub length: Duration,
    /// Of the games, this share is not played to an end.
    pub aborted_share: f64,
}

/// A game server.
#[derive(Debug)]
pub struct Arena {
    pub games: Games,
    pub faults: Faults,
    play: Play,
    /// Without one, games are played and nobody hears of it.
    reporter: Option<Reporter>,
}

impl Arena {
    pub fn new(play: Play, reporter: Option<Reporter>) -> Self {
        let faults = Faults::new(play.strengths.chance("faults", ""));
        Self { games: Games::default(), faults, play, reporter }
    }

    /// Makes the game of a match and lets it be played, or answers the one that is there.
    ///
    /// # Errors
    /// [`NotAGame`].
    pub fn make(self: &Arc<Self>, order: &Order) -> Result<(String, Made), NotAGame> {
        let (first, second) = order.sides()?;
        let (game_id, made) = self.games.make(order);
        let id = order.match_id;
        match made {
            Made::New => {
                let strengths = self.play.strengths;
                let outcome = strengths.outcome(&id.to_string(), first, second, self.play.aborted_share);
                let part = 0.5 + strengths.chance("length", &id.to_string()).f64();
                let length = self.play.length.mul_f64(part);
                tracing::info!(game = game_id, pool = order.pool_key, first, second, "made");
                let arena = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep(length).await;
                    if arena.games.end(id, outcome) {
                        arena.report(id).await;
                    }
                });
            }
            Made::Unwanted => {
                let arena = Arc::clone(self);
                tokio::spawn(async move { arena.report(id).await });
            }
            Made::Again => {}
        }
        Ok((game_id, made))
    }

    /// Ends all games that are played, as aborted, and reports that: their players need not wait for a game server that
    /// has gone. Results that are on their way are reported once more, as their way may end here.
    pub async fn stop(&self) {
        let games = self.games.all().into_iter();
        let open = games.filter(|game| match game.state {
            State::Playing => self.games.end(game.match_id, Outcome::Aborted),
            State::Reporting => true,
            State::Reported | State::Unwanted => false,
        });
        let open: Vec<Uuid> = open.map(|game| game.match_id).collect();
        if !open.is_empty() {
            tracing::info!(games = open.len(), "ending the games that are played");
        }
        let reports = futures_util::stream::iter(open).map(|id| self.report(id));
        reports.buffer_unordered(FAREWELLS_AT_ONCE).collect::<()>().await;
    }

    async fn report(&self, id: Uuid) {
        let Some((game, result)) = self.games.get(id).and_then(|game| Some((game.clone(), game.result?)))
        else {
            return;
        };
        let reported = match &self.reporter {
            Some(reporter) => reporter.report(&game.tenant, id, result).await,
            None => Ok(()),
        };
        self.games.reported(id, reported.is_ok());
        match reported {
            Ok(()) => tracing::info!(game = game.game_id, ?result, "over"),
            Err(refused) => tracing::info!(game = game.game_id, %refused, "over, and nobody wants to know"),
        }
    }
}
