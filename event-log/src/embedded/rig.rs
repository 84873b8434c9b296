//! A log on a simulated disk without threads, so that a seed gives the same run every time, and a memory of all that it
//! was asked and has answered.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use event_schemas::envelope::{EventType, NewEvent, Recorded};
use event_schemas::ids::{EventId, Position, Revision};
use event_schemas::stream::StreamId;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::disk::Disk;
use super::keeper::Keeper;
use super::reader::Access;
use super::stop::Latch;
use super::writer::{Request, Writer};
use super::{OpenError, Opened, SEGMENT_BYTES_MIN, Settings, SimDisk, start};
use crate::clock::Clock;
use crate::conformance::START;
use crate::{AppendError, Appended, Expected, Filter};

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
        queue.push_back(Request { stream, expected, events, answer });
        answers.push(answered);
    }
    while !queue.is_empty() && writer.latch.stopped().is_none() {
        writer.commit(&mut queue);
    }
    drop(queue);
    let closed = || Err(AppendError::Closed { reason: "the writer stopped before".to_owned() });
    answers.into_iter().map(|mut answered| answered.try_recv().unwrap_or_else(|_| closed())).collect()
}

/// Everything that a reader can see.
pub(super) fn read_all(writer: &Writer) -> Vec<Recorded> {
    let mut events = Vec::new();
    let mut after = Position::START;
    loop {
        let page = writer.shelf.page(after, &Filter::All, 7, Access::Disk).unwrap();
        events.extend(page.events);
        after = page.next;
        if page.at_head {
            return events;
        }
    }
}

/// What was asked of a log in all its lives.
#[derive(Default)]
pub(super) struct Witness {
    next: u128,
    /// All appends that were ever tried: their stream and ids.
    tried: Vec<(StreamId, Vec<u128>)>,
    /// What any reader has seen, acknowledged or not.
    seen: BTreeMap<Position, u128>,
    /// Where each stream ended when that was last known.
    ends: BTreeMap<StreamId, Revision>,
}

impl Witness {
    /// Sends a random batch to a log; false once the log has stopped.
    pub(super) fn append(&mut self, writer: &mut Writer, lots: &mut Lots) -> bool {
        let mut appends = Vec::new();
        for _ in 0..=lots.below(4) {
            let stream: StreamId = format!("a-{}", lots.below(5)).parse().unwrap();
            let count = 1 + u128::from(lots.below(4));
            let numbers: Vec<u128> = (self.next..self.next + count).collect();
            self.next += count;
            let events = numbers
                .iter()
                .map(|number| event(*number, usize::try_from(lots.below(300)).unwrap()))
                .collect();
            let last = self.ends.get(&stream).copied();
            // Mostly right; wrong if an earlier append of the batch goes to the same stream.
            let expected = if lots.below(2) == 0 { Expected::Any } else { Expected::after(last) };
            self.tried.push((stream.clone(), numbers));
            appends.push((stream, expected, events));
        }
        let first = self.tried.len() - appends.len();
        for (n, outcome) in commit(writer, appends).into_iter().enumerate() {
            let (stream, numbers) = &self.tried[first + n];
            match outcome {
                Ok(appended) => {
                    self.ends.insert(stream.clone(), appended.revision);
                    let start = appended.position.0 + 1 - numbers.len() as u64;
                    for (position, number) in (start..).map(Position).zip(numbers) {
                        let before = self.seen.insert(position, *number);
                        assert!(
                            before.is_none_or(|before| before == *number),
                            "{position} was given out twice"
                        );
                    }
                }
                Err(AppendError::Conflict { .. } | AppendError::Full { .. }) => {}
                Err(AppendError::Unknown { .. } | AppendError::Closed { .. }) => {
                    assert!(writer.latch.stopped().is_some());
                }
                Err(AppendError::Size { .. }) => panic!("the append is small"),
            }
        }
        writer.latch.stopped().is_none()
    }

    /// Nothing lost, nothing made up, no gap, no half append; remembers what it saw.
    pub(super) fn check(&mut self, writer: &Writer) {
        let events = read_all(writer);
        assert_eq!(*writer.head.borrow(), Position(events.len() as u64));
        let mut revisions: BTreeMap<StreamId, Vec<Recorded>> = BTreeMap::new();
        let found: BTreeMap<u128, &Recorded> =
            events.iter().map(|event| (event.id.0.as_u128(), event)).collect();
        assert_eq!(found.len(), events.len(), "an event is there twice");
        for (n, event) in events.iter().enumerate() {
            assert_eq!(event.position, Position(n as u64 + 1), "positions have no gap");
            let of_stream = revisions.entry(event.stream.clone()).or_default();
            assert_eq!(event.revision, Revision(of_stream.len() as u64));
            of_stream.push(event.clone());
        }
        for (position, number) in &self.seen {
            let event = events.get(usize::try_from(position.0).unwrap() - 1);
            assert_eq!(
                event.map(|event| event.id.0.as_u128()),
                Some(*number),
                "what was acknowledged or seen at {position} is lost"
            );
        }
        let mut explained = 0;
        for (stream, numbers) in &self.tried {
            let there: Vec<&Recorded> =
                numbers.iter().filter_map(|number| found.get(number)).copied().collect();
            assert!(there.is_empty() || there.len() == numbers.len(), "half an append is there");
            assert!(there.windows(2).all(|pair| pair[0].position.0 + 1 == pair[1].position.0));
            assert!(there.iter().all(|event| event.stream == *stream));
            explained += there.len();
        }
        assert_eq!(explained, events.len(), "an event is there that nobody appended");
        for (stream, expected) in &revisions {
            let read = writer.shelf.stream(stream, Revision(0), usize::MAX, Access::Disk).unwrap();
            assert_eq!(read, *expected);
        }
        self.ends = revisions
            .iter()
            .map(|(stream, events)| (stream.clone(), Revision(events.len() as u64 - 1)))
            .collect();
        self.seen = events.iter().map(|event| (event.position, event.id.0.as_u128())).collect();
    }
}
