//! A segment: one file with a header and groups behind it, and its index.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use event_schemas::envelope::Recorded;
use event_schemas::ids::{LogId, Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use uuid::Uuid;

use super::disk::{DiskFile, Fault};
use super::index::{IndexFile, MemoryIndex};
use super::record::{self, Body, Names, NoEntry, Seed};
use crate::{Identity, ReadError};

mod scan;

pub(super) use scan::{Scanned, Tail, read_tail, scan};

/// The version of all files of the folder. A log of a newer one is refused.
pub(super) const FORMAT: u32 = 1;

/// Groups start behind this many bytes.
pub(super) const HEADER_BYTES: u64 = 4096;

const MAGIC: &[u8; 8] = b"MBLOGSEG";
const HEADER_USED_BYTES: usize = 64;

/// The suffix of a segment's file; the name before it is its first position.
pub(super) const SEGMENT_SUFFIX: &str = ".segment";
pub(super) const INDEX_SUFFIX: &str = ".index";

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) format: u32,
    pub(super) identity: Identity,
    /// All events before this one were durable before the segment was made.
    pub(super) first: Position,
    /// Of the last event before the segment.
    pub(super) recorded_before: Timestamp,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&self.format.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.identity.epoch.to_le_bytes());
        bytes[16..32].copy_from_slice(self.identity.id.0.as_bytes());
        bytes[32..40].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.recorded_before.micros().to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..HEADER_USED_BYTES - 4]);
        bytes[HEADER_USED_BYTES - 4..HEADER_USED_BYTES].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// None if the bytes are no whole header.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let used = bytes.get(..HEADER_USED_BYTES)?;
        let (said, crc) = used.split_at(HEADER_USED_BYTES - 4);
        if &said[..8] != MAGIC || crc32c::crc32c(said).to_le_bytes() != crc {
            return None;
        }
        let u32_at = |at: usize| said[at..at + 4].try_into().ok().map(u32::from_le_bytes);
        let u64_at = |at: usize| said[at..at + 8].try_into().ok().map(u64::from_le_bytes);
        let id = LogId(Uuid::from_slice(&said[16..32]).ok()?);
        Some(Self {
            format: u32_at(8)?,
            identity: Identity { id, epoch: u32_at(12)? },
            first: Position(u64_at(32)?),
            recorded_before: Timestamp::from_micros(u64_at(40)?.cast_signed()),
        })
    }
}

/// A segment's name on disk, so that the names sort as the positions do.
pub(super) fn segment_name(first: Position) -> String {
    format!("{:020}{SEGMENT_SUFFIX}", first.0)
}

pub(super) fn index_name(first: Position) -> String {
    format!("{:020}{INDEX_SUFFIX}", first.0)
}

/// The first position that a segment's name says; none if it is not the name of one.
pub(super) fn position_of_name(name: &str) -> Option<Position> {
    let digits = name.strip_suffix(SEGMENT_SUFFIX)?;
    let first = Position(digits.parse().ok()?);
    (segment_name(first) == name).then_some(first)
}

/// Where a segment's events are.
#[derive(Debug)]
pub(super) enum SegmentIndex {
    /// Of the segment that is written to, and of one that was just sealed.
    Memory(MemoryIndex),
    /// Of a sealed segment.
    File(Arc<IndexFile>),
}

/// An open segment. Shared by the writer, who alone adds to it, and all readers.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) header: SegmentHeader,
    pub(super) seed: Seed,
    pub(super) file: DiskFile,
    /// The end of its durable groups in the file.
    end: AtomicU64,
    pub(super) index: RwLock<SegmentIndex>,
}

/// The part of a stream that lies in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: Revision,
    pub(super) count: u32,
}

impl Run {
    pub(super) fn last(self) -> Revision {
        Revision(self.first.0 + u64::from(self.count) - 1)
    }
}

/// Why a part of a segment could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SegmentFault {
    #[error(transparent)]
    Disk(#[from] Fault),
    #[error("{0}")]
    Damaged(String),
    /// Not an error: the caller wanted an answer from memory alone.
    #[error("the disk is needed")]
    NeedsDisk,
}

impl From<SegmentFault> for ReadError {
    fn from(fault: SegmentFault) -> Self {
        match fault {
            SegmentFault::Disk(fault) => Self::Unavailable(fault.to_string()),
            SegmentFault::Damaged(what) => Self::Corrupt(what),
            SegmentFault::NeedsDisk => Self::Unavailable(fault.to_string()),
        }
    }
}

impl Segment {
    pub(super) fn new(header: SegmentHeader, file: DiskFile, end: u64, index: SegmentIndex) -> Self {
        Self {
            name: segment_name(header.first),
            header,
            seed: Seed::new(header.identity.id, header.first),
            file,
            end: AtomicU64::new(end),
            index: RwLock::new(index),
        }
    }

    pub(super) fn first(&self) -> Position {
        self.header.first
    }

    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Only the writer calls it, once the bytes before `end` are durable.
    pub(super) fn set_end(&self, end: u64) {
        self.end.store(end, Ordering::Release);
    }

    /// The events that are durable in it.
    pub(super) fn count(&self) -> u32 {
        match &*self.index.read().unwrap_or_else(PoisonError::into_inner) {
            SegmentIndex::Memory(index) => index.count(),
            SegmentIndex::File(index) => index.count(),
        }
    }

