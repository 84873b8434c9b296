//! The latest summaries as they were sent, so that the readers of a job that does not change share one response.

use std::sync::{Mutex, PoisonError};

use domain::image_matching::summary::Summary as DomainSummary;
use event_schemas::ids::{JobId, Position};
use hashlink::LruCache;
use web::etag::Rendered;

use super::rendered;
use super::summary::Summary;

/// The number of cached responses, at a few kB each.
const CAPACITY: usize = 256;

/// A response, with what it was rendered from. The fold is not kept: the projector would have to copy it for its next event.
#[derive(Debug)]
struct Entry {
    summary: DomainSummary,
    position: Position,
    rendered: Rendered,
}

/// The latest response of each job.
#[derive(Debug)]
pub(crate) struct SummaryResponseCache(Mutex<LruCache<JobId, Entry>>);

impl Default for SummaryResponseCache {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(CAPACITY)))
    }
}

impl SummaryResponseCache {
    /// The response with the current summary of a job. A position that moves alone leaves the tag as it is.
    pub(super) fn render(&self, summary: DomainSummary, position: Position) -> Rendered {
        let rendered = match self.cached(&summary, position) {
            Some((cached, true)) => return cached,
            Some((cached, false)) => cached.with_body(&Summary::new(summary.clone(), position, None)),
            None => rendered(summary.clone(), position, None),
        };
        let entry = Entry { rendered: rendered.clone(), position, summary };
        self.locked().insert(entry.summary.job_id, entry);
        rendered
    }

    /// The response with an equal summary, and whether it is of the same position.
    fn cached(&self, summary: &DomainSummary, position: Position) -> Option<(Rendered, bool)> {
        let mut entries = self.locked();
        let entry = entries.get(&summary.job_id).filter(|entry| entry.summary == *summary)?;
        Some((entry.rendered.clone(), entry.position == position))
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, LruCache<JobId, Entry>> {
        // Each change is one insert.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
