//! The bytes of a segment's entries: group headers, events, group trailers.
//!
//! Every entry starts with `crc32c (4), length (4), position (8), kind (1)` and is padded with zeros to a multiple of
//! eight bytes. The CRC covers all that follows it, and starts from the log's id and the segment's first position, so
//! that a record which strayed here from elsewhere is not taken for one of ours. All numbers are little-endian.
//! `docs/log-format.md` draws the layout.

use std::ops::Range;

use bytes::Bytes;
use event_schemas::envelope::{EventType, NewEvent, Recorded};
use event_schemas::ids::{EventId, LogId, Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use uuid::Uuid;

/// Entries start at multiples of this.
pub(super) const ALIGN: usize = 8;
pub(super) const GROUP_HEADER_BYTES: usize = 48;
pub(super) const GROUP_TRAILER_BYTES: usize = 40;
const EVENT_HEADER_BYTES: usize = 64;
/// As much of an entry as tells its length and kind.
const PREFIX_BYTES: usize = 24;

const KIND_GROUP: u8 = 1;
const KIND_EVENT: u8 = 2;
const KIND_TRAILER: u8 = 3;

/// What the CRCs of a segment start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seed(u32);

impl Seed {
    pub(super) fn new(log: LogId, first: Position) -> Self {
        Self(crc32c::crc32c_append(crc32c::crc32c(log.0.as_bytes()), &first.0.to_le_bytes()))
    }

    pub(super) fn crc(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

/// The start of a group: all appends that one sync makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupHeader {
    /// Of the group's first event; of the next event to come, if the group is an empty mark.
    pub(super) first: Position,
    pub(super) count: u32,
    /// All events up to here were durable before this group was written.
    pub(super) durable: Position,
    pub(super) recorded_at: Timestamp,
    /// From the start of the header to the end of the trailer.
    pub(super) bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupTrailer {
    pub(super) last: Position,
    pub(super) count: u32,
    pub(super) durable: Position,
    pub(super) bytes: u32,
    /// Over the CRCs of the header and of every event, in order.
    pub(super) crc_of_crcs: u32,
}

/// An event's fields, and where its texts lie, from the start of its entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EventView {
    pub(super) position: Position,
    pub(super) revision: Revision,
    pub(super) recorded_at: Timestamp,
    pub(super) id: EventId,
    pub(super) stream: Range<usize>,
    event_type: Range<usize>,
    metadata: Range<usize>,
    data: Range<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Group(GroupHeader),
    Event(EventView),
    Trailer(GroupTrailer),
}

/// One entry, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) body: Body,
    /// With its padding.
    pub(super) length: usize,
    pub(super) crc: u32,
}

/// Why there is no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoEntry {
    /// More bytes are needed, this many in all.
    Short(usize),
    Damaged(&'static str),
}

/// The bytes that an event takes in a segment.
pub(super) fn event_bytes(stream: &StreamId, event: &NewEvent) -> usize {
    let texts =
        stream.as_str().len() + event.event_type.as_str().len() + event.metadata.len() + event.data.len();
    (EVENT_HEADER_BYTES + texts).next_multiple_of(ALIGN)
}

/// Reads the entry at the start of `bytes`.
pub(super) fn parse(seed: Seed, bytes: &[u8]) -> Result<Entry, NoEntry> {
    let Some(prefix) = bytes.get(..PREFIX_BYTES) else {
        return Err(NoEntry::Short(PREFIX_BYTES));
    };
    let length = u32_at(prefix, 4) as usize;
    if length < GROUP_TRAILER_BYTES || !length.is_multiple_of(ALIGN) {
        return Err(NoEntry::Damaged("no entry starts here"));
    }
    let Some(entry) = bytes.get(..length) else {
        return Err(NoEntry::Short(length));
    };
    let crc = u32_at(entry, 0);
    if seed.crc(&entry[4..]) != crc {
        return Err(NoEntry::Damaged("the checksum does not fit"));
    }
    let body = match (entry[16], length) {
        (KIND_GROUP, GROUP_HEADER_BYTES) => Body::Group(GroupHeader {
            first: Position(u64_at(entry, 8)),
            count: u32_at(entry, 20),
            durable: Position(u64_at(entry, 24)),
            recorded_at: Timestamp::from_micros(u64_at(entry, 32).cast_signed()),
            bytes: u32_at(entry, 40),
        }),
        (KIND_TRAILER, GROUP_TRAILER_BYTES) => Body::Trailer(GroupTrailer {
            last: Position(u64_at(entry, 8)),
            count: u32_at(entry, 20),
            durable: Position(u64_at(entry, 24)),
            bytes: u32_at(entry, 32),
            crc_of_crcs: u32_at(entry, 36),
        }),
        (KIND_EVENT, EVENT_HEADER_BYTES..) => Body::Event(parse_event(entry)?),
        _ => return Err(NoEntry::Damaged("the entry is of an unknown kind")),
    };
    Ok(Entry { body, length, crc })
}

fn parse_event(entry: &[u8]) -> Result<EventView, NoEntry> {
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
        return Err(NoEntry::Damaged("the lengths within the event do not fit"));
    }
    let mut id = [0; 16];
    id.copy_from_slice(&entry[40..56]);
    Ok(EventView {
        position: Position(u64_at(entry, 8)),
        revision: Revision(u64_at(entry, 24)),
        recorded_at: Timestamp::from_micros(u64_at(entry, 32).cast_signed()),
        id: EventId(Uuid::from_bytes(id)),
        stream,
        event_type,
        metadata,
        data,
    })
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

/// A group while it is being filled.
#[derive(Debug)]
pub(super) struct GroupWriter {
    seed: Seed,
    bytes: Vec<u8>,
    crcs: u32,
    count: u32,
}

/// Where an event's parts lie in the group's bytes.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    /// Of the entry, from the start of the group.
    pub(super) offset: usize,
    pub(super) metadata: Range<usize>,
    pub(super) data: Range<usize>,
}

