//! Reading a whole log to say whether every byte of it is right. Nothing is written, not even to the lock's file.

use std::io::ErrorKind;
use std::path::PathBuf;

use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

use super::Settings;
use super::disk::{Disk, DiskFile, Fault};
use super::index::{self, IndexFile, MemoryIndex};
use super::record::{Group, Names};
use super::recovery::{
    LOG_FILE, OpenError, REPAIR_FILE, RESTORE, lost, not_locked, read_header_of, refuse_half_repaired,
};
use super::segment::{Scanned, SegmentHeader, index_name, position_of_name, scan, segment_name};
use crate::Identity;

mod identity;
mod revisions;

use revisions::Source;

/// Why a log could not be looked at. What is wrong with its bytes is not here but in [`Verified::damages`].
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

/// How much damage to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Stop where the first is found.
    First,
    /// Go on with the next file after each.
    All,
}

/// How far verifying is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub events: u64,
    pub bytes: u64,
    /// Of all segments' files.
    pub bytes_total: u64,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub file: String,
    pub offset: u64,
    /// Of the first event that cannot be trusted there.
    pub position: Position,
    pub what: String,
    pub remedy: &'static str,
}

/// A write at the log's end that no acknowledgement can have followed: the next start cuts it and keeps it aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    pub file: String,
    pub offset: u64,
    pub bytes: u64,
}

/// What a whole reading found.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Those that are right.
    pub events: u64,
    pub segments: usize,
    /// Read, of all segments.
    pub bytes: u64,
    pub damages: Vec<Damage>,
    /// Whether the revisions of every stream were followed over all segments. They cannot be where a segment is damaged.
    pub revisions_followed: bool,
    pub unfinished: Option<Unfinished>,
    /// Where the log cannot be gone on with.
    pub(super) hole: Option<Hole>,
    /// Segments whose index file says something else.
    pub(super) wrong_indexes: Vec<Position>,
    /// Which log it is, as far as anything says.
    pub(super) identity: Option<Identity>,
    /// Whether `log.json` does not say it.
    pub(super) wrong_log_file: bool,
}

impl Verified {
    /// Of a log that was not read.
    pub(super) fn nothing() -> Self {
        Self {
            events: 0,
            segments: 0,
            bytes: 0,
            damages: Vec::new(),
            revisions_followed: false,
            unfinished: None,
            hole: None,
            wrong_indexes: Vec::new(),
            identity: None,
            wrong_log_file: false,
        }
    }
}

/// The first place behind which events cannot be trusted to be those of this log, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    /// Of the first event that is not there.
    pub(super) position: Position,
    /// How many segments before it are whole.
    pub(super) whole: usize,
    /// In the segment behind those, where its good groups end; none if none of its groups can be kept.
    pub(super) within: Option<u64>,
}

const REMOVE_INDEX: &str = "no event is lost: it is made anew from its segment by `matchbook events repair --apply`, or by the next start \
     once you remove that file";

/// Reads every segment of the log in the settings' folder, which no process may have open: every checksum, position,
/// revision and time, and whether the index files say what the segments say.
///
/// `O(bytes)`. It holds the index of one segment in memory, and of each whose index file is missing or damaged.
///
/// # Errors
/// [`VerifyError`] if the log cannot be looked at. Damage is an answer, not an error.
pub fn verify(
    settings: &Settings,
    extent: Extent,
    watch: impl FnMut(Progress),
) -> Result<Verified, VerifyError> {
    if !settings.folder.is_dir() {
        return Err(VerifyError::NoLog(settings.folder.clone()));
    }
    verify_on(&Disk::Real(settings.folder.clone()), extent, watch)
}

pub(super) fn verify_on(
    disk: &Disk,
    extent: Extent,
    watch: impl FnMut(Progress),
) -> Result<Verified, VerifyError> {
    let _lock = disk.lock_to_read().map_err(|fault| not_locked(disk, fault))?;
    verify_locked(disk, extent, watch)
}

