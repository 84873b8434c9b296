//! The single writer: drains its queue into groups, checks each append, writes and syncs a group at once, then replies.
//!
//! [`Writer::commit`] is a synchronous function of the queue; the thread around it only waits.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use tokio::sync::{oneshot, watch};

use super::disk::{Disk, Fault};
use super::external_append::AppendExpectation;
use super::head_file::HeadFile;
use super::maintenance::MaintenanceThread;
use super::reader::LogView;
use super::record::{self, EventOffsets, GROUP_HEADER_BYTES, GROUP_TRAILER_BYTES, GroupWriter};
use super::segment::{Segment, SegmentFault, SegmentIndex};
use super::shutdown::Shutdown;
use super::stream_heads::{PendingLocation, RecentEventIds, StreamHead, StreamHeadCache};
use super::tail::TailGroup;
use super::{Limits, telemetry};
use event_log::clock::Clock;
use event_log::{AppendError, Appended};

mod check_expected;
mod import;
mod preallocate;
mod run;

use check_expected::AppendDecision;
pub(super) use import::Import;
use preallocate::Space;
pub(super) use run::QUIET;

/// An append in the writer's queue.
#[derive(Debug)]
pub(super) struct AppendRequest {
    pub(super) stream: StreamId,
    pub(super) expectation: AppendExpectation,
    pub(super) events: Vec<NewEvent>,
    pub(super) answer: Answer,
}

pub(super) type Outcome = Result<Appended, AppendError>;
type Answer = oneshot::Sender<Outcome>;

/// The outcomes of a group's appends, and the channels to send them on.
#[derive(Debug)]
pub(super) struct Answers(Vec<(Answer, Outcome)>);

impl Answers {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn send(self) {
        for (answer, outcome) in self.0 {
            // A cancelled caller needs no answer.
            let _ = answer.send(outcome);
        }
    }
}

impl AppendRequest {
    /// The bytes that its events take in a segment.
    fn bytes(&self) -> usize {
        self.events.iter().map(|event| record::event_bytes(&self.stream, event)).sum()
    }
}

#[derive(Debug)]
pub(super) enum WriterMessage {
    Append(AppendRequest),
    /// The time of a scheduled mark has come.
    Mark,
    /// Sends a reply when all previously enqueued appends are committed or refused.
    Flush(oneshot::Sender<()>),
    Import(Import),
    /// Commit the queued appends, and end.
    Close,
}

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) disk: Disk,
    pub(super) clock: Clock,
    pub(super) limits: Limits,
    pub(super) view: Arc<LogView>,
    pub(super) maintenance: MaintenanceThread,
    pub(super) shutdown: Shutdown,
    pub(super) head: watch::Sender<Position>,
    pub(super) head_file: HeadFile,
    /// The segment that is written to, its size, and the offset of the next group.
    pub(super) active: Arc<Segment>,
    pub(super) size: u64,
    pub(super) end: u64,
    pub(super) heads: StreamHeadCache,
    /// The ids of recent appends of protocol clients.
    pub(super) recent_ids: RecentEventIds,
    /// The number of groups so far, which distinguishes pending events of this group from those of earlier ones.
    pub(super) groups: u64,
    /// Whether a mark already confirms the last group with events.
    pub(super) marked: bool,
    /// The time of the last group.
    pub(super) written: Instant,
}

/// The group that is being filled.
struct OpenGroup {
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
    offsets: EventOffsets,
    /// The index of the stream's previous event, if it is in the same group.
    previous: Option<usize>,
}

/// An error that stops the log permanently.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct FatalError(String);

impl From<Fault> for FatalError {
    fn from(fault: Fault) -> Self {
        Self(fault.to_string())
    }
}

impl From<SegmentFault> for FatalError {
    fn from(fault: SegmentFault) -> Self {
        Self(fault.to_string())
    }
}

impl Writer {
    /// Commits one group of appends from the front of the queue, as many as fit. When the queue is empty, `more` is called
    /// with their number and may add to the queue. A disk fault stops the log.
    pub(super) fn commit(
        &mut self,
        queue: &mut VecDeque<AppendRequest>,
        more: impl FnMut(&mut VecDeque<AppendRequest>, usize) -> bool,
    ) -> Answers {
        let mut answers = Vec::with_capacity(queue.len().min(self.limits.group_appends_max));
        if let Err(fault) = self.write_group(queue, more, &mut answers) {
            self.shutdown.fail(&fault.0);
            for (_, outcome) in &mut answers {
                *outcome = Err(AppendError::Unknown { reason: fault.0.clone() });
            }
        }
        Answers(answers)
    }

