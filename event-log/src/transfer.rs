//! Moving events from one log to another so that nobody can tell the two apart by what they hold.
//!
//! A [`Source`] gives events in order; a [`Copier`] finds out which of them the target has, holds those to being the same,
//! and adds the rest behind them. So a copying that was broken off is begun again in the same way, and goes on where it was.
//! A [`Sum`] says what a log holds in a few words that can be compared.

use std::collections::HashMap;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256, digest};
use event_schemas::envelope::Recorded;
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;

use crate::embedded::{Walk, WalkError};
use crate::{EventLog, Filter, ImportError, Log, ReadError};

mod copier;

pub use copier::{Copied, Copier};

/// Events that are read from a log at once.
const PAGE_EVENTS: usize = 1_000;

/// Why events were not moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Folder(#[from] WalkError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(
        "the target already holds other events: at its position {target} is revision {revision} of {stream}, which is not the event that comes next here; name an empty log"
    )]
    Differs { target: Position, stream: StreamId, revision: Revision },
    #[error(
        "the target already holds events up to position {head}, and none of them is the first one here; name an empty log, or a file that begins where the log ends"
    )]
    NotEmpty { head: Position },
}

/// A log that is read from some position to where it ended when the reading began.
#[derive(Debug)]
pub enum Source {
    /// The folder of an embedded log, whether a server uses it or not.
    Folder(Box<Walk>),
    Log {
        log: Log,
        after: Position,
        head: Position,
        first: Position,
    },
}

impl Source {
    /// # Errors
    /// [`WalkError`] if there is no log in the folder.
    pub fn folder(folder: &Path, after: Position) -> Result<Self, WalkError> {
        Ok(Self::Folder(Box::new(Walk::open(folder, after)?)))
    }

    pub fn log(log: Log, after: Position) -> Self {
        let head = *log.head().borrow();
        Self::Log { log, after, head, first: after }
    }

    /// Some of the next events; none at the end.
    ///
    /// # Errors
    /// [`TransferError`] if they cannot be read.
    pub async fn next_events(&mut self) -> Result<Option<Vec<Recorded>>, TransferError> {
        match self {
            // A group at a time: the wait for the disk is short, and nothing else runs in this program.
            Self::Folder(walk) => Ok(tokio::task::block_in_place(|| walk.next_events())?),
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

    /// How much was read, and how much there is, in a unit of the source's own.
    pub fn progress(&self) -> (u64, u64) {
        match self {
            Self::Folder(walk) => walk.bytes(),
            Self::Log { after, head, first, .. } => (after.0 - first.0, head.0.max(after.0) - first.0),
        }
    }
}

/// What some events are, all together: their number, their streams, and hashes over what they say and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    pub events: u64,
    pub streams: usize,
    /// SHA-256, in hexadecimal, over stream, revision, id, type, metadata and data of each event, in order and each with its
    /// length before it. Positions are not in it: they are the log's own.
    pub content: String,
    /// The same over the times at which they were recorded.
    pub times: String,
}

/// A [`Sum`] in the making. It remembers 40 bytes of each stream.
#[derive(Clone)]
pub struct Summing {
    events: u64,
    content: Context,
    times: Context,
    /// The next revision of each stream, by a hash of its name that no two names share.
    streams: HashMap<[u8; 16], u64>,
}

impl std::fmt::Debug for Summing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Summing").field("events", &self.events).finish_non_exhaustive()
    }
}

impl Default for Summing {
    fn default() -> Self {
        Self {
            events: 0,
            content: Context::new(&SHA256),
            times: Context::new(&SHA256),
            streams: HashMap::new(),
        }
    }
}

impl Summing {
    /// Adds the event.
    ///
    /// # Errors
    /// [`ImportError::Revision`] if it does not follow the stream's last one.
    pub fn add(&mut self, event: &Recorded) -> Result<(), ImportError> {
        let name = event.stream.as_str().as_bytes();
        let mut key = [0; 16];
        key.copy_from_slice(&digest(&SHA256, name).as_ref()[..16]);
        // The first one that is seen need not be the stream's first.
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

    pub fn sum(self) -> Sum {
        Sum {
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
