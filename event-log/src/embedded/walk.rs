//! Reading a log's folder from outside, whether a process writes to it meanwhile or not. Nothing is locked, and nothing
//! is written.
//!
//! Segments are only ever added, and bytes behind the last group only ever become groups, so that whoever reads them in
//! order sees the log as it was at some moment. What is met at the end may be in the middle of being written: it is told
//! from damage by the marks behind it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use event_schemas::envelope::Recorded;
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

use super::disk::{Disk, DiskFile, Fault};
use super::record::{self, Group, Names, NoEntry, Seed};
use super::recovery::{
    OpenError, RESTORE, identify, lost, lost_log_file, read_header_of, refuse_half_repaired,
};
use super::segment::{HEADER_BYTES, position_of_name, read_tail, segment_name};
use crate::Identity;

/// How much of a segment is read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// Why a folder's log cannot be read from outside.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    #[error("{} holds no event log; name the data folder of a server that has run", .0.display())]
    NoLog(PathBuf),
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl From<Fault> for WalkError {
    fn from(fault: Fault) -> Self {
        Self::Open(fault.into())
    }
}

/// The groups of one segment, in order.
#[derive(Debug)]
pub(super) struct Groups {
    /// For messages.
    name: String,
    file: DiskFile,
    seed: Seed,
    /// What was read last, and where it starts in the file.
    window: Bytes,
    start: u64,
    /// Behind the last group that was handed out.
    end: u64,
    /// Of the next event.
    next: Position,
    recorded_at: Timestamp,
    /// Everything up to here is known to have been durable.
    durable: Position,
}

/// A whole group: its bytes, and what is in them.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    pub(super) group: Group,
}

impl Groups {
    /// Of a file that holds a segment of the log, under whatever name.
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
            seed: Seed::new(log.id, first),
            window: Bytes::new(),
            start: HEADER_BYTES,
            end: HEADER_BYTES,
            next: first,
            recorded_at: header.recorded_before,
            durable: Position(first.0 - 1),
        })
    }

    /// Behind the last group that was handed out.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Of the event that comes next.
    pub(super) fn next_position(&self) -> Position {
        self.next
    }

    /// When the last event up to here was recorded.
    pub(super) fn recorded_at(&self) -> Timestamp {
        self.recorded_at
    }

    /// The next group, marks included; none where nothing was written yet, or a write is under way.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] if something stands here that was durable once and is no group any more.
    pub(super) fn next(&mut self) -> Result<Option<Piece>, OpenError> {
        if let Ok(piece) = self.parse()? {
            return Ok(Some(piece));
        }
        // What is in the window may be older than what a writer has put there since.
        self.window = Bytes::new();
        let what = match self.parse()? {
            Ok(piece) => return Ok(Some(piece)),
            Err(what) => what,
        };
        let tail = read_tail(&self.file, self.seed, self.end, self.file.len()?, what)?;
        if tail.is_none_or(|tail| tail.durable.max(self.durable) < self.next) {
            return Ok(None);
        }
        // A mark behind it says that it is durable, so it has been written by now, if it was not before.
        self.window = Bytes::new();
        self.parse()?.map(Some).map_err(|what| self.damaged(what))
    }

    /// Waits until all that was handed out is durable, if nothing says so yet.
    pub(super) fn make_sure(&self) -> Result<(), Fault> {
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

    /// The group at the end of what was handed out; within, why there is none.
    fn parse(&mut self) -> Result<Result<Piece, &'static str>, Fault> {
        loop {
            let skip = usize::try_from(self.end - self.start).unwrap_or(usize::MAX);
            let bytes = if skip <= self.window.len() { self.window.slice(skip..) } else { Bytes::new() };
            let group = match record::parse_group(self.seed, &bytes) {
                Ok(group) => group,
                Err(NoEntry::Damaged(what)) => return Ok(Err(what)),
                Err(NoEntry::Short(needed)) => {
                    let left = self.file.len()?.saturating_sub(self.end);
                    let left = usize::try_from(left).unwrap_or(usize::MAX);
                    if needed > left {
                        return Ok(Err("the group is cut short"));
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
            return Ok(Ok(Piece { bytes: bytes.slice(..length), group }));
        }
    }

    /// What the checksums do not tell.
    fn check(&self, group: &Group) -> Result<(), &'static str> {
        if group.header.first != self.next {
            return Err("the group is not at its position");
        }
        let mut last = self.recorded_at;
        for (_, event) in &group.events {
            if event.recorded_at < last || event.recorded_at > group.header.recorded_at {
                return Err("time goes back in the group");
            }
            last = event.recorded_at;
        }
        if group.header.recorded_at < last { Err("time goes back in the group") } else { Ok(()) }
    }
}

impl Piece {
    /// The events, as slices of the group.
    pub(super) fn events(&self, names: &mut Names) -> Result<Vec<Recorded>, &'static str> {
        let recorded = |(at, view): &(usize, record::EventView)| {
            let entry = self.bytes.slice(*at..);
            view.recorded(&entry, names).ok_or("the event's names are malformed")
        };
        self.group.events.iter().map(recorded).collect()
    }
}

