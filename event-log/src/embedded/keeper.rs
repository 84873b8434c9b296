//! What happens beside the writer: room for the next segment is made ahead of it, and sealed segments get their index
//! files.

use std::sync::{Arc, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use super::disk::{Disk, DiskFile, Fault};
use super::index::{self, IndexFile, MemoryIndex};
use super::segment::{Segment, SegmentHeader, SegmentIndex, index_name};
use super::stop::{Indispensable, Latch};
use super::writer::{Message, QUIET};

/// The name of the room for the next segment, until it is one.
pub(super) const ROOM_NAME: &str = "room.tmp";

/// Zeros are written and synced in pieces of this size, so that an append that syncs meanwhile waits for one at most.
const ROOM_STEP_BYTES: usize = 1 << 20;

/// Does its work on a thread of its own, or at once where a test wants every run to be the same.
#[derive(Debug)]
pub(super) enum Keeper {
    Thread {
        jobs: mpsc::Sender<Job>,
        rooms: mpsc::Receiver<Result<DiskFile, Fault>>,
        thread: thread::JoinHandle<()>,
    },
    #[cfg(any(test, feature = "simulation"))]
    Inline {
        disk: Disk,
        reserve_bytes: u64,
        latch: Latch,
        room: Option<Result<DiskFile, Fault>>,
        /// Sealed late, as the thread may be.
        full: Option<Arc<Segment>>,
    },
}

#[derive(Debug)]
pub(super) enum Job {
    MakeRoom {
        bytes: u64,
    },
    Seal(Arc<Segment>),
    /// Tell the writer in a while that it may have marks to write.
    Remind,
}

/// The next job; none if it is time to remind the writer before there is one.
fn next(
    queue: &mpsc::Receiver<Job>,
    remind_at: Option<Instant>,
) -> Result<Option<Job>, mpsc::RecvTimeoutError> {
    let Some(at) = remind_at else {
        return queue.recv().map(Some).map_err(|_| mpsc::RecvTimeoutError::Disconnected);
    };
    match queue.recv_timeout(at.saturating_duration_since(Instant::now())) {
        Ok(job) => Ok(Some(job)),
        Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
        Err(ended @ mpsc::RecvTimeoutError::Disconnected) => Err(ended),
    }
}

impl Keeper {
    /// `queue_of_writer` is how the writer hears of a fault that happens here.
    pub(super) fn start(
        disk: Disk,
        reserve_bytes: u64,
        latch: Latch,
        queue_of_writer: tokio::sync::mpsc::WeakSender<Message>,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let (made, rooms) = mpsc::channel();
        let indispensable = Indispensable(latch.clone());
        let thread = thread::Builder::new().name("log-keeper".to_owned()).spawn(move || {
            let _indispensable = indispensable;
            // A full queue wakes the writer as well, and one that nobody can append to ends it.
            let tell =
                |message| queue_of_writer.upgrade().is_none_or(|queue| queue.try_send(message).is_ok());
            let mut remind_at = None;
            while let Ok(job) = next(&queue, remind_at) {
                match job {
                    Some(Job::MakeRoom { bytes }) => {
                        // The writer may have ended meanwhile; then nobody needs the room.
                        let _ = made.send(make_room_or_stop(&disk, &latch, bytes, reserve_bytes));
                    }
                    Some(Job::Seal(segment)) => seal_or_stop(&disk, &latch, &segment),
                    Some(Job::Remind) => remind_at = Some(Instant::now() + QUIET),
                    None => remind_at = (!tell(Message::Mark)).then(|| Instant::now() + QUIET),
                }
                if latch.stopped().is_some() {
                    tell(Message::Close);
                }
            }
        })?;
        Ok(Self::Thread { jobs, rooms, thread })
    }

    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn inline(disk: Disk, reserve_bytes: u64, latch: Latch) -> Self {
        Self::Inline { disk, reserve_bytes, latch, room: None, full: None }
    }

    /// Starts to make room; [`Self::room`] hands it over.
    pub(super) fn make_room(&mut self, bytes: u64) {
        match self {
            Self::Thread { jobs, .. } => {
                // If the thread is gone, `room` says so.
                let _ = jobs.send(Job::MakeRoom { bytes });
            }
            #[cfg(any(test, feature = "simulation"))]
            Self::Inline { disk, reserve_bytes, latch, room, .. } => {
                *room = Some(make_room_or_stop(disk, latch, bytes, *reserve_bytes));
            }
        }
    }

    /// The room that was asked for before. Waits until it is made.
    pub(super) fn room(&mut self) -> Result<DiskFile, Fault> {
        let gone = || Fault {
            action: "make",
            file: ROOM_NAME.to_owned(),
            source: std::io::Error::other("the thread that makes room has ended"),
        };
        match self {
            Self::Thread { rooms, .. } => rooms.recv().unwrap_or_else(|_| Err(gone())),
            #[cfg(any(test, feature = "simulation"))]
            Self::Inline { disk, latch, room, full, .. } => {
                if let Some(segment) = full.take() {
                    seal_or_stop(disk, latch, &segment);
                }
                room.take().unwrap_or_else(|| Err(gone()))
            }
        }
    }

    /// Writes the index file of a segment that is full, and lets its index in memory go.
    pub(super) fn seal(&mut self, segment: Arc<Segment>) {
        match self {
            Self::Thread { jobs, .. } => {
                let _ = jobs.send(Job::Seal(segment));
            }
            #[cfg(any(test, feature = "simulation"))]
            Self::Inline { full, .. } => *full = Some(segment),
        }
    }

    /// Has the writer told, once it may have been quiet for long enough, to look whether it is.
    pub(super) fn remind(&self) {
        match self {
            Self::Thread { jobs, .. } => {
                let _ = jobs.send(Job::Remind);
            }
            #[cfg(any(test, feature = "simulation"))]
            Self::Inline { .. } => {}
        }
    }

    /// Ends the thread, after what it has still to do.
    pub(super) fn end(self) {
        match self {
            Self::Thread { jobs, thread, .. } => {
                drop(jobs);
                if thread.join().is_err() {
                    tracing::error!("the log's keeper panicked");
                }
            }
            #[cfg(any(test, feature = "simulation"))]
            Self::Inline { .. } => {}
        }
    }
}

/// A file of zeros that are written and synced, so that writing over them later changes no metadata of the file.
/// Leaves the reserve alone.
pub(super) fn make_room(disk: &Disk, bytes: u64, reserve_bytes: u64) -> Result<DiskFile, Fault> {
    if disk.free_bytes()? < reserve_bytes.saturating_add(bytes) {
        let source = std::io::Error::new(std::io::ErrorKind::StorageFull, "the reserve is not touched");
        return Err(Fault { action: "make", file: ROOM_NAME.to_owned(), source });
    }
    let made = disk.create(ROOM_NAME).and_then(|file| extend(&file, 0, bytes).map(|()| file));
    if made.is_err() {
        // What was taken is given back: the disk may be full. The first fault is the one that counts.
        let _ = disk.remove(ROOM_NAME);
    }
    made
}

fn make_room_or_stop(disk: &Disk, latch: &Latch, bytes: u64, reserve_bytes: u64) -> Result<DiskFile, Fault> {
    let made = make_room(disk, bytes, reserve_bytes);
    if let Err(fault) = &made
        && !fault.is_full()
    {
        latch.fail(&fault.to_string());
    }
    made
}

/// Fills a file with zeros between two lengths.
pub(super) fn extend(file: &DiskFile, from: u64, to: u64) -> Result<(), Fault> {
    file.allocate(to)?;
    let zeros = vec![0; ROOM_STEP_BYTES];
    for offset in (from..to).step_by(ROOM_STEP_BYTES) {
        let len = usize::try_from(to - offset).unwrap_or(usize::MAX).min(ROOM_STEP_BYTES);
        file.write_all_at(&zeros[..len], offset)?;
        file.sync_data()?;
    }
    file.sync_all()
}

fn seal_or_stop(disk: &Disk, latch: &Latch, segment: &Segment) {
    match seal(disk, segment) {
        Ok(()) => {}
        Err(fault) if fault.is_full() => {
            // The index stays in memory, and the next start writes the file.
            tracing::warn!(segment = segment.name, "no room for the segment's index file yet");
        }
        Err(fault) => latch.fail(&fault.to_string()),
    }
}

/// Makes the index file of a whole segment anew.
pub(super) fn put_index(
    disk: &Disk,
    header: SegmentHeader,
    index: &MemoryIndex,
    end: u64,
) -> Result<(), Fault> {
    disk.put(&index_name(header.first), &index::image(index, header.first, end))
}

/// Puts the index file of a full segment in place and uses it from then on.
pub(super) fn seal(disk: &Disk, segment: &Segment) -> Result<(), Fault> {
    let image = match &*segment.index.read().unwrap_or_else(PoisonError::into_inner) {
        SegmentIndex::Memory(index) => index::image(index, segment.first(), segment.end()),
        SegmentIndex::File(_) => return Ok(()),
    };
    let name = index_name(segment.first());
    disk.put(&name, &image)?;
    let file = disk.open(&name)?;
    let opened = IndexFile::open(name.clone(), file, segment.first())?.ok_or_else(|| Fault {
        action: "read back",
        file: name,
        source: std::io::Error::other("what was written is not what is read"),
    })?;
    *segment.index.write().unwrap_or_else(PoisonError::into_inner) =
        SegmentIndex::File(Arc::new(opened.index));
    Ok(())
}
