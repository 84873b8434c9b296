//! Salvaging events from quarantined segments: every event with a valid checksum.

use std::collections::BTreeMap;

use bytes::Bytes;
use event_schemas::envelope::Recorded;
use event_schemas::ids::{LogId, Position, Revision};
use event_schemas::stream::StreamId;
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, DiskFile, Fault};
use crate::record::{self, ALIGN, CrcSeed, EntryBody};
use crate::segment::{HEADER_BYTES, SegmentHeader, segment_name};
use event_log::cloud_event;

/// The most bytes of an entry: an append has at most a megabyte, and a stream's name 4 KiB.
const ENTRY_BYTES_MAX: usize = 4 << 20;
/// The approximate size of the chunks in which lines are written.
const LINES_BYTES: usize = 1 << 20;

/// The readable and unreadable events of the quarantine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Salvaged {
    /// The number of readable events.
    pub readable: u64,
    /// The position ranges of unreadable events that are known to have existed.
    pub unreadable: Vec<(Position, Position)>,
    /// The position up to which readable events were durable; later ones may not have been.
    pub durable: Position,
    /// The streams of the readable events.
    pub streams: Vec<QuarantinedStream>,
}

impl Salvaged {
    /// The number of unreadable events.
    pub fn lost(&self) -> u64 {
        self.unreadable.iter().map(|(from, to)| to.0 - from.0 + 1).sum()
    }
}

/// The readable part of a stream in the quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedStream {
    pub stream: StreamId,
    pub first: Revision,
    pub last: Revision,
    /// The number of events, which is less than the number of revisions from `first` to `last` if some are unreadable.
    pub events: u64,
}

/// A reader that salvages events from damaged segments, in order.
pub(super) struct SalvageReader {
    log: LogId,
    /// The position of the first quarantined event.
    from: Position,
    durable: Position,
    events: u64,
    /// The position ranges that were read, in file order.
    read: Vec<(u64, u64)>,
    streams: BTreeMap<StreamId, (Revision, Revision, u64)>,
    names: record::NameCache,
}

impl SalvageReader {
    pub(super) fn new(log: LogId, from: Position, acknowledged: Position) -> Self {
        Self {
            log,
            from,
            durable: acknowledged.max(Position(from.0 - 1)),
            events: 0,
            read: Vec::new(),
            streams: BTreeMap::new(),
            names: record::NameCache::new(),
        }
    }

    /// Reads the valid events of a segment's file from an offset on, and writes them as lines.
    pub(super) fn read_segment(
        &mut self,
        disk: &Disk,
        first: Position,
        from: u64,
        lines: &mut Option<LineWriter>,
    ) -> Result<(), Fault> {
        let file = disk.open_to_read(&segment_name(first))?;
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, 0)?;
        // The CRC of an entry includes its log and segment. The file's name and its header may name different segments,
        // and either may be wrong, so both are tried.
        let named = CrcSeed::new(self.log, first);
        let header = SegmentHeader::decode(&bytes);
        if let Some(header) = header.filter(|header| header.identity.id == self.log) {
            // A segment is created when all earlier events are durable. Its header may be the only remaining evidence.
            self.durable = self.durable.max(Position(header.first.0.saturating_sub(1)));
        }
        let from_header = header.map(|header| CrcSeed::new(header.identity.id, header.first));
        let bytes = Bytes::from(bytes);
        let mut at = usize::try_from(from.max(HEADER_BYTES)).unwrap_or(usize::MAX);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let rest = &rest[..rest.len().min(ENTRY_BYTES_MAX)];
            let parsed = record::parse(named, rest).ok();
            let other = from_header.filter(|seed| *seed != named);
            let Some(entry) = parsed.or_else(|| record::parse(other?, rest).ok()) else {
                at += ALIGN;
                continue;
            };
            match entry.body {
                EntryBody::Group(header) => self.durable = self.durable.max(header.durable),
                EntryBody::Trailer(trailer) => self.durable = self.durable.max(trailer.durable),
                EntryBody::Event(view) => {
                    let entry = bytes.slice(at..at + entry.length);
                    if let Some(event) = view.recorded(&entry, &mut self.names) {
                        self.add(&event);
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

    fn add(&mut self, event: &Recorded) {
        self.events += 1;
        match self.read.last_mut() {
            Some((_, to)) if *to + 1 == event.position.0 => *to += 1,
            _ => self.read.push((event.position.0, event.position.0)),
        }
        let at = event.revision;
        let (first, last, events) = self.streams.entry(event.stream.clone()).or_insert((at, at, 0));
        (*first, *last, *events) = ((*first).min(at), (*last).max(at), *events + 1);
    }

    pub(super) fn finish(mut self) -> Salvaged {
        self.read.sort_unstable();
        let mut unreadable = Vec::new();
        let mut next = self.from.0;
        // Durable events existed, even if nothing else is left of them.
        let end = self.durable.0 + 1;
        for (from, to) in self.read.into_iter().chain([(end, end)]) {
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
                .map(|(stream, (first, last, events))| QuarantinedStream { stream, first, last, events })
                .collect(),
        }
    }
}

/// A writer of a file of lines, in chunks.
pub(super) struct LineWriter {
    file: DiskFile,
    offset: u64,
    pending: Vec<u8>,
}

impl LineWriter {
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

    /// Writes the rest and makes all lines durable.
    pub(super) fn finish(mut self) -> Result<(), Fault> {
        self.write()?;
        self.file.sync_all()
    }
}