/// The segments of a folder, as they were when it was looked at.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) identity: Identity,
    /// First positions and lengths of the files, oldest first. Never empty.
    pub(super) segments: Vec<(Position, u64)>,
}

pub(super) fn list(disk: &Disk) -> Result<Listing, WalkError> {
    if !disk.is_there() {
        return Err(WalkError::NoLog(disk.path()));
    }
    let identity = identify(disk)?;
    let names = disk.list()?;
    refuse_half_repaired(disk, &names)?;
    let mut segments = Vec::new();
    for first in names.iter().filter_map(|name| position_of_name(name)) {
        segments.push((first, disk.open_to_read(&segment_name(first))?.len()?));
    }
    match (identity, segments.first()) {
        (Some(identity), Some((Position(1), _))) => Ok(Listing { identity, segments }),
        (Some(_), _) => Err(lost(Position(1)).into()),
        (None, None) => Err(WalkError::NoLog(disk.path())),
        (None, Some(_)) => Err(lost_log_file().into()),
    }
}

/// All events of a folder that were durable when the walk began, in order.
#[derive(Debug)]
pub struct Walk {
    disk: Disk,
    identity: Identity,
    /// Those that are still to be read.
    segments: VecDeque<(Position, u64)>,
    groups: Option<Groups>,
    names: Names,
    /// Events up to here are passed over.
    after: Position,
    position: Position,
    /// Of the segments that were read to their ends.
    bytes_done: u64,
    bytes_total: u64,
}

impl Walk {
    /// Begins behind `after`.
    ///
    /// # Errors
    /// [`WalkError`] if there is no log in the folder, or none that this build can read.
    pub fn open(folder: &Path, after: Position) -> Result<Self, WalkError> {
        Self::open_on(Disk::Real(folder.to_owned()), after)
    }

    pub(super) fn open_on(disk: Disk, after: Position) -> Result<Self, WalkError> {
        let Listing { identity, segments } = list(&disk)?;
        let bytes_total = segments.iter().map(|(_, bytes)| bytes).sum();
        let start = segments.partition_point(|(first, _)| first.0 <= after.0 + 1).max(1) - 1;
        let bytes_done = segments[..start].iter().map(|(_, bytes)| bytes).sum();
        Ok(Self {
            disk,
            identity,
            segments: segments.into_iter().skip(start).collect(),
            groups: None,
            names: Names::new(),
            after,
            position: after,
            bytes_done,
            bytes_total,
        })
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Everything up to here was handed out.
    pub fn position(&self) -> Position {
        self.position
    }

    /// How many bytes of the segments were read, and how many there are.
    pub fn bytes(&self) -> (u64, u64) {
        let within = self.groups.as_ref().map_or(0, Groups::end);
        (self.bytes_done + within, self.bytes_total)
    }

    /// The events of the next group; none at the end.
    ///
    /// # Errors
    /// [`WalkError`] if a file is damaged or cannot be read.
    pub fn next_events(&mut self) -> Result<Option<Vec<Recorded>>, WalkError> {
        while let Some((first, bytes)) = self.segments.front().copied() {
            let groups = match &mut self.groups {
                Some(groups) => groups,
                none => none.insert(open_in(&self.disk, self.identity, first)?),
            };
            let Some(piece) = groups.next()? else {
                ended(groups, self.segments.get(1).map(|(next, _)| *next))?;
                self.bytes_done += bytes;
                self.groups = None;
                self.segments.pop_front();
                continue;
            };
            let last = Position(groups.next_position().0 - 1);
            if last <= self.after || piece.group.events.is_empty() {
                continue;
            }
            let mut events = piece.events(&mut self.names).map_err(|what| groups.damaged(what))?;
            events.retain(|event| event.position > self.after);
            self.position = last;
            return Ok(Some(events));
        }
        Ok(None)
    }
}

/// The groups of a segment of the folder.
pub(super) fn open_in(disk: &Disk, identity: Identity, first: Position) -> Result<Groups, OpenError> {
    let name = segment_name(first);
    let file = disk.open_to_read(&name)?;
    Groups::open(name, file, identity, first)
}

/// Makes sure that a segment ends where the next one begins; or, if it is the last, that what was read of it stays.
pub(super) fn ended(groups: &Groups, next: Option<Position>) -> Result<(), OpenError> {
    match next {
        None => Ok(groups.make_sure()?),
        Some(next) if next == groups.next_position() => Ok(()),
        Some(next) if next > groups.next_position() => Err(groups.damaged("events are missing from here on")),
        Some(_) => Err(groups.damaged("the segment goes on where the next one begins")),
    }
}
