//! Verifying a whole log: every checksum, position, revision and time. Nothing is written, not even to the lock file.

use std::io::ErrorKind;
use std::path::PathBuf;

use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

use super::Settings;
use super::disk::{Disk, DiskFile, Fault};
use super::head_file::HeadRecords;
use super::index::{self, IndexFile, MemoryIndex};
use super::record::{Group, NameCache};
use super::recovery::{
    LOG_FILE, OpenError, REPAIR_FILE, RESTORE, lock_error, missing_segment, read_header_of,
    refuse_unfinished_repair,
};
use super::segment::{ScannedSegment, SegmentHeader, index_name, position_of_name, scan, segment_name};
use event_log::Identity;

mod identity;
mod revisions;

use revisions::SegmentStreams;

/// The reason why a log could not be verified. Damage is not an error; it is reported in [`Verified::damages`].
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("{} holds no event log; name the data folder of a server that has run", .0.display())]
    NoLog(PathBuf),
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl From<Fault> for VerifyError {
    fn from(fault: Fault) -> Self {
        Self::Open(fault.into())
    }
}

/// The extent of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Stop at the first damage.
    First,
    /// Find all damage: continue with the next file after each.
    All,
}

/// The progress of a verification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub events: u64,
    pub bytes: u64,
    /// The total length of all segments.
    pub bytes_total: u64,
}

/// A part of a file that differs from what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub file: String,
    pub offset: u64,
    /// The position of the first event that is affected.
    pub position: Position,
    pub what: String,
    pub remedy: &'static str,
}

/// An incomplete write at the log's end, which was never acknowledged. The next start truncates it and keeps its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnfinishedWrite {
    pub file: String,
    pub offset: u64,
    pub bytes: u64,
}

/// The result of a verification.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The number of valid events.
    pub events: u64,
    pub segments: usize,
    /// The number of bytes read from all segments.
    pub bytes: u64,
    pub damages: Vec<Damage>,
    /// Whether the revisions of every stream were checked over all segments, which needs undamaged segments.
    pub revisions_checked: bool,
    pub unfinished: Option<UnfinishedWrite>,
    /// The first hole, at which the log has to end.
    pub(super) hole: Option<Hole>,
    /// The segments whose index file is wrong.
    pub(super) wrong_indexes: Vec<Position>,
    /// The identity of the log, if any file contains it.
    pub(super) identity: Option<Identity>,
    /// Whether `log.json` does not contain that identity.
    pub(super) wrong_log_file: bool,
    /// The position up to which events are known to have been acknowledged.
    pub(super) acknowledged: Position,
}

impl Verified {
    /// The result for a log that was not read.
    pub(super) fn nothing() -> Self {
        Self {
            events: 0,
            segments: 0,
            bytes: 0,
            damages: Vec::new(),
            revisions_checked: false,
            unfinished: None,
            hole: None,
            wrong_indexes: Vec::new(),
            identity: None,
            wrong_log_file: false,
            acknowledged: Position::START,
        }
    }
}

/// The first gap in the sequence of valid events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    /// The position of the first missing event.
    pub(super) position: Position,
    /// The number of whole segments before it.
    pub(super) whole: usize,
    /// The end of the valid groups in the segment after those; `None` if no group of it can be kept.
    pub(super) within: Option<u64>,
}

const REMOVE_INDEX: &str = "no event is lost: it is rebuilt from its segment by `matchbook events repair --apply`, or by the next start \
     once you remove that file";

/// Verifies the log in the settings' folder, which no process may have open: every checksum, position, revision and time
/// of its segments, and their index files.
///
/// `O(bytes)` time. It holds the index of one segment in memory, and of each segment whose index file is missing or
/// damaged.
///
/// # Errors
/// [`VerifyError`] if the log could not be verified. Damage is part of the result, not an error.
pub fn verify(
    settings: &Settings,
    extent: Extent,
    watch: impl FnMut(Progress),
) -> Result<Verified, VerifyError> {
    verify_on(&existing_folder(settings)?, extent, watch)
}

/// The folder of the settings, which must exist.
pub(super) fn existing_folder(settings: &Settings) -> Result<Disk, VerifyError> {
    let disk = Disk::Real(settings.folder.clone());
    if !settings.folder.is_dir() {
        HeadRecords::read(&disk)?.check_no_log()?;
        return Err(VerifyError::NoLog(settings.folder.clone()));
    }
    Ok(disk)
}

pub(super) fn verify_on(
    disk: &Disk,
    extent: Extent,
    watch: impl FnMut(Progress),
) -> Result<Verified, VerifyError> {
    let _lock = disk.lock_to_read().map_err(|fault| lock_error(disk, fault))?;
    verify_locked(disk, extent, watch)
}