    /// The sealed segment's index; none while it is in memory.
    pub(super) fn index_file(&self) -> Option<Arc<IndexFile>> {
        match &*self.index.read().unwrap_or_else(PoisonError::into_inner) {
            SegmentIndex::Memory(_) => None,
            SegmentIndex::File(index) => Some(Arc::clone(index)),
        }
    }

    /// What it has of a stream. Asks the disk only if the stream is likely to be there.
    pub(super) fn run(&self, stream: &StreamId, disk: bool) -> Result<Option<Run>, SegmentFault> {
        match &*self.index.read().unwrap_or_else(PoisonError::into_inner) {
            SegmentIndex::Memory(index) => return Ok(index.run(stream)),
            SegmentIndex::File(index) if !index.may_contain(stream) => return Ok(None),
            SegmentIndex::File(_) => {}
        }
        match self.index_file() {
            Some(index) if disk => Ok(index.find(stream)?.map(|found| found.run)),
            _ => Err(SegmentFault::NeedsDisk),
        }
    }

    /// The places in the segment of a stream's events, `skip` of its run left out and at most `take`.
    pub(super) fn ordinals(
        &self,
        stream: &StreamId,
        skip: u32,
        take: usize,
    ) -> Result<Vec<u32>, SegmentFault> {
        let index = match &*self.index.read().unwrap_or_else(PoisonError::into_inner) {
            SegmentIndex::Memory(index) => return Ok(index.ordinals(stream, skip, take)),
            SegmentIndex::File(index) => Arc::clone(index),
        };
        let Some(found) = index.find(stream)? else { return Ok(Vec::new()) };
        index.ordinals(found.postings.start + skip..found.postings.end, take)
    }

    /// Where the event at `ordinal` starts in the file.
    pub(super) fn offset(&self, ordinal: u32) -> Result<u64, SegmentFault> {
        let index = match &*self.index.read().unwrap_or_else(PoisonError::into_inner) {
            SegmentIndex::Memory(index) => return index.offset(ordinal).ok_or_else(|| self.no_such(ordinal)),
            SegmentIndex::File(index) => Arc::clone(index),
        };
        index.offset(ordinal)
    }

    fn no_such(&self, ordinal: u32) -> SegmentFault {
        SegmentFault::Damaged(format!("{} has no event {ordinal}", self.name))
    }

    /// The event at `ordinal`, by itself or out of the window that the last one came from.
    pub(super) fn event(
        &self,
        ordinal: u32,
        window: &mut Window,
        names: &mut Names,
    ) -> Result<Recorded, SegmentFault> {
        let offset = self.offset(ordinal)?;
        let (at, view, length) = window.entry(self, offset)?;
        let position = Position(self.first().0 + u64::from(ordinal));
        if view.position != position {
            return Err(self.damaged(offset, "the event is not at its position"));
        }
        let entry = window.bytes.slice(at..at + length);
        view.recorded(&entry, names).ok_or_else(|| self.damaged(offset, "the event's names are malformed"))
    }

    pub(super) fn damaged(&self, offset: u64, what: &str) -> SegmentFault {
        SegmentFault::Damaged(format!("{} at byte {offset}: {what}", self.name))
    }

    /// The bytes from `offset` on, at most `len` and not beyond what is durable.
    pub(super) fn read(&self, offset: u64, len: usize) -> Result<Bytes, SegmentFault> {
        let left = self.end().saturating_sub(offset);
        let mut bytes = vec![0; len.min(usize::try_from(left).unwrap_or(usize::MAX))];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }
}

/// The bytes that were read last, so that neighbours are not read twice.
#[derive(Debug)]
pub(super) struct Window {
    bytes: Bytes,
    start: u64,
    /// How much to read at once.
    size: usize,
}

impl Window {
    pub(super) fn new(size: usize) -> Self {
        Self { bytes: Bytes::new(), start: 0, size }
    }

    /// The event at `offset`: where it is in the window's bytes, its fields and its length.
    fn entry(
        &mut self,
        segment: &Segment,
        offset: u64,
    ) -> Result<(usize, record::EventView, usize), SegmentFault> {
        let mut size = self.size;
        for _ in 0..2 {
            let at = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
            if let Some((at, bytes)) = at.and_then(|at| Some((at, self.bytes.get(at..)?))) {
                match record::parse(segment.seed, bytes) {
                    Ok(entry) => match entry.body {
                        Body::Event(view) => return Ok((at, view, entry.length)),
                        Body::Group(_) | Body::Trailer(_) => {
                            return Err(segment.damaged(offset, "no event starts here"));
                        }
                    },
                    Err(NoEntry::Damaged(what)) => return Err(segment.damaged(offset, what)),
                    Err(NoEntry::Short(needed)) => size = size.max(needed),
                }
            }
            self.bytes = segment.read(offset, size)?;
            self.start = offset;
            if let Err(NoEntry::Short(needed)) = record::parse(segment.seed, &self.bytes)
                && needed > self.bytes.len()
            {
                self.bytes = segment.read(offset, needed)?;
            }
        }
        Err(segment.damaged(offset, "the event goes beyond the end of the segment"))
    }
}
