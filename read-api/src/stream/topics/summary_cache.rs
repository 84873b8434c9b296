//! Summaries of jobs at past state changes, computed once for all streams.
//!
//! A change is often followed by other events before it is sent. Then the job must be replayed up to the change, once
//! instead of once per client.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use domain::image_matching::summary::Summary;
use event_schemas::ids::{JobId, Position};
use tokio::sync::OnceCell;
use web::problem::Problem;

/// The number of cached summaries, at a few kB each. The clients of one job get a change at about the same time.
const CAPACITY: usize = 64;

type Entry = ((JobId, Position), Arc<OnceCell<Summary>>);

/// A cache of the latest historical summaries. They never change.
#[derive(Debug, Default)]
pub(crate) struct HistoricalSummaryCache(Mutex<VecDeque<Entry>>);

impl HistoricalSummaryCache {
    /// Returns the summary of the job at the position. Runs `compute` unless the summary is cached or is being
    /// computed by another caller.
    ///
    /// # Errors
    /// Those of `compute`; the next caller runs it again.
    pub(super) async fn summary(
        &self,
        job: JobId,
        position: Position,
        compute: impl Future<Output = Result<Summary, Problem>>,
    ) -> Result<Summary, Problem> {
        let slot = self.slot((job, position));
        slot.get_or_try_init(|| compute).await.cloned()
    }

    fn slot(&self, key: (JobId, Position)) -> Arc<OnceCell<Summary>> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, slot)) = entries.iter().find(|(known, _)| *known == key) {
            return Arc::clone(slot);
        }
        if entries.len() >= CAPACITY {
            entries.pop_front();
        }
        let slot = Arc::default();
        entries.push_back((key, Arc::clone(&slot)));
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;
    use projections::matching_summary::ScoresFrom;

    use super::*;
    use crate::tests::events::job;
    use crate::tests::fixture::{ReadApiFixture, acme};

    #[tokio::test]
    async fn concurrent_callers_share_one_computation() {
        let fixture = ReadApiFixture::open().await;
        fixture.running_job(job(1)).await;
        let (cache, computations) = (HistoricalSummaryCache::default(), Cell::new(0));
        let compute = async || {
            computations.set(computations.get() + 1);
            tokio::task::yield_now().await;
            let folded = fixture.api.job_fold(&acme(), job(1)).await?;
            fixture.api.summarize(job(1), &folded, fixture.clock.now(), ScoresFrom::ReadModel).await
        };
        fixture.get(&format!("/jobs/{}/matching/summary", job(1))).await;
        let callers = (0..10).map(|_| cache.summary(job(1), Position(12), compute()));
        let summaries = join_all(callers).await;
        assert!(summaries.iter().all(|summary| summary.as_ref().unwrap().matches_found == 3));
        assert_eq!(computations.get(), 1);
        cache.summary(job(1), Position(11), compute()).await.unwrap();
        assert_eq!(computations.get(), 2);
    }

    #[tokio::test]
    async fn failed_computation_is_not_cached() {
        let cache = HistoricalSummaryCache::default();
        let failed = cache.summary(job(1), Position(1), async { Err(Problem::internal(&"no")) }).await;
        assert!(failed.is_err());
        let slot = cache.slot((job(1), Position(1)));
        assert!(!slot.initialized());
    }
}
