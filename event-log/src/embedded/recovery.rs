//! Opening: what is on the disk is made sure of, read, checked and, where a write was cut short, cut.
//!
//! The work is bounded: the last segment is read in full, of the others the header and the index file's ends.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use event_schemas::ids::{LogId, Position};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::Limits;
use super::disk::{Disk, DiskFile, Fault, LockFault};
use super::index::{IndexFile, MemoryIndex};
use super::keeper::seal;
use super::segment::{
    FORMAT, HEADER_BYTES, Scanned, Segment, SegmentHeader, SegmentIndex, Tail, index_name, position_of_name,
    scan, segment_name,
};
use crate::Identity;

mod begin;

pub(super) use begin::lost_log_file;
use begin::{begin, check_ours, is_leftover};

pub(super) const LOG_FILE: &str = "log.json";
/// What a start took out of the log.
const CUT_PREFIX: &str = "cut-before-";
/// What a repair is about to do, until it is done.
pub(super) const REPAIR_FILE: &str = "repair.json";

/// Why the log was not opened. Nothing was changed, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the event log in {} is in use by {}; stop that process, or give this one a data folder of its own",
        folder.display(), pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked { folder: PathBuf, pid: Option<u32> },
    #[error(
        "{file} has format {found}, and this build knows formats up to {known}; run the newer version of matchbook that wrote it"
    )]
    NewerFormat { file: String, found: u32, known: u32 },
    #[error("the event log is damaged: {file} at byte {offset}, position {position}: {what}; {remedy}")]
    Damaged { file: String, offset: u64, position: Position, what: String, remedy: &'static str },
    #[error(
        "{} holds no event log but other files, such as {found}; name an empty folder, or one that does not exist yet",
        folder.display()
    )]
    NotALog { folder: PathBuf, found: String },
    #[error(
        "the disk of {} has {free_bytes} bytes free, too few to begin a log that keeps {reserve_bytes} in reserve; make room, or lower the reserve",
        folder.display()
    )]
    Full { folder: PathBuf, free_bytes: u64, reserve_bytes: u64 },
    #[error(
        "a repair of the event log in {} was begun and not ended; run `matchbook events repair --apply` again, which goes on \
         where it stopped", folder.display()
    )]
    HalfRepaired { folder: PathBuf },
    #[error("{0}; check that the disk works and that this user may read and write the folder")]
    Io(#[from] Fault),
}

pub(super) const RESTORE: &str = "nothing was changed; put back this file from a backup, or see with `matchbook events repair` \
                       what could be kept and what would be set aside";

/// A write that was cut short, and was taken out of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Where the bytes are kept.
    pub kept_in: String,
    /// How many there were.
    pub bytes: u64,
    /// The position that their first event would have had.
    pub position: Position,
}

/// `log.json`: which log this is, for people and programs.
#[derive(Debug, Serialize, Deserialize)]
struct LogFile {
    format: u32,
    id: LogId,
    epoch: u32,
}

/// Of a `log.json` of any version.
#[derive(Deserialize)]
struct AnyLogFile {
    format: u32,
}

/// What opening found.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) identity: Identity,
    /// Oldest first; the last one is the one to write to.
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) active: Arc<Segment>,
    /// Of the active segment's file.
    pub(super) size: u64,
    pub(super) head: Position,
    pub(super) recorded_at: Timestamp,
    /// Whether a mark says already that the last events are durable.
    pub(super) marked: bool,
    pub(super) cut: Option<Cut>,
}

/// Refuses what is not ours to write to, before even a lock is put there: a log of a newer version, and other files.
pub(super) fn look(disk: &Disk) -> Result<(), OpenError> {
    let identity = identify(disk)?;
    let names = disk.list()?;
    refuse_half_repaired(disk, &names)?;
    if identity.is_some() {
        return Ok(());
    }
    if names.iter().any(|name| position_of_name(name).is_some()) { Ok(()) } else { check_ours(disk, &names) }
}

/// Between the steps of a repair the folder is no log.
pub(super) fn refuse_half_repaired(disk: &Disk, names: &[String]) -> Result<(), OpenError> {
    if names.iter().any(|name| name == REPAIR_FILE) {
        return Err(OpenError::HalfRepaired { folder: disk.path() });
    }
    Ok(())
}

