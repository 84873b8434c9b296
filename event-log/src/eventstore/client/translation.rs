//! The library's events, places and errors, and ours.

use ::eventstore::{CurrentRevision, Error, EventData, Position as Place, RecordedEvent, StreamPosition};
use event_schemas::envelope::{DataFormat, EventType, NewEvent, Recorded};
use event_schemas::ids::{EventId, Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use serde_json::value::RawValue;

use crate::eventstore::tls::TlsFault;
use crate::eventstore::{carried, identity};

/// Why a call brought nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum Fault {
    /// Nothing was sent: there is no connection.
    #[error("the cluster cannot be reached: {0}")]
    Unreachable(String),
    /// It may have been done or not.
    #[error("the cluster gave no answer: {0}")]
    Broken(String),
    /// Nothing was done; the connection goes over to the leader.
    #[error("the node is not the leader of the cluster")]
    NotLeader,
    #[error("the stream is at another revision")]
    Conflict(Option<Revision>),
    #[error("there is no such stream")]
    Missing,
    #[error("the stream was deleted in the cluster")]
    Deleted,
    #[error(
        "the cluster refuses the user; set user name and password in the URL, and what the user may do in the cluster"
    )]
    Denied,
    /// Nothing was done, and another try would end the same.
    #[error("the cluster refuses the call: {0}")]
    Refused(String),
    #[error(transparent)]
    Tls(#[from] TlsFault),
}

/// Where an append ended up, as the cluster says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Written {
    pub(in super::super) position: Position,
    pub(in super::super) revision: Revision,
}

/// An event of the cluster.
#[derive(Clone, Debug)]
pub(in super::super) enum Found {
    /// With the time that the cluster gave it.
    Event(Recorded),
    /// One of the cluster's own, at this position.
    System(Position),
}

impl Found {
    pub(in super::super) fn position(&self) -> Position {
        match self {
            Self::Event(event) => event.position,
            Self::System(position) => *position,
        }
    }
}

/// From where to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum ReadFrom<T> {
    Start,
    /// This one is the first.
    At(T),
    End,
}

pub(super) fn start(from: ReadFrom<Position>) -> StreamPosition<Place> {
    match from {
        ReadFrom::Start => StreamPosition::Start,
        ReadFrom::At(Position(position)) => {
            StreamPosition::Position(Place { commit: position, prepare: position })
        }
        ReadFrom::End => StreamPosition::End,
    }
}

/// JSON goes as JSON, to the byte. The library takes no data for JSON that is none, whatever its appender says.
pub(super) fn proposed(event: &NewEvent) -> EventData {
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

pub(super) fn read(event: RecordedEvent) -> Found {
    let position = Position(event.position.commit);
    let ours = !event.stream_id.starts_with('$')
        && !event.event_type.starts_with('$')
        && event.stream_id != identity::STREAM;
    match event.stream_id.parse::<StreamId>() {
        Ok(stream) if ours => {
            let (metadata, carried) = carried::apart(event.custom_metadata);
            let created = created(event.metadata.get("created").map(String::as_str));
            Found::Event(Recorded {
                position,
                // Nothing can be taken over before it was recorded: a time to come, which would lift all that follow, is no such
                // time.
                recorded_at: carried.map_or(created, |carried| carried.min(created)),
                stream,
                revision: Revision(event.revision),
                id: EventId(event.id),
                event_type: EventType::new(&event.event_type),
                format: if event.is_json { DataFormat::Json } else { DataFormat::Bytes },
                metadata,
                data: event.data,
            })
        }
        _ => Found::System(position),
    }
}

/// Ticks of 100 ns since 1970. An event without them is as old as it can be; those before it lift it.
fn created(ticks: Option<&str>) -> Timestamp {
    let micros = ticks.and_then(|ticks| ticks.parse::<i64>().ok()).map_or(0, |ticks| ticks / 10);
    Timestamp::from_micros(micros)
}

pub(super) fn fault(error: Error) -> Fault {
    match error {
        Error::ConnectionClosed => Fault::Unreachable("the client was closed".to_owned()),
        Error::GrpcConnectionError(cause) => Fault::Unreachable(plain(&cause.to_string())),
        Error::InitializationError(cause) => Fault::Unreachable(cause),
        // The library says in its own words that it never came to a connection.
        Error::ServerError(cause) if cause.contains(NO_CONNECTION) => Fault::Unreachable(plain(&cause)),
        Error::ServerError(cause) => Fault::Broken(plain(&cause)),
        Error::DeadlineExceeded => Fault::Broken("its deadline was over".to_owned()),
        Error::NotLeaderException(_) => Fault::NotLeader,
        Error::WrongExpectedVersion { current: CurrentRevision::NoStream, .. } => Fault::Conflict(None),
        Error::WrongExpectedVersion { current: CurrentRevision::Current(revision), .. } => {
            Fault::Conflict(Some(Revision(revision)))
        }
        Error::ResourceNotFound => Fault::Missing,
        Error::ResourceDeleted => Fault::Deleted,
        Error::AccessDenied => Fault::Denied,
        Error::Grpc { code, message } if may_have_happened(&format!("{code:?}")) => {
            Fault::Broken(format!("{code:?}: {message}"))
        }
        Error::Grpc { code, message } => Fault::Refused(format!("{code:?}: {message}")),
        Error::UnsupportedFeature => Fault::Refused("the cluster does not know this call".to_owned()),
        Error::InternalParsingError(_)
        | Error::InternalClientError
        | Error::IllegalStateError(_)
        | Error::ResourceAlreadyExists => Fault::Broken(error.to_string()),
    }
}

/// How the library says that it never came to a connection.
const NO_CONNECTION: &str = "client error (Connect)";

/// What a status says, without how the library shows one.
fn plain(cause: &str) -> String {
    if cause.contains(NO_CONNECTION) {
        return "no connection can be made".to_owned();
    }
    let message = cause.split_once("message: \"").and_then(|(_, rest)| rest.split_once("\", details:"));
    message.map_or(cause, |(message, _)| message).to_owned()
}

/// Whether a call with this gRPC status may have been carried out, or may yet succeed.
fn may_have_happened(code: &str) -> bool {
    matches!(code, "Cancelled" | "Aborted" | "ResourceExhausted")
}
