//! The desk at which games are asked for: with a circuit breaker before it, and without a service, no games.

use std::time::Duration;

use domain::breaker::{self, Outcome, Phase};
use event_log::clock::Clock;
use event_schemas::ids::{GameId, MatchRecordId, PoolKey, SubjectId, Tenant};
use event_schemas::match_record::{AbandonReason, Side};
use event_schemas::rating::Rating;
use event_schemas::time::Timestamp;

use crate::client::guard::Guard;
use crate::client::live_game::{CallError, GamePlayer, GameRequest, LiveGame};
use crate::vault::Vault;

/// What the service is called where breakers are shown.
pub(super) const NAME: &str = "game_service";

/// How often a call that failed is made again at once: its answer may just have been lost.
const CALLS_MAX: u32 = 2;
/// How long those wait for whom a game could not be made; each further time twice as long.
const HELD_BACK_FIRST: Duration = Duration::from_secs(1);
/// The longest such wait.
const HELD_BACK_MAX: Duration = Duration::from_secs(30);

/// A game to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) match_id: MatchRecordId,
    pub(crate) tenant: Tenant,
    pub(crate) pool_key: PoolKey,
    pub(crate) players: [(SubjectId, Rating, Side); 2],
    /// How often the players were let go before: decides how long they wait if it fails again.
    pub(crate) round: u32,
}

/// Why there is no game.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoGame {
    pub(crate) reason: AbandonReason,
    pub(crate) detail: String,
    /// Before this instant it is not worth trying again.
    pub(crate) until: Timestamp,
}

/// Who makes the games.
#[derive(Debug)]
pub enum Maker {
    /// Nobody: matches are made and carry no game.
    Nobody,
    /// The live-game service, which is told the players' names.
    Service { client: LiveGame, vault: Vault },
    #[cfg(test)]
    Scripted(super::simulation::Script),
}

/// Where games are asked for.
#[derive(Debug)]
pub struct Desk {
    maker: Maker,
    guard: Guard,
    clock: Clock,
}

impl Desk {
    /// A desk before this maker, whose breaker is closed.
    pub fn new(maker: Maker, clock: Clock) -> Self {
        Self { maker, guard: Guard::new(clock.clone()), clock }
    }

    /// How the service stands, and how often it was left alone in a row; none without a service.
    pub(crate) fn standing(&self) -> Option<(Phase, u32)> {
        (!matches!(self.maker, Maker::Nobody)).then(|| self.guard.standing())
    }

    /// How many games can be asked for at once now; or none until an instant.
    pub(crate) fn room(&self) -> Result<usize, Timestamp> {
        match self.guard.standing().0 {
            Phase::Closed => Ok(usize::MAX),
            Phase::Probing => Ok(breaker::Settings::default().probes as usize),
            Phase::Open { until } => Err(until),
        }
    }

    /// Makes the game of a match; without a service there is none, which is no error.
    pub(crate) async fn make(&self, order: &Order) -> Result<Option<GameId>, NoGame> {
        if matches!(self.maker, Maker::Nobody) {
            return Ok(None);
        }
        for call in 1.. {
            let asked = self.guard.ask().map_err(|parked| NoGame {
                reason: AbandonReason::GameServiceParked,
                detail: parked.to_string(),
                until: parked.until,
            })?;
            match self.call(order).await {
                Ok(game) => {
                    asked.tell(Outcome::Succeeded);
                    return Ok(Some(game));
                }
                Err(CallError::Refused(detail)) => {
                    asked.tell(Outcome::Succeeded);
                    return Err(self.no_game(AbandonReason::GameRefused, detail, order.round));
                }
                Err(CallError::Failed(detail)) => {
                    asked.tell(Outcome::Failed);
                    metrics::counter!("matchbook_game_calls_failed_total").increment(1);
                    if call >= CALLS_MAX {
                        return Err(self.no_game(AbandonReason::GameServiceFailed, detail, order.round));
                    }
                }
            }
        }
        unreachable!("the loop ends at its last call")
    }

    async fn call(&self, order: &Order) -> Result<GameId, CallError> {
        match &self.maker {
            Maker::Nobody => Err(CallError::Refused("no game service is set".to_owned())),
            Maker::Service { client, vault } => {
                let mut players = Vec::with_capacity(2);
                for (subject, rating, side) in order.players {
                    let user_id = vault.user(&order.tenant, subject).await;
                    let user_id = user_id.map_err(|error| CallError::Failed(error.to_string()))?;
                    let gone = || CallError::Refused("one of the players is not known any more".to_owned());
                    players.push(GamePlayer { user_id: user_id.ok_or_else(gone)?, rating, side });
                }
                let players = players.try_into().expect("two subjects become two players");
                let (match_id, tenant) = (order.match_id, order.tenant.clone());
                let request = GameRequest { match_id, tenant, pool_key: order.pool_key.clone(), players };
                client.create(&request).await
            }
            #[cfg(test)]
            Maker::Scripted(script) => script.call(order).await,
        }
    }

    fn no_game(&self, reason: AbandonReason, detail: String, round: u32) -> NoGame {
        let doubled = HELD_BACK_FIRST.saturating_mul(2_u32.saturating_pow(round));
        NoGame { reason, detail, until: self.clock.now().after(doubled.min(HELD_BACK_MAX)) }
    }
}
