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

impl Names {
    pub(in crate::embedded) fn new() -> Self {
        Self { streams: vec![None; NAMES_KEPT], types: vec![None; NAMES_KEPT] }
    }

    pub(in crate::embedded) fn stream(&mut self, name: &[u8]) -> Option<StreamId> {
        let slot = &mut self.streams[slot_of(name)];
        if let Some(known) = slot.as_ref().filter(|known| known.as_str().as_bytes() == name) {
            return Some(known.clone());
        }
        let made: StreamId = std::str::from_utf8(name).ok()?.parse().ok()?;
        *slot = Some(made.clone());
        Some(made)
    }

    pub(in crate::embedded) fn event_type(&mut self, name: &[u8]) -> Option<EventType> {
        let slot = &mut self.types[slot_of(name)];
        if let Some(known) = slot.as_ref().filter(|known| known.as_str().as_bytes() == name) {
            return Some(known.clone());
        }
        let made = EventType::new(std::str::from_utf8(name).ok()?);
        *slot = Some(made.clone());
        Some(made)
    }
}

fn slot_of(name: &[u8]) -> usize {
    crc32c::crc32c(name) as usize % NAMES_KEPT
}
