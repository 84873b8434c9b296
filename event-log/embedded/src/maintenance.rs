//! Maintenance in the background of the writer: the next segment's file is preallocated, and index files are written
//! for sealed segments.

use std::sync::{Arc, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use super::disk::{Disk, DiskFile, Fault};
use super::index::{self, IndexFile, MemoryIndex};
use super::segment::{Segment, SegmentHeader, SegmentIndex, index_name};
use super::shutdown::{PanicGuard, Shutdown};
use super::writer::{QUIET, WriterMessage};

/// The name of the preallocated file, until it becomes the next segment.
pub(super) const NEXT_SEGMENT_FILE: &str = "next.tmp";

/// Zeros are written and synced in chunks of this size, so that a concurrent sync of an append waits for at most one.
const ZERO_CHUNK_BYTES: usize = 1 << 20;

/// The maintenance tasks run on a thread of their own, or inline where a test needs deterministic runs.
#[derive(Debug)]
pub(super) enum MaintenanceThread {
    Spawned {
        tasks: mpsc::Sender<MaintenanceTask>,
        preallocated: mpsc::Receiver<Result<DiskFile, Fault>>,
        thread: thread::JoinHandle<()>,
    },
    #[cfg(any(test, feature = "simulation"))]
    Inline {
        disk: Disk,
        reserve_bytes: u64,
        shutdown: Shutdown,
        preallocated: Option<Result<DiskFile, Fault>>,
        /// A full segment, which is sealed late, as it may be on the thread.
        full: Option<Arc<Segment>>,
    },
}

#[derive(Debug)]
pub(super) enum MaintenanceTask {
    Preallocate {
        bytes: u64,
    },
    Seal(Arc<Segment>),
    /// Sends the writer [`WriterMessage::Mark`] after [`QUIET`].
    ScheduleMark,
}

/// The next task; `None` if a mark is due before there is one.
fn next_task(
    queue: &mpsc::Receiver<MaintenanceTask>,
    mark_at: Option<Instant>,
) -> Result<Option<MaintenanceTask>, mpsc::RecvTimeoutError> {
    let Some(at) = mark_at else {
        return queue.recv().map(Some).map_err(|_| mpsc::RecvTimeoutError::Disconnected);
    };
    match queue.recv_timeout(at.saturating_duration_since(Instant::now())) {
        Ok(task) => Ok(Some(task)),
        Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
        Err(ended @ mpsc::RecvTimeoutError::Disconnected) => Err(ended),
    }
}

impl MaintenanceThread {
    /// Starts the thread. `writer_queue` receives scheduled marks, and a close message after a fault here.
    pub(super) fn start(
        disk: Disk,
        reserve_bytes: u64,
        shutdown: Shutdown,
        writer_queue: tokio::sync::mpsc::WeakSender<WriterMessage>,
    ) -> std::io::Result<Self> {
        let (tasks, queue) = mpsc::channel();
        let (file_sender, preallocated) = mpsc::channel();
        let panic_guard = PanicGuard(shutdown.clone());
        let thread = thread::Builder::new().name("log-maintenance".to_owned()).spawn(move || {
            let _panic_guard = panic_guard;
            // A full queue wakes the writer as well, and a closed one ends it.
            let send = |message| writer_queue.upgrade().is_none_or(|queue| queue.try_send(message).is_ok());
            let mut mark_at = None;
            while let Ok(task) = next_task(&queue, mark_at) {
                match task {
                    Some(MaintenanceTask::Preallocate { bytes }) => {
                        // The writer may have ended meanwhile, and the file is not needed.
                        let _ = file_sender.send(preallocate_or_stop(&disk, &shutdown, bytes, reserve_bytes));
                    }
                    Some(MaintenanceTask::Seal(segment)) => seal_or_stop(&disk, &shutdown, &segment),
                    Some(MaintenanceTask::ScheduleMark) => mark_at = Some(Instant::now() + QUIET),
                    None => mark_at = (!send(WriterMessage::Mark)).then(|| Instant::now() + QUIET),
                }
                if shutdown.stopped().is_some() {
                    send(WriterMessage::Close);
                }
            }
        })?;
        Ok(Self::Spawned { tasks, preallocated, thread })
    }

    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn inline(disk: Disk, reserve_bytes: u64, shutdown: Shutdown) -> Self {
        Self::Inline { disk, reserve_bytes, shutdown, preallocated: None, full: None }
    }

    /// Starts to preallocate the next segment's file; [`Self::take_preallocated`] returns it.
    pub(super) fn preallocate(&mut self, bytes: u64) {
        match self {
            Self::Spawned { tasks, .. } => {
                // If the thread has ended, `take_preallocated` returns an error.
                let _ = tasks.send(MaintenanceTask::Preallocate { bytes });
            }
            #[cfg(any(test, feature = "simulation"))]
            Self::Inline { disk, reserve_bytes, shutdown, preallocated, .. } => {
                *preallocated = Some(preallocate_or_stop(disk, shutdown, bytes, *reserve_bytes));
            }
        }
    }

    /// The preallocated file. Waits until it is complete.
    pub(super) fn take_preallocated(&mut self) -> Result<DiskFile, Fault> {
        let gone = || Fault {
            action: "preallocate",
            file: NEXT_SEGMENT_FILE.to_owned(),
            source: std::io::Error::other("the maintenance thread has ended"),
        };
        match self {
            Self::Spawned { preallocated, .. } => preallocated.recv().unwrap_or_else(|_| Err(gone())),
            #[cfg(any(test, feature = "simulation"))]
            Self::Inline { disk, shutdown, preallocated, full, .. } => {
                if let Some(segment) = full.take() {
                    seal_or_stop(disk, shutdown, &segment);
                }
                preallocated.take().unwrap_or_else(|| Err(gone()))
            }
        }
    }

    /// Writes the index file of a full segment and releases its index in memory.
    pub(super) fn seal(&mut self, segment: Arc<Segment>) {
        match self {
            Self::Spawned { tasks, .. } => {
                let _ = tasks.send(MaintenanceTask::Seal(segment));
            }
            #[cfg(any(test, feature = "simulation"))]
            Self::Inline { full, .. } => *full = Some(segment),
        }
    }

    /// Schedules a mark, which the writer writes if no append has followed by then.
    pub(super) fn schedule_mark(&self) {
        match self {
            Self::Spawned { tasks, .. } => {
                let _ = tasks.send(MaintenanceTask::ScheduleMark);
            }
            #[cfg(any(test, feature = "simulation"))]
            Self::Inline { .. } => {}
        }
    }

    /// Ends the thread after its remaining tasks.
    pub(super) fn join(self) {
        match self {
            Self::Spawned { tasks, thread, .. } => {
                drop(tasks);
                if thread.join().is_err() {
                    tracing::error!("the log's maintenance thread panicked");
                }
            }
            #[cfg(any(test, feature = "simulation"))]
            Self::Inline { .. } => {}
        }
    }
}

/// Creates a file of written and synced zeros, so that overwriting them later changes no metadata of the file.
/// Does not use the reserve.
pub(super) fn preallocate(disk: &Disk, bytes: u64, reserve_bytes: u64) -> Result<DiskFile, Fault> {
    if disk.free_bytes()? < reserve_bytes.saturating_add(bytes) {
        let source = std::io::Error::new(std::io::ErrorKind::StorageFull, "only the reserve is left");
        return Err(Fault { action: "preallocate", file: NEXT_SEGMENT_FILE.to_owned(), source });
    }
    let outcome = disk.create(NEXT_SEGMENT_FILE).and_then(|file| extend(&file, 0, bytes).map(|()| file));
    if outcome.is_err() {
        // Frees the space again, because the disk may be full. The first fault is the one to report.
        let _ = disk.remove(NEXT_SEGMENT_FILE);
    }
    outcome
}

fn preallocate_or_stop(
    disk: &Disk,
    shutdown: &Shutdown,
    bytes: u64,
    reserve_bytes: u64,
) -> Result<DiskFile, Fault> {
    let outcome = preallocate(disk, bytes, reserve_bytes);
    if let Err(fault) = &outcome
        && !fault.is_full()
    {
        shutdown.fail(&fault.to_string());
    }
    outcome
}

/// Extends a file from one length to another with zeros.
pub(super) fn extend(file: &DiskFile, from: u64, to: u64) -> Result<(), Fault> {
    file.allocate(to)?;
    let zeros = vec![0; ZERO_CHUNK_BYTES];
    for offset in (from..to).step_by(ZERO_CHUNK_BYTES) {
        let len = usize::try_from(to - offset).unwrap_or(usize::MAX).min(ZERO_CHUNK_BYTES);
        file.write_all_at(&zeros[..len], offset)?;
        file.sync_data()?;
    }
    file.sync_all()
}

fn seal_or_stop(disk: &Disk, shutdown: &Shutdown, segment: &Segment) {
    match seal(disk, segment) {
        Ok(()) => {}
        Err(fault) if fault.is_full() => {
            // The index stays in memory, and the next start writes the file.
            tracing::warn!(segment = segment.name, "disk full: the segment's index file is not written yet");
        }
        Err(fault) => shutdown.fail(&fault.to_string()),
    }
}

/// Rebuilds the index file of a whole segment.
pub(super) fn rebuild_index_file(
    disk: &Disk,
    header: SegmentHeader,
    index: &MemoryIndex,
    end: u64,
) -> Result<(), Fault> {
    disk.write_atomically(&index_name(header.first), &index::build(index, header.first, end))
}

/// Writes the index file of a full segment and replaces its index in memory.
pub(super) fn seal(disk: &Disk, segment: &Segment) -> Result<(), Fault> {
    let image = match &*segment.index.read().unwrap_or_else(PoisonError::into_inner) {
        SegmentIndex::Memory(index) => index::build(index, segment.first(), segment.end()),
        SegmentIndex::File(_) => return Ok(()),
    };
    let name = index_name(segment.first());
    disk.write_atomically(&name, &image)?;
    let file = disk.open(&name)?;
    let opened = IndexFile::open(name.clone(), file, segment.first())?.ok_or_else(|| Fault {
        action: "read back",
        file: name,
        source: std::io::Error::other("the file differs from what was written"),
    })?;
    *segment.index.write().unwrap_or_else(PoisonError::into_inner) =
        SegmentIndex::File(Arc::new(opened.index));
    Ok(())
}
