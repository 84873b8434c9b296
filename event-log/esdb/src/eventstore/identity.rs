//! The identity of the log on a cluster: an event in a stream of its own, written once by the first server.

use bytes::Bytes;
use event_schemas::envelope::{DataFormat, EventType, NewEvent};
use event_schemas::ids::{EventId, LogId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::client::{CallError, Connection};
use event_log::{Expected, Identity};

/// The stream with the identity. Its last event counts; its events are not part of the log that is read.
pub(super) const STREAM: &str = "matchbook.log";

const EVENT_TYPE: &str = "LogIdentified";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LogIdentified {
    log_id: Uuid,
    /// Raised by the operator after an older backup of the cluster was restored, because positions are then reused.
    epoch: u32,
}

/// An error of [`identify`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum IdentifyError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the stream {STREAM} does not hold the identity of a log: {0}")]
    Unreadable(String),
}

/// Reads the identity of the log, or writes a new one.
pub(super) async fn identify(connection: &Connection) -> Result<Identity, IdentifyError> {
    if let Some(identity) = find(connection).await? {
        return Ok(identity);
    }
    let identified = LogIdentified { log_id: Uuid::new_v4(), epoch: 0 };
    let event = NewEvent {
        id: EventId(Uuid::new_v4()),
        event_type: EventType::new(EVENT_TYPE),
        format: DataFormat::Json,
        metadata: Bytes::new(),
        data: serde_json::to_vec(&identified).expect("an id and a number can be written as JSON").into(),
    };
    match connection.append(STREAM, Expected::NoStream, &[event]).await {
        Ok(_) | Err(CallError::Conflict(_)) => {}
        Err(error) => return Err(error.into()),
    }
    // Another server may have been faster.
    let found = find(connection).await?;
    found
        .ok_or_else(|| IdentifyError::Unreadable("it is empty, although an identity was appended".to_owned()))
}

async fn find(connection: &Connection) -> Result<Option<Identity>, IdentifyError> {
    let data = match connection.read_last(STREAM).await {
        Ok(Some(data)) => data,
        Ok(None) | Err(CallError::StreamNotFound) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let LogIdentified { log_id, epoch } =
        serde_json::from_slice(&data).map_err(|error| IdentifyError::Unreadable(error.to_string()))?;
    Ok(Some(Identity { id: LogId(log_id), epoch }))
}
