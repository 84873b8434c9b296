//! The one writer: drains its queue into groups, decides each append, writes and syncs a group at once, then answers.
//!
//! [`Writer::commit`] is a plain function of what is in the queue; the thread around it only waits.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use super::client::Claim;
use super::disk::{Disk, DiskFile, Fault, Lock};
use super::heads::{Head, Heads, Ids, Pending};
use super::index::MemoryIndex;
use super::keeper::{Keeper, ROOM_NAME, extend};
use super::reader::Shelf;
use super::record::{self, GROUP_HEADER_BYTES, GROUP_TRAILER_BYTES, GroupWriter, Placed};
use super::segment::{HEADER_BYTES, Segment, SegmentFault, SegmentHeader, SegmentIndex};
use super::stop::{Latch, Stopped};
use super::tail::TailGroup;
use super::{Limits, telemetry};
use crate::clock::Clock;
use crate::{AppendError, Appended};

mod import;
mod judge;

pub(super) use import::Import;
use judge::Verdict;

/// One append on its way.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) stream: StreamId,
    pub(super) claim: Claim,
    pub(super) events: Vec<NewEvent>,
    pub(super) answer: Answer,
}

pub(super) type Outcome = Result<Appended, AppendError>;
type Answer = oneshot::Sender<Outcome>;

#[derive(Debug)]
pub(super) enum Message {
    Append(Request),
    /// Say when all that was queued before is done.
    Settle(oneshot::Sender<()>),
    Import(Import),
    /// Finish what is queued, and end.
    Close,
}

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) disk: Disk,
    pub(super) clock: Clock,
    pub(super) limits: Limits,
    pub(super) shelf: Arc<Shelf>,
    pub(super) keeper: Keeper,
    pub(super) latch: Latch,
    pub(super) head: watch::Sender<Position>,
    /// The segment that is written to, its size and where the next group goes.
    pub(super) active: Arc<Segment>,
    pub(super) size: u64,
    pub(super) end: u64,
    pub(super) heads: Heads,
    /// Of events that clients appended lately.
    pub(super) ids: Ids,
    /// How many groups were begun: tells pending events of this group from those of earlier ones.
    pub(super) groups: u64,
    /// Whether the last group with events is below a later mark already.
    pub(super) marked: bool,
}

/// The group that is being filled.
struct Group {
    number: u64,
    bytes: GroupWriter,
    events: Vec<PendingEvent>,
    first: Position,
    recorded_at: Timestamp,
}

/// An event that is not durable yet.
struct PendingEvent {
    stream: StreamId,
    event: NewEvent,
    revision: Revision,
    placed: Placed,
    /// The stream's event before it, if it is in the same group.
    previous: Option<usize>,
}

/// Whether the disk may be written to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Ready,
    Full { free_bytes: u64 },
}

/// A fault that ends the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Final(String);

impl From<Fault> for Final {
    fn from(fault: Fault) -> Self {
        Self(fault.to_string())
    }
}

impl From<SegmentFault> for Final {
    fn from(fault: SegmentFault) -> Self {
        Self(fault.to_string())
    }
}

