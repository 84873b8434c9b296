//! The events of a command, in appends that the log accepts.

use domain::decider::Occurred;
use event_log::APPEND_EVENTS_MAX;
use event_schemas::envelope::{Cause, Event, EventEncoder, Idempotency, NewEvent};
use event_schemas::stream::StreamId;

/// The bytes of one append: below the log's own limit, and below EventStoreDB's limit with its framing.
const APPEND_BYTES: usize = 900_000;

/// The events of one append.
pub(super) struct AppendBatch<E> {
    /// The index of its first event within the command.
    first: usize,
    pub(super) events: Vec<Occurred<E>>,
    pub(super) encoded: Vec<NewEvent>,
    bytes: usize,
    pub(super) idempotency: Option<Idempotency>,
}

impl<E: Into<Event> + Clone> AppendBatch<E> {
    fn starting_at(first: usize, idempotency: Option<Idempotency>) -> Self {
        Self { first, events: Vec::new(), encoded: Vec::new(), bytes: 0, idempotency }
    }

    pub(super) fn reencode(&mut self, stream: &StreamId, cause: &Cause) {
        self.idempotency = cause.idempotency;
        let mut encoder = EventEncoder::new(cause, stream);
        let encode = |(index, occurred): (usize, &Occurred<E>)| {
            encoder.encode(self.first + index, occurred.at, &occurred.event.clone().into())
        };
        self.encoded = self.events.iter().enumerate().map(encode).collect();
    }
}

/// Splits the events into appends that the log accepts. An event that alone exceeds the limit stays alone, and the log
/// refuses it.
pub(super) fn split<E: Into<Event> + Clone>(
    stream: &StreamId,
    cause: &Cause,
    first: usize,
    events: Vec<Occurred<E>>,
) -> Vec<AppendBatch<E>> {
    let mut batches = Vec::new();
    let mut batch = AppendBatch::starting_at(first, cause.idempotency);
    let mut encoder = EventEncoder::new(cause, stream);
    for (index, occurred) in events.into_iter().enumerate() {
        let index = first + index;
        let encoded = encoder.encode(index, occurred.at, &occurred.event.clone().into());
        let bytes = encoded.event_type.as_str().len() + encoded.metadata.len() + encoded.data.len();
        let full = batch.events.len() == APPEND_EVENTS_MAX || batch.bytes + bytes > APPEND_BYTES;
        if full && !batch.events.is_empty() {
            batches.push(std::mem::replace(&mut batch, AppendBatch::starting_at(index, cause.idempotency)));
        }
        batch.bytes += bytes;
        batch.encoded.push(encoded);
        batch.events.push(occurred);
    }
    batches.push(batch);
    batches
}