/// As [`verify_on`], for a folder that is locked already.
pub(super) fn verify_locked(
    disk: &Disk,
    extent: Extent,
    watch: impl FnMut(Progress),
) -> Result<Verified, VerifyError> {
    let names = disk.list()?;
    let heads = HeadRecords::read(disk)?;
    refuse_unfinished_repair(disk, &names)?;
    check_has_log(disk, &names)?;
    let firsts: Vec<Position> = names.iter().filter_map(|name| position_of_name(name)).collect();
    let mut bytes_total = 0;
    for first in &firsts {
        bytes_total += disk.open_to_read(&segment_name(*first))?.len()?;
    }
    let progress = Progress { bytes_total, ..Progress::default() };
    let found = Verified { segments: firsts.len(), ..Verified::nothing() };
    let mut verifier = Verifier {
        disk,
        watch,
        progress,
        found,
        heads,
        end: 0,
        recorded_at: Timestamp::from_micros(i64::MIN),
        segment_streams: Vec::new(),
    };
    verifier.run(&firsts, extent)?;
    verifier.found.events = verifier.progress.events;
    verifier.found.bytes = verifier.progress.bytes;
    Ok(verifier.found)
}

/// Refuses a folder that contains no log.
pub(super) fn check_has_log(disk: &Disk, names: &[String]) -> Result<(), VerifyError> {
    let of_a_log =
        |name: &String| [LOG_FILE, REPAIR_FILE].contains(&name.as_str()) || position_of_name(name).is_some();
    if names.iter().any(of_a_log) {
        return Ok(());
    }
    HeadRecords::read(disk)?.check_no_log()?;
    Err(VerifyError::NoLog(disk.path()))
}

/// Turns damage into a result; other errors stay errors.
fn damage_of(error: OpenError) -> Result<Damage, OpenError> {
    match error {
        OpenError::Damaged { file, offset, position, what, remedy } => {
            Ok(Damage { file, offset, position, what, remedy })
        }
        other => Err(other),
    }
}

struct Verifier<'d, W> {
    disk: &'d Disk,
    watch: W,
    progress: Progress,
    found: Verified,
    heads: HeadRecords,
    /// The end of the groups of the last segment read.
    end: u64,
    /// The recorded time of the last event read.
    recorded_at: Timestamp,
    /// The streams of each segment.
    segment_streams: Vec<SegmentStreams>,
}

