//! Opening a log: the files are synced, read and checked, and an incomplete write at the end is truncated.
//!
//! The work is bounded: the last segment is read in full; of the others, only the header and the index file's header and
//! filter.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use event_schemas::ids::{LogId, Position};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::Limits;
use super::disk::{Disk, DiskFile, Fault, LockFault};
use super::head_file::HeadRecords;
use super::index::{IndexFile, MemoryIndex};
use super::maintenance::seal;
use super::segment::{
    FORMAT, HEADER_BYTES, InvalidTail, ScannedSegment, Segment, SegmentHeader, SegmentIndex, index_name,
    position_of_name, scan, segment_name,
};
use event_log::Identity;

mod create;

pub(super) use create::missing_log_file;
use create::{check_empty, create_log, is_leftover};

pub(super) const LOG_FILE: &str = "log.json";
/// The prefix of the files that keep the bytes of truncated writes.
pub(super) const TRUNCATED_PREFIX: &str = "truncated-";
/// The plan of a repair, while it runs.
pub(super) const REPAIR_FILE: &str = "repair.json";

/// The reason why a log was not opened. No file was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the event log in {} is in use by {}; stop that process, or give this one a data folder of its own",
        folder.display(), pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked { folder: PathBuf, pid: Option<u32> },
    #[error(
        "{file} has format {found}, and this version supports formats up to {known}; run the newer version of matchbook that wrote it"
    )]
    NewerFormat { file: String, found: u32, known: u32 },
    #[error("the event log is damaged: {file} at byte {offset}, position {position}: {what}; {remedy}")]
    Damaged { file: String, offset: u64, position: Position, what: String, remedy: &'static str },
    #[error(
        "{} contains no event log but other files, such as {found}; name an empty folder, or one that does not exist yet",
        folder.display()
    )]
    NotALog { folder: PathBuf, found: String },
    #[error(
        "the disk of {} has {free_bytes} bytes free, too few for a new log with {reserve_bytes} in reserve; free disk space, or lower the reserve",
        folder.display()
    )]
    Full { folder: PathBuf, free_bytes: u64, reserve_bytes: u64 },
    #[error(
        "a repair of the event log in {} was started and not finished; run `matchbook events repair --apply` again to resume it",
        folder.display()
    )]
    UnfinishedRepair { folder: PathBuf },
    #[error("{0}; check that the disk works and that this user may read and write the folder")]
    Io(#[from] Fault),
}

pub(super) const RESTORE: &str = "nothing was changed; restore this file from a backup, or run `matchbook events repair` to show \
                       what it would keep and what it would quarantine";

/// An incomplete write that was truncated from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TruncatedWrite {
    /// The file that keeps the bytes.
    pub kept_in: String,
    /// The number of bytes.
    pub bytes: u64,
    /// The position that its first event would have had.
    pub position: Position,
}

/// `log.json`: the identity of the log, readable for people and programs.
#[derive(Debug, Serialize, Deserialize)]
struct LogFile {
    format: u32,
    id: LogId,
    epoch: u32,
}

/// The part of `log.json` that is the same in every version.
#[derive(Deserialize)]
struct AnyLogFile {
    format: u32,
}

/// The recovered state of a log.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) identity: Identity,
    /// All segments, oldest first; the last one is the active one.
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) active: Arc<Segment>,
    /// The size of the active segment's file.
    pub(super) size: u64,
    pub(super) head: Position,
    pub(super) recorded_at: Timestamp,
    /// Whether a mark confirms that the last events are durable.
    pub(super) marked: bool,
    pub(super) truncated: Option<TruncatedWrite>,
}

/// Refuses a folder that must not be written to, even with a lock: a log of a newer version, or other files.
pub(super) fn check_folder(disk: &Disk) -> Result<(), OpenError> {
    let identity = identify(disk)?;
    let names = disk.list()?;
    refuse_unfinished_repair(disk, &names)?;
    if identity.is_some() {
        return Ok(());
    }
    if names.iter().any(|name| position_of_name(name).is_some()) {
        return Ok(());
    }
    check_empty(disk, &names)?;
    HeadRecords::read(disk)?.check_no_log()
}

