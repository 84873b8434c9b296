//! Reading an index file: a few small reads per lookup; only the filter is kept in memory.

use std::ops::Range;

use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;

use super::filter::BloomFilter;
use super::stream_hash;
use crate::disk::{DiskFile, Fault};
use crate::segment::{SegmentFault, StreamRun};

/// The size of a block. The file consists of blocks, so that a small read can be verified: content, a CRC, and zeros.
pub(super) const BLOCK_BYTES: usize = 4096;
/// The content of a block. It is a multiple of every entry's size, so that no entry spans two blocks.
pub(super) const BLOCK_PAYLOAD: usize = 4064;
/// The size of a stream entry: hash 8, first revision 8, name offset 4, name length 4, first posting 4, postings 4.
pub(super) const STREAM_BYTES: usize = 32;

const MAGIC: &[u8; 8] = b"MBLOGIDX";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;

/// The offsets of the parts of the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    events: usize,
    streams_len: usize,
    names_len: usize,
    filter_len: usize,
    pub(super) offsets: usize,
    pub(super) postings: usize,
    pub(super) streams: usize,
    pub(super) slots: usize,
    pub(super) names: usize,
    pub(super) filter: usize,
    pub(super) end: usize,
}

impl Layout {
    pub(super) fn new(events: usize, streams_len: usize, names_len: usize, filter_len: usize) -> Self {
        let after = |start: usize, bytes: usize| (start + bytes).next_multiple_of(STREAM_BYTES);
        let offsets = HEADER_BYTES;
        let postings = after(offsets, events * 4);
        let streams = after(postings, events * 4);
        let slots = after(streams, streams_len * STREAM_BYTES);
        let names = after(slots, slots_len(streams_len) * 4);
        let filter = after(names, names_len);
        let end = filter + filter_len;
        Self {
            events,
            streams_len,
            names_len,
            filter_len,
            offsets,
            postings,
            streams,
            slots,
            names,
            filter,
            end,
        }
    }

    pub(super) fn slots_len(&self) -> usize {
        slots_len(self.streams_len)
    }

    pub(super) fn encode(&self, first: Position, end: u64, content: &mut [u8]) {
        content[..8].copy_from_slice(MAGIC);
        content[8..12].copy_from_slice(&VERSION.to_le_bytes());
        content[16..24].copy_from_slice(&first.0.to_le_bytes());
        content[24..32].copy_from_slice(&end.to_le_bytes());
        let lengths = [self.events, self.streams_len, self.names_len, self.filter_len];
        for (n, length) in lengths.into_iter().enumerate() {
            let length =
                u32::try_from(length).expect("a segment is smaller than 4 GiB, so its index's counts are");
            content[32 + n * 4..36 + n * 4].copy_from_slice(&length.to_le_bytes());
        }
    }
}

/// The size of the hash table, which is at most half full.
fn slots_len(streams: usize) -> usize {
    (streams * 2).max(8)
}

pub(super) fn block_crc(first: Position, number: u64, payload: &[u8]) -> u32 {
    let seed = crc32c::crc32c_append(crc32c::crc32c(&first.0.to_le_bytes()), &number.to_le_bytes());
    crc32c::crc32c_append(seed, payload)
}

/// The index of a sealed segment.
#[derive(Debug)]
pub(in super::super) struct IndexFile {
    name: String,
    file: DiskFile,
    first: Position,
    layout: Layout,
    filter: BloomFilter,
}

/// An index file whose header and filter are valid.
#[derive(Debug)]
pub(in super::super) struct OpenedIndex {
    pub(in super::super) index: IndexFile,
    /// The offset at which the segment's groups end.
    pub(in super::super) end: u64,
}

/// A stream that was found in an index file.
#[derive(Clone, Debug)]
pub(in super::super) struct IndexedStream {
    pub(in super::super) run: StreamRun,
    /// The stream's postings.
    pub(in super::super) postings: Range<u32>,
}

struct StreamEntry {
    hash: u64,
    found: IndexedStream,
    name: Range<usize>,
}

