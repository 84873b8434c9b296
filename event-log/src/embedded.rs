//! The embedded log: segmented files in one folder, written by one thread of this process.
//!
//! An append is acknowledged once the group that it is part of is synced; readers see it from then on. What the files
//! look like, and what an acknowledgement means, is in `docs/log-format.md`.
//!
//! - `writer` decides and writes, `reader` answers, `recovery` opens, `keeper` works ahead and cleans up behind,
//!   `verify` reads all of it, `repair` sets aside what is damaged;
//! - `record`, `segment` and `index` are the bytes; `disk` is the only way to them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::Clock;
use crate::{
    AppendError, Appended, EventLog, Expected, Filter, Identity, ImportError, Page, ReadError, check_size,
};

mod backup;
mod client;
mod disk;
mod heads;
mod index;
mod keeper;
#[cfg(any(test, feature = "simulation"))]
mod mending;
mod reader;
mod record;
mod recovery;
mod repair;
#[cfg(any(test, feature = "simulation"))]
mod rig;
mod segment;
mod stop;
mod tail;
mod telemetry;
#[cfg(any(test, feature = "simulation"))]
mod torture;
mod verify;
mod walk;
mod writer;

pub use backup::{BackedUp, BackupError, Restored, backup, check as check_backup, restore};
pub use client::{CLIENT_APPEND_BYTES_MAX, ClientExpected, Pending};
#[cfg(any(test, feature = "simulation"))]
pub use disk::simulated::{Points, SimDisk, Trouble};
pub use disk::{Fault, make_folder};
pub use recovery::{Cut, OpenError};
pub use repair::{Plan, Repaired, Report, Salvaged, SetAside, StreamSetAside, plan, repair};
#[cfg(any(test, feature = "simulation"))]
pub use rig::Broken;
pub use stop::Stopped;
#[cfg(any(test, feature = "simulation"))]
pub use torture::{Damaged, Tally, torture};
pub use verify::{Damage, Extent, Progress, Unfinished, Verified, VerifyError, verify};
pub use walk::{Walk, WalkError};

use client::Claim;
use disk::Disk;
use heads::{Heads, Ids};
use keeper::Keeper;
use reader::{Access, Shelf};
use segment::SegmentFault;
use stop::{Indispensable, Latch};
use writer::{Import, Message, Request, Writer};

/// How a log is kept. The defaults are meant to be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Made if it is not there. Nothing else may be in it.
    pub folder: PathBuf,
    /// The size that segments grow to; the first ones are smaller, so that a small log is a small folder.
    pub segment_bytes: u64,
    /// With less than this free on the disk, appends are refused and reads go on.
    pub reserve_bytes: u64,
    /// The most bytes that one sync makes durable, unless a single append is larger.
    pub group_bytes_max: usize,
    /// The most appends that one sync makes durable.
    pub group_appends_max: usize,
    /// How many appends may wait for the writer before appenders wait to be let in.
    pub queue_max: usize,
    /// How much of the log's end is kept in memory for those who follow it.
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
            tail_bytes: 32 << 20,
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

/// What of the settings the writer needs.
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

/// What opening a log found and did.
#[derive(Clone, Debug)]
pub struct Opened {
    pub events: u64,
    pub segments: usize,
    /// A write that was cut short by a crash, if there was one. It was never acknowledged.
    pub cut: Option<Cut>,
    pub duration: Duration,
}

/// A log in a folder of this machine. Clones are the same log; it ends when it is closed, or with its last clone.
#[derive(Clone, Debug)]
pub struct EmbeddedLog {
    identity: Identity,
    shelf: Arc<Shelf>,
    queue: mpsc::Sender<Message>,
    head: watch::Receiver<Position>,
    latch: Latch,
    writer: Arc<Mutex<Option<thread::JoinHandle<()>>>>,
}

impl EmbeddedLog {
    /// Opens the log in the folder, or makes one there. It reads one segment at most: call it where waiting for a disk
    /// does no harm.
    ///
    /// # Errors
    /// [`OpenError`], each naming the way out. A damaged log is refused, not mended.
    pub fn open(settings: &Settings, clock: Clock) -> Result<(Self, Opened), OpenError> {
        Self::open_on(&Disk::folder(&settings.folder)?, settings, clock)
    }

