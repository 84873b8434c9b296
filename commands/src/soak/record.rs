//! What people know, and what they were told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::AddAssign;

use event_schemas::ids::{ChallengeId, EntryId, JobId, LeaseId, MatchRecordId, SubjectId};
use event_schemas::time::Timestamp;

/// Something that was answered as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Acknowledged {
    Queued(EntryId),
    Cancelled(EntryId),
    Challenged(ChallengeId),
    /// With the number of the result.
    Result(MatchRecordId, usize),
    /// An analysis.
    Asked(JobId),
    Taken(JobId),
    Completed(JobId, LeaseId),
    Failed(JobId, LeaseId),
}

/// What everybody can see or remembers.
#[derive(Default)]
pub(super) struct Record {
    pub(super) acknowledged: Vec<Acknowledged>,
    /// Those that are pending, with the two whom they are about.
    pub(super) challenges: BTreeMap<ChallengeId, [SubjectId; 2]>,
    /// Matches without a result.
    pub(super) playing: BTreeSet<MatchRecordId>,
    /// Jobs that stand still.
    pub(super) failed: BTreeSet<JobId>,
    /// When each lease's worker was last heard of.
    pub(super) heard: HashMap<LeaseId, Timestamp>,
    /// How many workers ask for work just now.
    pub(super) claiming: usize,
}

/// What happened at all: a soak in which nothing happens proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    pub(super) events: usize,
    pub(super) deaths: usize,
    pub(super) acknowledged: usize,
    pub(super) matches: usize,
    pub(super) abandoned: usize,
    pub(super) challenges_accepted: usize,
    pub(super) entries_expired: usize,
    pub(super) challenges_expired: usize,
    pub(super) matches_expired: usize,
    pub(super) analyses: usize,
    pub(super) completed: usize,
    pub(super) retries: usize,
    pub(super) leases_lost: usize,
    pub(super) quarantined: usize,
    /// Instants before which it was made sure that nothing is missed.
    pub(super) rests: usize,
}

impl Figures {
    fn all(&mut self) -> [&mut usize; 15] {
        [
            &mut self.events,
            &mut self.deaths,
            &mut self.acknowledged,
            &mut self.matches,
            &mut self.abandoned,
            &mut self.challenges_accepted,
            &mut self.entries_expired,
            &mut self.challenges_expired,
            &mut self.matches_expired,
            &mut self.analyses,
            &mut self.completed,
            &mut self.retries,
            &mut self.leases_lost,
            &mut self.quarantined,
            &mut self.rests,
        ]
    }

    pub(super) fn prove_something(mut self, seeds: u64) {
        let shown = self;
        // Quarantines take two accidents in a row, so that not every seed has one.
        let least = self.all().into_iter().filter(|figure| **figure != shown.quarantined).map(|n| *n).min();
        assert!(least.unwrap_or(0) as u64 >= seeds, "too little happens in {seeds} seeds: {shown:?}");
    }
}

impl AddAssign for Figures {
    fn add_assign(&mut self, mut other: Self) {
        for (sum, more) in self.all().into_iter().zip(other.all()) {
            *sum += *more;
        }
    }
}