impl IndexFile {
    /// Reads the header and the filter; `None` if they are not valid.
    pub(in super::super) fn open(
        name: String,
        file: DiskFile,
        first: Position,
    ) -> Result<Option<OpenedIndex>, Fault> {
        let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
        if len == 0 || !len.is_multiple_of(BLOCK_BYTES) {
            return Ok(None);
        }
        let none = Layout::new(0, 0, 0, 0);
        let filter = BloomFilter::new(0);
        let mut index = Self { name, file, first, layout: none, filter };
        let header = match index.content(0..HEADER_BYTES) {
            Ok(header) => header,
            Err(SegmentFault::Disk(fault)) => return Err(fault),
            Err(SegmentFault::Damaged(_) | SegmentFault::NeedsDisk) => return Ok(None),
        };
        let number = |at: usize| u32_at(&header, at) as usize;
        let layout = Layout::new(number(32), number(36), number(40), number(44));
        let end = u64_at(&header, 24);
        let is_valid = &header[..8] == MAGIC
            && u32_at(&header, 8) == VERSION
            && Position(u64_at(&header, 16)) == first
            && layout.end.div_ceil(BLOCK_PAYLOAD) * BLOCK_BYTES == len;
        if !is_valid {
            return Ok(None);
        }
        let filter = match index.content(layout.filter..layout.end) {
            Ok(filter) => BloomFilter::from_bytes(filter),
            Err(SegmentFault::Disk(fault)) => return Err(fault),
            Err(SegmentFault::Damaged(_) | SegmentFault::NeedsDisk) => None,
        };
        let Some(filter) = filter else { return Ok(None) };
        (index.layout, index.filter) = (layout, filter);
        Ok(Some(OpenedIndex { index, end }))
    }

    pub(in super::super) fn count(&self) -> u32 {
        u32::try_from(self.layout.events).unwrap_or(u32::MAX)
    }

    pub(in super::super) fn may_contain(&self, stream: &StreamId) -> bool {
        self.filter.may_contain(stream_hash(stream.as_str().as_bytes()))
    }

    /// Finds a stream with an expected `O(1)` small reads.
    pub(in super::super) fn find(&self, stream: &StreamId) -> Result<Option<IndexedStream>, SegmentFault> {
        let name = stream.as_str().as_bytes();
        let hash = stream_hash(name);
        let slots = self.layout.slots_len();
        let mut slot = hash as usize % slots;
        for _ in 0..slots {
            let at = self.layout.slots + slot * 4;
            let number = u32_at(&self.content(at..at + 4)?, 0) as usize;
            if number == 0 {
                return Ok(None);
            }
            let entry = self.stream(number - 1)?;
            if entry.hash == hash && self.content(entry.name.clone())? == name {
                return Ok(Some(entry.found));
            }
            slot = (slot + 1) % slots;
        }
        Ok(None)
    }

    /// The postings of all streams whose names start with `prefix`. `O(log streams)` small reads.
    pub(in super::super) fn with_prefix(&self, prefix: &str) -> Result<Range<u32>, SegmentFault> {
        let prefix = prefix.as_bytes();
        let start = self.partition_point(|name| name < prefix)?;
        let end = self.partition_point(|name| name < prefix || name.starts_with(prefix))?;
        Ok(self.first_posting(start)?..self.first_posting(end)?)
    }

    /// The first posting of the stream at `number`, or the end of all postings.
    fn first_posting(&self, number: usize) -> Result<u32, SegmentFault> {
        if number == self.layout.streams_len {
            return Ok(self.count());
        }
        Ok(self.stream(number)?.found.postings.start)
    }

