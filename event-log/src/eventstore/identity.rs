//! Which log a cluster holds: an event in a stream of its own, written once by whoever comes first.

use bytes::Bytes;
use event_schemas::envelope::{DataFormat, EventType, NewEvent};
use event_schemas::ids::{EventId, LogId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::client::{Connection, Fault};
use crate::{Expected, Identity};

/// Its events are not part of the log that is read; the last one counts.
pub(super) const STREAM: &str = "matchbook.log";

const EVENT_TYPE: &str = "LogIdentified";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LogIdentified {
    log_id: Uuid,
    /// Raised by who puts an older state of the cluster back, after which positions are given out anew.
    epoch: u32,
}

/// Why a cluster's log cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotIdentified {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error("the stream {STREAM} holds something else: {0}")]
    Unreadable(String),
}

/// Finds out which log this is, or makes it one.
pub(super) async fn identify(connection: &Connection) -> Result<Identity, NotIdentified> {
    if let Some(identity) = find(connection).await? {
        return Ok(identity);
    }
    let made = LogIdentified { log_id: Uuid::new_v4(), epoch: 0 };
    let event = NewEvent {
        id: EventId(Uuid::new_v4()),
        event_type: EventType::new(EVENT_TYPE),
        format: DataFormat::Json,
        metadata: Bytes::new(),
        data: serde_json::to_vec(&made).expect("an id and a number can be written as JSON").into(),
    };
    match connection.append(STREAM, Expected::NoStream, &[event]).await {
        Ok(_) | Err(Fault::Conflict(_)) => {}
        Err(fault) => return Err(fault.into()),
    }
    // Another node may have been faster.
    let found = find(connection).await?;
    found.ok_or_else(|| NotIdentified::Unreadable("nothing, though it was written to".to_owned()))
}

async fn find(connection: &Connection) -> Result<Option<Identity>, NotIdentified> {
    let data = match connection.read_last(STREAM).await {
        Ok(Some(data)) => data,
        Ok(None) | Err(Fault::Missing) => return Ok(None),
        Err(fault) => return Err(fault.into()),
    };
    let LogIdentified { log_id, epoch } =
        serde_json::from_slice(&data).map_err(|error| NotIdentified::Unreadable(error.to_string()))?;
    Ok(Some(Identity { id: LogId(log_id), epoch }))
}
