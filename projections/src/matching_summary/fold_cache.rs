//! A cache of folds: those of the recently used jobs, and those of all tenants' workers.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use domain::image_matching::summary::JobFold;
use domain::worker::presence::Presence;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, Position, Tenant};
use event_schemas::job::JobEvent;

use crate::row::parse_stored;
use crate::sql::SqlError;

/// The bytes of the cached folds, approximately. They are exceeded only until the changed ones are stored.
const BYTES_MAX: u64 = if cfg!(test) { 256 << 10 } else { 16 << 20 };
/// The bytes of a fold without events, and of each of its first events. A fold does not grow beyond [`EVENTS_WEIGHED`].
const FOLD_BYTES: u64 = 2048;
const EVENT_BYTES: u64 = 30;
const EVENTS_WEIGHED: u64 = 50_000;

/// A job's events and a tenant's worker events, folded up to a position. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct FoldedJob {
    pub fold: Arc<JobFold>,
    pub presence: Arc<Presence>,
    /// Exactly the events up to this position are folded.
    pub position: Position,
}

/// A job's fold, and the number of its events.
#[derive(Clone, Debug)]
pub(crate) struct CountedFold {
    pub(super) fold: Arc<JobFold>,
    pub(super) events: u64,
}

impl CountedFold {
    /// Parses a row of [`COUNTED`](super::COUNTED).
    pub(super) fn parse(row: &str) -> Result<Self, SqlError> {
        let (events, fold) = row.split_once(' ').unwrap_or_default();
        let fold: JobFold = parse_stored(fold)?;
        Ok(Self { fold: Arc::new(fold), events: parse_stored(events)? })
    }

    fn bytes(&self) -> u64 {
        let texts = self.fold.history.as_ref().map_or(0, |history| history.text_bytes());
        FOLD_BYTES + texts as u64 + EVENT_BYTES * self.events.min(EVENTS_WEIGHED)
    }
}

#[derive(Debug, Default)]
pub(crate) struct FoldCache {
    pub(super) position: Position,
    jobs: HashMap<JobId, CachedJob>,
    presences: HashMap<Tenant, Arc<Presence>>,
    /// The number of evictions. While it does not change, the row of a job that is not cached does not change either.
    evictions: u64,
    ticks: AtomicU64,
}

#[derive(Debug)]
struct CachedJob {
    counted: CountedFold,
    /// Its row contains the same fold.
    is_stored: bool,
    /// The tick of its last use.
    used: AtomicU64,
}

impl FoldCache {
    pub(super) fn new(position: Position, presences: HashMap<Tenant, Arc<Presence>>) -> Self {
        Self { position, presences, ..Self::default() }
    }

    fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn contains(&self, job: JobId) -> bool {
        self.jobs.contains_key(&job)
    }

    /// The job's fold, if it is cached.
    pub(super) fn get(&self, job: JobId) -> Option<&CountedFold> {
        let cached = self.jobs.get(&job)?;
        cached.used.store(self.tick(), Ordering::Relaxed);
        Some(&cached.counted)
    }

    pub(super) fn presence(&self, tenant: &Tenant) -> Arc<Presence> {
        self.presences.get(tenant).cloned().unwrap_or_default()
    }

    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Inserts a fold that was read from its row, unless the job is cached already.
    pub(super) fn insert(&mut self, job: JobId, counted: CountedFold) {
        let used = AtomicU64::new(self.tick());
        self.jobs.entry(job).or_insert(CachedJob { counted, is_stored: true, used });
    }

    /// Replaces the job's fold.
    pub(super) fn replace(&mut self, job: JobId, counted: CountedFold) {
        let used = AtomicU64::new(self.tick());
        self.jobs.insert(job, CachedJob { counted, is_stored: false, used });
    }

    pub(super) fn replace_presence(&mut self, tenant: Tenant, presence: Arc<Presence>) {
        self.presences.insert(tenant, presence);
    }

    /// Folds an event of a cached job or of a new one. An event of any other job is ignored, and none is returned.
    pub(super) fn fold_job(&mut self, job: JobId, envelope: &Envelope) -> Option<&CountedFold> {
        let is_creation = matches!(&envelope.event, Event::Job(JobEvent::JobCreated(_)));
        if !is_creation && !self.jobs.contains_key(&job) {
            return None;
        }
        let tick = self.tick();
        let cached = self.jobs.entry(job).or_insert_with(|| CachedJob {
            counted: CountedFold { fold: Arc::default(), events: 0 },
            is_stored: false,
            used: AtomicU64::new(tick),
        });
        // A row that another server wrote may be ahead of this server's events.
        if cached.counted.events > 0 && envelope.position <= cached.counted.fold.latest.position {
            return None;
        }
        cached.is_stored = false;
        // A reader that still holds the fold keeps the old version.
        Arc::make_mut(&mut cached.counted.fold).apply(envelope);
        cached.counted.events += 1;
        cached.used.store(tick, Ordering::Relaxed);
        Some(&cached.counted)
    }

    pub(super) fn fold_presence(&mut self, envelope: &Envelope) {
        let presence = self.presences.entry(envelope.metadata.tenant.clone()).or_default();
        Arc::make_mut(presence).apply(envelope);
    }

    /// Marks the folds of these jobs as stored.
    pub(super) fn mark_stored(&mut self, jobs: &BTreeSet<JobId>) {
        for job in jobs {
            if let Some(cached) = self.jobs.get_mut(job) {
                cached.is_stored = true;
            }
        }
    }

    /// Evicts the least recently used stored jobs while all of them need too much memory.
    pub(super) fn evict(&mut self) {
        let mut bytes: u64 = self.jobs.values().map(|cached| cached.counted.bytes()).sum();
        if bytes <= BYTES_MAX {
            return;
        }
        let stored = self.jobs.iter().filter(|(_, cached)| cached.is_stored);
        let mut by_use: Vec<(u64, JobId)> =
            stored.map(|(job, cached)| (cached.used.load(Ordering::Relaxed), *job)).collect();
        by_use.sort_unstable();
        for (_, job) in by_use {
            if bytes <= BYTES_MAX {
                break;
            }
            bytes -= self.jobs.remove(&job).map_or(0, |cached| cached.counted.bytes());
        }
        self.evictions += 1;
    }
}

#[cfg(test)]
impl FoldCache {
    /// Corrupts a job's fold with an event that is not in its history.
    pub(crate) fn corrupt(&mut self, job: JobId, event: &Event) {
        let cached = self.jobs.get_mut(&job).unwrap();
        let fold = Arc::make_mut(&mut cached.counted.fold);
        if let Event::ImageMatch(event_schemas::image_match::ImageMatchEvent::MatchFound(found)) = event {
            fold.scores.insert(found.score);
        }
    }
}
