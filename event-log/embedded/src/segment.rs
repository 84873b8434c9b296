//! A segment: one file with a header followed by groups, and its index.

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
use super::record::{self, CrcSeed, EntryBody, EntryError, NameCache};
use super::recovery::scan_all;
use event_log::{Identity, ReadError};

mod scan;

pub(super) use scan::{InvalidTail, ScannedSegment, read_invalid_tail, scan};

/// The format version of all files of the folder. A log of a newer version is refused.
pub(super) const FORMAT: u32 = 1;

/// The offset of the first group.
pub(super) const HEADER_BYTES: u64 = 4096;

const MAGIC: &[u8; 8] = b"MBLOGSEG";
const HEADER_USED_BYTES: usize = 64;

/// The suffix of a segment's file; its stem is the first position.
pub(super) const SEGMENT_SUFFIX: &str = ".segment";
pub(super) const INDEX_SUFFIX: &str = ".index";

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) format: u32,
    pub(super) identity: Identity,
    /// The position of the first event. All earlier events were durable before the segment was created.
    pub(super) first: Position,
    /// The recorded time of the last event before the segment.
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

    /// Decodes a header; `None` if the bytes are not a valid one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let used = bytes.get(..HEADER_USED_BYTES)?;
        let (fields, crc) = used.split_at(HEADER_USED_BYTES - 4);
        if &fields[..8] != MAGIC || crc32c::crc32c(fields).to_le_bytes() != crc {
            return None;
        }
        let u32_at = |at: usize| fields[at..at + 4].try_into().ok().map(u32::from_le_bytes);
        let u64_at = |at: usize| fields[at..at + 8].try_into().ok().map(u64::from_le_bytes);
        let id = LogId(Uuid::from_slice(&fields[16..32]).ok()?);
        Some(Self {
            format: u32_at(8)?,
            identity: Identity { id, epoch: u32_at(12)? },
            first: Position(u64_at(32)?),
            recorded_before: Timestamp::from_micros(u64_at(40)?.cast_signed()),
        })
    }
}

/// The file name of a segment. NameCache sort in position order.
pub(super) fn segment_name(first: Position) -> String {
    format!("{:020}{SEGMENT_SUFFIX}", first.0)
}

pub(super) fn index_name(first: Position) -> String {
    format!("{:020}{INDEX_SUFFIX}", first.0)
}

/// The first position in a segment's file name; `None` if it is not the name of a segment.
pub(super) fn position_of_name(name: &str) -> Option<Position> {
    let digits = name.strip_suffix(SEGMENT_SUFFIX)?;
    let first = Position(digits.parse().ok()?);
    (segment_name(first) == name).then_some(first)
}

/// The index of a segment's events.
#[derive(Debug)]
pub(super) enum SegmentIndex {
    /// The index of the active segment, and of one that was just filled.
    Memory(MemoryIndex),
    /// The index of a sealed segment.
    File(Arc<IndexFile>),
}

/// An open segment, shared by the writer, which alone adds to it, and all readers.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) header: SegmentHeader,
    pub(super) seed: CrcSeed,
    pub(super) file: DiskFile,
    /// The offset in the file at which its durable groups end.
    end: AtomicU64,
    pub(super) index: RwLock<SegmentIndex>,
}

/// The part of a stream that is in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamRun {
    pub(super) first: Revision,
    pub(super) count: u32,
}

impl StreamRun {
    pub(super) fn last(self) -> Revision {
        Revision(self.first.0 + u64::from(self.count) - 1)
    }
}

