//! The simulated game server without its HTTP layer: creates games, simulates them, and reports the results.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use uuid::Uuid;

use crate::fault::Faults;
use crate::game::{CreateGame, Creation, Games, InvalidGame, Outcome, State};
use crate::report::Reporter;
use crate::strength::Strengths;

/// The number of concurrent reports when the server stops.
const REPORTS_IN_FLIGHT: usize = 16;

/// The rules of simulated games.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GameRules {
    pub strengths: Strengths,
    /// The average length; a game takes 0.5 to 1.5 of it.
    pub length: Duration,
    /// The share of games that are aborted.
    pub aborted_share: f64,
}

/// A game server.
#[derive(Debug)]
pub struct Arena {
    pub games: Games,
    pub faults: Faults,
    rules: GameRules,
    /// Without one, results are not reported.
    reporter: Option<Reporter>,
}

impl Arena {
    pub fn new(rules: GameRules, reporter: Option<Reporter>) -> Self {
        let faults = Faults::new(rules.strengths.rng("faults", ""));
        Self { games: Games::default(), faults, rules, reporter }
    }

    /// Creates and starts the game of a match, or returns the existing one.
    ///
    /// # Errors
    /// [`InvalidGame`].
    pub fn create_game(self: &Arc<Self>, request: &CreateGame) -> Result<(String, Creation), InvalidGame> {
        let (first, second) = request.sides()?;
        let (game_id, creation) = self.games.create(request);
        let id = request.match_id;
        match creation {
            Creation::New => {
                let strengths = self.rules.strengths;
                let outcome = strengths.outcome(&id.to_string(), first, second, self.rules.aborted_share);
                let part = 0.5 + strengths.rng("length", &id.to_string()).f64();
                let length = self.rules.length.mul_f64(part);
                tracing::info!(game = game_id, pool = request.pool_key, first, second, "game created");
                let arena = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep(length).await;
                    if arena.games.end(id, outcome) {
                        arena.report(id).await;
                    }
                });
            }
            Creation::Rejected => {
                let arena = Arc::clone(self);
                tokio::spawn(async move { arena.report(id).await });
            }
            Creation::Existing => {}
        }
        Ok((game_id, creation))
    }

    /// Aborts all running games and reports this, so that players do not wait for a stopped game server. Results that are
    /// being reported are reported once more, because the reports may be cancelled by the shutdown.
    pub async fn stop(&self) {
        let games = self.games.all().into_iter();
        let open = games.filter(|game| match game.state {
            State::Playing => self.games.end(game.match_id, Outcome::Aborted),
            State::Reporting => true,
            State::Reported | State::Rejected => false,
        });
        let open: Vec<Uuid> = open.map(|game| game.match_id).collect();
        if !open.is_empty() {
            tracing::info!(games = open.len(), "aborting the running games");
        }
        let reports = futures_util::stream::iter(open).map(|id| self.report(id));
        reports.buffer_unordered(REPORTS_IN_FLIGHT).collect::<()>().await;
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
            Ok(()) => tracing::info!(game = game.game_id, ?result, "game over"),
            Err(error) => tracing::info!(game = game.game_id, %error, "game over, result rejected"),
        }
    }
}
