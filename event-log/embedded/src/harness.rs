//! The harness of the simulations: a log on a simulated disk without threads, so that a seed gives the same run every time,
//! and an oracle that records every append and its outcome.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use event_schemas::envelope::{DataFormat, EventType, NewEvent, Recorded};
use event_schemas::ids::{EventId, Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::disk::Disk;
use super::external_append::AppendExpectation;
use super::maintenance::MaintenanceThread;
use super::reader::Access;
use super::segment::SegmentFault;
use super::shutdown::Shutdown;
use super::writer::{AppendRequest, Writer};
use super::{OpenError, Opened, SEGMENT_BYTES_MIN, Settings, SimDisk, start};
use event_log::clock::Clock;
use event_log::{AppendError, Appended, Expected, Filter};

/// The time at which the clocks of all runs start.
const START: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

/// A violation of the log's contract.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("the acknowledged or visible event at position {0} is lost")]
    Lost(Position),
    #[error("position {0} was assigned twice, or its event is recorded twice")]
    Duplicate(Position),
    #[error("the event at position {0} was never appended")]
    Phantom(Position),
    #[error("position, revision or head are out of order at position {0}")]
    Order(Position),
    #[error("only a part of the append of event {0:x} is recorded")]
    Partial(u128),
    #[error("an append failed with `{0}` although the log is running")]
    Outcome(String),
    #[error("a running log cannot be read, or streams and the whole log differ: {0}")]
    Reading(String),
    #[error("a log on a disk without a fault {0}")]
    Refused(String),
    #[error("a {0} was neither detected nor harmless")]
    Undetected(String),
    #[error("a repair {0}")]
    Repair(String),
}

/// A deterministic random number generator. SplitMix64.
pub(super) struct SeededRng(u64);

impl SeededRng {
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

/// Settings with small segments and a small tail, so that runs often create, seal and read files.
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
    let shutdown = Shutdown::new();
    let maintenance = MaintenanceThread::inline(disk.clone(), settings.reserve_bytes, shutdown.clone());
    start(&disk, settings, Clock::manual(START), shutdown, maintenance)
        .map(|(writer, _, opened)| (writer, opened))
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

/// Commits the appends, which form one group, and returns their outcomes.
pub(super) fn commit(
    writer: &mut Writer,
    appends: Vec<(StreamId, Expected, Vec<NewEvent>)>,
) -> Vec<Result<Appended, AppendError>> {
    let mut queue = VecDeque::new();
    let mut answers = Vec::new();
    for (stream, expected, events) in appends {
        let (answer, answered) = oneshot::channel();
        queue.push_back(AppendRequest {
            stream,
            expectation: AppendExpectation::Contract(expected),
            events,
            answer,
        });
        answers.push(answered);
    }
    // The second half arrives while the group is being filled.
    let mut later = queue.split_off(queue.len().div_ceil(2));
    while !(queue.is_empty() && later.is_empty()) && writer.shutdown.stopped().is_none() {
        if queue.is_empty() {
            queue.append(&mut later);
        }
        let more = |queue: &mut VecDeque<AppendRequest>, _| {
            queue.append(&mut later);
            !queue.is_empty()
        };
        writer.commit(&mut queue, more).send();
    }
    drop((queue, later));
    let closed = || Err(AppendError::Closed { reason: "the writer stopped before".to_owned() });
    answers.into_iter().map(|mut answered| answered.try_recv().unwrap_or_else(|_| closed())).collect()
}

/// All events that a reader can see.
pub(super) fn read_all(writer: &Writer) -> Result<Vec<Recorded>, SegmentFault> {
    let mut events = Vec::new();
    let mut after = Position::START;
    loop {
        let page = writer.view.page(after, &Filter::All, 7, Access::Disk)?;
        events.extend(page.events);
        after = page.next;
        if page.at_head {
            return Ok(events);
        }
    }
}

/// The numbers of outcomes in a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OutcomeCounts {
    /// The number of acknowledged events.
    pub(super) acknowledged: u64,
    /// The number of refused appends.
    pub(super) refused: u64,
    /// The number of appends with an unknown outcome.
    pub(super) unknown: u64,
}

/// The expected content of a log, over all its runs.
#[derive(Default)]
pub(super) struct Oracle {
    pub(super) outcomes: OutcomeCounts,
    next: u128,
    /// The stream and ids of every append.
    appends: Vec<(StreamId, Vec<u128>)>,
    /// The ids of the events that were acknowledged or read, by position.
    visible: BTreeMap<Position, u128>,
    /// The last known revision of each stream.
    heads: BTreeMap<StreamId, Revision>,
}

impl Oracle {
    /// An oracle for a log whose existing events are taken as correct.
    pub(super) fn after(writer: &Writer) -> Result<Self, Violation> {
        let events = read_all(writer).map_err(|fault| Violation::Reading(fault.to_string()))?;
        let mut oracle = Self { next: u128::MAX / 2, ..Self::default() };
        for event in events {
            oracle.heads.insert(event.stream.clone(), event.revision);
            oracle.visible.insert(event.position, event.id.0.as_u128());
            oracle.appends.push((event.stream, vec![event.id.0.as_u128()]));
        }
        Ok(oracle)
    }

