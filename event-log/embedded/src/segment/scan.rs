//! Scanning a whole segment up to the end of its valid groups.

use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

use super::{HEADER_BYTES, SegmentHeader};
use crate::disk::{DiskFile, Fault};
use crate::record::{self, ALIGN, CrcSeed, EntryBody, EntryError, Group};

/// The result of a scan.
#[derive(Debug)]
pub(crate) struct ScannedSegment {
    /// The offset at which the valid groups end.
    pub(crate) end: u64,
    /// The position after the last valid event.
    pub(crate) next: Position,
    pub(crate) recorded_at: Timestamp,
    /// The position up to which events are known to have been durable.
    pub(crate) durable: Position,
    /// The offset of the last valid group with events.
    pub(crate) last_group: u64,
    /// The end of that group: only marks follow up to `end`.
    pub(crate) marks: u64,
    /// The bytes after the end, if they are not all zeros.
    pub(crate) tail: Option<InvalidTail>,
}

/// The bytes after the last valid group, which are not a valid group themselves.
#[derive(Debug)]
pub(crate) struct InvalidTail {
    /// The bytes from the end of the valid groups to the last byte that is not zero.
    pub(crate) bytes: Vec<u8>,
    pub(crate) what: &'static str,
    /// The highest durable position in any valid entry among the bytes.
    pub(crate) durable: Position,
}

/// Reads all groups from the start and passes each to `visit` with its offset. `O(bytes of the file)`; holds one group
/// and a megabyte in memory.
pub(crate) fn scan(
    file: &DiskFile,
    header: &SegmentHeader,
    mut visit: impl FnMut(u64, &[u8], &Group) -> Result<(), &'static str>,
) -> Result<ScannedSegment, Fault> {
    let seed = CrcSeed::new(header.identity.id, header.first);
    let len = file.len()?;
    let mut scanned = ScannedSegment {
        end: HEADER_BYTES,
        next: header.first,
        recorded_at: header.recorded_before,
        durable: Position(header.first.0 - 1),
        last_group: HEADER_BYTES,
        marks: HEADER_BYTES,
        tail: None,
    };
    let mut buffer = Vec::new();
    let mut start = HEADER_BYTES;
    let what = loop {
        let left = usize::try_from(len.saturating_sub(scanned.end)).unwrap_or(usize::MAX);
        let skip = usize::try_from(scanned.end - start).unwrap_or(usize::MAX);
        let bytes = buffer.get(skip..).unwrap_or_default();
        match record::parse_group(seed, bytes) {
            Err(EntryError::Short(needed)) if needed > left => break "the group is incomplete",
            Err(EntryError::Short(needed)) => {
                buffer.resize(needed.max(SCAN_BYTES).min(left), 0);
                start = scanned.end;
                file.read_exact_at(&mut buffer, start)?;
            }
            Err(EntryError::Damaged(what)) => break what,
            Ok(group) if group.header.first != scanned.next => break "the group is not at its position",
            Ok(group) if group.header.recorded_at < scanned.recorded_at => {
                break "the recorded time decreases in the group";
            }
            Ok(group) => {
                if let Err(what) = visit(scanned.end, bytes, &group) {
                    break what;
                }
                if group.header.count > 0 {
                    scanned.last_group = scanned.end;
                    scanned.marks = scanned.end + u64::from(group.header.bytes);
                }
                scanned.durable = scanned.durable.max(group.header.durable);
                scanned.end += u64::from(group.header.bytes);
                scanned.next.0 += u64::from(group.header.count);
                scanned.recorded_at = group.header.recorded_at;
            }
        }
    };
    scanned.tail = read_invalid_tail(file, seed, scanned.end, len, what)?;
    Ok(scanned)
}

const SCAN_BYTES: usize = 1 << 20;

/// The bytes after the last valid group; `None` if they are all zeros.
pub(crate) fn read_invalid_tail(
    file: &DiskFile,
    seed: CrcSeed,
    end: u64,
    len: u64,
    what: &'static str,
) -> Result<Option<InvalidTail>, Fault> {
    const BLOCK_BYTES: usize = 1 << 16;
    static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    let mut bytes = Vec::new();
    let mut used = 0;
    let mut block = vec![0; BLOCK_BYTES];
    for offset in (end..len).step_by(BLOCK_BYTES) {
        block.truncate(usize::try_from(len - offset).unwrap_or(usize::MAX));
        file.read_exact_at(&mut block, offset)?;
        let behind = usize::try_from(offset - end).unwrap_or(usize::MAX);
        if block != ZEROS[..block.len()] {
            // The zeros before this block belong to the tail as well.
            bytes.resize(behind, 0);
            bytes.extend_from_slice(&block);
            used = behind + block.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        }
    }
    if used == 0 {
        return Ok(None);
    }
    // The zeros at the end of an entry belong to the entry.
    bytes.resize(used.next_multiple_of(ALIGN) + record::GROUP_TRAILER_BYTES, 0);
    let mut durable = Position::START;
    for at in (0..used).step_by(ALIGN) {
        match record::parse(seed, &bytes[at..]).map(|entry| entry.body) {
            Ok(EntryBody::Group(header)) => durable = durable.max(header.durable),
            Ok(EntryBody::Trailer(trailer)) => durable = durable.max(trailer.durable),
            Ok(EntryBody::Event(_)) | Err(_) => {}
        }
    }
    bytes.truncate(used);
    Ok(Some(InvalidTail { bytes, what, durable }))
}
