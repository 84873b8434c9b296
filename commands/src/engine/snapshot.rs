//! Snapshots of a system's folds: a start continues from the last one, instead of reading the log from its beginning.
//!
//! A snapshot is a cache. It names the build of the program, the log with its epoch, and the last event that it includes; if
//! one of them does not match, or its checksum is wrong, it is not used.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use event_log::{EventLog, Filter, Identity, Log};
use event_schemas::envelope::Recorded;
use event_schemas::ids::{EventId, LogId, Position};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// The number of positions after which a snapshot is due. After a crash, at most about as many events are read again.
const DUE_AFTER: u64 = 500_000;

/// The last event that a fold includes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) position: Position,
    event: EventId,
}

impl From<&Recorded> for Checkpoint {
    fn from(recorded: &Recorded) -> Self {
        Self { position: recorded.position, event: recorded.id }
    }
}

/// The first line of a snapshot.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    program: String,
    log: LogId,
    epoch: u32,
    checkpoint: Checkpoint,
    /// The CRC-32C of everything that follows the line.
    crc: u32,
}

/// The reason why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is damaged")]
    Damaged,
    #[error("it cannot be decoded: {0}")]
    Format(#[from] serde_json::Error),
    #[error("another build of the program wrote it")]
    Program,
    #[error("it belongs to another log, or to a later course of this one")]
    Log,
}

/// The snapshots of one fold. Without a file there are none.
#[derive(Debug)]
pub(crate) struct Snapshots {
    file: Option<PathBuf>,
    log: Log,
    requests: mpsc::Sender<oneshot::Sender<()>>,
    requested: Mutex<Option<Requested>>,
}

/// The requests for a snapshot now, which [`Snapshots::request`] sends.
pub(crate) type Requested = mpsc::Receiver<oneshot::Sender<()>>;

impl Snapshots {
    pub(crate) fn new(file: Option<PathBuf>, log: Log) -> Self {
        let (requests, requested) = mpsc::channel(1);
        Self { file, log, requests, requested: Mutex::new(Some(requested)) }
    }

    /// The requests, for the one task that keeps the fold.
    pub(crate) fn requested(&self) -> Requested {
        let taken = self.requested.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.unwrap_or_else(|| mpsc::channel(1).1)
    }

    /// Lets the running task write a snapshot, and waits until it is on disk.
    pub(crate) async fn request(&self) {
        let (done, is_done) = oneshot::channel();
        if self.file.is_some() && self.requests.send(done).await.is_ok() {
            // An error means that the task has ended.
            let _ = is_done.await;
        }
    }

    /// The stored fold with its checkpoint, if it can be used.
    pub(crate) async fn load<T>(&self) -> Option<(T, Checkpoint)>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let file = self.file.clone().filter(|file| file.exists())?;
        let identity = self.log.identity();
        let read = file.clone();
        let loaded = tokio::task::spawn_blocking(move || read_snapshot(&read, identity)).await;
        let loaded = loaded.unwrap_or(Err(Unusable::Damaged));
        let reason = match loaded {
            Ok((fold, checkpoint)) if self.contains(checkpoint).await => return Some((fold, checkpoint)),
            Ok(_) => Unusable::Log,
            Err(reason) => reason,
        };
        tracing::info!(file = %file.display(), %reason, "a snapshot is not used; the log is read from its start");
        None
    }

    /// True if the log contains the event of the checkpoint, at its position.
    async fn contains(&self, checkpoint: Checkpoint) -> bool {
        let before = Position(checkpoint.position.0.saturating_sub(1));
        let page = self.log.read_all(before, &Filter::All, 1).await;
        page.is_ok_and(|page| page.events.first().map(Checkpoint::from) == Some(checkpoint))
    }

    /// A writer of snapshots, after this one was loaded.
    pub(crate) fn writer(&self, loaded: Option<Checkpoint>) -> SnapshotWriter {
        let file = self.file.clone();
        SnapshotWriter { file, identity: self.log.identity(), written: loaded, writing: None }
    }
}

/// Writes the snapshots of a fold, one after the other, on a thread for blocking work.
#[derive(Debug)]
pub(crate) struct SnapshotWriter {
    file: Option<PathBuf>,
    identity: Identity,
    written: Option<Checkpoint>,
    writing: Option<JoinHandle<()>>,
}

impl SnapshotWriter {
    /// True if many events were applied since the last snapshot.
    pub(crate) fn is_due(&self, checkpoint: Option<Checkpoint>) -> bool {
        let position = |checkpoint: Option<Checkpoint>| checkpoint.map_or(0, |known| known.position.0);
        self.file.is_some()
            && self.writing.as_ref().is_none_or(JoinHandle::is_finished)
            && position(checkpoint) >= position(self.written) + DUE_AFTER
    }