/// As [`verify_on`], of a folder that is held already.
pub(super) fn verify_locked(
    disk: &Disk,
    extent: Extent,
    watch: impl FnMut(Progress),
) -> Result<Verified, VerifyError> {
    let names = disk.list()?;
    refuse_half_repaired(disk, &names)?;
    check_there(disk, &names)?;
    let firsts: Vec<Position> = names.iter().filter_map(|name| position_of_name(name)).collect();
    let mut bytes_total = 0;
    for first in &firsts {
        bytes_total += disk.open_to_read(&segment_name(*first))?.len()?;
    }
    let progress = Progress { bytes_total, ..Progress::default() };
    let found = Verified { segments: firsts.len(), ..Verified::nothing() };
    let mut reading = Reading {
        disk,
        watch,
        progress,
        found,
        recorded_at: Timestamp::from_micros(i64::MIN),
        sources: Vec::new(),
    };
    reading.all(&firsts, extent)?;
    reading.found.events = reading.progress.events;
    reading.found.bytes = reading.progress.bytes;
    Ok(reading.found)
}

/// There must be something that could be a log.
pub(super) fn check_there(disk: &Disk, names: &[String]) -> Result<(), VerifyError> {
    let of_a_log =
        |name: &String| [LOG_FILE, REPAIR_FILE].contains(&name.as_str()) || position_of_name(name).is_some();
    if names.iter().any(of_a_log) { Ok(()) } else { Err(VerifyError::NoLog(disk.path())) }
}

/// Damage as an answer; what keeps from looking stays an error.
fn damage_of(error: OpenError) -> Result<Damage, OpenError> {
    match error {
        OpenError::Damaged { file, offset, position, what, remedy } => {
            Ok(Damage { file, offset, position, what, remedy })
        }
        other => Err(other),
    }
}

struct Reading<'d, W> {
    disk: &'d Disk,
    watch: W,
    progress: Progress,
    found: Verified,
    /// Of the last event that was read.
    recorded_at: Timestamp,
    /// What the segments say of their streams.
    sources: Vec<Source>,
}

