//! Conversions between the library's events, positions and errors and ours.

use ::eventstore::{
    CurrentRevision, Error, EventData, Position as LibraryPosition, RecordedEvent, StreamPosition,
};
use event_schemas::envelope::{DataFormat, EventType, NewEvent, Recorded};
use event_schemas::ids::{EventId, Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use serde_json::value::RawValue;

use crate::eventstore::tls::TlsError;
use crate::eventstore::{identity, recorded_time_metadata};

/// The error of a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum CallError {
    /// Nothing was sent, because there is no connection.
    #[error("the cluster cannot be reached: {0}")]
    Unreachable(String),
    /// The call may or may not have been executed.
    #[error("the cluster did not respond: {0}")]
    Interrupted(String),
    /// Nothing was done; the connection switches to the leader.
    #[error("the node is not the leader of the cluster")]
    NotLeader,
    #[error("the stream is at another revision")]
    Conflict(Option<Revision>),
    #[error("there is no such stream")]
    StreamNotFound,
    #[error("the stream was deleted in the cluster")]
    StreamDeleted,
    #[error(
        "the cluster refuses the user; set user name and password in the URL, and grant the user access in the cluster"
    )]
    Denied,
    /// Nothing was done, and a retry would fail in the same way.
    #[error("the cluster rejects the call: {0}")]
    Rejected(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The position and revision of an append's last event, as the cluster returns them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct WriteResult {
    pub(in super::super) position: Position,
    pub(in super::super) revision: Revision,
}

/// An event of the cluster.
#[derive(Clone, Debug)]
pub(in super::super) enum ClusterEvent {
    /// An event of this log. `recorded_at` is the cluster's time, or the original one if it was imported.
    User(Recorded),
    /// A system event of the cluster, or the identity of the log, at this position.
    System(Position),
}

impl ClusterEvent {
    pub(in super::super) fn position(&self) -> Position {
        match self {
            Self::User(event) => event.position,
            Self::System(position) => *position,
        }
    }
}

/// The start of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum ReadFrom<T> {
    Start,
    /// At this event, inclusive.
    At(T),
    End,
}

pub(super) fn stream_position(from: ReadFrom<Position>) -> StreamPosition<LibraryPosition> {
    match from {
        ReadFrom::Start => StreamPosition::Start,
        ReadFrom::At(Position(position)) => {
            StreamPosition::Position(LibraryPosition { commit: position, prepare: position })
        }
        ReadFrom::End => StreamPosition::End,
    }
}

/// Converts an event to append. JSON data is sent as JSON, byte for byte; data that claims to be JSON and is not is sent as
/// binary, because the library accepts only valid JSON.
pub(super) fn event_data(event: &NewEvent) -> EventData {
    let name = event.event_type.as_str();
    let claimed = (event.format == DataFormat::Json).then_some(&event.data);
    let json = claimed
        .and_then(|data| serde_json::from_slice::<&RawValue>(data).ok())
        .filter(|json| json.get().len() == event.data.len())
        .and_then(|json| EventData::json(name, &json).ok());
    json.unwrap_or_else(|| EventData::binary(name, event.data.clone()))
        .id(event.id.0)
        .metadata(event.metadata.clone())
}

pub(super) fn cluster_event(event: RecordedEvent) -> ClusterEvent {
    let position = Position(event.position.commit);
    let is_ours = !event.stream_id.starts_with('$')
        && !event.event_type.starts_with('$')
        && event.stream_id != identity::STREAM;
    match event.stream_id.parse::<StreamId>() {
        Ok(stream) if is_ours => {
            let (metadata, original_time) = recorded_time_metadata::split(event.custom_metadata);
            let created = created(event.metadata.get("created").map(String::as_str));
            ClusterEvent::User(Recorded {
                position,
                // An imported event cannot be recorded later than it was imported. A later time is ignored, because it would
                // raise the times of all following events.
                recorded_at: original_time.map_or(created, |original| original.min(created)),
                stream,
                revision: Revision(event.revision),
                id: EventId(event.id),
                event_type: EventType::new(&event.event_type),
                format: if event.is_json { DataFormat::Json } else { DataFormat::Bytes },
                metadata,
                data: event.data,
            })
        }
        _ => ClusterEvent::System(position),
    }
}

/// Converts ticks of 100 ns since 1970. An event without ticks gets the earliest time, which the times of the events before
/// it raise.
fn created(ticks: Option<&str>) -> Timestamp {
    let micros = ticks.and_then(|ticks| ticks.parse::<i64>().ok()).map_or(0, |ticks| ticks / 10);
    Timestamp::from_micros(micros)
}

pub(super) fn call_error(error: Error) -> CallError {
    match error {
        Error::ConnectionClosed => CallError::Unreachable("the client was closed".to_owned()),
        Error::GrpcConnectionError(cause) => CallError::Unreachable(message_of(&cause.to_string())),
        Error::InitializationError(cause) => CallError::Unreachable(cause),
        // The library reports only in the text that it never connected.
        Error::ServerError(cause) if cause.contains(NO_CONNECTION) => {
            CallError::Unreachable(message_of(&cause))
        }
        Error::ServerError(cause) => CallError::Interrupted(message_of(&cause)),
        Error::DeadlineExceeded => CallError::Interrupted("the deadline was exceeded".to_owned()),
        Error::NotLeaderException(_) => CallError::NotLeader,
        Error::WrongExpectedVersion { current: CurrentRevision::NoStream, .. } => CallError::Conflict(None),
        Error::WrongExpectedVersion { current: CurrentRevision::Current(revision), .. } => {
            CallError::Conflict(Some(Revision(revision)))
        }
        Error::ResourceNotFound => CallError::StreamNotFound,
        Error::ResourceDeleted => CallError::StreamDeleted,
        Error::AccessDenied => CallError::Denied,
        Error::Grpc { code, message } if may_have_happened(&format!("{code:?}")) => {
            CallError::Interrupted(format!("{code:?}: {message}"))
        }
        Error::Grpc { code, message } => CallError::Rejected(format!("{code:?}: {message}")),
        Error::UnsupportedFeature => CallError::Rejected("the cluster does not support this call".to_owned()),
        Error::InternalParsingError(_)
        | Error::InternalClientError
        | Error::IllegalStateError(_)
        | Error::ResourceAlreadyExists => CallError::Interrupted(error.to_string()),
    }
}

/// The text by which the library reports that it never connected.
const NO_CONNECTION: &str = "client error (Connect)";

/// The message of a gRPC status, without the library's formatting around it.
fn message_of(cause: &str) -> String {
    if cause.contains(NO_CONNECTION) {
        return "cannot connect".to_owned();
    }
    let message = cause.split_once("message: \"").and_then(|(_, rest)| rest.split_once("\", details:"));
    message.map_or(cause, |(message, _)| message).to_owned()
}

/// Whether a call with this gRPC status may have been executed, or may succeed when retried.
fn may_have_happened(code: &str) -> bool {
    matches!(code, "Cancelled" | "Aborted" | "ResourceExhausted")
}