/// Puts `log.json` in place.
pub(super) fn put_log_file(disk: &Disk, identity: Identity) -> Result<(), Fault> {
    let text = serde_json::to_vec_pretty(&LogFile { format: FORMAT, id: identity.id, epoch: identity.epoch })
        .expect("three plain fields can be written as JSON");
    disk.put(LOG_FILE, &text)
}

/// Looks which log is in the folder without changing anything; none if there is none yet.
pub(super) fn identify(disk: &Disk) -> Result<Option<Identity>, OpenError> {
    let Some(bytes) = disk.read_small(LOG_FILE)? else { return Ok(None) };
    let damaged = |error: serde_json::Error| OpenError::Damaged {
        file: LOG_FILE.to_owned(),
        offset: 0,
        position: Position::START,
        what: error.to_string(),
        remedy: RESTORE,
    };
    let AnyLogFile { format } = serde_json::from_slice(&bytes).map_err(damaged)?;
    check_format(LOG_FILE, format)?;
    let LogFile { id, epoch, .. } = serde_json::from_slice(&bytes).map_err(damaged)?;
    Ok(Some(Identity { id, epoch }))
}

fn check_format(file: &str, found: u32) -> Result<(), OpenError> {
    if found > FORMAT {
        return Err(OpenError::NewerFormat { file: file.to_owned(), found, known: FORMAT });
    }
    Ok(())
}

pub(super) fn not_locked(disk: &Disk, fault: LockFault) -> OpenError {
    match fault {
        LockFault::Held(pid) => OpenError::Locked { folder: disk.path(), pid },
        LockFault::Fault(fault) => OpenError::Io(fault),
    }
}

/// Opens the folder, which must be locked.
pub(super) fn recover(disk: &Disk, limits: &Limits) -> Result<Recovered, OpenError> {
    // What an earlier process wrote last may be in memory only, names included.
    disk.sync()?;
    let names = disk.list()?;
    refuse_half_repaired(disk, &names)?;
    let firsts: Vec<Position> = names.iter().filter_map(|name| position_of_name(name)).collect();
    let known = identify(disk)?;
    if known.is_none() && firsts.is_empty() {
        check_ours(disk, &names)?;
    }
    for name in names.iter().filter(|name| is_leftover(name)) {
        disk.remove(name)?;
    }
    let identity = match known {
        Some(identity) => identity,
        None => begin(disk, limits, &firsts)?,
    };
    let firsts = if firsts.is_empty() {
        disk.list()?.iter().filter_map(|name| position_of_name(name)).collect()
    } else {
        firsts
    };
    let Some((last, sealed)) = firsts.split_last() else {
        return Err(lost(Position(1)));
    };
    let mut segments = Vec::with_capacity(firsts.len());
    let mut next = Position(1);
    for first in sealed {
        let (header, file) = open_segment(disk, identity, *first, next)?;
        let segment = open_sealed(disk, header, file)?;
        next = Position(first.0 + u64::from(segment.count()));
        segments.push(Arc::new(segment));
    }
    let (mut header, file) = open_segment(disk, identity, *last, next)?;
    // Segments that follow one from before a restore are of the new epoch.
    header.identity = identity;
    let (active, scanned, cut) = open_active(disk, header, file)?;
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
        cut,
    })
}

pub(super) fn lost(position: Position) -> OpenError {
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
    let header = SegmentHeader::decode(&bytes).ok_or_else(|| damaged("the segment's header is not whole"))?;
    check_format(&segment_name(first), header.format)?;
    if header.first != first {
        return Err(damaged("the segment's name is not that of its first position"));
    }
    Ok(header)
}

/// The header and file of the segment that must begin at `next`.
fn open_segment(
    disk: &Disk,
    identity: Identity,
    first: Position,
    next: Position,
) -> Result<(SegmentHeader, DiskFile), OpenError> {
    if first != next {
        return Err(lost(next));
    }
    let file = disk.open(&segment_name(first))?;
    let header = read_header_of(&file, Some(identity.id), first)?;
    // Segments that are made from now on are of the log's present epoch.
    Ok((SegmentHeader { identity, ..header }, file))
}

/// The header of a segment, which must be one of this log, if it is known which one it is.
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
            what: format!("the segment belongs to the log {}, not to {log}", header.identity.id),
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
    tracing::warn!(index = name, "the index file is missing or damaged; it is made anew from its segment");
    let (index, scanned) = scan_all(&file, &header)?;
    if let Some(tail) = &scanned.tail {
        return Err(damaged(&header, &scanned, tail));
    }
    let segment = Segment::new(header, file, scanned.end, SegmentIndex::Memory(index));
    match seal(disk, &segment) {
        Ok(()) => {}
        // It works from memory too; the next start tries again.
        Err(fault) if fault.is_full() => tracing::warn!(index = name, "no room for the index file"),
        Err(fault) => return Err(fault.into()),
    }
    Ok(segment)
}

