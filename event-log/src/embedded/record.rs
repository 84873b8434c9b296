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

#[cfg(test)]
mod tests {
    use event_schemas::ids::{LogId, Revision};
    use proptest::prelude::*;

    use super::*;

    fn seed() -> Seed {
        Seed::new(LogId(Uuid::from_u128(1)), Position(1))
    }

    fn group(seed: Seed, first: u64, texts: &[(String, Vec<u8>)]) -> (Vec<u8>, Vec<NewEvent>) {
        let mut group = GroupWriter::new(seed, 0);
        let stream: StreamId = "a-1".parse().unwrap();
        let mut events = Vec::new();
        for (n, (event_type, data)) in texts.iter().enumerate() {
            let event = NewEvent {
                id: EventId(Uuid::from_u128(n as u128)),
                event_type: EventType::new(event_type),
                metadata: Bytes::from(format!("{n}")),
                data: Bytes::from(data.clone()),
            };
            let at = n as u64;
            group.push(&stream, Position(first + at), Revision(at), Timestamp::EPOCH, &event);
            events.push(event);
        }
        (group.finish(Position(first), Position(first - 1), Timestamp::EPOCH), events)
    }

    fn texts(data: &[&str]) -> Vec<(String, Vec<u8>)> {
        data.iter().map(|data| ("Happened".to_owned(), data.as_bytes().to_vec())).collect()
    }

    proptest! {
        #[test]
        fn a_group_comes_back_as_it_was(
            texts in proptest::collection::vec((".{0,20}", proptest::collection::vec(any::<u8>(), 0..200)), 0..8),
            behind in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let (mut bytes, events) = group(seed(), 5, &texts);
            let length = bytes.len();
            bytes.extend(behind);
            let parsed = parse_group(seed(), &bytes).unwrap();
            prop_assert_eq!(parsed.header.bytes as usize, length);
            prop_assert_eq!(parsed.header.count as usize, events.len());
            let mut names = Names::new();
            for ((at, view), event) in parsed.events.iter().zip(&events) {
                let recorded = view.recorded(&Bytes::copy_from_slice(&bytes[*at..]), &mut names).unwrap();
                prop_assert_eq!(
                    (recorded.id, recorded.event_type, recorded.metadata, recorded.data),
                    (event.id, event.event_type.clone(), event.metadata.clone(), event.data.clone())
                );
            }
        }

        #[test]
        fn bytes_from_anywhere_are_no_group_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(parse_group(seed(), &bytes).is_err());
        }

        #[test]
        fn bytes_with_a_right_checksum_are_no_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 40..160),
            kind in 0_u8..5, bytes_of_group in 0_u32..200,
        ) {
            let length = bytes.len() / ALIGN * ALIGN;
            bytes[4..8].copy_from_slice(&as_u32(length).to_le_bytes());
            bytes[16] = kind;
            if length >= 44 {
                bytes[40..44].copy_from_slice(&bytes_of_group.to_le_bytes());
            }
            let crc = seed().crc(&bytes[4..length]);
            bytes[..4].copy_from_slice(&crc.to_le_bytes());
            let _ = parse_group(seed(), &bytes);
        }
    }

    #[test]
    fn a_record_of_another_group_at_the_same_place_is_noticed() {
        // Both would be written at position 5; a torn write may leave a part of each.
        let (one, _) = group(seed(), 5, &texts(&["aaaa", "bbbb"]));
        let (mut other, _) = group(seed(), 5, &texts(&["cccc", "dddd"]));
        let second = parse_group(seed(), &one).unwrap().events[1].0;
        let end = one.len() - GROUP_TRAILER_BYTES;
        other[second..end].copy_from_slice(&one[second..end]);
        assert_eq!(
            parse_group(seed(), &other).unwrap_err(),
            NoEntry::Damaged("the group does not fit its trailer")
        );
    }

    #[test]
    fn a_group_of_another_segment_or_log_is_none_of_ours() {
        let (bytes, _) = group(seed(), 5, &texts(&["aaaa"]));
        for foreign in [
            Seed::new(LogId(Uuid::from_u128(2)), Position(1)),
            Seed::new(LogId(Uuid::from_u128(1)), Position(2)),
        ] {
            assert!(matches!(parse_group(foreign, &bytes), Err(NoEntry::Damaged(_))));
        }
    }

    #[test]
    fn the_format_never_changes() {
        let (bytes, _) = group(seed(), 5, &texts(&["aaaa"]));
        assert_eq!((bytes.len(), crc32c::crc32c(&bytes)), (168, 3_479_149_592));
    }
}
