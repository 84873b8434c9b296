//! Importing events of another log as they were recorded there.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{Position, Revision};
use tokio::sync::oneshot;

use super::preallocate::Space;
use super::{FatalError, GroupWriter, Writer, record};
use crate::record::{GROUP_HEADER_BYTES, GROUP_TRAILER_BYTES};
use crate::segment::SegmentIndex;
use crate::stream_heads::StreamHead;
use event_log::{AppendError, ImportError};

/// A batch of imported events in the writer's queue.
#[derive(Debug)]
pub(crate) struct Import {
    pub(crate) events: Vec<Recorded>,
    pub(crate) answer: oneshot::Sender<Result<(), ImportError>>,
}

impl Writer {
    /// Writes the events as one group and sends the outcome. A disk fault stops the log.
    pub(super) fn import(&mut self, Import { events, answer }: Import) {
        let outcome = self.import_events(events).unwrap_or_else(|fault| {
            self.shutdown.fail(&fault.to_string());
            Err(AppendError::Unknown { reason: fault.to_string() }.into())
        });
        // A cancelled caller needs no answer.
        let _ = answer.send(outcome);
    }

    fn import_events(&mut self, events: Vec<Recorded>) -> Result<Result<(), ImportError>, FatalError> {
        let Some(last_recorded_at) = events.last().map(|event| event.recorded_at) else { return Ok(Ok(())) };
        if let Err(error) = self.check_import(&events)? {
            return Ok(Err(error));
        }
        let events: Vec<(Recorded, NewEvent)> = events.into_iter().map(with_new_event).collect();
        let bytes = GROUP_HEADER_BYTES + GROUP_TRAILER_BYTES;
        let bytes =
            bytes + events.iter().map(|(event, new)| record::event_bytes(&event.stream, new)).sum::<usize>();
        if let Space::Full { free_bytes } = self.ensure_space(bytes)? {
            let reserve_bytes = self.limits.reserve_bytes;
            return Ok(Err(AppendError::Full { free_bytes, reserve_bytes }.into()));
        }
        let durable = self.view.durable();
        let mut group = GroupWriter::new(self.active.seed, bytes);
        let mut offsets = Vec::with_capacity(events.len());
        for (position, (event, new)) in (durable.0 + 1..).map(Position).zip(&events) {
            offsets.push(group.push(&event.stream, position, event.revision, event.recorded_at, new));
        }
        let count = group.count();
        let bytes = Bytes::from(group.finish(Position(durable.0 + 1), durable, last_recorded_at));
        let start = self.write_and_sync(&bytes, count)?;
        let active = Arc::clone(&self.active);
        let mut index = active.index.write().unwrap_or_else(PoisonError::into_inner);
        let mut published = Vec::with_capacity(events.len());
        for (position, ((event, _), offsets)) in
            (durable.0 + 1..).map(Position).zip(events.into_iter().zip(offsets))
        {
            let head = StreamHead { revision: event.revision, id: Some(event.id), pending: None };
            self.heads.set(event.stream.clone(), Some(head));
            if let SegmentIndex::Memory(index) = &mut *index {
                index.push(&event.stream, event.revision, start + offsets.offset as u64);
            }
            let (metadata, data) = (bytes.slice(offsets.metadata), bytes.slice(offsets.data));
            published.push(Recorded { position, metadata, data, ..event });
        }
        drop(index);
        self.publish(published, bytes.len());
        Ok(Ok(()))
    }

    /// Checks that each event continues its stream, and that recorded times do not decrease.
    fn check_import(&mut self, events: &[Recorded]) -> Result<Result<(), ImportError>, FatalError> {
        let mut last = self.view.recorded_at();
        let mut ends: HashMap<&str, Option<Revision>> = HashMap::new();
        for event in events {
            if event.recorded_at < last {
                return Ok(Err(ImportError::Time { position: event.position, at: event.recorded_at, last }));
            }
            last = event.recorded_at;
            let end = match ends.get(event.stream.as_str()) {
                Some(end) => *end,
                None => self.head_of(&event.stream)?.map(|head| head.revision),
            };
            let next = end.map_or(Revision(0), Revision::next);
            if event.revision != next {
                return Ok(Err(ImportError::Revision {
                    stream: event.stream.clone(),
                    found: event.revision,
                    next,
                }));
            }
            ends.insert(event.stream.as_str(), Some(event.revision));
        }
        Ok(Ok(()))
    }
}

/// Pairs the event with the part of it that is written.
fn with_new_event(event: Recorded) -> (Recorded, NewEvent) {
    let new = NewEvent {
        id: event.id,
        event_type: event.event_type.clone(),
        format: event.format,
        metadata: event.metadata.clone(),
        data: event.data.clone(),
    };
    (event, new)
}