    fn partition_point(&self, before: impl Fn(&[u8]) -> bool) -> Result<usize, SegmentFault> {
        let (mut low, mut high) = (0, self.layout.streams_len);
        while low < high {
            let middle = usize::midpoint(low, high);
            if before(&self.content(self.stream(middle)?.name)?) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// The ordinals in the postings, at most `take`.
    pub(in super::super) fn ordinals(
        &self,
        postings: Range<u32>,
        take: usize,
    ) -> Result<Vec<u32>, SegmentFault> {
        let start = self.layout.postings + postings.start as usize * 4;
        let len = postings.len().min(take);
        let bytes = self.content(start..start + len * 4)?;
        let ordinals: Vec<u32> = bytes.chunks_exact(4).map(|bytes| u32_at(bytes, 0)).collect();
        if ordinals.iter().any(|ordinal| *ordinal >= self.count()) {
            return Err(self.damaged("refers to an event that does not exist"));
        }
        Ok(ordinals)
    }

    /// The offset of an event in the segment.
    pub(in super::super) fn offset(&self, ordinal: u32) -> Result<u64, SegmentFault> {
        if ordinal >= self.count() {
            return Err(self.damaged("does not contain the event"));
        }
        let at = self.layout.offsets + ordinal as usize * 4;
        Ok(u64::from(u32_at(&self.content(at..at + 4)?, 0)))
    }

    /// The streams from number `from` on, at most `take`, sorted by name, with their parts in this segment. It takes two
    /// reads for any number of streams.
    pub(in super::super) fn streams(
        &self,
        from: usize,
        take: usize,
    ) -> Result<Vec<(Vec<u8>, StreamRun)>, SegmentFault> {
        let to = self.layout.streams_len.min(from.saturating_add(take));
        let bytes =
            self.content(self.layout.streams + from * STREAM_BYTES..self.layout.streams + to * STREAM_BYTES)?;
        let entries = bytes.chunks_exact(STREAM_BYTES).map(|bytes| self.entry(bytes));
        let entries = entries.collect::<Result<Vec<StreamEntry>, SegmentFault>>()?;
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(Vec::new()) };
        let start = first.name.start;
        let names = self.content(start..last.name.end)?;
        let named = entries.iter().map(|entry| {
            let name = names.get(entry.name.start.wrapping_sub(start)..entry.name.end.wrapping_sub(start));
            let name = name.ok_or_else(|| self.damaged("contains names that are not sorted"))?;
            Ok((name.to_vec(), entry.found.run))
        });
        named.collect()
    }

    /// All of its bytes, without verification.
    pub(in super::super) fn bytes(&self) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0; usize::try_from(self.file.len()?).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn stream(&self, number: usize) -> Result<StreamEntry, SegmentFault> {
        if number >= self.layout.streams_len {
            return Err(self.damaged("refers to a stream that does not exist"));
        }
        let at = self.layout.streams + number * STREAM_BYTES;
        self.entry(&self.content(at..at + STREAM_BYTES)?)
    }

    fn entry(&self, bytes: &[u8]) -> Result<StreamEntry, SegmentFault> {
        let (name_at, name_len) = (u32_at(bytes, 16) as usize, u32_at(bytes, 20) as usize);
        let (posting, count) = (u32_at(bytes, 24), u32_at(bytes, 28));
        let within = name_at + name_len <= self.layout.names_len
            && posting as usize + count as usize <= self.layout.events
            && count > 0;
        if !within {
            return Err(self.damaged("contains a stream that extends beyond its end"));
        }
        let name = self.layout.names + name_at;
        Ok(StreamEntry {
            hash: u64_at(bytes, 0),
            found: IndexedStream {
                run: StreamRun { first: Revision(u64_at(bytes, 8)), count },
                postings: posting..posting + count,
            },
            name: name..name + name_len,
        })
    }

    /// Reads a part of the content and verifies each block that it touches.
    fn content(&self, range: Range<usize>) -> Result<Vec<u8>, SegmentFault> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let blocks = range.start / BLOCK_PAYLOAD..range.end.div_ceil(BLOCK_PAYLOAD);
        let mut bytes = vec![0; blocks.len() * BLOCK_BYTES];
        self.file.read_exact_at(&mut bytes, (blocks.start * BLOCK_BYTES) as u64)?;
        let mut content = Vec::with_capacity(range.len());
        for (number, block) in blocks.zip(bytes.chunks_exact(BLOCK_BYTES)) {
            let (payload, rest) = block.split_at(BLOCK_PAYLOAD);
            if block_crc(self.first, number as u64, payload) != u32_at(rest, 0) {
                return Err(self.damaged("has a block whose checksum does not match"));
            }
            let start = number * BLOCK_PAYLOAD;
            let wanted = range.start.saturating_sub(start)..(range.end - start).min(BLOCK_PAYLOAD);
            content.extend_from_slice(&payload[wanted]);
        }
        Ok(content)
    }

    fn damaged(&self, what: &str) -> SegmentFault {
        SegmentFault::Damaged(format!(
            "{} {what}; remove that file and start again, and it is rebuilt from its segment",
            self.name
        ))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}