pub(super) fn scan_all(file: &DiskFile, header: &SegmentHeader) -> Result<(MemoryIndex, Scanned), Fault> {
    let mut index = MemoryIndex::default();
    let mut names = super::record::Names::new();
    let scanned = scan(file, header, |offset, bytes, group| {
        for (at, event) in &group.events {
            let stream = names
                .stream(&bytes[*at..][event.stream.clone()])
                .ok_or("the event's stream has no proper name")?;
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
) -> Result<(Segment, Scanned, Option<Cut>), OpenError> {
    file.sync_all()?;
    let (index, scanned) = scan_all(&file, &header)?;
    let cut = match &scanned.tail {
        None => None,
        Some(tail) if tail.durable.max(scanned.durable) >= scanned.next => {
            return Err(damaged(&header, &scanned, tail));
        }
        Some(tail) => Some(cut_tail(disk, &file, &header, &scanned, tail)?),
    };
    clear_again(disk, &file, &scanned)?;
    // The end may be in memory only: after a sync that failed, a later one can succeed although the bytes never reached
    // the disk. Writing the same bytes again settles it, and harms nothing if power fails meanwhile. A mark confirms the
    // last group, but nothing confirms the marks, and a hole among them would hide all that is written behind it.
    let unsure = if scanned.durable.0 + 1 < scanned.next.0 { scanned.last_group } else { scanned.marks };
    if unsure < scanned.end {
        let mut bytes = vec![0; usize::try_from(scanned.end - unsure).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, unsure)?;
        file.write_all_at(&bytes, unsure)?;
        file.sync_data()?;
    }
    let segment = Segment::new(header, file, scanned.end, SegmentIndex::Memory(index));
    Ok((segment, scanned, cut))
}

fn damaged(header: &SegmentHeader, scanned: &Scanned, tail: &Tail) -> OpenError {
    OpenError::Damaged {
        file: segment_name(header.first),
        offset: scanned.end,
        position: scanned.next,
        what: format!("{}, below events that were durable", tail.what),
        remedy: RESTORE,
    }
}

/// Writes the zeros again that took the place of what was cut off at this very end, as long as nothing is behind it. Their
/// sync may have failed, and the cache alone have them: then what was cut off would be back after a loss of power, and stand
/// behind good groups for ever.
fn clear_again(disk: &Disk, file: &DiskFile, scanned: &Scanned) -> Result<(), Fault> {
    let cut_here = format!("{}{:020}-", CUT_PREFIX, scanned.next.0);
    let mut cleared = 0;
    for name in disk.list()?.iter().filter(|name| name.starts_with(&cut_here)) {
        cleared = disk.open_to_read(name)?.len()?.max(cleared);
    }
    let room = file.len()?.saturating_sub(scanned.end);
    if cleared.min(room) > 0 {
        file.write_all_at(&vec![0; usize::try_from(cleared.min(room)).unwrap_or(0)], scanned.end)?;
        file.sync_data()?;
    }
    Ok(())
}

/// Takes a write that was cut short out of the segment. Its bytes are put aside first, durably.
fn cut_tail(
    disk: &Disk,
    file: &DiskFile,
    header: &SegmentHeader,
    scanned: &Scanned,
    tail: &Tail,
) -> Result<Cut, OpenError> {
    let taken = disk.list()?;
    let kept_in = (1_u32..)
        .map(|n| format!("{CUT_PREFIX}{:020}-{n}.bytes", scanned.next.0))
        .find(|name| !taken.contains(name))
        .expect("a folder holds fewer than 2³² files");
    disk.put(&kept_in, &tail.bytes)?;
    file.write_all_at(&vec![0; tail.bytes.len()], scanned.end)?;
    file.sync_data()?;
    let cut = Cut { kept_in, bytes: tail.bytes.len() as u64, position: scanned.next };
    tracing::warn!(
        segment = segment_name(header.first),
        offset = scanned.end,
        position = cut.position.0,
        bytes = cut.bytes,
        kept_in = cut.kept_in,
        what = tail.what,
        "a write was cut short before it was acknowledged; it was taken out of the log and kept aside"
    );
    Ok(cut)
}