impl<W: FnMut(Progress)> Reading<'_, W> {
    fn all(&mut self, firsts: &[Position], extent: Extent) -> Result<(), VerifyError> {
        let (identity, damage) = identity::of(self.disk, firsts)?;
        self.found.identity = identity;
        self.found.wrong_log_file = damage.is_some();
        self.found.damages.extend(damage);
        let mut whole = true;
        // Where the next segment must begin; not known behind one that is damaged.
        let mut next = Some(Position(1));
        for (n, first) in firsts.iter().enumerate() {
            if extent == Extent::First && !self.found.damages.is_empty() {
                return Ok(());
            }
            if let Some(next) = next.filter(|next| next != first) {
                whole = false;
                self.found.damages.push(damage_of(lost(next))?);
                self.hole(next, n, None);
            }
            next = self.segment(identity, *first, n, n + 1 == firsts.len())?;
            whole &= next.is_some();
        }
        if firsts.is_empty() {
            whole = false;
            self.found.damages.push(damage_of(lost(Position(1)))?);
            self.hole(Position(1), 0, None);
        }
        if whole && (extent == Extent::All || self.found.damages.is_empty()) {
            self.found.revisions_followed = true;
            let broken = revisions::follow(std::mem::take(&mut self.sources), extent)?;
            // One segment, and within it one group, is the first whose events are not those that should come.
            if let Some(first) = broken.iter().map(|damage| damage.position).min() {
                let n = firsts.partition_point(|begin| *begin <= first) - 1;
                let (within, position) = self.group_of(firsts[n], first)?;
                self.hole(position, n, within);
            }
            self.found.damages.extend(broken);
        }
        Ok(())
    }

    /// Remembers the first hole alone.
    fn hole(&mut self, position: Position, whole: usize, within: Option<u64>) {
        self.found.hole.get_or_insert(Hole { position, whole, within });
    }

    /// Where the group begins that an event is in, if there is one before it in the segment, and with which position.
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

    /// Reads a segment; where the next one must begin, or none if that cannot be told.
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
                self.found.damages.push(damage_of(error)?);
                self.hole(first, n, None);
                self.progress.bytes += file.len()?;
                return Ok(None);
            }
        };
        let (index, scanned) = self.groups(&file, &header)?;
        if let Some(tail) = &scanned.tail {
            if is_last && tail.durable.max(scanned.durable) < scanned.next {
                self.found.unfinished = Some(Unfinished {
                    file: segment_name(first),
                    offset: scanned.end,
                    bytes: tail.bytes.len() as u64,
                });
            } else {
                self.found.damages.push(Damage {
                    file: segment_name(first),
                    offset: scanned.end,
                    position: scanned.next,
                    what: tail.what.to_owned(),
                    remedy: RESTORE,
                });
                self.hole(scanned.next, n, Some(scanned.end).filter(|_| scanned.next > first));
                return Ok(None);
            }
        }
        let source = self.index(file, &header, index, scanned.end, is_last)?;
        self.sources.push(source);
        Ok(Some(scanned.next))
    }

    /// Reads all groups of a segment, and makes its index anew.
    fn groups(&mut self, file: &DiskFile, header: &SegmentHeader) -> Result<(MemoryIndex, Scanned), Fault> {
        let len = file.len()?;
        let (before, mut last) = (self.progress, self.recorded_at);
        let starts_late = header.recorded_before >= last;
        let mut index = MemoryIndex::default();
        let mut names = Names::new();
        let (watch, progress) = (&mut self.watch, &mut self.progress);
        let scanned = scan(file, header, |offset, bytes, group| {
            if !starts_late {
                return Err("time goes back from the segment before");
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

    /// Compares a sealed segment's index file with what it should be.
    fn index(
        &mut self,
        file: DiskFile,
        header: &SegmentHeader,
        index: MemoryIndex,
        end: u64,
        is_last: bool,
    ) -> Result<Source, VerifyError> {
        let name = index_name(header.first);
        let on_disk = match self.disk.open_to_read(&name) {
            Ok(on_disk) if !is_last => on_disk,
            Ok(_) => return Ok(Source::memory(*header, file, index)),
            // One that is missing is made at the next start.
            Err(fault) if fault.source.kind() == ErrorKind::NotFound => {
                return Ok(Source::memory(*header, file, index));
            }
            Err(fault) => return Err(fault.into()),
        };
        if let Some(opened) = IndexFile::open(name.clone(), on_disk, header.first)?
            && opened.index.bytes()? == index::image(&index, header.first, end)
        {
            return Ok(Source::file(*header, file, opened.index));
        }
        self.found.wrong_indexes.push(header.first);
        self.found.damages.push(Damage {
            file: name,
            offset: 0,
            position: header.first,
            what: "the index file does not say what its segment says".to_owned(),
            remedy: REMOVE_INDEX,
        });
        Ok(Source::memory(*header, file, index))
    }
}

/// Holds the events of a group to what the checksums do not tell; returns when the last one was recorded.
fn check_group(
    offset: u64,
    bytes: &[u8],
    group: &Group,
    mut last: Timestamp,
    index: &mut MemoryIndex,
    names: &mut Names,
) -> Result<Timestamp, &'static str> {
    for (at, event) in &group.events {
        let stream = bytes.get(*at..).and_then(|entry| entry.get(event.stream.clone()));
        let stream =
            stream.and_then(|name| names.stream(name)).ok_or("the event's stream has no proper name")?;
        if event.recorded_at < last || event.recorded_at > group.header.recorded_at {
            return Err("time goes back in the group");
        }
        last = event.recorded_at;
        if !index.push(&stream, event.revision, offset + *at as u64) {
            return Err("the event does not continue its stream");
        }
    }
    Ok(last)
}
