//! Taking over events of another log as they were recorded there.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{Position, Revision};
use tokio::sync::oneshot;

use super::room::Room;
use super::{Final, GroupWriter, Writer, record};
use crate::embedded::heads::Head;
use crate::embedded::record::{GROUP_HEADER_BYTES, GROUP_TRAILER_BYTES};
use crate::embedded::segment::SegmentIndex;
use crate::{AppendError, ImportError};

/// Events of another log on their way.
#[derive(Debug)]
pub(in crate::embedded) struct Import {
    pub(in crate::embedded) events: Vec<Recorded>,
    pub(in crate::embedded) answer: oneshot::Sender<Result<(), ImportError>>,
}

impl Writer {
    /// Writes the events as one group, and answers. A failing disk trips the latch.
    pub(super) fn import(&mut self, Import { events, answer }: Import) {
        let outcome = self.take_over(events).unwrap_or_else(|fault| {
            self.latch.fail(&fault.to_string());
            Err(AppendError::Unknown { reason: fault.to_string() }.into())
        });
        // A caller that went away needs no answer.
        let _ = answer.send(outcome);
    }

    fn take_over(&mut self, events: Vec<Recorded>) -> Result<Result<(), ImportError>, Final> {
        let Some(last_recorded_at) = events.last().map(|event| event.recorded_at) else { return Ok(Ok(())) };
        if let Err(unfit) = self.check(&events)? {
            return Ok(Err(unfit));
        }
        let events: Vec<(Recorded, NewEvent)> = events.into_iter().map(with_texts).collect();
        let bytes = GROUP_HEADER_BYTES + GROUP_TRAILER_BYTES;
        let bytes =
            bytes + events.iter().map(|(event, new)| record::event_bytes(&event.stream, new)).sum::<usize>();
        if let Room::Full { free_bytes } = self.make_room(bytes)? {
            let reserve_bytes = self.limits.reserve_bytes;
            return Ok(Err(AppendError::Full { free_bytes, reserve_bytes }.into()));
        }
        let durable = self.shelf.durable();
        let mut group = GroupWriter::new(self.active.seed, bytes);
        let mut placed = Vec::with_capacity(events.len());
        for (position, (event, new)) in (durable.0 + 1..).map(Position).zip(&events) {
            placed.push(group.push(&event.stream, position, event.revision, event.recorded_at, new));
        }
        let count = group.count();
        let bytes = Bytes::from(group.finish(Position(durable.0 + 1), durable, last_recorded_at));
        let start = self.put(&bytes, count)?;
        let active = Arc::clone(&self.active);
        let mut index = active.index.write().unwrap_or_else(PoisonError::into_inner);
        let mut shown = Vec::with_capacity(events.len());
        for (position, ((event, _), placed)) in
            (durable.0 + 1..).map(Position).zip(events.into_iter().zip(placed))
        {
            let head = Head { revision: event.revision, id: Some(event.id), pending: None };
            self.heads.set(event.stream.clone(), Some(head));
            if let SegmentIndex::Memory(index) = &mut *index {
                index.push(&event.stream, event.revision, start + placed.offset as u64);
            }
            let (metadata, data) = (bytes.slice(placed.metadata), bytes.slice(placed.data));
            shown.push(Recorded { position, metadata, data, ..event });
        }
        drop(index);
        self.show(shown, bytes.len());
        Ok(Ok(()))
    }

    /// Whether each event continues its stream, and time does not go back.
    fn check(&mut self, events: &[Recorded]) -> Result<Result<(), ImportError>, Final> {
        let mut last = self.shelf.recorded_at();
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

/// What is written of an event.
fn with_texts(event: Recorded) -> (Recorded, NewEvent) {
    let new = NewEvent {
        id: event.id,
        event_type: event.event_type.clone(),
        format: event.format,
        metadata: event.metadata.clone(),
        data: event.data.clone(),
    };
    (event, new)
}