/// Refuses a log between the steps of a repair.
pub(super) fn refuse_unfinished_repair(disk: &Disk, names: &[String]) -> Result<(), OpenError> {
    if names.iter().any(|name| name == REPAIR_FILE) {
        return Err(OpenError::UnfinishedRepair { folder: disk.path() });
    }
    Ok(())
}

/// Writes `log.json` atomically.
pub(super) fn write_log_file(disk: &Disk, identity: Identity) -> Result<(), Fault> {
    let text = serde_json::to_vec_pretty(&LogFile { format: FORMAT, id: identity.id, epoch: identity.epoch })
        .expect("three plain fields serialize as JSON");
    disk.write_atomically(LOG_FILE, &text)
}

/// Reads the identity of the log in the folder without changing anything; `None` if there is no log yet.
pub(super) fn identify(disk: &Disk) -> Result<Option<Identity>, OpenError> {
    let Some(bytes) = disk.read_small(LOG_FILE)? else { return Ok(None) };
    let damaged = |error: serde_json::Error| damaged_log_file(error.to_string());
    let AnyLogFile { format } = serde_json::from_slice(&bytes).map_err(damaged)?;
    check_format(LOG_FILE, format)?;
    let LogFile { id, epoch, .. } = serde_json::from_slice(&bytes).map_err(damaged)?;
    Ok(Some(Identity { id, epoch }))
}

pub(super) fn damaged_log_file(what: String) -> OpenError {
    OpenError::Damaged {
        file: LOG_FILE.to_owned(),
        offset: 0,
        position: Position::START,
        what,
        remedy: RESTORE,
    }
}

fn check_format(file: &str, found: u32) -> Result<(), OpenError> {
    if found > FORMAT {
        return Err(OpenError::NewerFormat { file: file.to_owned(), found, known: FORMAT });
    }
    Ok(())
}

pub(super) fn lock_error(disk: &Disk, fault: LockFault) -> OpenError {
    match fault {
        LockFault::Held(pid) => OpenError::Locked { folder: disk.path(), pid },
        LockFault::Fault(fault) => OpenError::Io(fault),
    }
}

/// Opens the folder, which must be locked.
pub(super) fn recover(disk: &Disk, limits: &Limits) -> Result<Recovered, OpenError> {
    // The last writes and renames of an earlier process may be in the cache only.
    disk.sync()?;
    let names = disk.list()?;
    refuse_unfinished_repair(disk, &names)?;
    let firsts: Vec<Position> = names.iter().filter_map(|name| position_of_name(name)).collect();
    let known = identify(disk)?;
    let heads = HeadRecords::read(disk)?;
    if known.is_none() && firsts.is_empty() {
        check_empty(disk, &names)?;
        heads.check_no_log()?;
    }
    known.map_or(Ok(()), |log| heads.check_epoch(log))?;
    for name in names.iter().filter(|name| is_leftover(name)) {
        disk.remove(name)?;
    }
    let identity = match known {
        Some(identity) => identity,
        None => create_log(disk, limits, &firsts)?,
    };
    let firsts = if firsts.is_empty() {
        disk.list()?.iter().filter_map(|name| position_of_name(name)).collect()
    } else {
        firsts
    };
    let Some((last, sealed)) = firsts.split_last() else {
        return Err(missing_segment(Position(1)));
    };
    let mut segments = Vec::with_capacity(firsts.len());
    let mut next = Position(1);
    for first in sealed {
        let (header, file) = open_segment(disk, identity, *first, next)?;
        let segment = open_sealed(disk, header, file)?;
        next = Position(first.0 + u64::from(segment.count()));
        segments.push(Arc::new(segment));
    }
    let explain = |error| heads.explain(Some(identity), error);
    let (mut header, file) = open_segment(disk, identity, *last, next).map_err(explain)?;
    // Segments after a restored one belong to the new epoch.
    header.identity = identity;
    let (active, scanned, truncated) = open_active(disk, header, file, &heads).map_err(explain)?;
    let size = active.file.len()?;
    let active = Arc::new(active);
    segments.push(Arc::clone(&active));
    let head = Position(scanned.next.0 - 1);
    Ok(Recovered {
        identity,
        segments,
        active,
        size,
        head,
        recorded_at: scanned.recorded_at,
        marked: scanned.durable >= head,
        truncated,
    })
}

