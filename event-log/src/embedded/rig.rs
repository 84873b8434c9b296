//! A log on a simulated disk without threads, so that a seed gives the same run every time, and a memory of all that it
//! was asked and has answered.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use event_schemas::envelope::{DataFormat, EventType, NewEvent, Recorded};
use event_schemas::ids::{EventId, Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::client::Claim;
use super::disk::Disk;
use super::keeper::Keeper;
use super::reader::Access;
use super::segment::SegmentFault;
use super::stop::Latch;
use super::writer::{Request, Writer};
use super::{OpenError, Opened, SEGMENT_BYTES_MIN, Settings, SimDisk, start};
use crate::clock::Clock;
use crate::{AppendError, Appended, Expected, Filter};

/// When the clocks of all runs start.
const START: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

/// A promise of the log that was not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("what was acknowledged or seen at position {0} is lost")]
    Lost(Position),
    #[error("position {0} was given out twice, or its event is there twice")]
    Duplicate(Position),
    #[error("an event is at position {0} that nobody appended")]
    Phantom(Position),
    #[error("position, revision or head are not in order at position {0}")]
    Order(Position),
    #[error("of the append of event {0:x} a part is there")]
    Half(u128),
    #[error("an append was answered `{0}` by a log that goes on")]
    Answer(String),
    #[error("a log that works cannot be read, or reads differently by stream: {0}")]
    Reading(String),
    #[error("a log on a disk without fault {0}")]
    Refused(String),
    #[error("a changed bit of {0} was neither found nor harmless")]
    Unnoticed(String),
    #[error("a repair {0}")]
    Repair(String),
}

/// Numbers that look random and are the same for the same seed.
pub(super) struct Lots(u64);

impl Lots {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// Small segments and a small memory, so that files are begun, sealed and read all the time.
pub(super) fn settings() -> Settings {
    Settings {
        segment_bytes: SEGMENT_BYTES_MIN,
        reserve_bytes: 0,
        tail_bytes: 3000,
        ..Settings::new("unused")
    }
}

pub(super) fn open(disk: &SimDisk, settings: &Settings) -> Result<(Writer, Opened), OpenError> {
    let disk = Disk::Simulated(disk.clone());
    let latch = Latch::new();
    let keeper = Keeper::inline(disk.clone(), settings.reserve_bytes, latch.clone());
    start(&disk, settings, Clock::manual(START), latch, keeper).map(|(writer, _, opened)| (writer, opened))
}

pub(super) fn event(number: u128, bytes: usize) -> NewEvent {
    NewEvent {
        id: EventId(Uuid::from_u128(number)),
        event_type: EventType::new("Happened"),
        format: DataFormat::Json,
        metadata: Bytes::from_static(b"{}"),
        data: vec![b'x'; bytes].into(),
    }
}

/// Appends that make one group, and their outcomes.
pub(super) fn commit(
    writer: &mut Writer,
    appends: Vec<(StreamId, Expected, Vec<NewEvent>)>,
) -> Vec<Result<Appended, AppendError>> {
    let mut queue = VecDeque::new();
    let mut answers = Vec::new();
    for (stream, expected, events) in appends {
        let (answer, answered) = oneshot::channel();
        queue.push_back(Request { stream, claim: Claim::Contract(expected), events, answer });
        answers.push(answered);
    }
    // The second half comes while the group is being made.
    let mut later = queue.split_off(queue.len().div_ceil(2));
    while !(queue.is_empty() && later.is_empty()) && writer.latch.stopped().is_none() {
        if queue.is_empty() {
            queue.append(&mut later);
        }
        let more = |queue: &mut VecDeque<Request>, _| {
            queue.append(&mut later);
            !queue.is_empty()
        };
        writer.commit(&mut queue, more).give();
    }
    drop((queue, later));
    let closed = || Err(AppendError::Closed { reason: "the writer stopped before".to_owned() });
    answers.into_iter().map(|mut answered| answered.try_recv().unwrap_or_else(|_| closed())).collect()
}

/// Everything that a reader can see.
pub(super) fn read_all(writer: &Writer) -> Result<Vec<Recorded>, SegmentFault> {
    let mut events = Vec::new();
    let mut after = Position::START;
    loop {
        let page = writer.shelf.page(after, &Filter::All, 7, Access::Disk)?;
        events.extend(page.events);
        after = page.next;
        if page.at_head {
            return Ok(events);
        }
    }
}

/// How the appends of a run were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answers {
    /// Events, not appends.
    pub(super) acknowledged: u64,
    /// Appends that were refused, so that nothing was written.
    pub(super) refused: u64,
    /// Appends of which nobody can know.
    pub(super) unknown: u64,
}

/// What was asked of a log in all its lives.
#[derive(Default)]
pub(super) struct Witness {
    pub(super) answers: Answers,
    next: u128,
    /// All appends that were ever tried: their stream and ids.
    tried: Vec<(StreamId, Vec<u128>)>,
    /// What any reader has seen, acknowledged or not.
    seen: BTreeMap<Position, u128>,
    /// Where each stream ended when that was last known.
    ends: BTreeMap<StreamId, Revision>,
}

