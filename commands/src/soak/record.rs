//! The facts that the tasks share, and the commands that were acknowledged.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::AddAssign;

use event_schemas::ids::{ChallengeId, EntryId, GameMatchId, JobId, LeaseId, SubjectId};
use event_schemas::time::Timestamp;

/// An acknowledged command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Acknowledged {
    Queued(EntryId),
    Cancelled(EntryId),
    Challenged(ChallengeId),
    /// The match, and the number of the result.
    Result(GameMatchId, usize),
    /// A requested analysis.
    AnalysisRequested(JobId),
    AnalysisCancelled(JobId),
    Completed(JobId, LeaseId),
    Failed(JobId, LeaseId),
}

/// The facts that all tasks can see.
#[derive(Default)]
pub(super) struct Record {
    pub(super) acknowledged: Vec<Acknowledged>,
    /// The pending challenges with their two players.
    pub(super) challenges: BTreeMap<ChallengeId, [SubjectId; 2]>,
    /// Matches without a result.
    pub(super) playing: BTreeSet<GameMatchId>,
    /// The failed jobs.
    pub(super) failed: BTreeSet<JobId>,
    /// The time of the last heartbeat of each lease.
    pub(super) heartbeats: HashMap<LeaseId, Timestamp>,
    /// The number of workers that wait for work.
    pub(super) claiming: usize,
}

/// The counts of what happened: a soak in which nothing happens proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    pub(super) events: usize,
    pub(super) crashes: usize,
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
    /// The number of idle instants that were checked.
    pub(super) idle_checks: usize,
}

impl Figures {
    fn all(&mut self) -> [&mut usize; 15] {
        [
            &mut self.events,
            &mut self.crashes,
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
            &mut self.idle_checks,
        ]
    }

    pub(super) fn prove_something(mut self, seeds: u64) {
        let shown = self;
        // A quarantine takes two crashes in a row, so that not every seed has one.
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
