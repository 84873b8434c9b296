//! Names, made once for the many events that share them.

use event_schemas::envelope::EventType;
use event_schemas::stream::StreamId;

/// Stream names and types that came up lately in one read, so that each is made once.
#[derive(Debug)]
pub(in crate::embedded) struct Names {
    streams: Vec<Option<StreamId>>,
    types: Vec<Option<EventType>>,
}

const NAMES_KEPT: usize = 256;
const NAMES_KEPT_FIRST: usize = 4;

impl Names {
    pub(in crate::embedded) fn new() -> Self {
        Self { streams: Vec::new(), types: Vec::new() }
    }

    pub(in crate::embedded) fn stream(&mut self, name: &[u8]) -> Option<StreamId> {
        let known = |known: &StreamId| known.as_str().as_bytes() == name;
        find_or_make(&mut self.streams, name, known, || std::str::from_utf8(name).ok()?.parse().ok())
    }

    pub(in crate::embedded) fn event_type(&mut self, name: &[u8]) -> Option<EventType> {
        let known = |known: &EventType| known.as_str().as_bytes() == name;
        find_or_make(&mut self.types, name, known, || Some(EventType::new(std::str::from_utf8(name).ok()?)))
    }
}

/// Few reads meet many names, so the slots become many only when two names want the same one.
fn find_or_make<T: Clone>(
    slots: &mut Vec<Option<T>>,
    name: &[u8],
    known: impl Fn(&T) -> bool,
    make: impl FnOnce() -> Option<T>,
) -> Option<T> {
    let hash = crc32c::crc32c(name) as usize;
    if slots.is_empty() {
        slots.resize(NAMES_KEPT_FIRST, None);
    }
    let taken = &slots[hash % slots.len()];
    if let Some(found) = taken.as_ref().filter(|taken| known(taken)) {
        return Some(found.clone());
    }
    if taken.is_some() && slots.len() < NAMES_KEPT {
        slots.clear();
        slots.resize(NAMES_KEPT, None);
    }
    let made = make()?;
    let slot = hash % slots.len();
    slots[slot] = Some(made.clone());
    Some(made)
}
