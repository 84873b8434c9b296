//! The bytes of a segment's entries: group headers, events, group trailers.
//!
//! Every entry starts with `crc32c (4), length (4), position (8), kind (1)` and is padded with zeros to a multiple of
//! eight bytes. The CRC covers all bytes after it, and starts from the log's id and the segment's first position, so
//! that a misdirected record from elsewhere does not pass the check. All numbers are little-endian.
//! `docs/log-format.md` shows the layout.

use std::ops::Range;

use bytes::Bytes;
use event_schemas::envelope::{DataFormat, NewEvent, Recorded};
use event_schemas::ids::{EventId, LogId, Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use uuid::Uuid;

mod group;
mod name_cache;

pub(super) use group::{EventOffsets, Group, GroupWriter, parse_group};
pub(super) use name_cache::NameCache;

/// The alignment of entries.
pub(super) const ALIGN: usize = 8;
pub(super) const GROUP_HEADER_BYTES: usize = 48;
pub(super) const GROUP_TRAILER_BYTES: usize = 40;
const EVENT_HEADER_BYTES: usize = 64;
/// The start of an entry, with its length and kind.
const PREFIX_BYTES: usize = 24;

const KIND_GROUP: u8 = 1;
const KIND_EVENT: u8 = 2;
const KIND_TRAILER: u8 = 3;

/// The start value of a segment's CRCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CrcSeed(u32);

impl CrcSeed {
    pub(super) fn new(log: LogId, first: Position) -> Self {
        Self(crc32c::crc32c_append(crc32c::crc32c(log.0.as_bytes()), &first.0.to_le_bytes()))
    }

    pub(super) fn crc(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

/// The header of a group: all appends that one sync makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupHeader {
    /// The position of the group's first event; in a mark, which has no events, the position of the next event.
    pub(super) first: Position,
    pub(super) count: u32,
    /// The position up to which events were durable before this group was written.
    pub(super) durable: Position,
    pub(super) recorded_at: Timestamp,
    /// The length from the start of the header to the end of the trailer.
    pub(super) bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupTrailer {
    pub(super) last: Position,
    pub(super) count: u32,
    pub(super) durable: Position,
    pub(super) bytes: u32,
    /// The CRC over the CRCs of the header and of every event, in order.
    pub(super) crc_of_crcs: u32,
}

/// An event's fields, and the ranges of its texts from the start of its entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EventView {
    pub(super) position: Position,
    pub(super) revision: Revision,
    pub(super) recorded_at: Timestamp,
    pub(super) id: EventId,
    format: DataFormat,
    pub(super) stream: Range<usize>,
    event_type: Range<usize>,
    metadata: Range<usize>,
    data: Range<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EntryBody {
    Group(GroupHeader),
    Event(EventView),
    Trailer(GroupTrailer),
}

/// One valid entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) body: EntryBody,
    /// The length, with padding.
    pub(super) length: usize,
    pub(super) crc: u32,
}

/// The reason why bytes are not a valid entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryError {
    /// More bytes are needed, this many in total.
    Short(usize),
    Damaged(&'static str),
}

/// The number of bytes that an event takes in a segment.
pub(super) fn event_bytes(stream: &StreamId, event: &NewEvent) -> usize {
    let texts =
        stream.as_str().len() + event.event_type.as_str().len() + event.metadata.len() + event.data.len();
    (EVENT_HEADER_BYTES + texts).next_multiple_of(ALIGN)
}

/// Parses the entry at the start of `bytes`.
pub(super) fn parse(seed: CrcSeed, bytes: &[u8]) -> Result<Entry, EntryError> {
    let Some(prefix) = bytes.get(..PREFIX_BYTES) else {
        return Err(EntryError::Short(PREFIX_BYTES));
    };
    let length = u32_at(prefix, 4) as usize;
    if length < GROUP_TRAILER_BYTES || !length.is_multiple_of(ALIGN) {
        return Err(EntryError::Damaged("no entry starts here"));
    }
    let Some(entry) = bytes.get(..length) else {
        return Err(EntryError::Short(length));
    };
    let crc = u32_at(entry, 0);
    if seed.crc(&entry[4..]) != crc {
        return Err(EntryError::Damaged("the checksum does not match"));
    }
    let body = match (entry[16], length) {
        (KIND_GROUP, GROUP_HEADER_BYTES) => EntryBody::Group(GroupHeader {
            first: Position(u64_at(entry, 8)),
            count: u32_at(entry, 20),
            durable: Position(u64_at(entry, 24)),
            recorded_at: Timestamp::from_micros(u64_at(entry, 32).cast_signed()),
            bytes: u32_at(entry, 40),
        }),
        (KIND_TRAILER, GROUP_TRAILER_BYTES) => EntryBody::Trailer(GroupTrailer {
            last: Position(u64_at(entry, 8)),
            count: u32_at(entry, 20),
            durable: Position(u64_at(entry, 24)),
            bytes: u32_at(entry, 32),
            crc_of_crcs: u32_at(entry, 36),
        }),
        (KIND_EVENT, EVENT_HEADER_BYTES..) => EntryBody::Event(parse_event(entry)?),
        _ => return Err(EntryError::Damaged("the entry is of an unknown kind")),
    };
    Ok(Entry { body, length, crc })
}

fn parse_event(entry: &[u8]) -> Result<EventView, EntryError> {
    let mut end = EVENT_HEADER_BYTES;
    let mut part = |length: usize| {
        let start = end;
        end = start.saturating_add(length);
        start..end
    };
    let stream = part(usize::from(u16_at(entry, 18)));
    let event_type = part(u32_at(entry, 20) as usize);
    let metadata = part(u32_at(entry, 56) as usize);
    let data = part(u32_at(entry, 60) as usize);
    if end > entry.len() {
        return Err(EntryError::Damaged("the lengths within the event do not match"));
    }
    let mut id = [0; 16];
    id.copy_from_slice(&entry[40..56]);
    Ok(EventView {
        position: Position(u64_at(entry, 8)),
        revision: Revision(u64_at(entry, 24)),
        recorded_at: Timestamp::from_micros(u64_at(entry, 32).cast_signed()),
        id: EventId(Uuid::from_bytes(id)),
        format: format_of(entry[17])?,
        stream,
        event_type,
        metadata,
        data,
    })
}

/// Zero is JSON, because logs that predate this field have a zero there and contain JSON only.
fn format_code(format: DataFormat) -> u8 {
    match format {
        DataFormat::Json => 0,
        DataFormat::Bytes => 1,
    }
}

fn format_of(code: u8) -> Result<DataFormat, EntryError> {
    match code {
        0 => Ok(DataFormat::Json),
        1 => Ok(DataFormat::Bytes),
        _ => Err(EntryError::Damaged("the event's data is of an unknown format")),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let mut value = [0; 2];
    value.copy_from_slice(&bytes[at..at + 2]);
    u16::from_le_bytes(value)
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

impl EventView {
    /// The event, with slices of `entry` as its bytes; `None` if its names are invalid.
    pub(super) fn recorded(&self, entry: &Bytes, names: &mut NameCache) -> Option<Recorded> {
        Some(Recorded {
            position: self.position,
            recorded_at: self.recorded_at,
            stream: names.stream(&entry[self.stream.clone()])?,
            revision: self.revision,
            id: self.id,
            event_type: names.event_type(&entry[self.event_type.clone()])?,
            format: self.format,
            metadata: entry.slice(self.metadata.clone()),
            data: entry.slice(self.data.clone()),
        })
    }
}
