//! What jobs were like at changes of their state, made once for all who follow them.
//!
//! A change is often followed by other events before its readers are told of it. Then the job has to be folded anew up to
//! the change, which a thousand readers at once must not each do.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use domain::matching::summary::Summary;
use event_schemas::ids::{JobId, Position};
use tokio::sync::OnceCell;
use web::problem::Problem;

/// How many are kept, at a few kB each. Readers of one job are told of a change at about the same time.
const KEPT_MAX: usize = 64;

type Kept = ((JobId, Position), Arc<OnceCell<Summary>>);

/// The latest summaries of the past. They never change.
#[derive(Debug, Default)]
pub(crate) struct Past(Mutex<VecDeque<Kept>>);

impl Past {
    /// The summary of the job at the position, made by `make` unless it is known or being made for somebody else.
    ///
    /// # Errors
    /// Those of `make`; whoever asks next tries again.
    pub(super) async fn summary(
        &self,
        job: JobId,
        position: Position,
        make: impl Future<Output = Result<Summary, Problem>>,
    ) -> Result<Summary, Problem> {
        let place = self.place((job, position));
        place.get_or_try_init(|| make).await.cloned()
    }

    fn place(&self, key: (JobId, Position)) -> Arc<OnceCell<Summary>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, place)) = kept.iter().find(|(known, _)| *known == key) {
            return Arc::clone(place);
        }
        if kept.len() >= KEPT_MAX {
            kept.pop_front();
        }
        let place = Arc::default();
        kept.push_back((key, Arc::clone(&place)));
        place
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;
    use projections::matching_summary::ScoresFrom;

    use super::*;
    use crate::tests::script::job;
    use crate::tests::stage::{Stage, acme};

    #[tokio::test]
    async fn readers_that_are_told_of_a_change_at_once_share_one_look_at_the_past() {
        let stage = Stage::open().await;
        stage.running_job(job(1)).await;
        let (past, looks) = (Past::default(), Cell::new(0));
        let look = async || {
            looks.set(looks.get() + 1);
            tokio::task::yield_now().await;
            let folded = stage.api.folded(&acme(), job(1)).await?;
            stage.api.summarised(job(1), &folded, stage.clock.now(), ScoresFrom::ReadModel).await
        };
        stage.get(&format!("/jobs/{}/matching/summary", job(1))).await;
        let readers = (0..10).map(|_| past.summary(job(1), Position(12), look()));
        let told = join_all(readers).await;
        assert!(told.iter().all(|summary| summary.as_ref().unwrap().matches_found == 3));
        assert_eq!(looks.get(), 1);
        past.summary(job(1), Position(11), look()).await.unwrap();
        assert_eq!(looks.get(), 2);
    }

    #[tokio::test]
    async fn a_look_that_failed_is_tried_again() {
        let past = Past::default();
        let failed = past.summary(job(1), Position(1), async { Err(Problem::internal(&"no")) }).await;
        assert!(failed.is_err());
        let place = past.place((job(1), Position(1)));
        assert!(!place.initialized());
    }
}
