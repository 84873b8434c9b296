//! Offline reading of a log's folder, whether a server is writing to it or not. It takes no lock and writes nothing.
//!
//! Segments are only added, and bytes after the last group only become groups, so that a reader that reads in order sees a
//! consistent state of the log. An invalid group at the end may be a write in progress; a mark after it, which confirms it
//! as durable, shows that it is damage.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use event_schemas::envelope::Recorded;
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

use super::disk::{Disk, DiskFile, Fault};
use super::head_file::HeadRecords;
use super::record::{self, CrcSeed, EntryError, Group, NameCache};
use super::recovery::{
    OpenError, RESTORE, identify, missing_log_file, missing_segment, read_header_of, refuse_unfinished_repair,
};
use super::segment::{HEADER_BYTES, position_of_name, read_invalid_tail, segment_name};
use event_log::Identity;

/// The number of bytes of a segment that are read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// The reason why a folder's log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OfflineReadError {
    #[error("{} holds no event log; name the data folder of a server that has run", .0.display())]
    NoLog(PathBuf),
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl From<Fault> for OfflineReadError {
    fn from(fault: Fault) -> Self {
        Self::Open(fault.into())
    }
}

/// A reader of the groups of one segment, in order.
#[derive(Debug)]
pub(super) struct GroupReader {
    /// The name of the file, for messages.
    name: String,
    file: DiskFile,
    seed: CrcSeed,
    /// The bytes of the last read, and their offset in the file.
    window: Bytes,
    start: u64,
    /// The end of the last returned group.
    end: u64,
    /// The position of the next event.
    next: Position,
    recorded_at: Timestamp,
    /// The position up to which events are known to have been durable.
    durable: Position,
}

/// A valid group and its bytes.
#[derive(Debug)]
pub(super) struct RawGroup {
    pub(super) bytes: Bytes,
    pub(super) group: Group,
}

impl GroupReader {
    /// Opens a file with a segment of the log, under any name.
    pub(super) fn open(
        name: String,
        file: DiskFile,
        log: Identity,
        first: Position,
    ) -> Result<Self, OpenError> {
        let header = read_header_of(&file, Some(log.id), first)?;
        Ok(Self {
            name,
            file,
            seed: CrcSeed::new(log.id, first),
            window: Bytes::new(),
            start: HEADER_BYTES,
            end: HEADER_BYTES,
            next: first,
            recorded_at: header.recorded_before,
            durable: Position(first.0 - 1),
        })
    }

    /// The end of the last returned group.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The position of the next event.
    pub(super) fn next_position(&self) -> Position {
        self.next
    }

    /// The recorded time of the last event up to here.
    pub(super) fn recorded_at(&self) -> Timestamp {
        self.recorded_at
    }

    /// The next group, including marks; `None` if nothing is written here yet, or a write is in progress.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] if these bytes were durable and are not a valid group any more.
    pub(super) fn next(&mut self) -> Result<Option<RawGroup>, OpenError> {
        if let Ok(group) = self.parse()? {
            return Ok(Some(group));
        }
        // The window may be older than the last write.
        self.window = Bytes::new();
        let what = match self.parse()? {
            Ok(group) => return Ok(Some(group)),
            Err(what) => what,
        };
        let tail = read_invalid_tail(&self.file, self.seed, self.end, self.file.len()?, what)?;
        if tail.is_none_or(|tail| tail.durable.max(self.durable) < self.next) {
            return Ok(None);
        }
        // A later mark confirms that the group is durable, so its write has completed by now.
        self.window = Bytes::new();
        self.parse()?.map(Some).map_err(|what| self.damaged(what))
    }

    /// Syncs the file if no mark confirms yet that all returned groups are durable.
    pub(super) fn sync_unconfirmed(&self) -> Result<(), Fault> {
        if self.durable.0 + 1 < self.next.0 { self.file.sync_data() } else { Ok(()) }
    }