    /// The size of a group with the appends at the front of the queue, at least with the first.
    fn bytes_of_group(&self, queue: &VecDeque<AppendRequest>) -> usize {
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

    /// Checks, writes, syncs and publishes. Adds the outcome of every append to `answers`, which must be sent only after
    /// this returns: even a refusal may depend on an event that is not durable earlier.
    fn write_group(
        &mut self,
        queue: &mut VecDeque<AppendRequest>,
        mut more: impl FnMut(&mut VecDeque<AppendRequest>, usize) -> bool,
        answers: &mut Vec<(Answer, Outcome)>,
    ) -> Result<(), FatalError> {
        let unknown = || AppendError::Unknown { reason: "the log has stopped".to_owned() };
        let bytes = self.bytes_of_group(queue);
        let space = self.ensure_space(bytes)?;
        let left = usize::try_from(self.size - self.end).unwrap_or(usize::MAX);
        let bytes_max = left.min(self.limits.group_bytes_max.max(bytes));
        self.groups += 1;
        let mut group = OpenGroup {
            number: self.groups,
            bytes: GroupWriter::new(self.active.seed, bytes),
            events: Vec::with_capacity(queue.len()),
            first: Position(self.view.durable().0 + 1),
            recorded_at: self.clock.now().max(self.view.recorded_at()),
        };
        loop {
            while let Some(request) = queue.front() {
                let fits = space != Space::Ready
                    || group.bytes.len() + request.bytes() + GROUP_TRAILER_BYTES <= bytes_max;
                if !fits || answers.len() == self.limits.group_appends_max {
                    break;
                }
                let Some(AppendRequest { stream, expectation, events, answer }) = queue.pop_front() else {
                    break;
                };
                answers.push((answer, Err(unknown())));
                let outcome = self.decide(&mut group, stream, expectation, events, space)?;
                if let Some(last) = answers.last_mut() {
                    last.1 = outcome;
                }
            }
            // Refusals alone do not wait for more appends, unless they depend on an event in the group.
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
        group: &mut OpenGroup,
        stream: StreamId,
        expectation: AppendExpectation,
        events: Vec<NewEvent>,
        space: Space,
    ) -> Result<Outcome, FatalError> {
        Ok(match self.check_expected(group, &stream, expectation, &events)? {
            AppendDecision::Duplicate(appended) => Ok(appended),
            AppendDecision::Conflict(actual) => Err(AppendError::Conflict { actual }),
            AppendDecision::Append(head) => match space {
                Space::Ready => {
                    if let AppendExpectation::Client(_) = expectation {
                        self.recent_ids.add(&stream, head.map(|head| head.revision), &events);
                    }
                    Ok(self.accept(group, stream, head, events))
                }
                Space::Full { free_bytes } => {
                    Err(AppendError::Full { free_bytes, reserve_bytes: self.limits.reserve_bytes })
                }
            },
        })
    }

    /// Adds the events to the group. They become durable with it, or the log stops.
    fn accept(
        &mut self,
        group: &mut OpenGroup,
        stream: StreamId,
        head: Option<StreamHead>,
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
            let offsets = group.bytes.push(&stream, position, revision, group.recorded_at, &event);
            id = Some(event.id);
            group.events.push(PendingEvent { stream: stream.clone(), event, revision, offsets, previous });
            previous = Some(index);
            revision = revision.next();
        }
        let last = Revision(revision.0 - 1);
        let pending = previous.map(|index| PendingLocation { group: group.number, index });
        self.heads.set(stream, Some(StreamHead { revision: last, id, pending }));
        Appended {
            position: Position(group.first.0 + group.events.len() as u64 - 1),
            revision: last,
            recorded_at: group.recorded_at,
        }
    }

    /// Writes and syncs the group, and then publishes it to readers.
    fn write(&mut self, group: OpenGroup) -> Result<(), FatalError> {
        let count = group.bytes.count();
        let durable = Position(group.first.0 - 1);
        let bytes = Bytes::from(group.bytes.finish(group.first, durable, group.recorded_at));
        let start = self.write_and_sync(&bytes, count)?;
        let mut events = Vec::with_capacity(group.events.len());
        {
            let mut index = self.active.index.write().unwrap_or_else(PoisonError::into_inner);
            if let SegmentIndex::Memory(index) = &mut *index {
                for pending in &group.events {
                    index.push(&pending.stream, pending.revision, start + pending.offsets.offset as u64);
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
                metadata: bytes.slice(pending.offsets.metadata),
                data: bytes.slice(pending.offsets.data),
            });
        }
        self.publish(events, bytes.len());
        Ok(())
    }

    /// Makes a group durable and returns its offset. Readers do not see it yet.
    fn write_and_sync(&mut self, bytes: &[u8], events: u32) -> Result<u64, FatalError> {
        self.active.file.write_all_at(bytes, self.end)?;
        let started = Instant::now();
        self.active.file.sync_data()?;
        telemetry::synced(started.elapsed(), events, bytes.len());
        self.head_file.record(Position(self.view.durable().0 + u64::from(events)))?;
        let start = self.end;
        self.end += bytes.len() as u64;
        self.written = started;
        if std::mem::replace(&mut self.marked, false) {
            self.maintenance.schedule_mark();
        }
        Ok(start)
    }

    /// Publishes the events of a durable group to readers. The index must contain them already.
    fn publish(&mut self, events: Vec<Recorded>, bytes: usize) {
        self.active.set_end(self.end);
        self.view.publish(TailGroup::new(events, bytes));
        let head = self.view.durable();
        self.head.send_replace(head);
        telemetry::head(head);
    }

    /// Writes an empty group, which confirms that all previous groups are durable, so that later damage to them is not
    /// mistaken for an incomplete write.
    pub(super) fn mark(&mut self) -> Result<(), Fault> {
        let bytes = GroupWriter::new(self.active.seed, GROUP_HEADER_BYTES);
        let durable = self.view.durable();
        let bytes = bytes.finish(Position(durable.0 + 1), durable, self.view.recorded_at());
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
