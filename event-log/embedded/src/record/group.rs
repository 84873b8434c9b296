//! Groups, which are written as a whole and are valid only as a whole.

use std::ops::Range;

use event_schemas::envelope::NewEvent;
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;

use super::{
    CrcSeed, EVENT_HEADER_BYTES, EntryBody, EntryError, EventView, GROUP_HEADER_BYTES, GROUP_TRAILER_BYTES,
    GroupHeader, KIND_EVENT, KIND_GROUP, KIND_TRAILER, event_bytes, format_code, parse,
};

/// A group that is being filled.
#[derive(Debug)]
pub(crate) struct GroupWriter {
    seed: CrcSeed,
    bytes: Vec<u8>,
    crcs: u32,
    count: u32,
}

/// The offsets of an event's parts in the group's bytes.
#[derive(Clone, Debug)]
pub(crate) struct EventOffsets {
    /// The offset of the entry from the start of the group.
    pub(crate) offset: usize,
    pub(crate) metadata: Range<usize>,
    pub(crate) data: Range<usize>,
}

impl GroupWriter {
    pub(crate) fn new(seed: CrcSeed, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.resize(GROUP_HEADER_BYTES, 0);
        Self { seed, bytes, crcs: 0, count: 0 }
    }

    /// The bytes so far, without the trailer.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    pub(crate) fn push(
        &mut self,
        stream: &StreamId,
        position: Position,
        revision: Revision,
        recorded_at: Timestamp,
        event: &NewEvent,
    ) -> EventOffsets {
        let offset = self.bytes.len();
        let (name, event_type) = (stream.as_str().as_bytes(), event.event_type.as_str().as_bytes());
        let length = event_bytes(stream, event);
        let mut header = [0; EVENT_HEADER_BYTES];
        header[4..8].copy_from_slice(&as_u32(length).to_le_bytes());
        header[8..16].copy_from_slice(&position.0.to_le_bytes());
        header[16] = KIND_EVENT;
        header[17] = format_code(event.format);
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
        EventOffsets { offset, metadata, data }
    }

    /// Writes the CRC of the entry that starts at `offset` and ends at the end of the bytes.
    fn seal(&mut self, offset: usize) -> u32 {
        let crc = self.seed.crc(&self.bytes[offset + 4..]);
        self.bytes[offset..offset + 4].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// Adds the header and the trailer.
    pub(crate) fn finish(mut self, first: Position, durable: Position, recorded_at: Timestamp) -> Vec<u8> {
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

/// The CRC in a trailer, over the CRCs of the events and of the header.
fn crc_of_crcs(header: u32, events: u32) -> u32 {
    crc32c::crc32c_append(events, &header.to_le_bytes())
}

fn as_u32(length: usize) -> u32 {
    u32::try_from(length)
        .expect("an append is at most 18 MB with its stream's names, and a group a few of them")
}

/// A valid group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) header: GroupHeader,
    /// The events, each with the offset of its entry from the start of the group.
    pub(crate) events: Vec<(usize, EventView)>,
}

/// Parses the group at the start of `bytes`. All of it must be valid.
pub(crate) fn parse_group(seed: CrcSeed, bytes: &[u8]) -> Result<Group, EntryError> {
    let start = parse(seed, bytes)?;
    let EntryBody::Group(header) = start.body else {
        return Err(EntryError::Damaged("a group does not start here"));
    };
    let Some(bytes) = bytes.get(..header.bytes as usize) else {
        return Err(EntryError::Short(header.bytes as usize));
    };
    let mut events = Vec::new();
    let mut crcs = 0;
    let mut at = start.length;
    loop {
        let incomplete = |error| match error {
            EntryError::Short(_) => EntryError::Damaged("the group ends in the middle of an entry"),
            damaged @ EntryError::Damaged(_) => damaged,
        };
        let rest = bytes.get(at..).ok_or(EntryError::Damaged("the group is shorter than its header"))?;
        let entry = parse(seed, rest).map_err(incomplete)?;
        match entry.body {
            EntryBody::Group(_) => return Err(EntryError::Damaged("a group starts within a group")),
            EntryBody::Event(event) => {
                if event.position.0 != header.first.0.wrapping_add(events.len() as u64) {
                    return Err(EntryError::Damaged("the event is not at its position"));
                }
                crcs = crc32c::crc32c_append(crcs, &entry.crc.to_le_bytes());
                events.push((at, event));
                at += entry.length;
            }
            EntryBody::Trailer(trailer) => {
                let matches = trailer.count == header.count
                    && trailer.count as usize == events.len()
                    && trailer.bytes == header.bytes
                    && at + entry.length == bytes.len()
                    && trailer.durable == header.durable
                    && trailer.last.0.wrapping_add(1) == header.first.0.wrapping_add(u64::from(header.count))
                    && trailer.crc_of_crcs == crc_of_crcs(start.crc, crcs);
                return if matches {
                    Ok(Group { header, events })
                } else {
                    Err(EntryError::Damaged("the group does not match its trailer"))
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use event_schemas::envelope::{DataFormat, EventType};
    use event_schemas::ids::{EventId, LogId};
    use proptest::prelude::*;

    use uuid::Uuid;

    use super::super::{ALIGN, NameCache};
    use super::*;

    fn seed() -> CrcSeed {
        CrcSeed::new(LogId(Uuid::from_u128(1)), Position(1))
    }

    fn group(seed: CrcSeed, first: u64, texts: &[(String, Vec<u8>)]) -> (Vec<u8>, Vec<NewEvent>) {
        let mut group = GroupWriter::new(seed, 0);
        let stream: StreamId = "a-1".parse().unwrap();
        let mut events = Vec::new();
        for (n, (event_type, data)) in texts.iter().enumerate() {
            let event = NewEvent {
                id: EventId(Uuid::from_u128(n as u128)),
                event_type: EventType::new(event_type),
                format: if n % 2 == 0 { DataFormat::Json } else { DataFormat::Bytes },
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
        fn group_is_read_back_unchanged(
            texts in proptest::collection::vec((".{0,20}", proptest::collection::vec(any::<u8>(), 0..200)), 0..8),
            behind in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let (mut bytes, events) = group(seed(), 5, &texts);
            let length = bytes.len();
            bytes.extend(behind);
            let parsed = parse_group(seed(), &bytes).unwrap();
            prop_assert_eq!(parsed.header.bytes as usize, length);
            prop_assert_eq!(parsed.header.count as usize, events.len());
            let mut names = NameCache::new();
            for ((at, view), event) in parsed.events.iter().zip(&events) {
                let recorded = view.recorded(&Bytes::copy_from_slice(&bytes[*at..]), &mut names).unwrap();
                prop_assert_eq!(
                    (recorded.id, recorded.event_type, recorded.format, recorded.metadata, recorded.data),
                    (
                        event.id,
                        event.event_type.clone(),
                        event.format,
                        event.metadata.clone(),
                        event.data.clone()
                    )
                );
            }
        }

        #[test]
        fn random_bytes_are_rejected_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(parse_group(seed(), &bytes).is_err());
        }

        #[test]
        fn random_bytes_with_a_valid_checksum_never_panic(
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
    fn a_record_of_another_group_at_the_same_offset_is_detected() {
        // Both groups start at position 5; a torn write may leave a part of each.
        let (one, _) = group(seed(), 5, &texts(&["aaaa", "bbbb"]));
        let (mut other, _) = group(seed(), 5, &texts(&["cccc", "dddd"]));
        let second = parse_group(seed(), &one).unwrap().events[1].0;
        let end = one.len() - GROUP_TRAILER_BYTES;
        other[second..end].copy_from_slice(&one[second..end]);
        assert_eq!(
            parse_group(seed(), &other).unwrap_err(),
            EntryError::Damaged("the group does not match its trailer")
        );
    }

    #[test]
    fn a_group_of_another_segment_or_log_is_rejected() {
        let (bytes, _) = group(seed(), 5, &texts(&["aaaa"]));
        for foreign in [
            CrcSeed::new(LogId(Uuid::from_u128(2)), Position(1)),
            CrcSeed::new(LogId(Uuid::from_u128(1)), Position(2)),
        ] {
            assert!(matches!(parse_group(foreign, &bytes), Err(EntryError::Damaged(_))));
        }
    }

    #[test]
    fn group_format_is_stable() {
        let (bytes, _) = group(seed(), 5, &texts(&["aaaa"]));
        assert_eq!((bytes.len(), crc32c::crc32c(&bytes)), (168, 3_479_149_592));
    }
}
