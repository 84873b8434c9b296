//! All types of events, with their published JSON Schemas.

use std::sync::LazyLock;

use schemars::Schema;

use crate::challenge::ChallengeEvent;
use crate::game_match::GameMatchEvent;
use crate::image_match::ImageMatchEvent;
use crate::job::JobEvent;
use crate::player::PlayerEvent;
use crate::pool::PoolEvent;
use crate::worker::WorkerEvent;

/// An event type.
#[derive(Debug, Clone, Copy)]
pub struct EventKind {
    /// The stored name.
    pub name: &'static str,
    /// The schema version that is written today; older versions stay readable.
    pub version: u16,
    /// The JSON Schema (2020-12) of the data at that version.
    pub schema: fn() -> Schema,
    /// Reads data of that version and writes it again. The bytes are the same if this type wrote the data.
    pub rewrite: fn(&[u8]) -> serde_json::Result<Vec<u8>>,
}

/// All event types, sorted by name.
pub fn all() -> &'static [EventKind] {
    static ALL: LazyLock<Vec<EventKind>> = LazyLock::new(|| {
        let mut all = [
            JobEvent::TYPES,
            ImageMatchEvent::TYPES,
            WorkerEvent::TYPES,
            PlayerEvent::TYPES,
            PoolEvent::TYPES,
            GameMatchEvent::TYPES,
            ChallengeEvent::TYPES,
        ]
        .concat();
        all.sort_by_key(|kind| kind.name);
        all
    });
    &ALL
}

/// The event type with this name, if there is one.
pub fn find(name: &str) -> Option<&'static EventKind> {
    let all = all();
    all.binary_search_by_key(&name, |kind| kind.name).ok().and_then(|index| all.get(index))
}

#[cfg(test)]
mod tests;
