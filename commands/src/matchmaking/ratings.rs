//! Ratings from other sources, which take precedence over the player's own results: the token, the request, and the
//! tenant's rating service. Even if the service is slow, down or wrong, a player can join a queue.

use domain::breaker::{Breaker, CircuitState, Outcome};
use event_log::clock::Clock;
use event_schemas::challenge::{ChallengeEvent, Strength};
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{PoolKey, Tenant, UserId};
use event_schemas::player::PlayerEvent;
use event_schemas::rating::{Rating, RatingCall, RatingSource};
use web::caller::{Caller, Role};

use crate::engine::circuit_breaker::CircuitBreakers;
use crate::matchmaking::rating_service::{CallError, RatingService};

/// The name of the service in the list of breakers.
const NAME: &str = "rating_service";

/// The rating in one pool that came with a caller's request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ClaimedRating {
    from_token: Option<f64>,
    from_request: Option<f64>,
}

impl ClaimedRating {
    /// The rating that a caller claims. The request's rating counts only if the caller is trusted; for others only the
    /// token's rating does.
    pub(crate) fn from_caller(caller: &Caller, pool: &PoolKey, requested: Option<f64>) -> Self {
        Self {
            from_token: caller.ratings.get(pool.as_str()).copied(),
            from_request: requested.filter(|_| caller.has(Role::Service | Role::Admin)),
        }
    }
}

/// The rating of a player in a pool, as far as other sources than the player's own results know it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct KnownRating {
    /// Without it the player's own results count, or else the default rating.
    pub(crate) rating: Option<(Rating, RatingSource)>,
    /// The outcome of the call of the rating service, if it was called.
    pub(crate) call: Option<RatingCall>,
}

/// The rating service behind its circuit breakers, if there is a service.
#[derive(Debug)]
pub(crate) struct Ratings {
    service: Option<RatingService>,
    breakers: CircuitBreakers,
}

impl Ratings {
    pub(crate) fn new(service: Option<RatingService>, clock: Clock) -> Self {
        Self { service, breakers: CircuitBreakers::new(clock) }
    }

    /// A user's rating in a pool from the token, else from the request, else from the tenant's rating service within
    /// its timeout.
    pub(crate) async fn known(
        &self,
        tenant: &Tenant,
        user: &UserId,
        pool: &PoolKey,
        claimed: ClaimedRating,
    ) -> KnownRating {
        let token = claimed.from_token.map(|points| (points, RatingSource::Token));
        let claimed = token.or(claimed.from_request.map(|points| (points, RatingSource::Request)));
        // The issuer of tokens may use a wider scale; the end of ours is closer to its rating than no rating.
        if let Some((points, source)) = claimed {
            return KnownRating { rating: Some((Rating::nearest(points), source)), call: None };
        }
        self.lookup(tenant, user, pool).await
    }

    /// The rating from the service; none without a service, for an unknown player, or after a failed call.
    async fn lookup(&self, tenant: &Tenant, user: &UserId, pool: &PoolKey) -> KnownRating {
        let Some(service) = &self.service else { return KnownRating::default() };
        let Ok(permit) = self.breakers.acquire(tenant) else {
            count("parked");
            return KnownRating::default();
        };
        let response = service.rating(tenant, user, pool).await;
        let call = match &response {
            Ok(_) => RatingCall::Succeeded,
            Err(CallError::Refused(_)) => RatingCall::Refused,
            Err(CallError::Failed(_)) => RatingCall::Failed,
        };
        permit.report(outcome(call));
        let rating = match response {
            Ok(rating) => {
                count(if rating.is_some() { "known" } else { "unknown" });
                rating
            }
            Err(error) => {
                count(if call == RatingCall::Failed { "failed" } else { "refused" });
                // The breaker and the metric inform the operator; a warning per call would only repeat it.
                tracing::debug!(%error, "the rating service returned no rating; another source is used");
                None
            }
        };
        KnownRating { rating: rating.map(|rating| (rating, RatingSource::RatingService)), call: Some(call) }
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
        let one = |strength: &Strength| Vec::from_iter(strength.rating_call);
        let calls: Vec<RatingCall> = match &envelope.event {
            Event::Player(PlayerEvent::PlayerQueued(queued)) => {
                queued.pools.iter().filter_map(|pool| pool.rating_call).collect()
            }
            Event::Challenge(ChallengeEvent::ChallengeCreated(created)) => one(&created.strength),
            Event::Challenge(ChallengeEvent::ChallengePlacementStarted(started)) => one(&started.strength),
            _ => return,
        };
        for call in calls {
            self.breakers.replay(&envelope.metadata.tenant, outcome(call), envelope.recorded_at);
        }
    }

