//! The latest summaries as they were sent, so that the readers of a job that does not change share one response.

use std::sync::{Mutex, PoisonError};

use domain::image_matching::summary::Summary;
use event_schemas::ids::JobId;
use hashlink::LruCache;
use web::etag::Rendered;

use super::rendered;

/// The number of cached responses, at a few kB each.
const CAPACITY: usize = 256;

/// A response, with what it was rendered from. The fold is not kept: the projector would have to copy it for its next event.
#[derive(Debug)]
struct Entry {
    summary: Summary,
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
    pub(super) fn render(&self, summary: Summary) -> Rendered {
        let rendered = match self.cached(&summary) {
            Some((cached, true)) => return cached,
            Some((cached, false)) => cached.with_body(&summary),
            None => rendered(&summary),
        };
        let entry = Entry { rendered: rendered.clone(), summary };
        self.locked().insert(entry.summary.job_id, entry);
        rendered
    }

    /// The response with an equal summary, and whether it is of the same position.
    fn cached(&self, summary: &Summary) -> Option<(Rendered, bool)> {
        let mut entries = self.locked();
        let entry = entries.get_mut(&summary.job_id)?;
        // Compared at the same position.
        let position = std::mem::replace(&mut entry.summary.position, summary.position);
        if entry.summary == *summary {
            return Some((entry.rendered.clone(), position == summary.position));
        }
        entry.summary.position = position;
        None
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, LruCache<JobId, Entry>> {
        // Each change is one insert.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