    pub(super) fn damaged(&self, what: &str) -> OpenError {
        OpenError::Damaged {
            file: self.name.clone(),
            offset: self.end,
            position: self.next,
            what: what.to_owned(),
            remedy: RESTORE,
        }
    }

    /// Parses the group after the last returned one. The inner error is the reason why it is not valid.
    fn parse(&mut self) -> Result<Result<RawGroup, &'static str>, Fault> {
        loop {
            let skip = usize::try_from(self.end - self.start).unwrap_or(usize::MAX);
            let bytes = if skip <= self.window.len() { self.window.slice(skip..) } else { Bytes::new() };
            let group = match record::parse_group(self.seed, &bytes) {
                Ok(group) => group,
                Err(EntryError::Damaged(what)) => return Ok(Err(what)),
                Err(EntryError::Short(needed)) => {
                    let left = self.file.len()?.saturating_sub(self.end);
                    let left = usize::try_from(left).unwrap_or(usize::MAX);
                    if needed > left {
                        return Ok(Err("the group is incomplete"));
                    }
                    let mut window = vec![0; needed.max(WINDOW_BYTES).min(left)];
                    self.file.read_exact_at(&mut window, self.end)?;
                    (self.window, self.start) = (window.into(), self.end);
                    continue;
                }
            };
            if let Err(what) = self.check(&group) {
                return Ok(Err(what));
            }
            let length = group.header.bytes as usize;
            self.durable = self.durable.max(group.header.durable);
            self.end += length as u64;
            self.next.0 += u64::from(group.header.count);
            self.recorded_at = group.header.recorded_at;
            return Ok(Ok(RawGroup { bytes: bytes.slice(..length), group }));
        }
    }

    /// The checks beyond the checksums.
    fn check(&self, group: &Group) -> Result<(), &'static str> {
        if group.header.first != self.next {
            return Err("the group is not at its position");
        }
        let mut last = self.recorded_at;
        for (_, event) in &group.events {
            if event.recorded_at < last || event.recorded_at > group.header.recorded_at {
                return Err("the recorded time decreases in the group");
            }
            last = event.recorded_at;
        }
        if group.header.recorded_at < last { Err("the recorded time decreases in the group") } else { Ok(()) }
    }
}

impl RawGroup {
    /// The events, whose bytes are slices of the group.
    pub(super) fn events(&self, names: &mut NameCache) -> Result<Vec<Recorded>, &'static str> {
        let recorded = |(at, view): &(usize, record::EventView)| {
            let entry = self.bytes.slice(*at..);
            view.recorded(&entry, names).ok_or("the event's names are malformed")
        };
        self.group.events.iter().map(recorded).collect()
    }
}

/// The segments of a folder at the time of the listing.
#[derive(Debug)]
pub(super) struct SegmentListing {
    pub(super) identity: Identity,
    /// The first positions and lengths of the files, oldest first. Never empty.
    pub(super) segments: Vec<(Position, u64)>,
    /// The head files before the listing.
    pub(super) heads: HeadRecords,
}

pub(super) fn list_segments(disk: &Disk) -> Result<SegmentListing, OfflineReadError> {
    let heads = HeadRecords::read(disk)?;
    if !disk.exists() {
        heads.check_no_log()?;
        return Err(OfflineReadError::NoLog(disk.path()));
    }
    let identity = identify(disk)?;
    let names = disk.list()?;
    refuse_unfinished_repair(disk, &names)?;
    let mut segments = Vec::new();
    for first in names.iter().filter_map(|name| position_of_name(name)) {
        segments.push((first, disk.open_to_read(&segment_name(first))?.len()?));
    }
    match (identity, segments.first()) {
        (Some(identity), Some((Position(1), _))) => Ok(SegmentListing { identity, segments, heads }),
        (Some(_), _) => Err(missing_segment(Position(1)).into()),
        (None, None) => {
            heads.check_no_log()?;
            Err(OfflineReadError::NoLog(disk.path()))
        }
        (None, Some(_)) => Err(missing_log_file().into()),
    }
}

