//! Taking over the events of another log as they were recorded there: the one way in that is no append.

use event_schemas::envelope::Recorded;
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;

use crate::{AppendError, Log};

/// Why events of another log were not taken over.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImportError {
    #[error(
        "the event at revision {found} of {stream} cannot come next, which is revision {next}; events of the stream are missing, or it has others here"
    )]
    Revision { stream: StreamId, found: Revision, next: Revision },
    #[error(
        "the event at position {position} was recorded at {at}, before the last one of this log, at {last}; events can only be taken over in the order of their times"
    )]
    Time { position: Position, at: Timestamp, last: Timestamp },
    #[error(
        "the stream {stream} is of the kind that a cluster keeps for itself, so it cannot be taken over to one"
    )]
    System { stream: StreamId },
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl Log {
    /// Puts events of another log behind the last one, in this order, with the ids, revisions and times that they have
    /// there, so that a question about an instant is answered as before. Positions are given out anew. An error leaves
    /// nothing of them in the log, or, on a cluster, the first ones.
    ///
    /// # Errors
    /// [`ImportError`], also where a stream has other events here, or time would go back.
    pub async fn import(&self, events: Vec<Recorded>) -> Result<(), ImportError> {
        match self {
            Self::Embedded(log) => log.import(events).await,
            #[cfg(feature = "eventstore")]
            Self::EventStore(log) => log.import(events).await,
            Self::Memory(log) => log.import(events),
        }
    }
}
