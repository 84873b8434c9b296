//! What can still be read of segments that are taken out of the log: every event whose own checksum is right.

use std::collections::BTreeMap;

use bytes::Bytes;
use event_schemas::envelope::Recorded;
use event_schemas::ids::{LogId, Position, Revision};
use event_schemas::stream::StreamId;
use serde::{Deserialize, Serialize};

use crate::cloud_event;
use crate::embedded::disk::{Disk, DiskFile, Fault};
use crate::embedded::record::{self, ALIGN, Body, Seed};
use crate::embedded::segment::{HEADER_BYTES, SegmentHeader, segment_name};

/// Longer entries are never written: an append has at most a megabyte, and a stream's name 4 KiB.
const ENTRY_BYTES_MAX: usize = 4 << 20;
/// Lines are written in pieces of about this size.
const LINES_BYTES: usize = 1 << 20;

/// What was read of what is set aside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Salvaged {
    /// Events that can be read.
    pub readable: u64,
    /// Positions, from and to, of events that cannot, as far as anything left says that they were there.
    pub unreadable: Vec<(Position, Position)>,
    /// Of the readable events, those up to here were durable; of later ones it cannot be told.
    pub durable: Position,
    /// Where the readable events belong.
    pub streams: Vec<StreamSetAside>,
}

impl Salvaged {
    /// How many events cannot be read.
    pub fn lost(&self) -> u64 {
        self.unreadable.iter().map(|(from, to)| to.0 - from.0 + 1).sum()
    }
}

/// What of a stream is set aside and readable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSetAside {
    pub stream: StreamId,
    pub first: Revision,
    pub last: Revision,
    /// Fewer than the revisions from first to last if some cannot be read.
    pub events: u64,
}

/// A reading of segments in their order.
pub(super) struct Salvage {
    log: LogId,
    /// Of the first event that is set aside.
    from: Position,
    durable: Position,
    events: u64,
    /// Positions that were read, from and to, as they came.
    read: Vec<(u64, u64)>,
    streams: BTreeMap<StreamId, (Revision, Revision, u64)>,
    names: record::Names,
}

impl Salvage {
    pub(super) fn new(log: LogId, from: Position) -> Self {
        Self {
            log,
            from,
            durable: Position(from.0 - 1),
            events: 0,
            read: Vec::new(),
            streams: BTreeMap::new(),
            names: record::Names::new(),
        }
    }

    /// Reads a segment's file from an offset on, whatever is damaged in it, and writes what it finds as lines.
    pub(super) fn segment(
        &mut self,
        disk: &Disk,
        first: Position,
        from: u64,
        lines: &mut Option<Lines>,
    ) -> Result<(), Fault> {
        let file = disk.open_to_read(&segment_name(first))?;
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, 0)?;
        // Entries are bound to the log and the segment that they were written to. Its name says one thing, and its header
        // may say another; either may be wrong.
        let named = Seed::new(self.log, first);
        let header = SegmentHeader::decode(&bytes);
        if let Some(header) = header.filter(|header| header.identity.id == self.log) {
            // A segment is begun once all before it is durable. It may be all that is left to say so.
            self.durable = self.durable.max(Position(header.first.0.saturating_sub(1)));
        }
        let said = header.map(|header| Seed::new(header.identity.id, header.first));
        let bytes = Bytes::from(bytes);
        let mut at = usize::try_from(from.max(HEADER_BYTES)).unwrap_or(usize::MAX);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let rest = &rest[..rest.len().min(ENTRY_BYTES_MAX)];
            let parsed = record::parse(named, rest).ok();
            let other = said.filter(|said| *said != named);
            let Some(entry) = parsed.or_else(|| record::parse(other?, rest).ok()) else {
                at += ALIGN;
                continue;
            };
            match entry.body {
                Body::Group(header) => self.durable = self.durable.max(header.durable),
                Body::Trailer(trailer) => self.durable = self.durable.max(trailer.durable),
                Body::Event(view) => {
                    let entry = bytes.slice(at..at + entry.length);
                    if let Some(event) = view.recorded(&entry, &mut self.names) {
                        self.event(&event);
                        if let Some(lines) = lines {
                            lines.push(&event)?;
                        }
                    }
                }
            }
            at += entry.length;
        }
        Ok(())
    }

    fn event(&mut self, event: &Recorded) {
        self.events += 1;
        match self.read.last_mut() {
            Some((_, to)) if *to + 1 == event.position.0 => *to += 1,
            _ => self.read.push((event.position.0, event.position.0)),
        }
        let at = event.revision;
        let (first, last, events) = self.streams.entry(event.stream.clone()).or_insert((at, at, 0));
        (*first, *last, *events) = ((*first).min(at), (*last).max(at), *events + 1);
    }

    pub(super) fn end(mut self) -> Salvaged {
        self.read.sort_unstable();
        let mut unreadable = Vec::new();
        let mut next = self.from.0;
        // What was durable was there, even if nothing else is left of it.
        let behind = self.durable.0 + 1;
        for (from, to) in self.read.into_iter().chain([(behind, behind)]) {
            if from > next {
                unreadable.push((Position(next), Position(from - 1)));
            }
            next = next.max(to + 1);
        }
        let streams = self.streams.into_iter();
        Salvaged {
            readable: self.events,
            unreadable,
            durable: self.durable,
            streams: streams
                .map(|(stream, (first, last, events))| StreamSetAside { stream, first, last, events })
                .collect(),
        }
    }
}

/// A file of lines, written piece by piece.
pub(super) struct Lines {
    file: DiskFile,
    offset: u64,
    pending: Vec<u8>,
}

impl Lines {
    pub(super) fn create(disk: &Disk, name: &str) -> Result<Self, Fault> {
        Ok(Self { file: disk.create(name)?, offset: 0, pending: Vec::new() })
    }

    fn push(&mut self, event: &Recorded) -> Result<(), Fault> {
        cloud_event::write_line(event, &mut self.pending);
        if self.pending.len() >= LINES_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), Fault> {
        self.file.write_all_at(&self.pending, self.offset)?;
        self.offset += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// All of them are durable.
    pub(super) fn end(mut self) -> Result<(), Fault> {
        self.write()?;
        self.file.sync_all()
    }
}
