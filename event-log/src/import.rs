//! Importing the events of another log with their original ids, revisions and times.

use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;

use crate::AppendError;

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
