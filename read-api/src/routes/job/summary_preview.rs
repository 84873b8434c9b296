//! Summary previews for lists of jobs.
//!
//! The preview of an ended job never changes, so it is cached: a long list would otherwise load more folds than the fold
//! cache can hold.

use std::sync::{Mutex, PoisonError};

use domain::image_matching::summary::SummaryPreview;
use domain::job::pipeline;
use domain::job::view::JobView;
use event_schemas::ids::{JobId, Tenant};
use event_schemas::job::{JobKind, Phase};
use event_schemas::time::Timestamp;
use hashlink::LruCache;
use projections::matching_summary::ScoresFrom;

use crate::ReadApi;

/// The number of cached previews, at about 300 bytes each: 6 MB.
const CAPACITY: usize = 20_000;

/// Previews of ended jobs, each with the end that it reflects: a retry makes the entry stale.
#[derive(Debug)]
pub(crate) struct SummaryPreviewCache(Mutex<LruCache<JobId, (End, SummaryPreview)>>);

impl Default for SummaryPreviewCache {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(CAPACITY)))
    }
}

/// The end of a job. The latest instant alone would not identify a retry: producers supply it, and may send the same or
/// an earlier time.
#[derive(Debug, PartialEq)]
struct End {
    phase: Phase,
    attempt: u32,
    last_event_at: Timestamp,
}

impl End {
    fn of(job: &JobView) -> Self {
        Self { phase: job.phase, attempt: job.attempt, last_event_at: job.last_event_at }
    }
}

impl SummaryPreviewCache {
    fn get(&self, job: &JobView) -> Option<SummaryPreview> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(&job.id).filter(|(end, _)| *end == End::of(job)).map(|(_, preview)| preview.clone())
    }

    fn insert(&self, job: &JobView, preview: &SummaryPreview) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.insert(job.id, (End::of(job), preview.clone()));
    }
}

impl ReadApi {
    /// The preview of the job's summary; none if the job is of another kind, or if the summary is unavailable, which
    /// must not prevent listing the job.
    pub(crate) async fn summary_preview(&self, tenant: &Tenant, job: &JobView) -> Option<SummaryPreview> {
        if job.kind != JobKind::ProductVideoMatching {
            return None;
        }
        if let Some(preview) = self.previews.get(job) {
            return Some(preview);
        }
        // Without waiting: a list has many jobs.
        let folded = self.models.matching_summary().summary(tenant, job.id).await.ok()??;
        let summary = self.summarize(job.id, &folded, self.clock.now(), ScoresFrom::ReadModel).await.ok()?;
        // The two read models may be at different positions; a cached preview must reflect the same events as the job.
        let is_consistent = pipeline::is_end(summary.phase)
            && summary.phase == job.phase
            && summary.attempt == job.attempt
            && summary.last_event_at == job.last_event_at
            && summary.matches_found == job.counters.matches_found;
        let preview = SummaryPreview::from(summary);
        if is_consistent {
            self.previews.insert(job, &preview);
        }
        Some(preview)
    }
}
