//! The embedded log: segmented files in one folder, written by one thread of this process.
//!
//! An append is acknowledged once the group that it is part of is synced; readers see it from then on.
//! `docs/log-format.md` describes the files and the meaning of an acknowledgement.
//!
//! - `writer` checks and writes appends, `reader` serves reads, `recovery` opens the log, `maintenance` preallocates the
//!   next segment and writes index files, `verify` reads the whole log, `repair` quarantines what is damaged;
//! - `record`, `segment` and `index` define the bytes; `disk` is the only access to the file system.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use event_log::clock::Clock;
use event_log::{
    AppendError, Appended, EventLog, Expected, Filter, Identity, ImportError, Page, ReadError, check_size,
};

mod backup;
mod disk;
mod external_append;
#[cfg(any(test, feature = "simulation"))]
mod harness;
mod head_file;
mod index;
mod maintenance;
mod offline_reader;
mod reader;
mod record;
mod recovery;
mod repair;
#[cfg(any(test, feature = "simulation"))]
mod repair_simulation;
mod segment;
mod shutdown;
#[cfg(any(test, feature = "simulation"))]
mod simulate;
mod stream_heads;
mod tail;
mod telemetry;
pub mod transfer;
mod verify;
mod writer;

pub use backup::{BackedUp, BackupError, Restored, backup, check as check_backup, restore};
#[cfg(any(test, feature = "simulation"))]
pub use disk::simulated::{FaultKind, FaultPoints, SimDisk};
pub use disk::{Fault, make_folder};
pub use external_append::{CLIENT_APPEND_BYTES_MAX, ClientExpected, PendingAppend};
#[cfg(any(test, feature = "simulation"))]
pub use harness::Violation;
pub use offline_reader::{OfflineReadError, OfflineReader};
pub use recovery::{OpenError, TruncatedWrite};
pub use repair::{
    QuarantinedFile, QuarantinedStream, RepairPlan, RepairReport, Repaired, ReportedDamage, Salvaged,
    plan_repair, repair,
};
pub use shutdown::Stopped;
#[cfg(any(test, feature = "simulation"))]
pub use simulate::{DamageStats, SimulationStats, simulate};
pub use verify::{Damage, Extent, Progress, UnfinishedWrite, Verified, VerifyError, verify};

use disk::Disk;
use external_append::AppendExpectation;
use head_file::{HeadFile, HeadRecords};
use maintenance::MaintenanceThread;
use reader::{Access, LogView};
use segment::SegmentFault;
use shutdown::{PanicGuard, Shutdown};
use stream_heads::{RecentEventIds, StreamHeadCache};
use writer::{AppendRequest, Import, Writer, WriterMessage};

/// The settings of a log. The defaults suit most installations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The log's folder, which is created if it does not exist. It must contain nothing else.
    pub folder: PathBuf,
    /// The size that segments grow to; the first ones are smaller, so that a small log has a small folder.
    pub segment_bytes: u64,
    /// With less free disk space than this, appends are refused; reads still work.
    pub reserve_bytes: u64,
    /// The most bytes that one sync makes durable, unless a single append is larger.
    pub group_bytes_max: usize,
    /// The most appends that one sync makes durable.
    pub group_appends_max: usize,
    /// The size of the writer's queue. When it is full, callers wait before their append is enqueued.
    pub queue_max: usize,
    /// The size of the cache of the newest events, for subscribers that follow the log.
    pub tail_bytes: usize,
}

impl Settings {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            segment_bytes: 64 << 20,
            reserve_bytes: 256 << 20,
            group_bytes_max: 4 << 20,
            group_appends_max: 16_384,
            queue_max: 16_384,
            tail_bytes: 16 << 20,
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            segment_bytes: self.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX),
            reserve_bytes: self.reserve_bytes,
            group_bytes_max: self.group_bytes_max,
            group_appends_max: self.group_appends_max.max(1),
        }
    }
}

/// Offsets within a segment are 32 bits wide, and one append may exceed the size by some megabytes.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
const SEGMENT_BYTES_MIN: u64 = 8 << 10;
const FIRST_SEGMENT_BYTES: u64 = 4 << 20;

/// The settings that the writer uses.
#[derive(Clone, Copy, Debug)]
struct Limits {
    segment_bytes: u64,
    reserve_bytes: u64,
    group_bytes_max: usize,
    group_appends_max: usize,
}

