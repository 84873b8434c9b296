//! The contract, and what may go wrong on the way to a cluster.

use super::fake::{Cluster, Kept};
use crate::Log;
use crate::clock::Clock;

/// Against a node with positions that have gaps, and events of its own between ours.
mod on_a_node_with_gaps {
    use super::*;

    fn make(clock: Clock) -> (Log, (Cluster, Kept)) {
        let cluster = Cluster::start(clock);
        let (log, kept) = cluster.log("");
        (Log::EventStore(log), (cluster, kept))
    }

    crate::conformance_tests!(make);
}