pub(super) fn missing_segment(position: Position) -> OpenError {
    OpenError::Damaged {
        file: segment_name(position),
        offset: 0,
        position,
        what: "the file is missing".to_owned(),
        remedy: RESTORE,
    }
}

fn read_header(file: &DiskFile, first: Position) -> Result<SegmentHeader, OpenError> {
    let damaged = |what: &str| OpenError::Damaged {
        file: segment_name(first),
        offset: 0,
        position: first,
        what: what.to_owned(),
        remedy: RESTORE,
    };
    let mut bytes = vec![0; HEADER_BYTES as usize];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => {}
        Err(fault) if fault.source.kind() == ErrorKind::UnexpectedEof => {
            return Err(damaged("the file is shorter than a segment's header"));
        }
        Err(fault) => return Err(fault.into()),
    }
    let header = SegmentHeader::decode(&bytes).ok_or_else(|| damaged("the segment's header is damaged"))?;
    check_format(&segment_name(first), header.format)?;
    if header.first != first {
        return Err(damaged("the segment's name is not that of its first position"));
    }
    Ok(header)
}

/// The header and file of the segment that must start at `next`.
fn open_segment(
    disk: &Disk,
    identity: Identity,
    first: Position,
    next: Position,
) -> Result<(SegmentHeader, DiskFile), OpenError> {
    if first != next {
        return Err(missing_segment(next));
    }
    let file = disk.open(&segment_name(first))?;
    let header = read_header_of(&file, Some(identity.id), first)?;
    // New segments belong to the log's current epoch.
    Ok((SegmentHeader { identity, ..header }, file))
}

/// The header of a segment, which must belong to the log `log` if that is known.
pub(super) fn read_header_of(
    file: &DiskFile,
    log: Option<LogId>,
    first: Position,
) -> Result<SegmentHeader, OpenError> {
    let header = read_header(file, first)?;
    if let Some(log) = log.filter(|log| *log != header.identity.id) {
        return Err(OpenError::Damaged {
            file: segment_name(first),
            offset: 0,
            position: first,
            what: format!(
                "the segment belongs to the log {}, not to {log}, which log.json names",
                header.identity.id
            ),
            remedy: RESTORE,
        });
    }
    Ok(header)
}

fn open_sealed(disk: &Disk, header: SegmentHeader, file: DiskFile) -> Result<Segment, OpenError> {
    let name = index_name(header.first);
    let opened = match disk.open(&name) {
        Ok(index) => IndexFile::open(name.clone(), index, header.first)?,
        Err(fault) if fault.source.kind() == ErrorKind::NotFound => None,
        Err(fault) => return Err(fault.into()),
    };
    if let Some(opened) = opened
        && opened.end <= file.len()?
    {
        let index = SegmentIndex::File(Arc::new(opened.index));
        return Ok(Segment::new(header, file, opened.end, index));
    }
    tracing::warn!(index = name, "the index file is missing or damaged; rebuilding it from its segment");
    let (index, scanned) = scan_all(&file, &header)?;
    if let Some(tail) = &scanned.tail {
        return Err(damaged(&header, &scanned, tail));
    }
    let segment = Segment::new(header, file, scanned.end, SegmentIndex::Memory(index));
    match seal(disk, &segment) {
        Ok(()) => {}
        // The index in memory serves reads until the next start retries.
        Err(fault) if fault.is_full() => {
            tracing::warn!(index = name, "disk full: the index file is not written");
        }
        Err(fault) => return Err(fault.into()),
    }
    Ok(segment)
}

pub(super) fn scan_all(
    file: &DiskFile,
    header: &SegmentHeader,
) -> Result<(MemoryIndex, ScannedSegment), Fault> {
    let mut index = MemoryIndex::default();
    let mut names = super::record::NameCache::new();
    let scanned = scan(file, header, |offset, bytes, group| {
        for (at, event) in &group.events {
            let stream = names
                .stream(&bytes[*at..][event.stream.clone()])
                .ok_or("the event's stream has an invalid name")?;
            if !index.push(&stream, event.revision, offset + *at as u64) {
                return Err("the event does not continue its stream");
            }
        }
        Ok(())
    })?;
    Ok((index, scanned))
}

