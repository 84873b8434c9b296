//! Leases: the right of one worker to one piece of work for a time.
//!
//! A lease is opened by a claim, kept alive by heartbeats outside the log, and ended by an event: a completion, a
//! failure, or its running out. Until that event is there the lease holds, whatever the clock says, so that a decision
//! never depends on who looks when.

use std::time::Duration;

use event_schemas::ids::{LeaseId, WorkerId};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

/// How long a lease runs without a heartbeat.
pub const TERM: Duration = Duration::from_secs(45);

/// How often a worker is to say that it is alive: a third of the term, so that two may be lost.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

/// The times of leases, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    pub term: Duration,
    pub heartbeat: Duration,
}

impl Default for LeaseTerms {
    fn default() -> Self {
        Self { term: TERM, heartbeat: HEARTBEAT }
    }
}

impl LeaseTerms {
    /// Until when a lease runs that was claimed, or heard of, at `at`.
    pub fn until(&self, at: Timestamp) -> Timestamp {
        at.after(self.term)
    }
}

/// A lease in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub id: LeaseId,
    pub worker_id: WorkerId,
    /// Until when it runs if no heartbeat extends it, as its claim said. Heartbeats are not events, so whoever keeps
    /// them knows a later instant.
    pub until: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_runs_45_seconds_and_outlives_two_lost_heartbeats() {
        let terms = LeaseTerms::default();
        assert_eq!(terms.until(Timestamp::EPOCH).since(Timestamp::EPOCH), Duration::from_secs(45));
        assert_eq!(terms.heartbeat, Duration::from_secs(15));
        assert!(terms.heartbeat * 3 <= terms.term);
    }
}
