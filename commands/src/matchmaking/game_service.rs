//! The client of the game service, behind a circuit breaker. Without a service, matches have no game.

use std::collections::HashMap;
use std::time::Duration;

use domain::breaker::{self, Breaker, CircuitState, Outcome};
use event_log::clock::Clock;
use event_schemas::challenge::ChallengeEvent;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::game_match::{AbandonReason, GameMatchEvent, Side};
use event_schemas::ids::{GameId, GameMatchId, PoolKey, SubjectId, Tenant};
use event_schemas::rating::Rating;
use event_schemas::time::Timestamp;
use vault::Vault;

use crate::engine::circuit_breaker::CircuitBreakers;
use crate::matchmaking::live_game::{CallError, GamePlayer, GameRequest, LiveGame};

/// The name of the service in the list of breakers.
pub(super) const NAME: &str = "game_service";

/// The number of calls for a game: a failed call is retried at once, because only its response may be lost.
const CALLS_MAX: u32 = 2;
/// The cooldown of players after a failed creation of their game; it doubles with each failure.
const COOLDOWN_FIRST: Duration = Duration::from_secs(1);
/// The longest cooldown.
const COOLDOWN_MAX: Duration = Duration::from_secs(30);

/// A request to create a game.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CreateGame {
    pub(crate) match_id: GameMatchId,
    pub(crate) tenant: Tenant,
    pub(crate) pool_key: PoolKey,
    pub(crate) players: [(SubjectId, Rating, Side); 2],
    /// The number of earlier releases of the players, which determines their cooldown if this attempt fails.
    pub(crate) release_count: u32,
}

/// The reason why no game was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GameNotCreated {
    pub(crate) reason: AbandonReason,
    pub(crate) detail: String,
    /// The time before which a retry is not worthwhile.
    pub(crate) retry_at: Timestamp,
}

/// The backend that creates games.
#[derive(Debug)]
pub enum GameBackend {
    /// No backend: matches have no game.
    None,
    /// The live-game service, which receives the players' user ids.
    Service { client: LiveGame, vault: Vault },
    #[cfg(test)]
    Simulated(super::simulation::SimulatedGameService),
}

/// The client of a game backend.
#[derive(Debug)]
pub struct GameServiceClient {
    backend: GameBackend,
    breakers: CircuitBreakers,
    clock: Clock,
}

impl GameServiceClient {
    /// A client of this backend, with closed breakers.
    pub fn new(backend: GameBackend, clock: Clock) -> Self {
        Self { backend, breakers: CircuitBreakers::new(clock.clone()), clock }
    }

    /// The state of the tenant's breaker, and the number of times in a row that it opened; none without a service.
    pub(crate) fn breaker_state(&self, tenant: &Tenant) -> Option<(CircuitState, u32)> {
        self.has_service().then(|| self.breakers.state(tenant))
    }

    /// The numbers of tenants of which the breaker is open, and half-open; none without a service.
    pub(crate) fn unclosed_breakers(&self) -> Option<(usize, usize)> {
        self.has_service().then(|| self.breakers.unclosed())
    }

    fn has_service(&self) -> bool {
        !matches!(self.backend, GameBackend::None)
    }

    /// The tenants of which no games are requested, and until when.
    pub(crate) fn parked_tenants(&self) -> HashMap<Tenant, Timestamp> {
        self.breakers.open()
    }

    /// The breakers, to be stored with a snapshot.
    pub(crate) fn snapshot(&self) -> Vec<(Tenant, Breaker)> {
        self.breakers.snapshot()
    }

    /// Continues with the breakers of a snapshot.
    pub(crate) fn restore(&self, stored: Vec<(Tenant, Breaker)>) {
        self.breakers.restore(stored);
    }