impl Writer {
    /// The writer's thread: until it is told to close, nobody can append any more, or the disk fails.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Message>, lock: Lock) {
        let mut messages = Vec::new();
        let mut requests = VecDeque::new();
        let mut settling = Vec::new();
        let mut imports = Vec::new();
        while self.latch.stopped().is_none() {
            let received = queue.blocking_recv_many(&mut messages, self.limits.group_appends_max);
            let mut closing = received == 0;
            for message in messages.drain(..) {
                match message {
                    Message::Append(request) => requests.push_back(request),
                    Message::Settle(answer) => settling.push(answer),
                    Message::Import(import) => imports.push(import),
                    Message::Close => closing = true,
                }
            }
            if closing {
                queue.close();
                while let Ok(Message::Append(request)) = queue.try_recv() {
                    requests.push_back(request);
                }
            }
            while !requests.is_empty() && self.latch.stopped().is_none() {
                self.commit(&mut requests);
            }
            for import in imports.drain(..) {
                if self.latch.stopped().is_none() {
                    self.import(import);
                }
            }
            for answer in settling.drain(..) {
                // A caller that went away needs no answer.
                let _ = answer.send(());
            }
            if closing {
                self.mark_at_end();
                self.latch.stop(Stopped::Closed);
            }
        }
        queue.close();
        let reason = "the log has stopped".to_owned();
        let mut refuse = |request: Request| {
            // A caller that went away needs no answer.
            let _ = request.answer.send(Err(AppendError::Closed { reason: reason.clone() }));
        };
        requests.into_iter().for_each(&mut refuse);
        while let Ok(message) = queue.try_recv() {
            if let Message::Append(request) = message {
                refuse(request);
            }
        }
        self.keeper.end();
        // What room was left is made anew at the next start.
        let _ = self.disk.remove(ROOM_NAME);
        drop(lock);
    }

    /// Takes appends from the front of the queue, as many as fit into one group, and answers them. A failing disk
    /// trips the latch.
    pub(super) fn commit(&mut self, queue: &mut VecDeque<Request>) {
        let mut batch = Vec::new();
        let mut bytes = GROUP_HEADER_BYTES + GROUP_TRAILER_BYTES;
        while let Some(request) = queue.front() {
            let more: usize =
                request.events.iter().map(|event| record::event_bytes(&request.stream, event)).sum();
            let full =
                bytes + more > self.limits.group_bytes_max || batch.len() >= self.limits.group_appends_max;
            if full && !batch.is_empty() {
                break;
            }
            bytes += more;
            batch.extend(queue.pop_front());
        }
        let mut answers = Vec::with_capacity(batch.len());
        match self.write_group(batch, bytes, &mut answers) {
            Ok(()) => {
                for (answer, outcome) in answers {
                    // A caller that went away needs no answer.
                    let _ = answer.send(outcome);
                }
            }
            Err(fault) => {
                self.latch.fail(&fault.0);
                for (answer, _) in answers {
                    let _ = answer.send(Err(AppendError::Unknown { reason: fault.0.clone() }));
                }
            }
        }
    }

    /// Decides, writes, syncs and publishes. Puts an answer for every append into `answers`, to be given only once this
    /// returns: even a refusal may tell of an event that is not durable before.
    fn write_group(
        &mut self,
        batch: Vec<Request>,
        bytes: usize,
        answers: &mut Vec<(Answer, Outcome)>,
    ) -> Result<(), Final> {
        let unknown = || AppendError::Unknown { reason: "the log has stopped".to_owned() };
        let mut batch = batch.into_iter();
        let mut fill = || -> Result<Group, Final> {
            let room = self.make_room(bytes)?;
            self.groups += 1;
            let mut group = Group {
                number: self.groups,
                bytes: GroupWriter::new(self.active.seed, bytes),
                events: Vec::new(),
                first: Position(self.shelf.durable().0 + 1),
                recorded_at: self.clock.now().max(self.shelf.recorded_at()),
            };
            for Request { stream, claim, events, answer } in batch.by_ref() {
                answers.push((answer, Err(unknown())));
                let outcome = self.decide(&mut group, stream, claim, events, room)?;
                if let Some(last) = answers.last_mut() {
                    last.1 = outcome;
                }
            }
            Ok(group)
        };
        let filled = fill();
        answers.extend(batch.map(|request| (request.answer, Err(unknown()))));
        let group = filled?;
        if !group.events.is_empty() {
            self.write(group)?;
        }
        Ok(())
    }

    fn decide(
        &mut self,
        group: &mut Group,
        stream: StreamId,
        claim: Claim,
        events: Vec<NewEvent>,
        room: Room,
    ) -> Result<Outcome, Final> {
        Ok(match self.judge(group, &stream, claim, &events)? {
            Verdict::Earlier(appended) => Ok(appended),
            Verdict::Conflict(actual) => Err(AppendError::Conflict { actual }),
            Verdict::Append(head) => match room {
                Room::Ready => {
                    if let Claim::Client(_) = claim {
                        self.ids.add(&stream, head.map(|head| head.revision), &events);
                    }
                    Ok(self.accept(group, stream, head, events))
                }
                Room::Full { free_bytes } => {
                    Err(AppendError::Full { free_bytes, reserve_bytes: self.limits.reserve_bytes })
                }
            },
        })
    }

    /// Puts the events into the group. They will be durable with it, or the log stops.
    fn accept(
        &mut self,
        group: &mut Group,
        stream: StreamId,
        head: Option<Head>,
        events: Vec<NewEvent>,
    ) -> Appended {
        let mut revision = head.map_or(Revision(0), |head| head.revision.next());
        let mut previous = head
            .and_then(|head| head.pending)
            .filter(|pending| pending.group == group.number)
            .map(|pending| pending.index);
        let mut id = None;
        for event in events {
            let index = group.events.len();
            let position = Position(group.first.0 + index as u64);
            let placed = group.bytes.push(&stream, position, revision, group.recorded_at, &event);
            id = Some(event.id);
            group.events.push(PendingEvent { stream: stream.clone(), event, revision, placed, previous });
            previous = Some(index);
            revision = revision.next();
        }
        let last = Revision(revision.0 - 1);
        let pending = previous.map(|index| Pending { group: group.number, index });
        self.heads.set(stream, Some(Head { revision: last, id, pending }));
        Appended {
            position: Position(group.first.0 + group.events.len() as u64 - 1),
            revision: last,
            recorded_at: group.recorded_at,
        }
    }

    /// One write, one sync; then the readers see the group.
    fn write(&mut self, group: Group) -> Result<(), Final> {
        let count = group.bytes.count();
        let durable = Position(group.first.0 - 1);
        let bytes = Bytes::from(group.bytes.finish(group.first, durable, group.recorded_at));
        let start = self.put(&bytes, count)?;
        let mut events = Vec::with_capacity(group.events.len());
        {
            let mut index = self.active.index.write().unwrap_or_else(PoisonError::into_inner);
            if let SegmentIndex::Memory(index) = &mut *index {
                for pending in &group.events {
                    index.push(&pending.stream, pending.revision, start + pending.placed.offset as u64);
                }
            }
        }
        for (n, pending) in group.events.into_iter().enumerate() {
            events.push(Recorded {
                position: Position(group.first.0 + n as u64),
                recorded_at: group.recorded_at,
                stream: pending.stream,
                revision: pending.revision,
                id: pending.event.id,
                event_type: pending.event.event_type,
                format: pending.event.format,
                metadata: bytes.slice(pending.placed.metadata),
                data: bytes.slice(pending.placed.data),
            });
        }
        self.show(events, bytes.len());
        Ok(())
    }

    /// Makes a group durable, and answers where it starts. Nobody sees it yet.
    fn put(&mut self, bytes: &[u8], events: u32) -> Result<u64, Final> {
        self.active.file.write_all_at(bytes, self.end)?;
        let started = Instant::now();
        self.active.file.sync_data()?;
        telemetry::synced(started.elapsed(), events, bytes.len());
        let start = self.end;
        self.end += bytes.len() as u64;
        self.marked = false;
        Ok(start)
    }

    /// Shows the events of a durable group to the readers. The index must hold them already.
    fn show(&mut self, events: Vec<Recorded>, bytes: usize) {
        self.active.set_end(self.end);
        self.shelf.publish(TailGroup::new(events, bytes));
        let head = self.shelf.durable();
        self.head.send_replace(head);
        telemetry::head(head);
    }

    /// Sees to it that a group of so many bytes can be written to the active segment, in a new one if need be.
    fn make_room(&mut self, bytes: usize) -> Result<Room, Final> {
        let free_bytes = self.disk.free_bytes()?;
        if free_bytes < self.limits.reserve_bytes {
            return Ok(Room::Full { free_bytes });
        }
        let bytes = bytes as u64;
        if self.end + bytes <= self.size {
            return Ok(Room::Ready);
        }
        let grown = HEADER_BYTES + bytes;
        let outcome = if self.end == HEADER_BYTES {
            extend(&self.active.file, self.size, grown).map(|()| self.size = grown)
        } else {
            self.begin_segment(grown)
        };
        match outcome {
            Ok(()) => Ok(Room::Ready),
            Err(fault) if fault.is_full() => Ok(Room::Full { free_bytes: self.disk.free_bytes()? }),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Turns the room that was made ahead into the next segment, of at least `size_min` bytes, and has room made for the
    /// one after it; for the same one if that failed, so that it is there once the disk has room.
    fn begin_segment(&mut self, size_min: u64) -> Result<(), Fault> {
        let begun = self.keeper.room().and_then(|room| self.put_into_use(room, size_min));
        self.keeper.make_room(self.limits.segment_bytes_after(self.size));
        begun
    }

    fn put_into_use(&mut self, room: DiskFile, size_min: u64) -> Result<(), Fault> {
        let made = room.len()?;
        if made < size_min {
            extend(&room, made, size_min)?;
        }
        let header = SegmentHeader {
            first: Position(self.shelf.durable().0 + 1),
            recorded_before: self.shelf.recorded_at(),
            ..self.active.header
        };
        let index = SegmentIndex::Memory(MemoryIndex::default());
        let segment = Arc::new(Segment::new(header, room, HEADER_BYTES, index));
        segment.file.write_all_at(&header.encode(), 0)?;
        segment.file.sync_all()?;
        // Whatever fails from here on, the name may be there. Events that went into the segment before it would give the
        // next one another name, and this one would belong nowhere.
        self.disk.rename(ROOM_NAME, &segment.name).map_err(Fault::made_final)?;
        self.disk.sync().map_err(Fault::made_final)?;
        self.shelf.add(Arc::clone(&segment));
        self.keeper.seal(std::mem::replace(&mut self.active, segment));
        (self.size, self.end, self.marked) = (made.max(size_min), HEADER_BYTES, true);
        telemetry::segments(self.shelf.segments().len());
        Ok(())
    }

    /// Writes an empty group that says that all before it is durable, so that damage to the last events will not be
    /// taken for a write that was cut short.
    pub(super) fn mark(&mut self) -> Result<(), Fault> {
        let bytes = GroupWriter::new(self.active.seed, GROUP_HEADER_BYTES);
        let durable = self.shelf.durable();
        let bytes = bytes.finish(Position(durable.0 + 1), durable, self.shelf.recorded_at());
        if !self.marked && self.end + bytes.len() as u64 <= self.size {
            self.active.file.write_all_at(&bytes, self.end)?;
            self.active.file.sync_data()?;
            self.end += bytes.len() as u64;
            self.active.set_end(self.end);
            self.marked = true;
        }
        Ok(())
    }

    fn mark_at_end(&mut self) {
        if self.latch.stopped().is_none()
            && let Err(fault) = self.mark()
        {
            self.latch.fail(&fault.to_string());
        }
    }
}
