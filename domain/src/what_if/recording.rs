//! Recorded events, for the tests of replays.

use event_schemas::envelope::{Actor, Envelope, Event, Metadata};
use event_schemas::ids::{CorrelationId, EventId, Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use uuid::Uuid;

use crate::scenario::id;

/// Events in the order of the log.
#[derive(Debug, Default)]
pub(super) struct Recording(pub(super) Vec<Envelope>);

impl Recording {
    pub(super) fn head(&self) -> Position {
        Position(self.0.len() as u64)
    }

    pub(super) fn add(&mut self, stream: StreamId, at: Timestamp, event: impl Into<Event>) {
        let (event, position) = (event.into(), Position(self.head().0 + 1));
        self.0.push(Envelope {
            position,
            recorded_at: at,
            id: EventId(Uuid::from_u128(position.0.into())),
            stream,
            revision: Revision(0),
            metadata: Metadata {
                schema_version: event.schema_version(),
                occurred_at: at,
                tenant: id("default"),
                actor: Actor::System(id("test")),
                correlation_id: CorrelationId(Uuid::nil()),
                causation_id: Uuid::nil(),
                subject: None,
                idempotency: None,
                traceparent: None,
            },
            event,
        });
    }
}