impl Witness {
    /// One who comes to a log that holds events already, and takes them for granted.
    pub(super) fn after(writer: &Writer) -> Result<Self, Broken> {
        let events = read_all(writer).map_err(|fault| Broken::Reading(fault.to_string()))?;
        let mut witness = Self { next: u128::MAX / 2, ..Self::default() };
        for event in events {
            witness.ends.insert(event.stream.clone(), event.revision);
            witness.seen.insert(event.position, event.id.0.as_u128());
            witness.tried.push((event.stream, vec![event.id.0.as_u128()]));
        }
        Ok(witness)
    }

    /// Sends a random batch to a log; false once the log has stopped.
    pub(super) fn append(&mut self, writer: &mut Writer, lots: &mut Lots) -> Result<bool, Broken> {
        let first = self.tried.len();
        let appends = self.batch(lots);
        for (n, outcome) in commit(writer, appends).into_iter().enumerate() {
            let (stream, numbers) = &self.tried[first + n];
            match outcome {
                Ok(appended) => {
                    self.answers.acknowledged += numbers.len() as u64;
                    self.ends.insert(stream.clone(), appended.revision);
                    let start = appended.position.0 + 1 - numbers.len() as u64;
                    for (position, number) in (start..).map(Position).zip(numbers) {
                        let before = self.seen.insert(position, *number);
                        if before.is_some_and(|before| before != *number) {
                            return Err(Broken::Duplicate(position));
                        }
                    }
                }
                Err(AppendError::Conflict { .. } | AppendError::Full { .. }) => self.answers.refused += 1,
                Err(AppendError::Closed { .. }) if writer.latch.stopped().is_some() => {
                    self.answers.refused += 1;
                }
                Err(AppendError::Unknown { .. }) if writer.latch.stopped().is_some() => {
                    self.answers.unknown += 1;
                }
                Err(error) => return Err(Broken::Answer(error.to_string())),
            }
        }
        Ok(writer.latch.stopped().is_none())
    }

    fn batch(&mut self, lots: &mut Lots) -> Vec<(StreamId, Expected, Vec<NewEvent>)> {
        let mut appends = Vec::new();
        for _ in 0..=lots.below(4) {
            let stream: StreamId = format!("a-{}", lots.below(5)).parse().expect("a letter and a number");
            let count = 1 + u128::from(lots.below(4));
            let numbers: Vec<u128> = (self.next..self.next + count).collect();
            self.next += count;
            let events = numbers.iter().map(|number| event(*number, lots.below(300) as usize)).collect();
            let last = self.ends.get(&stream).copied();
            // Mostly right; wrong if an earlier append of the batch goes to the same stream.
            let expected = if lots.below(2) == 0 { Expected::Any } else { Expected::after(last) };
            self.tried.push((stream.clone(), numbers));
            appends.push((stream, expected, events));
        }
        appends
    }

    /// Nothing lost, nothing made up, no gap, no half append; remembers what it saw.
    pub(super) fn check(&mut self, writer: &Writer) -> Result<(), Broken> {
        let events = read_all(writer).map_err(|fault| Broken::Reading(fault.to_string()))?;
        let head = *writer.head.borrow();
        if head != Position(events.len() as u64) {
            return Err(Broken::Order(head));
        }
        let mut of_streams: BTreeMap<StreamId, Vec<Recorded>> = BTreeMap::new();
        let mut found = BTreeMap::new();
        for (n, event) in events.iter().enumerate() {
            let of_stream = of_streams.entry(event.stream.clone()).or_default();
            if event.position != Position(n as u64 + 1) || event.revision != Revision(of_stream.len() as u64)
            {
                return Err(Broken::Order(event.position));
            }
            of_stream.push(event.clone());
            if found.insert(event.id.0.as_u128(), event).is_some() {
                return Err(Broken::Duplicate(event.position));
            }
        }
        for (position, number) in &self.seen {
            if found.get(number).is_none_or(|event| event.position != *position) {
                return Err(Broken::Lost(*position));
            }
        }
        self.check_appends(found)?;
        for (stream, expected) in &of_streams {
            let read = writer.shelf.stream(stream, Revision(0), usize::MAX, Access::Disk);
            if read.map_err(|fault| Broken::Reading(fault.to_string()))? != *expected {
                return Err(Broken::Reading(stream.to_string()));
            }
        }
        self.ends = of_streams
            .iter()
            .map(|(stream, events)| (stream.clone(), Revision(events.len() as u64 - 1)))
            .collect();
        self.seen = events.iter().map(|event| (event.position, event.id.0.as_u128())).collect();
        Ok(())
    }

    /// Each append is there as a whole or not at all, and nothing else is.
    fn check_appends(&self, mut found: BTreeMap<u128, &Recorded>) -> Result<(), Broken> {
        for (stream, numbers) in &self.tried {
            let there: Vec<&Recorded> = numbers.iter().filter_map(|number| found.remove(number)).collect();
            let whole = there.is_empty() || there.len() == numbers.len();
            let together = there.windows(2).all(|pair| pair[0].position.0 + 1 == pair[1].position.0);
            if !whole || !together || there.iter().any(|event| event.stream != *stream) {
                return Err(Broken::Half(numbers[0]));
            }
        }
        found.values().next().map_or(Ok(()), |event| Err(Broken::Phantom(event.position)))
    }
}