/// A reader of all events of a folder that were durable when it was opened, in order.
#[derive(Debug)]
pub struct OfflineReader {
    disk: Disk,
    identity: Identity,
    heads: HeadRecords,
    /// The segments that are not read yet.
    segments: VecDeque<(Position, u64)>,
    groups: Option<GroupReader>,
    names: NameCache,
    /// Events up to this position are skipped.
    after: Position,
    position: Position,
    /// The length of the completely read segments.
    bytes_done: u64,
    bytes_total: u64,
}

impl OfflineReader {
    /// Opens the folder to read the events after `after`.
    ///
    /// # Errors
    /// [`OfflineReadError`] if the folder contains no log, or none that this version can read.
    pub fn open(folder: &Path, after: Position) -> Result<Self, OfflineReadError> {
        Self::open_on(Disk::Real(folder.to_owned()), after)
    }

    pub(super) fn open_on(disk: Disk, after: Position) -> Result<Self, OfflineReadError> {
        let SegmentListing { identity, segments, heads } = list_segments(&disk)?;
        let bytes_total = segments.iter().map(|(_, bytes)| bytes).sum();
        let start = segments.partition_point(|(first, _)| first.0 <= after.0 + 1).max(1) - 1;
        let bytes_done = segments[..start].iter().map(|(_, bytes)| bytes).sum();
        Ok(Self {
            disk,
            identity,
            heads,
            segments: segments.into_iter().skip(start).collect(),
            groups: None,
            names: NameCache::new(),
            after,
            position: after,
            bytes_done,
            bytes_total,
        })
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The position up to which events were returned.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The number of bytes read, and the total number of bytes in the segments.
    pub fn bytes(&self) -> (u64, u64) {
        let within = self.groups.as_ref().map_or(0, GroupReader::end);
        (self.bytes_done + within, self.bytes_total)
    }

    /// The events of the next group; `None` at the end.
    ///
    /// # Errors
    /// [`OfflineReadError`] if a file is damaged or cannot be read.
    pub fn next_events(&mut self) -> Result<Option<Vec<Recorded>>, OfflineReadError> {
        while let Some((first, bytes)) = self.segments.front().copied() {
            let groups = match &mut self.groups {
                Some(groups) => groups,
                none => none.insert(open_segment(&self.disk, self.identity, first)?),
            };
            let Some(group) = groups.next()? else {
                let next = self.segments.get(1).map(|(next, _)| *next);
                check_end(groups, next, self.identity, &self.heads)?;
                self.bytes_done += bytes;
                self.groups = None;
                self.segments.pop_front();
                continue;
            };
            let last = Position(groups.next_position().0 - 1);
            if last <= self.after || group.group.events.is_empty() {
                continue;
            }
            let mut events = group.events(&mut self.names).map_err(|what| groups.damaged(what))?;
            events.retain(|event| event.position > self.after);
            self.position = last;
            return Ok(Some(events));
        }
        Ok(None)
    }
}

/// A reader of the groups of a segment in the folder.
pub(super) fn open_segment(
    disk: &Disk,
    identity: Identity,
    first: Position,
) -> Result<GroupReader, OpenError> {
    let name = segment_name(first);
    let file = disk.open_to_read(&name)?;
    GroupReader::open(name, file, identity, first)
}

/// Checks that a segment ends where the next one starts; the last one is synced, and must contain all that was acknowledged.
pub(super) fn check_end(
    groups: &GroupReader,
    next: Option<Position>,
    log: Identity,
    heads: &HeadRecords,
) -> Result<(), OpenError> {
    match next {
        None => {
            heads.check_end(log, Position(groups.next_position().0 - 1), &groups.name, groups.end)?;
            Ok(groups.sync_unconfirmed()?)
        }
        Some(next) if next == groups.next_position() => Ok(()),
        Some(next) if next > groups.next_position() => Err(groups.damaged("events are missing from here on")),
        Some(_) => Err(groups.damaged("the segment continues beyond the start of the next one")),
    }
}