impl Limits {
    fn first_segment_bytes(&self) -> u64 {
        self.segment_bytes.min(FIRST_SEGMENT_BYTES)
    }

    /// The size of the segment that follows one of `size`.
    fn segment_bytes_after(&self, size: u64) -> u64 {
        size.saturating_mul(2).clamp(self.first_segment_bytes(), self.segment_bytes)
    }
}

/// The result of opening a log.
#[derive(Clone, Debug)]
pub struct Opened {
    pub events: u64,
    pub segments: usize,
    /// An incomplete write that a crash left behind, if there was one. It was never acknowledged.
    pub truncated: Option<TruncatedWrite>,
    pub duration: Duration,
}

/// A log in a local folder. Clones share one log, which stops when it is closed or its last clone is dropped.
#[derive(Clone, Debug)]
pub struct EmbeddedLog {
    identity: Identity,
    view: Arc<LogView>,
    queue: mpsc::Sender<WriterMessage>,
    head: watch::Receiver<Position>,
    shutdown: Shutdown,
    writer: Arc<Mutex<Option<thread::JoinHandle<()>>>>,
}

impl EmbeddedLog {
    /// Opens the log in the folder, or creates one there. It blocks on the disk and reads at most one segment.
    ///
    /// # Errors
    /// [`OpenError`], each with its remedy. A damaged log is refused, not repaired.
    pub fn open(settings: &Settings, clock: Clock) -> Result<(Self, Opened), OpenError> {
        if !settings.folder.exists() {
            HeadRecords::read(&Disk::Real(settings.folder.clone()))?.check_no_log()?;
        }
        Self::open_on(&Disk::folder(&settings.folder)?, settings, clock)
    }

    /// Opens the log on a simulated disk, where the folder of the settings is ignored.
    ///
    /// # Errors
    /// As [`Self::open`].
    #[cfg(any(test, feature = "simulation"))]
    pub fn open_simulated(
        disk: SimDisk,
        settings: &Settings,
        clock: Clock,
    ) -> Result<(Self, Opened), OpenError> {
        Self::open_on(&Disk::Simulated(disk), settings, clock)
    }

    fn open_on(disk: &Disk, settings: &Settings, clock: Clock) -> Result<(Self, Opened), OpenError> {
        let started = Instant::now();
        recovery::check_folder(disk)?;
        let lock = disk.lock().map_err(|fault| recovery::lock_error(disk, fault))?;
        let shutdown = Shutdown::new();
        let (queue, requests) = mpsc::channel(settings.queue_max);
        let maintenance = MaintenanceThread::start(
            disk.clone(),
            settings.reserve_bytes,
            shutdown.clone(),
            queue.downgrade(),
        )
        .map_err(thread_fault)?;
        let (writer, identity, mut opened) = start(disk, settings, clock, shutdown.clone(), maintenance)?;
        let (view, head) = (Arc::clone(&writer.view), writer.head.subscribe());
        let panic_guard = PanicGuard(shutdown.clone());
        let thread = thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || {
                let _panic_guard = panic_guard;
                writer.run(requests, lock);
            })
            .map_err(thread_fault)?;
        opened.duration = started.elapsed();
        let writer = Arc::new(Mutex::new(Some(thread)));
        Ok((Self { identity, view, queue, head, shutdown, writer }, opened))
    }

    /// Waits until the log accepts no more appends, and returns the reason. After [`Stopped::Failed`] the process must end:
    /// only reopening the log shows what is on the disk.
    pub async fn stopped(&self) -> Stopped {
        self.shutdown.wait().await
    }

    /// Enqueues an append for the writer.
    async fn queue(
        &self,
        stream: StreamId,
        expectation: AppendExpectation,
        events: Vec<NewEvent>,
    ) -> Result<PendingAppend, AppendError> {
        let (answer, answered) = oneshot::channel();
        let request = AppendRequest { stream, expectation, events, answer };
        if self.queue.send(WriterMessage::Append(request)).await.is_err() {
            let reason = match self.shutdown.stopped() {
                Some(Stopped::Failed { reason }) => reason,
                Some(Stopped::Closed) | None => "it was closed".to_owned(),
            };
            return Err(AppendError::Closed { reason });
        }
        Ok(PendingAppend::new(answered))
    }

    /// Runs a query on the caches in memory first, and if it needs the disk, again on a thread that may block.
    async fn query<T: Send + 'static>(
        &self,
        query: impl Fn(&LogView, Access) -> Result<T, SegmentFault> + Send + 'static,
    ) -> Result<T, ReadError> {
        match query(&self.view, Access::Memory) {
            Err(SegmentFault::NeedsDisk) => {}
            answer => return Ok(answer?),
        }
        let view = Arc::clone(&self.view);
        let answer = tokio::task::spawn_blocking(move || query(&view, Access::Disk)).await;
        Ok(answer.map_err(|_| ReadError::Unavailable("the reading thread ended early".to_owned()))??)
    }
}