    /// Commits a random batch of appends; returns false if the log has stopped.
    pub(super) fn append(&mut self, writer: &mut Writer, rng: &mut SeededRng) -> Result<bool, Violation> {
        let first = self.appends.len();
        let appends = self.batch(rng);
        for (n, outcome) in commit(writer, appends).into_iter().enumerate() {
            let (stream, numbers) = &self.appends[first + n];
            match outcome {
                Ok(appended) => {
                    self.outcomes.acknowledged += numbers.len() as u64;
                    self.heads.insert(stream.clone(), appended.revision);
                    let start = appended.position.0 + 1 - numbers.len() as u64;
                    for (position, number) in (start..).map(Position).zip(numbers) {
                        let previous = self.visible.insert(position, *number);
                        if previous.is_some_and(|previous| previous != *number) {
                            return Err(Violation::Duplicate(position));
                        }
                    }
                }
                Err(AppendError::Conflict { .. } | AppendError::Full { .. }) => self.outcomes.refused += 1,
                Err(AppendError::Closed { .. }) if writer.shutdown.stopped().is_some() => {
                    self.outcomes.refused += 1;
                }
                Err(AppendError::Unknown { .. }) if writer.shutdown.stopped().is_some() => {
                    self.outcomes.unknown += 1;
                }
                Err(error) => return Err(Violation::Outcome(error.to_string())),
            }
        }
        Ok(writer.shutdown.stopped().is_none())
    }

    fn batch(&mut self, rng: &mut SeededRng) -> Vec<(StreamId, Expected, Vec<NewEvent>)> {
        let mut appends = Vec::new();
        for _ in 0..=rng.below(4) {
            let stream: StreamId = format!("a-{}", rng.below(5)).parse().expect("a letter and a number");
            let count = 1 + u128::from(rng.below(4));
            let numbers: Vec<u128> = (self.next..self.next + count).collect();
            self.next += count;
            let events = numbers.iter().map(|number| event(*number, rng.below(300) as usize)).collect();
            let last = self.heads.get(&stream).copied();
            // Mostly correct; wrong if an earlier append of the batch goes to the same stream.
            let expected = if rng.below(2) == 0 { Expected::Any } else { Expected::after(last) };
            self.appends.push((stream.clone(), numbers));
            appends.push((stream, expected, events));
        }
        appends
    }

    /// Checks that no event is lost or invented, and that there is no gap and no partial append; records what is visible.
    pub(super) fn check(&mut self, writer: &Writer) -> Result<(), Violation> {
        let events = read_all(writer).map_err(|fault| Violation::Reading(fault.to_string()))?;
        let head = *writer.head.borrow();
        if head != Position(events.len() as u64) {
            return Err(Violation::Order(head));
        }
        let mut of_streams: BTreeMap<StreamId, Vec<Recorded>> = BTreeMap::new();
        let mut found = BTreeMap::new();
        for (n, event) in events.iter().enumerate() {
            let of_stream = of_streams.entry(event.stream.clone()).or_default();
            if event.position != Position(n as u64 + 1) || event.revision != Revision(of_stream.len() as u64)
            {
                return Err(Violation::Order(event.position));
            }
            of_stream.push(event.clone());
            if found.insert(event.id.0.as_u128(), event).is_some() {
                return Err(Violation::Duplicate(event.position));
            }
        }
        for (position, number) in &self.visible {
            if found.get(number).is_none_or(|event| event.position != *position) {
                return Err(Violation::Lost(*position));
            }
        }
        self.check_appends(found)?;
        for (stream, expected) in &of_streams {
            let read = writer.view.stream(stream, Revision(0), usize::MAX, Access::Disk);
            if read.map_err(|fault| Violation::Reading(fault.to_string()))? != *expected {
                return Err(Violation::Reading(stream.to_string()));
            }
        }
        self.heads = of_streams
            .iter()
            .map(|(stream, events)| (stream.clone(), Revision(events.len() as u64 - 1)))
            .collect();
        self.visible = events.iter().map(|event| (event.position, event.id.0.as_u128())).collect();
        Ok(())
    }

    /// Checks that each append is recorded as a whole or not at all, and that nothing else is recorded.
    fn check_appends(&self, mut found: BTreeMap<u128, &Recorded>) -> Result<(), Violation> {
        for (stream, numbers) in &self.appends {
            let recorded: Vec<&Recorded> = numbers.iter().filter_map(|number| found.remove(number)).collect();
            let whole = recorded.is_empty() || recorded.len() == numbers.len();
            let adjacent = recorded.windows(2).all(|pair| pair[0].position.0 + 1 == pair[1].position.0);
            if !whole || !adjacent || recorded.iter().any(|event| event.stream != *stream) {
                return Err(Violation::Partial(numbers[0]));
            }
        }
        found.values().next().map_or(Ok(()), |event| Err(Violation::Phantom(event.position)))
    }
}
