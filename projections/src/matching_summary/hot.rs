//! The folds in memory: those of the jobs that were lately touched or asked for, and of all tenants' workers.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use domain::matching::summary::JobFold;
use domain::worker::presence::Presence;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, Position, Tenant};
use event_schemas::job::JobEvent;

/// How many jobs stay in memory, at up to 1.5 MB each. More only until they are stored.
const JOBS_MAX: usize = 128;

/// A job's events and a tenant's worker events, folded up to a position. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Folded {
    pub fold: Arc<JobFold>,
    pub presence: Arc<Presence>,
    /// Everything up to here is folded, and nothing beyond.
    pub position: Position,
}

/// A job's fold, and of how many events it is.
#[derive(Clone, Debug)]
pub(crate) struct CountedFold {
    pub(super) fold: Arc<JobFold>,
    pub(super) events: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Hot {
    pub(super) position: Position,
    jobs: HashMap<JobId, HotJob>,
    presences: HashMap<Tenant, Arc<Presence>>,
    /// Rises whenever a job is let go. While it stands still, a job that is not here has not changed in its row.
    let_go: u64,
    ticks: AtomicU64,
}

#[derive(Debug)]
struct HotJob {
    counted: CountedFold,
    /// Whether its row says the same.
    is_stored: bool,
    /// When it was last touched or asked for, in ticks.
    used: AtomicU64,
}

impl Hot {
    pub(super) fn new(position: Position, presences: HashMap<Tenant, Arc<Presence>>) -> Self {
        Self { position, presences, ..Self::default() }
    }

    fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn has(&self, job: JobId) -> bool {
        self.jobs.contains_key(&job)
    }

    /// The job's fold, if it is in memory.
    pub(super) fn get(&self, job: JobId) -> Option<&CountedFold> {
        let hot = self.jobs.get(&job)?;
        hot.used.store(self.tick(), Ordering::Relaxed);
        Some(&hot.counted)
    }

    pub(super) fn presence(&self, tenant: &Tenant) -> Arc<Presence> {
        self.presences.get(tenant).cloned().unwrap_or_default()
    }

    pub(super) fn let_go(&self) -> u64 {
        self.let_go
    }

    /// Keeps a fold that was read from its row, unless the job is here already.
    pub(super) fn keep(&mut self, job: JobId, counted: CountedFold) {
        let used = AtomicU64::new(self.tick());
        self.jobs.entry(job).or_insert(HotJob { counted, is_stored: true, used });
    }

    /// Puts another fold in the place of the job's.
    pub(super) fn replace(&mut self, job: JobId, counted: CountedFold) {
        let used = AtomicU64::new(self.tick());
        self.jobs.insert(job, HotJob { counted, is_stored: false, used });
    }

    pub(super) fn replace_presence(&mut self, tenant: Tenant, presence: Arc<Presence>) {
        self.presences.insert(tenant, presence);
    }

    /// Folds an event of a job that is here, or begins here. None if it is neither: then it says nothing.
    pub(super) fn fold_job(&mut self, job: JobId, envelope: &Envelope) -> Option<&CountedFold> {
        let is_creation = matches!(&envelope.event, Event::Job(JobEvent::JobCreated(_)));
        if !is_creation && !self.jobs.contains_key(&job) {
            return None;
        }
        let tick = self.tick();
        let hot = self.jobs.entry(job).or_insert_with(|| HotJob {
            counted: CountedFold { fold: Arc::default(), events: 0 },
            is_stored: false,
            used: AtomicU64::new(tick),
        });
        hot.is_stored = false;
        // A reader that still holds the fold keeps the one it was given.
        Arc::make_mut(&mut hot.counted.fold).apply(envelope);
        hot.counted.events += 1;
        hot.used.store(tick, Ordering::Relaxed);
        Some(&hot.counted)
    }

    pub(super) fn fold_presence(&mut self, envelope: &Envelope) {
        let presence = self.presences.entry(envelope.metadata.tenant.clone()).or_default();
        Arc::make_mut(presence).apply(envelope);
    }

    /// The rows of these jobs say now what is here.
    pub(super) fn stored(&mut self, jobs: &BTreeSet<JobId>) {
        for job in jobs {
            if let Some(hot) = self.jobs.get_mut(job) {
                hot.is_stored = true;
            }
        }
    }

    /// If there are too many jobs, lets stored ones go that were not used for longest.
    pub(super) fn shrink(&mut self) {
        let Some(spare) = self.jobs.len().checked_sub(JOBS_MAX).filter(|spare| *spare > 0) else { return };
        let stored = self.jobs.iter().filter(|(_, hot)| hot.is_stored);
        let mut by_use: Vec<(u64, JobId)> =
            stored.map(|(job, hot)| (hot.used.load(Ordering::Relaxed), *job)).collect();
        by_use.sort_unstable();
        for (_, job) in by_use.into_iter().take(spare) {
            self.jobs.remove(&job);
        }
        self.let_go += 1;
    }
}

#[cfg(test)]
impl Hot {
    /// Folds an event into a job that is not in its history.
    pub(crate) fn disturb(&mut self, job: JobId, event: &Event) {
        let hot = self.jobs.get_mut(&job).unwrap();
        let fold = Arc::make_mut(&mut hot.counted.fold);
        if let Event::Matching(event_schemas::matching::MatchingEvent::MatchFound(found)) = event {
            fold.scores.insert(found.score);
        }
    }
}