fn open_active(
    disk: &Disk,
    header: SegmentHeader,
    file: DiskFile,
    heads: &HeadRecords,
) -> Result<(Segment, ScannedSegment, Option<TruncatedWrite>), OpenError> {
    file.sync_all()?;
    let (index, scanned) = scan_all(&file, &header)?;
    let acknowledged = heads.acknowledged(header.identity);
    let truncated = match &scanned.tail {
        None => {
            let head = Position(scanned.next.0 - 1);
            heads.check_end(header.identity, head, &segment_name(header.first), scanned.end)?;
            None
        }
        Some(tail) if tail.durable.max(scanned.durable).max(acknowledged) >= scanned.next => {
            return Err(damaged(&header, &scanned, tail));
        }
        Some(tail) => Some(truncate(disk, &file, &header, &scanned, tail)?),
    };
    rewrite_zeros(disk, &file, &scanned)?;
    // The end may be in the cache only: after a failed sync, a later one can succeed although the bytes never reached the
    // disk. Writing the same bytes again makes them durable, and is safe if the power fails meanwhile. A mark confirms the
    // last group, but nothing confirms the marks, and a hole among them would hide everything written after it.
    let unconfirmed = if scanned.durable.0 + 1 < scanned.next.0 { scanned.last_group } else { scanned.marks };
    if unconfirmed < scanned.end {
        let mut bytes = vec![0; usize::try_from(scanned.end - unconfirmed).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, unconfirmed)?;
        file.write_all_at(&bytes, unconfirmed)?;
        file.sync_data()?;
    }
    let segment = Segment::new(header, file, scanned.end, SegmentIndex::Memory(index));
    Ok((segment, scanned, truncated))
}

fn damaged(header: &SegmentHeader, scanned: &ScannedSegment, tail: &InvalidTail) -> OpenError {
    OpenError::Damaged {
        file: segment_name(header.first),
        offset: scanned.end,
        position: scanned.next,
        what: format!("{}, before events that were durable", tail.what),
        remedy: RESTORE,
    }
}

/// Writes the zeros again that replaced a write truncated at this position, as long as nothing follows it. Their sync may
/// have failed, so that only the cache has them: after a loss of power the truncated bytes would be back, and would remain
/// behind valid groups.
fn rewrite_zeros(disk: &Disk, file: &DiskFile, scanned: &ScannedSegment) -> Result<(), Fault> {
    let truncated_here = format!("{}{:020}-", TRUNCATED_PREFIX, scanned.next.0);
    let mut cleared = 0;
    for name in disk.list()?.iter().filter(|name| name.starts_with(&truncated_here)) {
        cleared = disk.open_to_read(name)?.len()?.max(cleared);
    }
    let zeros = cleared.min(file.len()?.saturating_sub(scanned.end));
    if zeros > 0 {
        file.write_all_at(&vec![0; usize::try_from(zeros).unwrap_or(0)], scanned.end)?;
        file.sync_data()?;
    }
    Ok(())
}

/// Truncates an incomplete write from the segment. Its bytes are first kept in a file, durably.
fn truncate(
    disk: &Disk,
    file: &DiskFile,
    header: &SegmentHeader,
    scanned: &ScannedSegment,
    tail: &InvalidTail,
) -> Result<TruncatedWrite, OpenError> {
    let names = disk.list()?;
    let kept_in = (1_u32..)
        .map(|n| format!("{TRUNCATED_PREFIX}{:020}-{n}.bytes", scanned.next.0))
        .find(|name| !names.contains(name))
        .expect("a folder holds fewer than 2³² files");
    disk.write_atomically(&kept_in, &tail.bytes)?;
    file.write_all_at(&vec![0; tail.bytes.len()], scanned.end)?;
    file.sync_data()?;
    let truncated = TruncatedWrite { kept_in, bytes: tail.bytes.len() as u64, position: scanned.next };
    tracing::warn!(
        segment = segment_name(header.first),
        offset = scanned.end,
        position = truncated.position.0,
        bytes = truncated.bytes,
        kept_in = truncated.kept_in,
        what = tail.what,
        "truncated an incomplete write, which was never acknowledged; its bytes are kept in a file"
    );
    Ok(truncated)
}
