//! Summaries at a glance, for lists.
//!
//! What is shown of a job that has ended never changes, so it is kept: a long list would otherwise bring more jobs' folds
//! into memory than there is room for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use domain::job::pipeline;
use domain::job::view::JobView;
use domain::matching::summary::Summary;
use event_schemas::ids::{JobId, Tenant};
use event_schemas::job::{JobKind, Phase};
use event_schemas::time::Timestamp;
use projections::matching_summary::ScoresFrom;

use super::object::Glance;
use crate::ReadApi;

/// How many ended jobs' glances are kept, at about 200 bytes each.
const KEPT_MAX: usize = 20_000;

/// Glances of jobs that have ended, with what tells whether a job has gone on since.
#[derive(Debug, Default)]
pub(crate) struct Glances(Mutex<HashMap<JobId, (End, Glance)>>);

/// An end of a job. The latest instant alone would not tell a retry: producers say when things happened, and may say
/// the same or an earlier time.
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

impl Glances {
    fn find(&self, job: &JobView) -> Option<Glance> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&job.id).filter(|(end, _)| *end == End::of(job)).map(|(_, glance)| glance.clone())
    }

    fn keep(&self, job: &JobView, glance: &Glance) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(job.id, (End::of(job), glance.clone()));
    }
}

impl From<Summary> for Glance {
    fn from(summary: Summary) -> Self {
        Self {
            avg_score: summary.avg_score,
            p90_score: summary.p90_score,
            queue_depth: summary.queue_depth,
            eta_seconds: summary.eta_seconds,
            blockers: summary.blockers,
        }
    }
}

impl ReadApi {
    /// The job's summary at a glance; none if it is of another kind, or its summary cannot be told at present: that is no
    /// reason not to show the job.
    pub(crate) async fn glance(&self, tenant: &Tenant, job: &JobView) -> Option<Glance> {
        if job.kind != JobKind::ProductVideoMatching {
            return None;
        }
        if let Some(glance) = self.glances.find(job) {
            return Some(glance);
        }
        let folded = self.folded(tenant, job.id).await.ok()?;
        let summary = self.summarised(job.id, &folded, self.clock.now(), ScoresFrom::ReadModel).await.ok()?;
        // The two read models may be at different positions; what is kept must be of the same events as the job.
        let is_whole = pipeline::is_end(summary.phase)
            && summary.phase == job.phase
            && summary.attempt == job.attempt
            && summary.last_event_at == job.last_event_at
            && summary.matches_found == job.counters.matches_found;
        let glance = Glance::from(summary);
        if is_whole {
            self.glances.keep(job, &glance);
        }
        Some(glance)
    }
}