    /// Encodes the fold, which must not change meanwhile, and starts to write it.
    pub(crate) async fn write(
        &mut self,
        checkpoint: Option<Checkpoint>,
        fold: impl FnOnce() -> serde_json::Result<Vec<u8>> + Send + 'static,
    ) {
        let (Some(file), Some(checkpoint)) = (self.file.clone(), checkpoint) else { return };
        let Identity { id, epoch } = self.identity;
        let fold = match tokio::task::spawn_blocking(fold).await {
            Ok(Ok(fold)) => fold,
            Ok(Err(error)) => return tracing::error!(%error, "a snapshot cannot be encoded"),
            Err(error) => return tracing::error!(%error, "a snapshot cannot be encoded"),
        };
        self.written = Some(checkpoint);
        let before = self.writing.take();
        self.writing = Some(tokio::spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            let writing = tokio::task::spawn_blocking(move || {
                let header =
                    Header { program: program(), log: id, epoch, checkpoint, crc: crc32c::crc32c(&fold) };
                if let Err(error) = write_snapshot(&file, &header, &fold) {
                    tracing::warn!(file = %file.display(), %error, "cannot write a snapshot; the next start reads more of the log");
                }
            });
            let _ = writing.await;
        }));
    }

    /// Answers a request for a snapshot, unless the last one is current.
    pub(crate) async fn answer(
        &mut self,
        done: oneshot::Sender<()>,
        checkpoint: Option<Checkpoint>,
        fold: impl FnOnce() -> serde_json::Result<Vec<u8>> + Send + 'static,
    ) {
        if checkpoint != self.written {
            self.write(checkpoint, fold).await;
        }
        if let Some(writing) = self.writing.take() {
            let _ = writing.await;
        }
        let _ = done.send(());
    }
}

fn read_snapshot<T: DeserializeOwned>(file: &Path, log: Identity) -> Result<(T, Checkpoint), Unusable> {
    let bytes = std::fs::read(file)?;
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(Unusable::Damaged)?;
    let (header, fold) = (&bytes[..end], &bytes[end + 1..]);
    let header: Header = serde_json::from_slice(header)?;
    if header.program != program() {
        return Err(Unusable::Program);
    }
    if (header.log, header.epoch) != (log.id, log.epoch) {
        return Err(Unusable::Log);
    }
    if header.crc != crc32c::crc32c(fold) {
        return Err(Unusable::Damaged);
    }
    Ok((serde_json::from_slice(fold)?, header.checkpoint))
}

/// Writes a snapshot so that a crash leaves the old one or the new one.
fn write_snapshot(file: &Path, header: &Header, fold: &[u8]) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let temporary = file.with_extension("new");
    let mut written = File::create(&temporary)?;
    let mut start = serde_json::to_vec(header)?;
    start.push(b'\n');
    written.write_all(&start)?;
    written.write_all(fold)?;
    written.sync_all()?;
    std::fs::rename(&temporary, file)?;
    File::open(folder)?.sync_all()
}

/// The build of the program, because another build may fold differently: its version, and the size and time of its file.
fn program() -> String {
    let file = std::env::current_exe().and_then(std::fs::metadata);
    let (bytes, time) = file.map_or((0, 0), |file| {
        let time = file.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        (file.len(), time.map_or(0, |time| time.as_nanos()))
    });
    format!("{} {bytes} {time}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use event_log::Expected;
    use event_log::MemoryLog;
    use event_log::clock::Clock;
    use event_schemas::envelope::{DataFormat, EventType, NewEvent};
    use event_schemas::time::Timestamp;
    use uuid::Uuid;

    use super::*;

    async fn log_with_events(first_id: u128) -> Log {
        let log = Log::new(MemoryLog::new(Clock::manual(Timestamp::EPOCH)));
        let event = |n: u128| NewEvent {
            id: EventId(Uuid::from_u128(first_id + n)),
            event_type: EventType::new("JobCancelled"),
            format: DataFormat::Json,
            metadata: "{}".into(),
            data: "{}".into(),
        };
        let events = (0..3).map(event).collect();
        log.append(&"job-1".parse().unwrap(), Expected::NoStream, events).await.unwrap();
        log
    }

    async fn write(snapshots: &Snapshots, fold: &'static [u32]) {
        let page = snapshots.log.read_all(Position(1), &Filter::All, 1).await.unwrap();
        let checkpoint = page.events.first().map(Checkpoint::from);
        let mut writer = snapshots.writer(None);
        let (done, is_done) = oneshot::channel();
        writer.answer(done, checkpoint, || serde_json::to_vec(fold)).await;
        is_done.await.unwrap();
    }

    async fn load(snapshots: &Snapshots) -> Option<(Vec<u32>, Checkpoint)> {
        snapshots.load().await
    }

    #[tokio::test]
    async fn snapshot_is_used_only_if_everything_matches() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new").join("a.snapshot");
        let snapshots = Snapshots::new(Some(file.clone()), log_with_events(1).await);
        assert_eq!(load(&snapshots).await, None);
        write(&snapshots, &[1, 2, 3]).await;
        let (fold, checkpoint) = load(&snapshots).await.unwrap();
        assert_eq!((fold, checkpoint.position), (vec![1, 2, 3], Position(2)));

        let good = std::fs::read(&file).unwrap();
        let text = String::from_utf8(good.clone()).unwrap();
        let event = EventId(Uuid::from_u128(2)).to_string();
        assert!(text.contains(&event) && text.contains(&program()));
        let others = [
            text.replace("[1,2,3]", "[1,2,4]"),
            text.replace("[1,2,3]", "[1,2,3"),
            text.replace(&event, &EventId(Uuid::from_u128(3)).to_string()),
            text.replace(&program(), "0.0.0"),
            text.replace("\"epoch\":0", "\"epoch\":1"),
            String::new(),
        ];
        for other in others {
            assert_ne!(other, text);
            std::fs::write(&file, other).unwrap();
            assert_eq!(load(&snapshots).await, None);
        }
        std::fs::write(&file, good).unwrap();
        assert!(load(&snapshots).await.is_some());
        let elsewhere = Snapshots::new(Some(file), log_with_events(1).await);
        assert_eq!(load(&elsewhere).await, None, "the log is another one");
    }
}
