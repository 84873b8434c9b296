//! A cache of parsed names, which many events share.

use event_schemas::envelope::EventType;
use event_schemas::stream::StreamId;

/// The recent stream names and event types of one read, so that each is parsed only once.
#[derive(Debug)]
pub(crate) struct NameCache {
    streams: Vec<Option<StreamId>>,
    types: Vec<Option<EventType>>,
}

const SLOTS_MAX: usize = 256;
const SLOTS_MIN: usize = 4;

impl NameCache {
    pub(crate) fn new() -> Self {
        Self { streams: Vec::new(), types: Vec::new() }
    }

    pub(crate) fn stream(&mut self, name: &[u8]) -> Option<StreamId> {
        let known = |known: &StreamId| known.as_str().as_bytes() == name;
        find_or_insert(&mut self.streams, name, known, || std::str::from_utf8(name).ok()?.parse().ok())
    }

    pub(crate) fn event_type(&mut self, name: &[u8]) -> Option<EventType> {
        let known = |known: &EventType| known.as_str().as_bytes() == name;
        find_or_insert(&mut self.types, name, known, || Some(EventType::new(std::str::from_utf8(name).ok()?)))
    }
}

/// Few reads have many names, so the number of slots grows only when two names share a slot.
fn find_or_insert<T: Clone>(
    slots: &mut Vec<Option<T>>,
    name: &[u8],
    known: impl Fn(&T) -> bool,
    make: impl FnOnce() -> Option<T>,
) -> Option<T> {
    let hash = crc32c::crc32c(name) as usize;
    if slots.is_empty() {
        slots.resize(SLOTS_MIN, None);
    }
    let taken = &slots[hash % slots.len()];
    if let Some(found) = taken.as_ref().filter(|taken| known(taken)) {
        return Some(found.clone());
    }
    if taken.is_some() && slots.len() < SLOTS_MAX {
        slots.clear();
        slots.resize(SLOTS_MAX, None);
    }
    let made = make()?;
    let slot = hash % slots.len();
    slots[slot] = Some(made.clone());
    Some(made)
}
