//! Conversion of events, ids and names from and to messages of the protocol.

use std::collections::HashMap;

use bytes::Bytes;
use event_schemas::envelope::{DataFormat, EventType, NewEvent, Recorded};
use event_schemas::ids::{EventId, Position};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use uuid::Uuid;

use super::proto::event_store::client as shared;
use super::proto::event_store::client::streams::{ReadResp, read_resp};
use super::refusal::Refusal;
use super::stream_metadata::TOMBSTONE;
use shared::uuid::Value;

/// The longest event type, in bytes.
const TYPE_BYTES_MAX: usize = 4096;

const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// The form in which a client wants ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UuidFormat {
    Text,
    Structured,
}

impl UuidFormat {
    pub(super) fn write(self, id: Uuid) -> shared::Uuid {
        let value = match self {
            Self::Text => Value::String(id.to_string()),
            Self::Structured => {
                let (most, least) = id.as_u64_pair();
                Value::Structured(shared::uuid::Structured {
                    most_significant_bits: most.cast_signed(),
                    least_significant_bits: least.cast_signed(),
                })
            }
        };
        shared::Uuid { value: Some(value) }
    }
}

pub(super) fn uuid(id: Option<&shared::Uuid>) -> Result<Uuid, Refusal> {
    match id.and_then(|id| id.value.as_ref()) {
        Some(Value::String(text)) => {
            Uuid::parse_str(text).map_err(|_| Refusal::Malformed("an id is not a UUID"))
        }
        Some(Value::Structured(id)) => Ok(Uuid::from_u64_pair(
            id.most_significant_bits.cast_unsigned(),
            id.least_significant_bits.cast_unsigned(),
        )),
        None => Err(Refusal::Malformed("an id is missing")),
    }
}

pub(super) fn stream_id(name: Option<&shared::StreamIdentifier>) -> Result<StreamId, Refusal> {
    let name = name.ok_or(Refusal::Malformed("the stream's name is missing"))?;
    std::str::from_utf8(&name.stream_name).ok().and_then(|name| name.parse().ok()).ok_or(Refusal::Malformed(
        "a stream's name must be 1 to 4096 bytes of UTF-8 without control characters",
    ))
}

pub(super) fn stream_identifier(stream: &StreamId) -> shared::StreamIdentifier {
    shared::StreamIdentifier { stream_name: Bytes::copy_from_slice(stream.as_str().as_bytes()) }
}

/// The event that a client proposes. Its metadata and data are not changed.
pub(super) fn proposed(
    id: Option<&shared::Uuid>,
    properties: &HashMap<String, String>,
    metadata: Bytes,
    data: Bytes,
) -> Result<NewEvent, Refusal> {
    let property = |name: &'static str| properties.get(name).ok_or(Refusal::MissingProperty(name));
    let event_type = property("type")?;
    if event_type.is_empty() {
        return Err(Refusal::MissingProperty("type"));
    }
    if event_type.len() > TYPE_BYTES_MAX {
        return Err(Refusal::Malformed("an event type must have at most 4096 bytes"));
    }
    let format = if property("content-type")? == JSON { DataFormat::Json } else { DataFormat::Bytes };
    Ok(NewEvent { id: EventId(uuid(id)?), event_type: EventType::new(event_type), format, metadata, data })
}

/// The response to a read for an event.
pub(super) fn event(event: Recorded, ids: UuidFormat) -> ReadResp {
    let position = read_resp::read_event::Position::CommitPosition(event.position.0);
    content(read_resp::Content::Event(read_resp::ReadEvent {
        event: Some(recorded(event, ids)),
        link: None,
        position: Some(position),
    }))
}

/// The response to a read for a link event with its target, if that is visible.
pub(super) fn resolved(link: Recorded, event: Option<Recorded>, ids: UuidFormat) -> ReadResp {
    let position = read_resp::read_event::Position::CommitPosition(link.position.0);
    content(read_resp::Content::Event(read_resp::ReadEvent {
        event: event.map(|event| recorded(event, ids)),
        link: Some(recorded(link, ids)),
        position: Some(position),
    }))
}

pub(super) fn recorded(event: Recorded, ids: UuidFormat) -> read_resp::read_event::RecordedEvent {
    let format = match event.format {
        DataFormat::Json => JSON,
        DataFormat::Bytes => BYTES,
    };
    let properties = [
        ("type", event.event_type.as_str().to_owned()),
        ("created", ticks(event.recorded_at).to_string()),
        ("content-type", format.to_owned()),
    ];
    // A tombstone is the last event of its stream; clients identify it by the largest revision.
    let is_tombstone = event.event_type.as_str() == TOMBSTONE;
    read_resp::read_event::RecordedEvent {
        id: Some(ids.write(event.id.0)),
        stream_identifier: Some(stream_identifier(&event.stream)),
        stream_revision: if is_tombstone { i64::MAX as u64 } else { event.revision.0 },
        prepare_position: event.position.0,
        commit_position: event.position.0,
        metadata: properties.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        custom_metadata: event.metadata,
        data: event.data,
    }
}

pub(super) fn content(content: read_resp::Content) -> ReadResp {
    ReadResp { content: Some(content) }
}

/// The protocol has two numbers for a position, which are equal here.
pub(super) fn position(position: Position) -> read_resp::Position {
    read_resp::Position { commit_position: position.0, prepare_position: position.0 }
}

/// Ticks of 100 ns since 1970.
fn ticks(at: Timestamp) -> i64 {
    at.micros().saturating_mul(10)
}

pub(super) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let micros = at.micros();
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or(0),
    }
}
