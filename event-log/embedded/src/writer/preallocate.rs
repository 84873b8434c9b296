//! Space for the next group: in the active segment, or in the next, preallocated one.

use std::sync::{Arc, PoisonError};

use event_schemas::ids::Position;

use super::{FatalError, Writer};
use crate::disk::{DiskFile, Fault};
use crate::index::MemoryIndex;
use crate::maintenance::{NEXT_SEGMENT_FILE, extend};
use crate::segment::{HEADER_BYTES, Segment, SegmentHeader, SegmentIndex};
use crate::telemetry;

/// Whether there is space for a group.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    Ready,
    Full { free_bytes: u64 },
}

impl Writer {
    /// Ensures that the active segment has space for a group of this size; starts a new segment if it does not.
    pub(super) fn ensure_space(&mut self, bytes: usize) -> Result<Space, FatalError> {
        let free_bytes = self.disk.free_bytes()?;
        if free_bytes < self.limits.reserve_bytes {
            return Ok(Space::Full { free_bytes });
        }
        let bytes = bytes as u64;
        if self.end + bytes <= self.size {
            return Ok(Space::Ready);
        }
        let size_min = HEADER_BYTES + bytes;
        let outcome = if self.end == HEADER_BYTES {
            extend(&self.active.file, self.size, size_min).map(|()| self.size = size_min)
        } else {
            self.start_segment(size_min)
        };
        match outcome {
            Ok(()) => Ok(Space::Ready),
            Err(fault) if fault.is_full() => Ok(Space::Full { free_bytes: self.disk.free_bytes()? }),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Turns the preallocated file into the next segment, of at least `size_min` bytes, and preallocates the one after it;
    /// or the same one again after a failure, so that it is ready when the disk has free space.
    fn start_segment(&mut self, size_min: u64) -> Result<(), Fault> {
        let outcome = self.maintenance.take_preallocated().and_then(|file| self.activate(file, size_min));
        self.maintenance.preallocate(self.limits.segment_bytes_after(self.size));
        outcome
    }

    fn activate(&mut self, file: DiskFile, size_min: u64) -> Result<(), Fault> {
        let size = file.len()?;
        if size < size_min {
            extend(&file, size, size_min)?;
        }
        let header = SegmentHeader {
            first: Position(self.view.durable().0 + 1),
            recorded_before: self.view.recorded_at(),
            ..self.active.header
        };
        let index = match &*self.active.index.read().unwrap_or_else(PoisonError::into_inner) {
            SegmentIndex::Memory(previous) => MemoryIndex::with_capacity_of(previous),
            SegmentIndex::File(_) => MemoryIndex::default(),
        };
        let index = SegmentIndex::Memory(index);
        let segment = Arc::new(Segment::new(header, file, HEADER_BYTES, index));
        segment.file.write_all_at(&header.encode(), 0)?;
        segment.file.sync_all()?;
        // If a call fails from here on, the file may have its name already. It would not fit the log after further events in
        // the previous segment, so the failure is final.
        self.disk.rename(NEXT_SEGMENT_FILE, &segment.name).map_err(Fault::into_final)?;
        self.disk.sync().map_err(Fault::into_final)?;
        self.view.add_segment(Arc::clone(&segment));
        self.maintenance.seal(std::mem::replace(&mut self.active, segment));
        (self.size, self.end, self.marked) = (size.max(size_min), HEADER_BYTES, true);
        telemetry::segments(self.view.segments().len());
        Ok(())
    }
}
