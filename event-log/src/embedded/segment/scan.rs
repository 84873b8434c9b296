//! Reading a whole segment, to where its good groups end.

use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

use super::{HEADER_BYTES, SegmentHeader};
use crate::embedded::disk::{DiskFile, Fault};
use crate::embedded::record::{self, ALIGN, Body, Group, NoEntry, Seed};

/// Where the good groups of a segment end.
#[derive(Debug)]
pub(in crate::embedded) struct Scanned {
    /// Behind the last good group.
    pub(in crate::embedded) end: u64,
    /// The position behind the last good event.
    pub(in crate::embedded) next: Position,
    pub(in crate::embedded) recorded_at: Timestamp,
    /// Everything up to here is known to have been durable.
    pub(in crate::embedded) durable: Position,
    /// Where the last good group starts that has events.
    pub(in crate::embedded) last_group: u64,
    /// Behind that group: only marks are from here to the end.
    pub(in crate::embedded) marks: u64,
    /// What stands behind the end, if it is not room that was never written to.
    pub(in crate::embedded) tail: Option<Tail>,
}

/// Bytes behind the last good group that are no good group.
#[derive(Debug)]
pub(in crate::embedded) struct Tail {
    /// From the end of the good groups to the last byte that is not zero.
    pub(in crate::embedded) bytes: Vec<u8>,
    pub(in crate::embedded) what: &'static str,
    /// The highest mark of what was durable that any whole entry in it carries.
    pub(in crate::embedded) durable: Position,
}

/// Reads all groups from the start and gives each to `seen`, with the offset where it starts. `O(bytes of the file)`;
/// holds one group and a megabyte.
pub(in crate::embedded) fn scan(
    file: &DiskFile,
    header: &SegmentHeader,
    mut seen: impl FnMut(u64, &[u8], &Group) -> Result<(), &'static str>,
) -> Result<Scanned, Fault> {
    let seed = Seed::new(header.identity.id, header.first);
    let len = file.len()?;
    let mut scanned = Scanned {
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
            Err(NoEntry::Short(needed)) if needed > left => break "the group is cut short",
            Err(NoEntry::Short(needed)) => {
                buffer.resize(needed.max(SCAN_BYTES).min(left), 0);
                start = scanned.end;
                file.read_exact_at(&mut buffer, start)?;
            }
            Err(NoEntry::Damaged(what)) => break what,
            Ok(group) if group.header.first != scanned.next => break "the group is not at its position",
            Ok(group) if group.header.recorded_at < scanned.recorded_at => {
                break "time goes back in the group";
            }
            Ok(group) => {
                if let Err(what) = seen(scanned.end, bytes, &group) {
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
    scanned.tail = read_tail(file, seed, scanned.end, len, what)?;
    Ok(scanned)
}

const SCAN_BYTES: usize = 1 << 20;

/// What is behind the last good group; none if it is zeros to the end.
pub(in crate::embedded) fn read_tail(
    file: &DiskFile,
    seed: Seed,
    end: u64,
    len: u64,
    what: &'static str,
) -> Result<Option<Tail>, Fault> {
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
            // Zeros before it are only now known to matter.
            bytes.resize(behind, 0);
            bytes.extend_from_slice(&block);
            used = behind + block.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        }
    }
    if used == 0 {
        return Ok(None);
    }
    // The zeros at the end of an entry belong to it.
    bytes.resize(used.next_multiple_of(ALIGN) + record::GROUP_TRAILER_BYTES, 0);
    let mut durable = Position::START;
    for at in (0..used).step_by(ALIGN) {
        match record::parse(seed, &bytes[at..]).map(|entry| entry.body) {
            Ok(Body::Group(header)) => durable = durable.max(header.durable),
            Ok(Body::Trailer(trailer)) => durable = durable.max(trailer.durable),
            Ok(Body::Event(_)) | Err(_) => {}
        }
    }
    bytes.truncate(used);
    Ok(Some(Tail { bytes, what, durable }))
}
