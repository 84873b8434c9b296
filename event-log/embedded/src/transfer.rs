//! Copies the events of one log to another, so that both have the same events, revisions and times.
//!
//! A [`TransferSource`] returns events in order. A [`LogCopier`] checks that the events that the target has already are the
//! same, and appends the rest. So an interrupted copy is resumed by running it again. A [`LogDigest`] summarises the contents
//! of a log for comparison.

use std::collections::HashMap;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256, digest};
use event_schemas::envelope::Recorded;
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;

use crate::{OfflineReadError, OfflineReader};
use event_log::{EventLog, Filter, ImportError, Log, ReadError};

mod copier;

pub use copier::{CopyReport, LogCopier};

/// The number of events that one read requests.
const PAGE_EVENTS: usize = 1_000;

/// An error that stops the copy.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Folder(#[from] OfflineReadError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(
        "the target already holds other events: at its position {target} is revision {revision} of {stream}, which is not the next event of the source; name an empty log"
    )]
    Differs { target: Position, stream: StreamId, revision: Revision },
    #[error(
        "the target already holds events up to position {head}, and none of them is the first event of the source; name an empty log, or a file that starts where the log ends"
    )]
    NotEmpty { head: Position },
}

/// A log to read from a position up to its end at the time of opening.
#[derive(Debug)]
pub enum TransferSource {
    /// The folder of an embedded log, which a running server may be using.
    Folder(Box<OfflineReader>),
    Log {
        log: Log,
        after: Position,
        head: Position,
        first: Position,
    },
}

impl TransferSource {
    /// # Errors
    /// [`OfflineReadError`] if the folder has no log.
    pub fn folder(folder: &Path, after: Position) -> Result<Self, OfflineReadError> {
        Ok(Self::Folder(Box::new(OfflineReader::open(folder, after)?)))
    }

    pub fn log(log: Log, after: Position) -> Self {
        let head = *log.head().borrow();
        Self::Log { log, after, head, first: after }
    }

    /// The next batch of events; `None` at the end.
    ///
    /// # Errors
    /// [`TransferError`] if they cannot be read.
    pub async fn next_events(&mut self) -> Result<Option<Vec<Recorded>>, TransferError> {
        match self {
            // It reads one group at a time: blocking on the disk is short, and the CLI runs nothing else.
            Self::Folder(reader) => Ok(tokio::task::block_in_place(|| reader.next_events())?),
            Self::Log { log, after, head, .. } => {
                while *after < *head {
                    let mut page = log.read_all(*after, &Filter::All, PAGE_EVENTS).await?;
                    *after = page.next;
                    page.events.retain(|event| event.position <= *head);
                    if !page.events.is_empty() {
                        return Ok(Some(page.events));
                    }
                }
                Ok(None)
            }
        }
    }

    /// The amount that was read and the total amount, in a unit that depends on the source.
    pub fn progress(&self) -> (u64, u64) {
        match self {
            Self::Folder(reader) => reader.bytes(),
            Self::Log { after, head, first, .. } => (after.0 - first.0, head.0.max(after.0) - first.0),
        }
    }
}

/// A summary of a sequence of events: the number of events and streams, and hashes over contents and times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDigest {
    pub events: u64,
    pub streams: usize,
    /// The SHA-256, in hexadecimal, over stream, revision, id, type, metadata and data of each event, in order, each with its
    /// length before it. Positions are not included, because they differ between logs.
    pub content: String,
    /// The SHA-256 over the recorded times.
    pub times: String,
}

/// Builds a [`LogDigest`] event by event. It keeps 40 bytes for each stream.
#[derive(Clone)]
pub struct LogDigestBuilder {
    events: u64,
    content: Context,
    times: Context,
    /// The next revision of each stream, by a collision-resistant hash of its name.
    streams: HashMap<[u8; 16], u64>,
}

impl std::fmt::Debug for LogDigestBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogDigestBuilder").field("events", &self.events).finish_non_exhaustive()
    }
}

impl Default for LogDigestBuilder {
    fn default() -> Self {
        Self {
            events: 0,
            content: Context::new(&SHA256),
            times: Context::new(&SHA256),
            streams: HashMap::new(),
        }
    }
}

impl LogDigestBuilder {
    /// Adds the event.
    ///
    /// # Errors
    /// [`ImportError::Revision`] if it does not follow the last event of its stream.
    pub fn add(&mut self, event: &Recorded) -> Result<(), ImportError> {
        let name = event.stream.as_str().as_bytes();
        let mut key = [0; 16];
        key.copy_from_slice(&digest(&SHA256, name).as_ref()[..16]);
        // The first event that is added need not be the first of its stream.
        let next = self.streams.entry(key).or_insert(event.revision.0);
        if *next != event.revision.0 {
            let (stream, found) = (event.stream.clone(), event.revision);
            return Err(ImportError::Revision { stream, found, next: Revision(*next) });
        }
        *next += 1;
        self.events += 1;
        let revision = event.revision.0.to_le_bytes();
        let parts: [&[u8]; 6] = [
            name,
            &revision,
            event.id.0.as_bytes(),
            event.event_type.as_str().as_bytes(),
            &event.metadata,
            &event.data,
        ];
        for part in parts {
            self.content.update(&(part.len() as u64).to_le_bytes());
            self.content.update(part);
        }
        self.times.update(&event.recorded_at.micros().to_le_bytes());
        Ok(())
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    pub fn finish(self) -> LogDigest {
        LogDigest {
            events: self.events,
            streams: self.streams.len(),
            content: hex(self.content.finish().as_ref()),
            times: hex(self.times.finish().as_ref()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
