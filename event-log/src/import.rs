//! Importing the events of another log with their original ids, revisions and times.

use event_schemas::envelope::Recorded;
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;

use crate::{AppendError, Log};

/// An error that prevents importing events of another log.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImportError {
    #[error(
        "the event at revision {found} of {stream} cannot be imported next, because the next revision is {next}; events of the stream are missing, or this log has others"
    )]
    Revision { stream: StreamId, found: Revision, next: Revision },
    #[error(
        "the event at position {position} was recorded at {at}, before the last one of this log, at {last}; events can only be imported in the order of their times"
    )]
    Time { position: Position, at: Timestamp, last: Timestamp },
    #[error("the stream {stream} is a system stream, which cannot be imported into a cluster")]
    System { stream: StreamId },
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl Log {
    /// Appends events of another log, in this order, with their original ids, revisions and times, so that queries for an
    /// instant return the same as before. Positions are assigned by this log. After an error, none of the events are in the
    /// log, or, on a cluster, the first ones.
    ///
    /// # Errors
    /// [`ImportError`], also if a stream has other events in this log, or if the times would decrease.
    pub async fn import(&self, events: Vec<Recorded>) -> Result<(), ImportError> {
        match self {
            Self::Embedded(log) => log.import(events).await,
            #[cfg(feature = "eventstore")]
            Self::EventStore(log) => log.import(events).await,
            Self::Memory(log) => log.import(events),
        }
    }
}
