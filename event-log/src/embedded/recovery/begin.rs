//! Beginning a log in a folder that has none.

use event_schemas::ids::{LogId, Position};
use event_schemas::time::Timestamp;
use uuid::Uuid;

use super::{LOG_FILE, OpenError, REPAIR_FILE, RESTORE, put_log_file, read_header};
use crate::Identity;
use crate::embedded::Limits;
use crate::embedded::disk::{Disk, Fault};
use crate::embedded::keeper::{ROOM_NAME, make_room};
use crate::embedded::segment::{FORMAT, INDEX_SUFFIX, SegmentHeader, scan, segment_name};

/// Files of ours that were not finished.
pub(super) fn is_leftover(name: &str) -> bool {
    let of_index = name.strip_suffix(".tmp").is_some_and(|name| name.ends_with(INDEX_SUFFIX));
    of_index
        || name == ROOM_NAME
        || [LOG_FILE, REPAIR_FILE].iter().any(|made| name.strip_suffix(".tmp") == Some(*made))
}

/// A folder without a log must be empty, but for what an earlier start left behind.
pub(super) fn check_ours(disk: &Disk, names: &[String]) -> Result<(), OpenError> {
    match names.iter().find(|name| !is_leftover(name) && name.as_str() != "lost+found") {
        Some(found) => Err(OpenError::NotALog { folder: disk.path(), found: found.clone() }),
        None => Ok(()),
    }
}

/// Makes a new log, or finishes the making of one that was cut short.
pub(super) fn begin(disk: &Disk, limits: &Limits, firsts: &[Position]) -> Result<Identity, OpenError> {
    let identity = match firsts {
        [] => begin_first_segment(disk, limits)?,
        [first] if first.0 == 1 => {
            let file = disk.open(&segment_name(*first))?;
            let header = read_header(&file, *first)?;
            let scanned = scan(&file, &header, |_, _, _| Ok(()))?;
            if scanned.next != *first || scanned.tail.is_some() {
                return Err(lost_log_file());
            }
            header.identity
        }
        _ => return Err(lost_log_file()),
    };
    put_log_file(disk, identity)?;
    Ok(identity)
}

fn begin_first_segment(disk: &Disk, limits: &Limits) -> Result<Identity, OpenError> {
    let identity = Identity { id: LogId(Uuid::new_v4()), epoch: 0 };
    let full = |fault: Fault| match (fault.is_full(), disk.free_bytes()) {
        (true, Ok(free_bytes)) => {
            OpenError::Full { folder: disk.path(), free_bytes, reserve_bytes: limits.reserve_bytes }
        }
        _ => OpenError::Io(fault),
    };
    let file = make_room(disk, limits.first_segment_bytes(), limits.reserve_bytes).map_err(full)?;
    let header = SegmentHeader {
        format: FORMAT,
        identity,
        first: Position(1),
        recorded_before: Timestamp::from_micros(i64::MIN),
    };
    file.write_all_at(&header.encode(), 0)?;
    file.sync_all()?;
    disk.rename(ROOM_NAME, &segment_name(header.first))?;
    disk.sync()?;
    Ok(identity)
}

pub(in crate::embedded) fn lost_log_file() -> OpenError {
    OpenError::Damaged {
        file: LOG_FILE.to_owned(),
        offset: 0,
        position: Position::START,
        what: "the file is missing, but there are segments of a log".to_owned(),
        remedy: RESTORE,
    }
}
