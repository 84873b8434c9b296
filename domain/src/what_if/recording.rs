//! Recorded events, for the tests of replays.

use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::Position;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;

use crate::scenario::envelope;

/// Events in the order of the log.
#[derive(Debug, Default)]
pub(super) struct Recording(pub(super) Vec<Envelope>);

impl Recording {
    pub(super) fn head(&self) -> Position {
        Position(self.0.len() as u64)
    }

    pub(super) fn add(&mut self, stream: StreamId, at: Timestamp, event: impl Into<Event>) {
        self.0.push(envelope(self.head().0 + 1, stream, at, event));
    }
}