    /// The state of the tenant's breaker, and the number of times in a row that it opened; none without a service.
    pub(crate) fn breaker_state(&self, tenant: &Tenant) -> Option<(&'static str, CircuitState, u32)> {
        self.service.as_ref()?;
        let (state, openings) = self.breakers.state(tenant);
        Some((NAME, state, openings))
    }
}

fn outcome(call: RatingCall) -> Outcome {
    match call {
        RatingCall::Succeeded => Outcome::Succeeded,
        RatingCall::Refused => Outcome::Refused,
        RatingCall::Failed => Outcome::Failed,
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("matchbook_rating_calls_total", "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use event_schemas::time::Timestamp;
    use poem::http::StatusCode;
    use poem::listener::{Acceptor, Listener, TcpListener};
    use poem::{EndpointExt, Response, Server, endpoint};

    use super::*;
    use crate::matchmaking::rating_service::Settings;

    /// A service that knows every player's rating while it is healthy, and counts its calls.
    struct Service {
        is_healthy: Arc<AtomicBool>,
        calls: Arc<AtomicUsize>,
        clock: Clock,
        ratings: Ratings,
    }

    impl Service {
        async fn start() -> Self {
            let is_healthy = Arc::new(AtomicBool::new(false));
            let calls = Arc::new(AtomicUsize::new(0));
            let (healthy, count) = (is_healthy.clone(), calls.clone());
            let answer = endpoint::make_sync(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
                if healthy.load(Ordering::SeqCst) {
                    Response::from("{\"rating\":1700}")
                } else {
                    Response::from(StatusCode::INTERNAL_SERVER_ERROR)
                }
            });
            let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
            let address = acceptor.local_addr()[0].as_socket_addr().copied().unwrap();
            tokio::spawn(Server::new_with_acceptor(acceptor).run(answer.boxed()));
            let settings = Settings { url: format!("http://{address}"), timeout: Duration::from_secs(60) };
            let clock = Clock::manual(Timestamp::EPOCH);
            let ratings = Ratings::new(Some(RatingService::new(&settings).unwrap()), clock.clone());
            Self { is_healthy, calls, clock, ratings }
        }

        async fn rating(&self) -> Option<Rating> {
            let (tenant, user) = ("arena".parse().unwrap(), "ann".parse().unwrap());
            self.ratings
                .lookup(&tenant, &user, &"blitz".parse().unwrap())
                .await
                .rating
                .map(|(rating, _)| rating)
        }

        fn breaker_state(&self, tenant: &str) -> Option<(&'static str, CircuitState, u32)> {
            self.ratings.breaker_state(&tenant.parse().unwrap())
        }

        fn calls(&self) -> usize {
            self.calls.load(Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn without_a_service_there_is_no_rating_and_no_breaker() {
        let ratings = Ratings::new(None, Clock::manual(Timestamp::EPOCH));
        let (tenant, user) = ("arena".parse().unwrap(), "ann".parse().unwrap());
        let known = ratings.lookup(&tenant, &user, &"blitz".parse().unwrap()).await;
        assert_eq!(known, KnownRating::default());
        assert_eq!(ratings.breaker_state(&tenant), None);
    }

    #[tokio::test]
    async fn failing_service_opens_the_breaker_until_it_recovers() {
        let service = Service::start().await;
        for _ in 0..15 {
            assert_eq!(service.rating().await, None);
        }
        assert_eq!(service.calls(), 10, "all of ten calls failed, so the breaker is open");
        assert!(matches!(
            service.breaker_state("arena"),
            Some(("rating_service", CircuitState::Open { .. }, 1))
        ));
        assert!(matches!(service.breaker_state("other"), Some((_, CircuitState::Closed, 0))));
        service.is_healthy.store(true, Ordering::SeqCst);
        assert_eq!(service.rating().await, None);
        service.clock.advance(Duration::from_secs(30));
        for _ in 0..4 {
            assert_eq!(service.rating().await, Some(Rating::nearest(1700.0)));
        }
        assert_eq!(service.breaker_state("arena"), Some(("rating_service", CircuitState::Closed, 0)));
    }
}
