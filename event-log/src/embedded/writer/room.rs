//! Room for the next group: in the segment that is written to, or in a new one.

use std::sync::{Arc, PoisonError};

use event_schemas::ids::Position;

use super::{Final, Writer};
use crate::embedded::disk::{DiskFile, Fault};
use crate::embedded::index::MemoryIndex;
use crate::embedded::keeper::{ROOM_NAME, extend};
use crate::embedded::segment::{HEADER_BYTES, Segment, SegmentHeader, SegmentIndex};
use crate::embedded::telemetry;

/// Whether the disk may be written to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Ready,
    Full { free_bytes: u64 },
}

impl Writer {
    /// Sees to it that a group of so many bytes can be written to the active segment, in a new one if need be.
    pub(super) fn make_room(&mut self, bytes: usize) -> Result<Room, Final> {
        let free_bytes = self.disk.free_bytes()?;
        if free_bytes < self.limits.reserve_bytes {
            return Ok(Room::Full { free_bytes });
        }
        let bytes = bytes as u64;
        if self.end + bytes <= self.size {
            return Ok(Room::Ready);
        }
        let grown = HEADER_BYTES + bytes;
        let outcome = if self.end == HEADER_BYTES {
            extend(&self.active.file, self.size, grown).map(|()| self.size = grown)
        } else {
            self.begin_segment(grown)
        };
        match outcome {
            Ok(()) => Ok(Room::Ready),
            Err(fault) if fault.is_full() => Ok(Room::Full { free_bytes: self.disk.free_bytes()? }),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Turns the room that was made ahead into the next segment, of at least `size_min` bytes, and has room made for the
    /// one after it; for the same one if that failed, so that it is there once the disk has room.
    fn begin_segment(&mut self, size_min: u64) -> Result<(), Fault> {
        let begun = self.keeper.room().and_then(|room| self.put_into_use(room, size_min));
        self.keeper.make_room(self.limits.segment_bytes_after(self.size));
        begun
    }

    fn put_into_use(&mut self, room: DiskFile, size_min: u64) -> Result<(), Fault> {
        let made = room.len()?;
        if made < size_min {
            extend(&room, made, size_min)?;
        }
        let header = SegmentHeader {
            first: Position(self.shelf.durable().0 + 1),
            recorded_before: self.shelf.recorded_at(),
            ..self.active.header
        };
        let index = match &*self.active.index.read().unwrap_or_else(PoisonError::into_inner) {
            SegmentIndex::Memory(before) => MemoryIndex::like(before),
            SegmentIndex::File(_) => MemoryIndex::default(),
        };
        let index = SegmentIndex::Memory(index);
        let segment = Arc::new(Segment::new(header, room, HEADER_BYTES, index));
        segment.file.write_all_at(&header.encode(), 0)?;
        segment.file.sync_all()?;
        // Whatever fails from here on, the name may be there. Events that went into the segment before it would give the
        // next one another name, and this one would belong nowhere.
        self.disk.rename(ROOM_NAME, &segment.name).map_err(Fault::made_final)?;
        self.disk.sync().map_err(Fault::made_final)?;
        self.shelf.add(Arc::clone(&segment));
        self.keeper.seal(std::mem::replace(&mut self.active, segment));
        (self.size, self.end, self.marked) = (made.max(size_min), HEADER_BYTES, true);
        telemetry::segments(self.shelf.segments().len());
        Ok(())
    }
}