/// The reason why a part of a segment could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SegmentFault {
    #[error(transparent)]
    Disk(#[from] Fault),
    #[error("{0}")]
    Damaged(String),
    /// Not an error: the caller asked for an answer from memory only.
    #[error("the answer needs the disk")]
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
            seed: CrcSeed::new(header.identity.id, header.first),
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

    /// Called only by the writer, after the bytes before `end` are durable.
    pub(super) fn set_end(&self, end: u64) {
        self.end.store(end, Ordering::Release);
    }

    /// The number of its durable events.
    pub(super) fn count(&self) -> u32 {
        match &*self.index.read().unwrap_or_else(PoisonError::into_inner) {
            SegmentIndex::Memory(index) => index.count(),
            SegmentIndex::File(index) => index.count(),
        }
    }

    /// The index file of a sealed segment; `None` while the index is in memory.
    pub(super) fn index_file(&self) -> Option<Arc<IndexFile>> {
        match &*self.index.read().unwrap_or_else(PoisonError::into_inner) {
            SegmentIndex::Memory(_) => None,
            SegmentIndex::File(index) => Some(Arc::clone(index)),
        }
    }

    /// The part of a stream that is in this segment. Reads the disk only if the filter does not exclude the stream.
    pub(super) fn run(&self, stream: &StreamId, disk: bool) -> Result<Option<StreamRun>, SegmentFault> {
        match &*self.index.read().unwrap_or_else(PoisonError::into_inner) {
            SegmentIndex::Memory(index) => return Ok(index.run(stream)),
            SegmentIndex::File(index) if !index.may_contain(stream) => return Ok(None),
            SegmentIndex::File(_) => {}
        }
        match self.index_file() {
            Some(index) if disk => match index.find(stream) {
                Err(SegmentFault::Damaged(what)) => self.rebuild_index(&what)?.run(stream, disk),
                found => Ok(found?.map(|found| found.run)),
            },
            _ => Err(SegmentFault::NeedsDisk),
        }
    }

    /// The ordinals of a stream's events in the segment, at most `take`, without the first `skip`.
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
        let found = index.find(stream).and_then(|found| match found {
            Some(found) => index.ordinals(found.postings.start + skip..found.postings.end, take),
            None => Ok(Vec::new()),
        });
        match found {
            Err(SegmentFault::Damaged(what)) => self.rebuild_index(&what)?.ordinals(stream, skip, take),
            found => found,
        }
    }

    /// The offset in the file of the event at `ordinal`.
    pub(super) fn offset(&self, ordinal: u32) -> Result<u64, SegmentFault> {
        let index = match &*self.index.read().unwrap_or_else(PoisonError::into_inner) {
            SegmentIndex::Memory(index) => return index.offset(ordinal).ok_or_else(|| self.no_such(ordinal)),
            SegmentIndex::File(index) => Arc::clone(index),
        };
        match index.offset(ordinal) {
            Err(SegmentFault::Damaged(what)) => self.rebuild_index(&what)?.offset(ordinal),
            offset => offset,
        }
    }

    /// Replaces a damaged index file by an index in memory, which is built from the whole segment. `O(bytes)`.
    fn rebuild_index(&self, what: &str) -> Result<&Self, SegmentFault> {
        tracing::warn!(segment = self.name, what, "an index file is damaged; its index is rebuilt in memory");
        let (index, scanned) = scan_all(&self.file, &self.header)?;
        if scanned.tail.is_some() || index.count() != self.count() {
            return Err(SegmentFault::Damaged(what.to_owned()));
        }
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = SegmentIndex::Memory(index);
        Ok(self)
    }

    fn no_such(&self, ordinal: u32) -> SegmentFault {
        SegmentFault::Damaged(format!("{} has no event {ordinal}", self.name))
    }

    /// The event at `ordinal`, from the window of the previous read if it is there.
    pub(super) fn event(
        &self,
        ordinal: u32,
        window: &mut Window,
        names: &mut NameCache,
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

    /// The durable bytes from `offset` on, at most `len`.
    pub(super) fn read(&self, offset: u64, len: usize) -> Result<Bytes, SegmentFault> {
        let left = self.end().saturating_sub(offset);
        let mut bytes = vec![0; len.min(usize::try_from(left).unwrap_or(usize::MAX))];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }
}

/// The bytes of the last read, so that adjacent events are not read twice.
#[derive(Debug)]
pub(super) struct Window {
    bytes: Bytes,
    start: u64,
    /// The number of bytes to read at once.
    size: usize,
}

impl Window {
    pub(super) fn new(size: usize) -> Self {
        Self { bytes: Bytes::new(), start: 0, size }
    }

    /// The event at `offset`: its offset in the window, its fields and its length.
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
                        EntryBody::Event(view) => return Ok((at, view, entry.length)),
                        EntryBody::Group(_) | EntryBody::Trailer(_) => {
                            return Err(segment.damaged(offset, "no event starts here"));
                        }
                    },
                    Err(EntryError::Damaged(what)) => return Err(segment.damaged(offset, what)),
                    Err(EntryError::Short(needed)) => size = size.max(needed),
                }
            }
            self.bytes = segment.read(offset, size)?;
            self.start = offset;
            if let Err(EntryError::Short(needed)) = record::parse(segment.seed, &self.bytes)
                && needed > self.bytes.len()
            {
                self.bytes = segment.read(offset, needed)?;
            }
        }
        Err(segment.damaged(offset, "the event extends beyond the end of the segment"))
    }
}