    /// Counts the calls of an earlier process by the event that recorded their outcome.
    pub(crate) fn replay(&self, envelope: &Envelope) {
        let reason = match &envelope.event {
            Event::GameMatch(GameMatchEvent::MatchConfirmed(confirmed)) if confirmed.game_id.is_some() => {
                None
            }
            Event::GameMatch(GameMatchEvent::MatchAbandoned(abandoned)) => Some(abandoned.reason),
            Event::Challenge(ChallengeEvent::ChallengePlacementFailed(failed)) => Some(failed.reason),
            _ => return,
        };
        let (outcome, calls) = match reason {
            None | Some(AbandonReason::GameRefused) => (Outcome::Succeeded, 1),
            Some(AbandonReason::GameServiceFailed) => (Outcome::Failed, CALLS_MAX),
            // No call was made, or none that counts.
            Some(AbandonReason::PlayerUnavailable | AbandonReason::GameServiceParked) => return,
        };
        for _ in 0..calls {
            self.breakers.replay(&envelope.metadata.tenant, outcome, envelope.recorded_at);
        }
    }

    /// The number of the tenant's games that may be requested concurrently now, or the time until which none may be.
    pub(crate) fn capacity(&self, tenant: &Tenant) -> Result<usize, Timestamp> {
        match self.breakers.state(tenant).0 {
            CircuitState::Closed => Ok(usize::MAX),
            CircuitState::HalfOpen => Ok(breaker::Settings::default().probes as usize),
            CircuitState::Open { until } => Err(until),
        }
    }

    /// Creates the game of a match. Without a service there is none, which is not an error.
    pub(crate) async fn create(&self, request: &CreateGame) -> Result<Option<GameId>, GameNotCreated> {
        if matches!(self.backend, GameBackend::None) {
            return Ok(None);
        }
        for call in 1.. {
            let permit = self.breakers.acquire(&request.tenant).map_err(|open| GameNotCreated {
                reason: AbandonReason::GameServiceParked,
                detail: open.to_string(),
                retry_at: open.until,
            })?;
            match self.call(request).await {
                Ok(game) => {
                    permit.report(Outcome::Succeeded);
                    return Ok(Some(game));
                }
                Err(CallError::Refused(detail)) => {
                    permit.report(Outcome::Succeeded);
                    return Err(self.not_created(AbandonReason::GameRefused, detail, request.release_count));
                }
                Err(CallError::Limited(detail)) => {
                    permit.report(Outcome::Refused);
                    let parked = AbandonReason::GameServiceParked;
                    return Err(self.not_created(parked, detail, request.release_count));
                }
                Err(CallError::Failed(detail)) => {
                    permit.report(Outcome::Failed);
                    metrics::counter!("matchbook_game_calls_failed_total").increment(1);
                    if call >= CALLS_MAX {
                        return Err(self.not_created(
                            AbandonReason::GameServiceFailed,
                            detail,
                            request.release_count,
                        ));
                    }
                }
            }
        }
        unreachable!("the loop ends at its last call")
    }

    async fn call(&self, request: &CreateGame) -> Result<GameId, CallError> {
        match &self.backend {
            GameBackend::None => Err(CallError::Refused("no game service is configured".to_owned())),
            GameBackend::Service { client, vault } => {
                let mut players = Vec::with_capacity(2);
                for (subject, rating, side) in request.players {
                    let user_id = vault.user(&request.tenant, subject).await;
                    let user_id = user_id.map_err(|error| CallError::Failed(error.to_string()))?;
                    let gone = || CallError::Refused("one of the players is no longer known".to_owned());
                    players.push(GamePlayer { user_id: user_id.ok_or_else(gone)?, rating, side });
                }
                let players = players.try_into().expect("two subjects become two players");
                let (match_id, tenant) = (request.match_id, request.tenant.clone());
                let request = GameRequest { match_id, tenant, pool_key: request.pool_key.clone(), players };
                client.create(&request).await
            }
            #[cfg(test)]
            GameBackend::Simulated(service) => service.call(request).await,
        }
    }

    fn not_created(&self, reason: AbandonReason, detail: String, release_count: u32) -> GameNotCreated {
        let doubled = COOLDOWN_FIRST.saturating_mul(2_u32.saturating_pow(release_count));
        GameNotCreated { reason, detail, retry_at: self.clock.now().after(doubled.min(COOLDOWN_MAX)) }
    }
}
