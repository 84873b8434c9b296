//! Checking every stream's revisions over all segments, with a few of each segment's streams in memory at a time.
//!
//! Every index has its streams sorted by name, so that a merge of all indexes sees all parts of a stream together.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::vec::IntoIter;

use event_schemas::ids::{Position, Revision};

use super::{Damage, Extent, VerifyError};
use crate::disk::{DiskFile, Fault};
use crate::index::{IndexFile, MemoryIndex};
use crate::recovery::RESTORE;
use crate::segment::{SegmentFault, SegmentHeader, StreamRun, scan, segment_name};

/// The number of streams of an index file that are read at once.
const STREAMS_AT_ONCE: usize = 512;

/// An iterator over the streams of one segment, sorted by name.
pub(super) struct SegmentStreams {
    header: SegmentHeader,
    segment: DiskFile,
    /// The index file with further streams, and the number of streams read from it.
    rest: Option<(IndexFile, usize)>,
    ready: IntoIter<(Vec<u8>, StreamRun)>,
}

impl SegmentStreams {
    pub(super) fn memory(header: SegmentHeader, segment: DiskFile, index: MemoryIndex) -> Self {
        Self { header, segment, rest: None, ready: index.into_streams().into_iter() }
    }

    pub(super) fn file(header: SegmentHeader, segment: DiskFile, index: IndexFile) -> Self {
        Self { header, segment, rest: Some((index, 0)), ready: Vec::new().into_iter() }
    }

    fn next(&mut self) -> Result<Option<(Vec<u8>, StreamRun)>, SegmentFault> {
        if let Some(stream) = self.ready.next() {
            return Ok(Some(stream));
        }
        let Some((index, read)) = &mut self.rest else { return Ok(None) };
        let streams = index.streams(*read, STREAMS_AT_ONCE)?;
        *read += streams.len();
        self.ready = streams.into_iter();
        Ok(self.ready.next())
    }

    /// The offset and position of a stream's first event in the segment.
    fn first_of(&self, stream: &[u8]) -> Result<(u64, Position), Fault> {
        let mut found = None;
        scan(&self.segment, &self.header, |offset, bytes, group| {
            for (at, event) in &group.events {
                let name = bytes.get(*at..).and_then(|entry| entry.get(event.stream.clone()));
                if found.is_none() && name == Some(stream) {
                    found = Some((offset + *at as u64, event.position));
                }
            }
            Ok(())
        })?;
        Ok(found.unwrap_or((0, self.header.first)))
    }
}

/// Checks that each part of a stream continues the previous part. `O(n log s)` for the streams of `s` segments.
pub(super) fn check_continuity(
    mut segments: Vec<SegmentStreams>,
    extent: Extent,
) -> Result<Vec<Damage>, VerifyError> {
    let mut heap = BinaryHeap::new();
    for (number, streams) in segments.iter_mut().enumerate() {
        if let Some((name, run)) = streams.next().map_err(unreadable)? {
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
            let (offset, position) = segments[number].first_of(&name)?;
            damages.push(Damage {
                file: segment_name(segments[number].header.first),
                offset,
                position,
                what: format!(
                    "the stream {} continues at revision {first} instead of {expected}",
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
        if let Some((name, run)) = segments[number].next().map_err(unreadable)? {
            heap.push(Reverse((name, number, run.first, run.last())));
        }
    }
    Ok(damages)
}

/// The index files were verified just before, so the error can only come from the disk.
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