impl GroupWriter {
    pub(super) fn new(seed: Seed, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.resize(GROUP_HEADER_BYTES, 0);
        Self { seed, bytes, crcs: 0, count: 0 }
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn push(
        &mut self,
        stream: &StreamId,
        position: Position,
        revision: Revision,
        recorded_at: Timestamp,
        event: &NewEvent,
    ) -> Placed {
        let offset = self.bytes.len();
        let (name, event_type) = (stream.as_str().as_bytes(), event.event_type.as_str().as_bytes());
        let length = event_bytes(stream, event);
        let mut header = [0; EVENT_HEADER_BYTES];
        header[4..8].copy_from_slice(&as_u32(length).to_le_bytes());
        header[8..16].copy_from_slice(&position.0.to_le_bytes());
        header[16] = KIND_EVENT;
        let name_length = u16::try_from(name.len()).expect("a stream name has at most 4096 bytes");
        header[18..20].copy_from_slice(&name_length.to_le_bytes());
        header[20..24].copy_from_slice(&as_u32(event_type.len()).to_le_bytes());
        header[24..32].copy_from_slice(&revision.0.to_le_bytes());
        header[32..40].copy_from_slice(&recorded_at.micros().to_le_bytes());
        header[40..56].copy_from_slice(event.id.0.as_bytes());
        header[56..60].copy_from_slice(&as_u32(event.metadata.len()).to_le_bytes());
        header[60..64].copy_from_slice(&as_u32(event.data.len()).to_le_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(event_type);
        let metadata = self.bytes.len()..self.bytes.len() + event.metadata.len();
        self.bytes.extend_from_slice(&event.metadata);
        let data = self.bytes.len()..self.bytes.len() + event.data.len();
        self.bytes.extend_from_slice(&event.data);
        self.bytes.resize(offset + length, 0);
        let crc = self.seal(offset);
        self.crcs = crc32c::crc32c_append(self.crcs, &crc.to_le_bytes());
        self.count += 1;
        Placed { offset, metadata, data }
    }

    /// Writes the CRC of the entry that starts at `offset` and ends with the bytes.
    fn seal(&mut self, offset: usize) -> u32 {
        let crc = self.seed.crc(&self.bytes[offset + 4..]);
        self.bytes[offset..offset + 4].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// Header and trailer around the events.
    pub(super) fn finish(mut self, first: Position, durable: Position, recorded_at: Timestamp) -> Vec<u8> {
        let group_bytes = as_u32(self.bytes.len() + GROUP_TRAILER_BYTES);
        let header = &mut self.bytes[..GROUP_HEADER_BYTES];
        header[4..8].copy_from_slice(&as_u32(GROUP_HEADER_BYTES).to_le_bytes());
        header[8..16].copy_from_slice(&first.0.to_le_bytes());
        header[16] = KIND_GROUP;
        header[20..24].copy_from_slice(&self.count.to_le_bytes());
        header[24..32].copy_from_slice(&durable.0.to_le_bytes());
        header[32..40].copy_from_slice(&recorded_at.micros().to_le_bytes());
        header[40..44].copy_from_slice(&group_bytes.to_le_bytes());
        let crc = self.seed.crc(&self.bytes[4..GROUP_HEADER_BYTES]);
        self.bytes[..4].copy_from_slice(&crc.to_le_bytes());

        let offset = self.bytes.len();
        let mut trailer = [0; GROUP_TRAILER_BYTES];
        let last = first.0 + u64::from(self.count) - 1;
        trailer[4..8].copy_from_slice(&as_u32(GROUP_TRAILER_BYTES).to_le_bytes());
        trailer[8..16].copy_from_slice(&last.to_le_bytes());
        trailer[16] = KIND_TRAILER;
        trailer[20..24].copy_from_slice(&self.count.to_le_bytes());
        trailer[24..32].copy_from_slice(&durable.0.to_le_bytes());
        trailer[32..36].copy_from_slice(&group_bytes.to_le_bytes());
        let crc_of_crcs = crc_of_crcs(crc, self.crcs);
        trailer[36..40].copy_from_slice(&crc_of_crcs.to_le_bytes());
        self.bytes.extend_from_slice(&trailer);
        self.seal(offset);
        self.bytes
    }
}

/// What a trailer says about all entries before it: the CRC of the header, and the CRC over those of the events.
fn crc_of_crcs(header: u32, events: u32) -> u32 {
    crc32c::crc32c_append(events, &header.to_le_bytes())
}

fn as_u32(length: usize) -> u32 {
    u32::try_from(length)
        .expect("an append is at most 18 MB with its stream's names, and a group a few of them")
}

/// A whole group at the start of some bytes.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) header: GroupHeader,
    /// Each event, and where its entry starts, from the start of the group.
    pub(super) events: Vec<(usize, EventView)>,
}

/// Reads the group at the start of `bytes`: all of it is right, or there is none.
pub(super) fn parse_group(seed: Seed, bytes: &[u8]) -> Result<Group, NoEntry> {
    let start = parse(seed, bytes)?;
    let Body::Group(header) = start.body else {
        return Err(NoEntry::Damaged("a group does not start here"));
    };
    let Some(bytes) = bytes.get(..header.bytes as usize) else {
        return Err(NoEntry::Short(header.bytes as usize));
    };
    let mut events = Vec::new();
    let mut crcs = 0;
    let mut at = start.length;
    loop {
        let cut_short = |missing| match missing {
            NoEntry::Short(_) => NoEntry::Damaged("the group ends in the middle of an entry"),
            damaged @ NoEntry::Damaged(_) => damaged,
        };
        let rest = bytes.get(at..).ok_or(NoEntry::Damaged("the group is shorter than its header"))?;
        let entry = parse(seed, rest).map_err(cut_short)?;
        match entry.body {
            Body::Group(_) => return Err(NoEntry::Damaged("a group starts within a group")),
            Body::Event(event) => {
                if event.position.0 != header.first.0.wrapping_add(events.len() as u64) {
                    return Err(NoEntry::Damaged("the event is not at its position"));
                }
                crcs = crc32c::crc32c_append(crcs, &entry.crc.to_le_bytes());
                events.push((at, event));
                at += entry.length;
            }
            Body::Trailer(trailer) => {
                let fits = trailer.count == header.count
                    && trailer.count as usize == events.len()
                    && trailer.bytes == header.bytes
                    && at + entry.length == bytes.len()
                    && trailer.durable == header.durable
                    && trailer.last.0.wrapping_add(1) == header.first.0.wrapping_add(u64::from(header.count))
                    && trailer.crc_of_crcs == crc_of_crcs(start.crc, crcs);
                return if fits {
                    Ok(Group { header, events })
                } else {
                    Err(NoEntry::Damaged("the group does not fit its trailer"))
                };
            }
        }
    }
}

/// Stream names and types that came up lately in one read, so that each is made once.
#[derive(Debug)]
pub(super) struct Names {
    streams: Vec<Option<StreamId>>,
    types: Vec<Option<EventType>>,
}

const NAMES_KEPT: usize = 256;

impl Names {
    pub(super) fn new() -> Self {
        Self { streams: vec![None; NAMES_KEPT], types: vec![None; NAMES_KEPT] }
    }

    pub(super) fn stream(&mut self, name: &[u8]) -> Option<StreamId> {
        let slot = &mut self.streams[slot_of(name)];
        if let Some(known) = slot.as_ref().filter(|known| known.as_str().as_bytes() == name) {
            return Some(known.clone());
        }
        let made: StreamId = std::str::from_utf8(name).ok()?.parse().ok()?;
        *slot = Some(made.clone());
        Some(made)
    }

    fn event_type(&mut self, name: &[u8]) -> Option<EventType> {
        let slot = &mut self.types[slot_of(name)];
        if let Some(known) = slot.as_ref().filter(|known| known.as_str().as_bytes() == name) {
            return Some(known.clone());
        }
        let made = EventType::new(std::str::from_utf8(name).ok()?);
        *slot = Some(made.clone());
        Some(made)
    }
}

fn slot_of(name: &[u8]) -> usize {
    crc32c::crc32c(name) as usize % NAMES_KEPT
}

impl EventView {
    /// The event, whose bytes are slices of `entry`; none if its names are not what this log writes.
    pub(super) fn recorded(&self, entry: &Bytes, names: &mut Names) -> Option<Recorded> {
        Some(Recorded {
            position: self.position,
            recorded_at: self.recorded_at,
            stream: names.stream(&entry[self.stream.clone()])?,
            revision: self.revision,
            id: self.id,
            event_type: names.event_type(&entry[self.event_type.clone()])?,
            metadata: entry.slice(self.metadata.clone()),
            data: entry.slice(self.data.clone()),
        })
    }
}
