//! What the tenant's rating service knows of players. It is asked carefully: whether it is slow, down or wrong, a player
//! gets into the queue, by what else is known of them.

use domain::breaker::{Outcome, Phase};
use event_log::clock::Clock;
use event_schemas::ids::{PoolKey, Tenant, UserId};
use event_schemas::rating::Rating;

use crate::client::guard::Guard;
use crate::client::rating_service::{CallError, RatingService};

/// What the service is called where breakers are shown.
const NAME: &str = "rating_service";

/// The way to the rating service, if there is one.
#[derive(Debug)]
pub(crate) struct Ratings {
    service: Option<RatingService>,
    guard: Guard,
}

impl Ratings {
    pub(crate) fn new(service: Option<RatingService>, clock: Clock) -> Self {
        Self { service, guard: Guard::new(clock) }
    }

    /// The rating that the service answers; none without a service, and if it does not know or does not answer.
    pub(crate) async fn ask(&self, tenant: &Tenant, user: &UserId, pool: &PoolKey) -> Option<Rating> {
        let service = self.service.as_ref()?;
        let Ok(call) = self.guard.ask() else {
            count("parked");
            return None;
        };
        let answer = service.rating(tenant, user, pool).await;
        let failed = matches!(answer, Err(CallError::Failed(_)));
        call.tell(if failed { Outcome::Failed } else { Outcome::Succeeded });
        match answer {
            Ok(rating) => {
                count(if rating.is_some() { "known" } else { "unknown" });
                rating
            }
            Err(error) => {
                count(if failed { "failed" } else { "refused" });
                // Its breaker and the metric tell an operator; each call would say the same.
                tracing::debug!(%error, "a rating is taken from elsewhere");
                None
            }
        }
    }

    /// For whoever shows services: how it stands, and how often it was left alone in a row; none without a service.
    pub(crate) fn standing(&self) -> Option<(&'static str, Phase, u32)> {
        self.service.as_ref()?;
        let (phase, openings) = self.guard.standing();
        Some((NAME, phase, openings))
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
    use crate::client::rating_service::Settings;

    /// A service that knows everybody's rating while it is well, and how often it was asked.
    struct Service {
        is_well: Arc<AtomicBool>,
        asked: Arc<AtomicUsize>,
        clock: Clock,
        ratings: Ratings,
    }

    impl Service {
        async fn start() -> Self {
            let is_well = Arc::new(AtomicBool::new(false));
            let asked = Arc::new(AtomicUsize::new(0));
            let (well, count) = (is_well.clone(), asked.clone());
            let answer = endpoint::make_sync(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
                if well.load(Ordering::SeqCst) {
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
            Self { is_well, asked, clock, ratings }
        }

        async fn ask(&self) -> Option<Rating> {
            let (tenant, user) = ("arena".parse().unwrap(), "ann".parse().unwrap());
            self.ratings.ask(&tenant, &user, &"blitz".parse().unwrap()).await
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn without_a_service_nothing_is_known_and_none_is_shown() {
        let ratings = Ratings::new(None, Clock::manual(Timestamp::EPOCH));
        let (tenant, user) = ("arena".parse().unwrap(), "ann".parse().unwrap());
        assert_eq!(ratings.ask(&tenant, &user, &"blitz".parse().unwrap()).await, None);
        assert_eq!(ratings.standing(), None);
    }

    #[tokio::test]
    async fn a_service_that_fails_is_left_alone_for_a_while_and_then_asked_again() {
        let service = Service::start().await;
        for _ in 0..15 {
            assert_eq!(service.ask().await, None);
        }
        assert_eq!(service.asked(), 10, "of ten calls all failed, and it is asked no more");
        assert!(matches!(service.ratings.standing(), Some(("rating_service", Phase::Open { .. }, 1))));
        service.is_well.store(true, Ordering::SeqCst);
        assert_eq!(service.ask().await, None);
        service.clock.advance(Duration::from_secs(30));
        for _ in 0..4 {
            assert_eq!(service.ask().await, Some(Rating::nearest(1700.0)));
        }
        assert_eq!(service.ratings.standing(), Some(("rating_service", Phase::Closed, 0)));
    }
}
