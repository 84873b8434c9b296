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
use tokio::sync::{oneshot, watch};

use super::client::Claim;
use super::disk::{Disk, Fault};
use super::heads::{Head, Heads, Ids, Pending};
use super::keeper::Keeper;
use super::reader::Shelf;
use super::record::{self, GROUP_HEADER_BYTES, GROUP_TRAILER_BYTES, GroupWriter, Placed};
use super::segment::{Segment, SegmentFault, SegmentIndex};
use super::stop::Latch;
use super::tail::TailGroup;
use super::{Limits, telemetry};
use crate::clock::Clock;
use crate::{AppendError, Appended};

mod import;
mod judge;
mod room;
mod run;

pub(super) use import::Import;
use judge::Verdict;
use room::Room;
pub(super) use run::QUIET;

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

/// What the appends of a group are to be told.
#[derive(Debug)]
pub(super) struct Answers(Vec<(Answer, Outcome)>);

impl Answers {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn give(self) {
        for (answer, outcome) in self.0 {
            // A caller that went away needs no answer.
            let _ = answer.send(outcome);
        }
    }
}

impl Request {
    /// What its events take in a segment.
    fn bytes(&self) -> usize {
        self.events.iter().map(|event| record::event_bytes(&self.stream, event)).sum()
    }
}

#[derive(Debug)]
pub(super) enum Message {
    Append(Request),
    /// Nobody has appended for a while: say on disk that all is durable.
    Mark,
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
    /// When the last group was.
    pub(super) written: Instant,
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
    /// Makes one group of appends from the front of the queue, as many as fit. When the queue is empty, `more` is told
    /// how many the group has and may add to the queue. A failing disk trips the latch.
    pub(super) fn commit(
        &mut self,
        queue: &mut VecDeque<Request>,
        more: impl FnMut(&mut VecDeque<Request>, usize) -> bool,
    ) -> Answers {
        let mut answers = Vec::with_capacity(queue.len().min(self.limits.group_appends_max));
        if let Err(fault) = self.write_group(queue, more, &mut answers) {
            self.latch.fail(&fault.0);
            for (_, outcome) in &mut answers {
                *outcome = Err(AppendError::Unknown { reason: fault.0.clone() });
            }
        }
        Answers(answers)
    }

    /// The bytes of a group with the appends at the front of the queue, of one at least.
    fn bytes_of_group(&self, queue: &VecDeque<Request>) -> usize {
        let mut bytes = GROUP_HEADER_BYTES + GROUP_TRAILER_BYTES;
        for (n, request) in queue.iter().take(self.limits.group_appends_max).enumerate() {
            let more = request.bytes();
            if n > 0 && bytes + more > self.limits.group_bytes_max {
                break;
            }
            bytes += more;
        }
        bytes
    }

    /// Decides, writes, syncs and publishes. Puts an answer for every append into `answers`, to be given only once this
    /// returns: even a refusal may tell of an event that is not durable before.
    fn write_group(
        &mut self,
        queue: &mut VecDeque<Request>,
        mut more: impl FnMut(&mut VecDeque<Request>, usize) -> bool,
        answers: &mut Vec<(Answer, Outcome)>,
    ) -> Result<(), Final> {
        let unknown = || AppendError::Unknown { reason: "the log has stopped".to_owned() };
        let bytes = self.bytes_of_group(queue);
        let room = self.make_room(bytes)?;
        let left = usize::try_from(self.size - self.end).unwrap_or(usize::MAX);
        let bytes_max = left.min(self.limits.group_bytes_max.max(bytes));
        self.groups += 1;
        let mut group = Group {
            number: self.groups,
            bytes: GroupWriter::new(self.active.seed, bytes),
            events: Vec::with_capacity(queue.len()),
            first: Position(self.shelf.durable().0 + 1),
            recorded_at: self.clock.now().max(self.shelf.recorded_at()),
        };
        loop {
            while let Some(request) = queue.front() {
                let fits = room != Room::Ready
                    || group.bytes.len() + request.bytes() + GROUP_TRAILER_BYTES <= bytes_max;
                if !fits || answers.len() == self.limits.group_appends_max {
                    break;
                }
                let Some(Request { stream, claim, events, answer }) = queue.pop_front() else { break };
                answers.push((answer, Err(unknown())));
                let outcome = self.decide(&mut group, stream, claim, events, room)?;
                if let Some(last) = answers.last_mut() {
                    last.1 = outcome;
                }
            }
            // A refusal waits for nobody, unless it tells of an event in the group.
            if !queue.is_empty() || group.events.is_empty() || !more(queue, answers.len()) {
                break;
            }
        }
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
        self.written = started;
        if std::mem::replace(&mut self.marked, false) {
            self.keeper.remind();
        }
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
}
