//! Following every stream's revisions over all segments, with a few of each segment's streams in memory at a time.
//!
//! Every index names its streams in the same order, so that reading them side by side meets each stream once, with all
//! its parts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::vec::IntoIter;

use event_schemas::ids::{Position, Revision};

use super::{Damage, Extent, VerifyError};
use crate::embedded::disk::{DiskFile, Fault};
use crate::embedded::index::{IndexFile, MemoryIndex};
use crate::embedded::recovery::RESTORE;
use crate::embedded::segment::{Run, SegmentFault, SegmentHeader, scan, segment_name};

/// How many streams of an index file are read at once.
const STREAMS_AT_ONCE: usize = 512;

/// The streams of one segment, in the order of their names.
pub(super) struct Source {
    header: SegmentHeader,
    segment: DiskFile,
    /// The file to read on in, and how many of its streams were read.
    rest: Option<(IndexFile, usize)>,
    ready: IntoIter<(Vec<u8>, Run)>,
}

impl Source {
    pub(super) fn memory(header: SegmentHeader, segment: DiskFile, index: MemoryIndex) -> Self {
        Self { header, segment, rest: None, ready: index.into_streams().into_iter() }
    }

    pub(super) fn file(header: SegmentHeader, segment: DiskFile, index: IndexFile) -> Self {
        Self { header, segment, rest: Some((index, 0)), ready: Vec::new().into_iter() }
    }

    fn next(&mut self) -> Result<Option<(Vec<u8>, Run)>, SegmentFault> {
        if let Some(stream) = self.ready.next() {
            return Ok(Some(stream));
        }
        let Some((index, read)) = &mut self.rest else { return Ok(None) };
        let streams = index.streams(*read, STREAMS_AT_ONCE)?;
        *read += streams.len();
        self.ready = streams.into_iter();
        Ok(self.ready.next())
    }

    /// Where a stream's first event of the segment is.
    fn first_of(&self, stream: &[u8]) -> Result<(u64, Position), Fault> {
        let mut place = None;
        scan(&self.segment, &self.header, |offset, bytes, group| {
            for (at, event) in &group.events {
                let name = bytes.get(*at..).and_then(|entry| entry.get(event.stream.clone()));
                if place.is_none() && name == Some(stream) {
                    place = Some((offset + *at as u64, event.position));
                }
            }
            Ok(())
        })?;
        Ok(place.unwrap_or((0, self.header.first)))
    }
}

/// Holds each part of a stream to the end of the part before it. `O(n log s)` for the streams of `s` segments.
pub(super) fn follow(mut sources: Vec<Source>, extent: Extent) -> Result<Vec<Damage>, VerifyError> {
    let mut heap = BinaryHeap::new();
    for (number, source) in sources.iter_mut().enumerate() {
        if let Some((name, run)) = source.next().map_err(unreadable)? {
            heap.push(Reverse((name, number, run.first, run.last())));
        }
    }
    let mut damages = Vec::new();
    let mut stream = Vec::new();
    let mut expected = Revision(0);
    while let Some(Reverse((name, number, first, last))) = heap.pop() {
        if name != stream {
            expected = Revision(0);
        }
        if first != expected {
            let (offset, position) = sources[number].first_of(&name)?;
            damages.push(Damage {
                file: segment_name(sources[number].header.first),
                offset,
                position,
                what: format!(
                    "the stream {} goes on at revision {first}, where {expected} should come",
                    String::from_utf8_lossy(&name)
                ),
                remedy: RESTORE,
            });
            if extent == Extent::First {
                return Ok(damages);
            }
        }
        expected = Revision(last.0 + 1);
        stream = name;
        if let Some((name, run)) = sources[number].next().map_err(unreadable)? {
            heap.push(Reverse((name, number, run.first, run.last())));
        }
    }
    Ok(damages)
}

/// The index files were just found to be right, so only the disk can be at fault.
fn unreadable(fault: SegmentFault) -> Fault {
    match fault {
        SegmentFault::Disk(fault) => fault,
        SegmentFault::Damaged(_) | SegmentFault::NeedsDisk => Fault {
            action: "read",
            file: "an index file".to_owned(),
            source: std::io::Error::other(fault.to_string()),
        },
    }
}
