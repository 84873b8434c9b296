//! Creating a log in a folder that has none.

use event_schemas::ids::{LogId, Position};
use event_schemas::time::Timestamp;
use uuid::Uuid;

use super::{LOG_FILE, OpenError, REPAIR_FILE, damaged_log_file, read_header, write_log_file};
use crate::Limits;
use crate::disk::{Disk, Fault};
use crate::maintenance::{NEXT_SEGMENT_FILE, preallocate};
use crate::segment::{FORMAT, INDEX_SUFFIX, SegmentHeader, scan, segment_name};
use event_log::Identity;

/// Whether the file is one of the log's own that was not finished.
pub(super) fn is_leftover(name: &str) -> bool {
    let of_index = name.strip_suffix(".tmp").is_some_and(|name| name.ends_with(INDEX_SUFFIX));
    of_index
        || name == NEXT_SEGMENT_FILE
        || [LOG_FILE, REPAIR_FILE].iter().any(|file| name.strip_suffix(".tmp") == Some(*file))
}

/// Refuses a folder without a log that contains more than leftovers of an earlier start.
pub(super) fn check_empty(disk: &Disk, names: &[String]) -> Result<(), OpenError> {
    match names.iter().find(|name| !is_leftover(name) && name.as_str() != "lost+found") {
        Some(found) => Err(OpenError::NotALog { folder: disk.path(), found: found.clone() }),
        None => Ok(()),
    }
}

/// Creates a new log, or completes the creation of one that was interrupted.
pub(super) fn create_log(disk: &Disk, limits: &Limits, firsts: &[Position]) -> Result<Identity, OpenError> {
    let identity = match firsts {
        [] => create_first_segment(disk, limits)?,
        [first] if first.0 == 1 => {
            let file = disk.open(&segment_name(*first))?;
            let header = read_header(&file, *first)?;
            let scanned = scan(&file, &header, |_, _, _| Ok(()))?;
            if scanned.next != *first || scanned.tail.is_some() {
                return Err(missing_log_file());
            }
            header.identity
        }
        _ => return Err(missing_log_file()),
    };
    write_log_file(disk, identity)?;
    Ok(identity)
}

fn create_first_segment(disk: &Disk, limits: &Limits) -> Result<Identity, OpenError> {
    let identity = Identity { id: LogId(Uuid::new_v4()), epoch: 0 };
    let full = |fault: Fault| match (fault.is_full(), disk.free_bytes()) {
        (true, Ok(free_bytes)) => {
            OpenError::Full { folder: disk.path(), free_bytes, reserve_bytes: limits.reserve_bytes }
        }
        _ => OpenError::Io(fault),
    };
    let file = preallocate(disk, limits.first_segment_bytes(), limits.reserve_bytes).map_err(full)?;
    let header = SegmentHeader {
        format: FORMAT,
        identity,
        first: Position(1),
        recorded_before: Timestamp::from_micros(i64::MIN),
    };
    file.write_all_at(&header.encode(), 0)?;
    file.sync_all()?;
    disk.rename(NEXT_SEGMENT_FILE, &segment_name(header.first))?;
    disk.sync()?;
    Ok(identity)
}

pub(crate) fn missing_log_file() -> OpenError {
    damaged_log_file("the file is missing, but there are segments of a log".to_owned())
}