impl<W: FnMut(Progress)> Verifier<'_, W> {
    fn run(&mut self, firsts: &[Position], extent: Extent) -> Result<(), VerifyError> {
        let (identity, damage) = identity::verify_identity(self.disk, firsts, &self.heads)?;
        if let Some(identity) = identity {
            self.found.acknowledged = self.heads.acknowledged(identity);
            // A repair must not reuse an epoch.
            let epoch = self.heads.epoch(identity.id).unwrap_or(0).max(identity.epoch);
            self.found.identity = Some(Identity { epoch, ..identity });
        }
        self.found.wrong_log_file = damage.is_some();
        self.found.damages.extend(damage);
        let mut whole = true;
        // The position at which the next segment must start; not known after a damaged one.
        let mut next = Some(Position(1));
        for (n, first) in firsts.iter().enumerate() {
            if extent == Extent::First && !self.found.damages.is_empty() {
                return Ok(());
            }
            if let Some(next) = next.filter(|next| next != first) {
                whole = false;
                self.found.damages.push(damage_of(missing_segment(next))?);
                self.hole(next, n, None);
            }
            next = self.segment(identity, *first, n, n + 1 == firsts.len())?;
            whole &= next.is_some();
        }
        if let (Some(next), Some(identity), Some(first)) = (next, identity, firsts.last()) {
            let (head, file) = (Position(next.0 - 1), segment_name(*first));
            if let Err(error) = self.heads.check_end(identity, head, &file, self.end) {
                self.found.damages.push(damage_of(error)?);
                self.hole(next, firsts.len(), None);
            }
        }
        if firsts.is_empty() {
            whole = false;
            self.found.damages.push(damage_of(missing_segment(Position(1)))?);
            self.hole(Position(1), 0, None);
        }
        if whole && (extent == Extent::All || self.found.damages.is_empty()) {
            self.found.revisions_checked = true;
            let damages = revisions::check_continuity(std::mem::take(&mut self.segment_streams), extent)?;
            // The hole is the first group of the first segment with a wrong event.
            if let Some(first) = damages.iter().map(|damage| damage.position).min() {
                let n = firsts.partition_point(|begin| *begin <= first) - 1;
                let (within, position) = self.group_of(firsts[n], first)?;
                self.hole(position, n, within);
            }
            self.found.damages.extend(damages);
        }
        Ok(())
    }

    /// Records a hole, if it is the first.
    fn hole(&mut self, position: Position, whole: usize, within: Option<u64>) {
        self.found.hole.get_or_insert(Hole { position, whole, within });
    }

    /// The offset of the group with an event, `None` if it is the segment's first group, and the group's first position.
    fn group_of(&self, segment: Position, event: Position) -> Result<(Option<u64>, Position), VerifyError> {
        let file = self.disk.open_to_read(&segment_name(segment))?;
        let header = read_header_of(&file, None, segment)?;
        let mut found = (None, segment);
        scan(&file, &header, |offset, _, group| {
            if group.header.first <= event && group.header.count > 0 {
                found = (Some(offset).filter(|_| group.header.first > segment), group.header.first);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Verifies a segment. Returns the position at which the next one must start; `None` if that is not known.
    fn segment(
        &mut self,
        identity: Option<Identity>,
        first: Position,
        n: usize,
        is_last: bool,
    ) -> Result<Option<Position>, VerifyError> {
        let file = self.disk.open_to_read(&segment_name(first))?;
        let log = identity.map(|identity| identity.id);
        let header = match read_header_of(&file, log, first) {
            Ok(header) => header,
            Err(error) => {
                let error = if is_last { self.heads.explain(identity, error) } else { error };
                self.found.damages.push(damage_of(error)?);
                self.hole(first, n, None);
                self.progress.bytes += file.len()?;
                return Ok(None);
            }
        };
        let (index, scanned) = self.groups(&file, &header)?;
        self.end = scanned.end;
        if let Some(tail) = &scanned.tail {
            let acknowledged = identity.map_or(Position::START, |identity| self.heads.acknowledged(identity));
            if is_last && tail.durable.max(scanned.durable).max(acknowledged) < scanned.next {
                self.found.unfinished = Some(UnfinishedWrite {
                    file: segment_name(first),
                    offset: scanned.end,
                    bytes: tail.bytes.len() as u64,
                });
            } else {
                let error = OpenError::Damaged {
                    file: segment_name(first),
                    offset: scanned.end,
                    position: scanned.next,
                    what: tail.what.to_owned(),
                    remedy: RESTORE,
                };
                let error = if is_last { self.heads.explain(identity, error) } else { error };
                self.found.damages.push(damage_of(error)?);
                self.hole(scanned.next, n, Some(scanned.end).filter(|_| scanned.next > first));
                return Ok(None);
            }
        }
        let streams = self.index(file, &header, index, scanned.end, is_last)?;
        self.segment_streams.push(streams);
        Ok(Some(scanned.next))
    }

    /// Verifies all groups of a segment, and rebuilds its index.
    fn groups(
        &mut self,
        file: &DiskFile,
        header: &SegmentHeader,
    ) -> Result<(MemoryIndex, ScannedSegment), Fault> {
        let len = file.len()?;
        let (before, mut last) = (self.progress, self.recorded_at);
        let starts_late = header.recorded_before >= last;
        let mut index = MemoryIndex::default();
        let mut names = NameCache::new();
        let (watch, progress) = (&mut self.watch, &mut self.progress);
        let scanned = scan(file, header, |offset, bytes, group| {
            if !starts_late {
                return Err("the recorded time decreases from the previous segment");
            }
            last = check_group(offset, bytes, group, last, &mut index, &mut names)?;
            progress.events += group.events.len() as u64;
            progress.bytes = before.bytes + offset + bytes.len() as u64;
            watch(*progress);
            Ok(())
        })?;
        self.recorded_at = last;
        self.progress.bytes = before.bytes + len;
        (self.watch)(self.progress);
        Ok((index, scanned))
    }

    /// Compares a sealed segment's index file with the rebuilt index.
    fn index(
        &mut self,
        file: DiskFile,
        header: &SegmentHeader,
        index: MemoryIndex,
        end: u64,
        is_last: bool,
    ) -> Result<SegmentStreams, VerifyError> {
        let name = index_name(header.first);
        let on_disk = match self.disk.open_to_read(&name) {
            Ok(on_disk) if !is_last => on_disk,
            Ok(_) => return Ok(SegmentStreams::memory(*header, file, index)),
            // The next start rebuilds a missing one.
            Err(fault) if fault.source.kind() == ErrorKind::NotFound => {
                return Ok(SegmentStreams::memory(*header, file, index));
            }
            Err(fault) => return Err(fault.into()),
        };
        if let Some(opened) = IndexFile::open(name.clone(), on_disk, header.first)?
            && opened.index.bytes()? == index::build(&index, header.first, end)
        {
            return Ok(SegmentStreams::file(*header, file, opened.index));
        }
        self.found.wrong_indexes.push(header.first);
        self.found.damages.push(Damage {
            file: name,
            offset: 0,
            position: header.first,
            what: "the index file does not match its segment".to_owned(),
            remedy: REMOVE_INDEX,
        });
        Ok(SegmentStreams::memory(*header, file, index))
    }
}

/// The checks of a group's events beyond the checksums. Returns the recorded time of the last event.
fn check_group(
    offset: u64,
    bytes: &[u8],
    group: &Group,
    mut last: Timestamp,
    index: &mut MemoryIndex,
    names: &mut NameCache,
) -> Result<Timestamp, &'static str> {
    for (at, event) in &group.events {
        let stream = bytes.get(*at..).and_then(|entry| entry.get(event.stream.clone()));
        let stream =
            stream.and_then(|name| names.stream(name)).ok_or("the event's stream has an invalid name")?;
        if event.recorded_at < last || event.recorded_at > group.header.recorded_at {
            return Err("the recorded time decreases in the group");
        }
        last = event.recorded_at;
        if !index.push(&stream, event.revision, offset + *at as u64) {
            return Err("the event does not continue its stream");
        }
    }
    Ok(last)
}
