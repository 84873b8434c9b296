//! Leases: the temporary right of one worker to one piece of work.
//!
//! A claim opens a lease, heartbeats outside the log extend it, and an event ends it: a completion, a
//! failure, or an expiry. Until that event is recorded the lease is in force, whatever the clock shows, so
//! that a decision never depends on the time at which it is made.

use std::time::Duration;

use event_schemas::ids::{LeaseId, WorkerId};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The duration of a lease without a heartbeat.
pub const TERM: Duration = Duration::from_secs(45);

/// The heartbeat interval of a worker: a third of the term, so that two heartbeats may be lost.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

/// The configured durations of leases.
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
    /// The expiry of a lease that was claimed or extended at `at`.
    pub fn until(&self, at: Timestamp) -> Timestamp {
        at.after(self.term)
    }
}

/// A lease in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub id: LeaseId,
    pub worker_id: WorkerId,
    /// The expiry of the claim, unless a heartbeat extends it. Heartbeats are not events, so the keeper of
    /// the leases knows a later time.
    pub until: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_of_45_seconds_survives_two_lost_heartbeats() {
        let terms = LeaseTerms::default();
        assert_eq!(terms.until(Timestamp::EPOCH).since(Timestamp::EPOCH), Duration::from_secs(45));
        assert_eq!(terms.heartbeat, Duration::from_secs(15));
        assert!(terms.heartbeat * 3 <= terms.term);
    }
}
