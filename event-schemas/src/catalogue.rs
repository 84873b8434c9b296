//! All types of events, with their published JSON Schemas.

use std::sync::LazyLock;

use schemars::Schema;

use crate::challenge::ChallengeEvent;
use crate::job::JobEvent;
use crate::match_record::MatchRecordEvent;
use crate::matching::MatchingEvent;
use crate::player::PlayerEvent;
use crate::pool::PoolEvent;
use crate::worker::WorkerEvent;

/// One type of event.
#[derive(Debug, Clone, Copy)]
pub struct EventKind {
    /// The stored name.
    pub name: &'static str,
    /// The schema version that is written today; older ones stay readable.
    pub version: u16,
    /// The JSON Schema (2020-12) of the data at that version.
    pub schema: fn() -> Schema,
    /// Reads data of that version and writes it again: the same bytes, if the data was written by this type.
    pub rewrite: fn(&[u8]) -> serde_json::Result<Vec<u8>>,
}

/// Every type, sorted by name.
pub fn all() -> &'static [EventKind] {
    static ALL: LazyLock<Vec<EventKind>> = LazyLock::new(|| {
        let mut all = [
            JobEvent::TYPES,
            MatchingEvent::TYPES,
            WorkerEvent::TYPES,
            PlayerEvent::TYPES,
            PoolEvent::TYPES,
            MatchRecordEvent::TYPES,
            ChallengeEvent::TYPES,
        ]
        .concat();
        all.sort_by_key(|kind| kind.name);
        all
    });
    &ALL
}

/// The type of this name, if there is one.
pub fn find(name: &str) -> Option<&'static EventKind> {
    let all = all();
    all.binary_search_by_key(&name, |kind| kind.name).ok().and_then(|index| all.get(index))
}

#[cfg(test)]
mod tests;