    /// Opens the log on a simulated disk. The folder of the settings means nothing there.
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
        recovery::look(disk)?;
        let lock = disk.lock().map_err(|fault| recovery::not_locked(disk, fault))?;
        let latch = Latch::new();
        let (queue, requests) = mpsc::channel(settings.queue_max);
        let keeper = Keeper::start(disk.clone(), settings.reserve_bytes, latch.clone(), queue.downgrade())
            .map_err(thread_fault)?;
        let (writer, identity, mut opened) = start(disk, settings, clock, latch.clone(), keeper)?;
        let (shelf, head) = (Arc::clone(&writer.shelf), writer.head.subscribe());
        let indispensable = Indispensable(latch.clone());
        let thread = thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || {
                let _indispensable = indispensable;
                writer.run(requests, lock);
            })
            .map_err(thread_fault)?;
        opened.duration = started.elapsed();
        let writer = Arc::new(Mutex::new(Some(thread)));
        Ok((Self { identity, shelf, queue, head, latch, writer }, opened))
    }

    /// Finishes what is queued, says on disk that all of it is durable, and gives the folder free. Appends after it are
    /// refused, reads still answer. Closing twice does nothing.
    pub async fn close(&self) {
        // If the writer has ended already, there is nothing to tell it.
        let _ = self.queue.send(Message::Close).await;
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the log's writer panicked");
            }
        }
    }

    /// Takes over events of another log: all of them or none.
    ///
    /// # Errors
    /// As [`crate::Log::import`].
    pub(crate) async fn import(&self, events: Vec<Recorded>) -> Result<(), ImportError> {
        let (answer, answered) = oneshot::channel();
        if self.queue.send(Message::Import(Import { events, answer })).await.is_err() {
            return Err(AppendError::Closed { reason: "it was closed".to_owned() }.into());
        }
        let gone = || AppendError::Unknown { reason: "the log's writer ended early".to_owned() };
        answered.await.unwrap_or_else(|_| Err(gone().into()))
    }

    /// Waits until the log takes no more appends, and says why. After [`Stopped::Failed`] the process must end: what is
    /// on the disk can be told only by opening it anew.
    pub async fn stopped(&self) -> Stopped {
        self.latch.wait().await
    }

    /// Gives an append to the writer.
    async fn queue(
        &self,
        stream: StreamId,
        claim: Claim,
        events: Vec<NewEvent>,
    ) -> Result<Pending, AppendError> {
        let (answer, answered) = oneshot::channel();
        let request = Request { stream, claim, events, answer };
        if self.queue.send(Message::Append(request)).await.is_err() {
            let reason = match self.latch.stopped() {
                Some(Stopped::Failed { reason }) => reason,
                Some(Stopped::Closed) | None => "it was closed".to_owned(),
            };
            return Err(AppendError::Closed { reason });
        }
        Ok(Pending::new(answered))
    }

    /// Asks memory at once, and the disk on a thread that may wait.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl Fn(&Shelf, Access) -> Result<T, SegmentFault> + Send + 'static,
    ) -> Result<T, ReadError> {
        match question(&self.shelf, Access::Memory) {
            Err(SegmentFault::NeedsDisk) => {}
            answer => return Ok(answer?),
        }
        let shelf = Arc::clone(&self.shelf);
        let answer = tokio::task::spawn_blocking(move || question(&shelf, Access::Disk)).await;
        Ok(answer.map_err(|_| ReadError::Unavailable("the reading thread ended early".to_owned()))??)
    }
}

fn thread_fault(source: std::io::Error) -> OpenError {
    OpenError::Io(Fault { action: "start a thread for", file: "the log".to_owned(), source })
}

/// Recovers what is on the disk and makes a writer for it.
fn start(
    disk: &Disk,
    settings: &Settings,
    clock: Clock,
    latch: Latch,
    mut keeper: Keeper,
) -> Result<(Writer, Identity, Opened), OpenError> {
    let limits = settings.limits();
    let recovered = recovery::recover(disk, &limits)?;
    let opened = Opened {
        events: recovered.head.0,
        segments: recovered.segments.len(),
        cut: recovered.cut,
        duration: Duration::ZERO,
    };
    keeper.make_room(limits.segment_bytes_after(recovered.size));
    let shelf = Shelf::new(recovered.segments, recovered.head, recovered.recorded_at, settings.tail_bytes);
    let mut writer = Writer {
        disk: disk.clone(),
        clock,
        limits,
        shelf: Arc::new(shelf),
        keeper,
        latch,
        head: watch::Sender::new(recovered.head),
        end: recovered.active.end(),
        active: recovered.active,
        size: recovered.size,
        heads: Heads::default(),
        ids: Ids::default(),
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
        self.queue(stream.clone(), Claim::Contract(expected), events).await?.outcome().await
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        from: Revision,
        events_max: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        let stream = stream.clone();
        self.ask(move |shelf, access| shelf.stream(&stream, from, events_max, access)).await
    }

    async fn read_all(&self, after: Position, filter: &Filter, events_max: usize) -> Result<Page, ReadError> {
        let filter = filter.clone();
        self.ask(move |shelf, access| shelf.page(after, &filter, events_max, access)).await
    }

    async fn position_at(&self, at: Timestamp) -> Result<Position, ReadError> {
        self.ask(move |shelf, access| shelf.position_at(at, access)).await
    }

    fn head(&self) -> watch::Receiver<Position> {
        self.head.clone()
    }

    fn identity(&self) -> Identity {
        self.identity
    }
}

#[cfg(test)]
mod backup_tests;
#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod kill_tests;
#[cfg(test)]
mod repair_tests;
#[cfg(test)]
mod verify_tests;

#[cfg(test)]
mod tests;