fn thread_fault(source: std::io::Error) -> OpenError {
    OpenError::Io(Fault { action: "start a thread for", file: "the log".to_owned(), source })
}

/// Recovers the log on the disk and creates its writer.
fn start(
    disk: &Disk,
    settings: &Settings,
    clock: Clock,
    shutdown: Shutdown,
    mut maintenance: MaintenanceThread,
) -> Result<(Writer, Identity, Opened), OpenError> {
    let limits = settings.limits();
    let recovered = recovery::recover(disk, &limits)?;
    let opened = Opened {
        events: recovered.head.0,
        segments: recovered.segments.len(),
        truncated: recovered.truncated,
        duration: Duration::ZERO,
    };
    maintenance.preallocate(limits.segment_bytes_after(recovered.size));
    let head_file = HeadFile::open(disk, recovered.identity, recovered.head)?;
    let view = LogView::new(recovered.segments, recovered.head, recovered.recorded_at, settings.tail_bytes);
    let mut writer = Writer {
        disk: disk.clone(),
        clock,
        limits,
        view: Arc::new(view),
        maintenance,
        shutdown,
        head: watch::Sender::new(recovered.head),
        head_file,
        end: recovered.active.end(),
        active: recovered.active,
        size: recovered.size,
        heads: StreamHeadCache::default(),
        recent_ids: RecentEventIds::default(),
        groups: 0,
        marked: recovered.marked,
        written: Instant::now(),
    };
    writer.mark()?;
    telemetry::head(recovered.head);
    telemetry::segments(opened.segments);
    Ok((writer, recovered.identity, opened))
}

impl EventLog for EmbeddedLog {
    async fn append(
        &self,
        stream: &StreamId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Appended, AppendError> {
        check_size(&events)?;
        self.queue(stream.clone(), AppendExpectation::Contract(expected), events).await?.outcome().await
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        from: Revision,
        events_max: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        let stream = stream.clone();
        self.query(move |view, access| view.stream(&stream, from, events_max, access)).await
    }

    async fn read_all(&self, after: Position, filter: &Filter, events_max: usize) -> Result<Page, ReadError> {
        let filter = filter.clone();
        self.query(move |view, access| view.page(after, &filter, events_max, access)).await
    }

    async fn position_at(&self, at: Timestamp) -> Result<Position, ReadError> {
        self.query(move |view, access| view.position_at(at, access)).await
    }

    fn head(&self) -> watch::Receiver<Position> {
        self.head.clone()
    }

    fn identity(&self) -> Identity {
        self.identity
    }

    async fn import(&self, events: Vec<Recorded>) -> Result<(), ImportError> {
        let (answer, answered) = oneshot::channel();
        if self.queue.send(WriterMessage::Import(Import { events, answer })).await.is_err() {
            return Err(AppendError::Closed { reason: "it was closed".to_owned() }.into());
        }
        let gone = || AppendError::Unknown { reason: "the log's writer ended early".to_owned() };
        answered.await.unwrap_or_else(|_| Err(gone().into()))
    }

    /// Commits the queued appends, writes a mark that confirms them, and releases the folder.
    async fn close(&self) {
        // If the writer has ended already, there is nothing to close.
        let _ = self.queue.send(WriterMessage::Close).await;
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the log's writer panicked");
            }
        }
    }
}

#[cfg(test)]
mod backup_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod external_append_tests;
#[cfg(test)]
mod head_file_tests;
#[cfg(test)]
mod kill_tests;
#[cfg(test)]
mod repair_tests;
#[cfg(test)]
mod verify_tests;

#[cfg(test)]
mod tests;
