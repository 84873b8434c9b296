//! The envelope of an event: who, when, why, where.
//!
//! A log receives a [`NewEvent`] and returns a [`Recorded`]: type, metadata and data as bytes, so that it can
//! store and pass on types that it does not know. All other code reads the [`Envelope`], which
//! [`Recorded::decode`] produces.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::catalogue;
use crate::ids::{
    CommandId, CorrelationId, EventId, InvalidId, Position, ProcessId, Revision, ServiceId, SubjectId,
    Tenant, WorkerId, uuid_v5,
};
use crate::stream::StreamId;
use crate::time::Timestamp;

pub use crate::Event;
pub use crate::catalogue::OtherCategory;

/// The name of an event type. Names that this build knows are copied without an allocation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(Cow<'static, str>);

impl EventType {
    pub(crate) const fn known(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    pub fn new(name: &str) -> Self {
        Self(
            catalogue::find(name)
                .map_or_else(|| Cow::Owned(name.to_owned()), |kind| Cow::Borrowed(kind.name)),
        )
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The actor of a command. Written as `subject:<id>`, `worker:<id>`, `service:<id>` or `system:<process>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    Subject(SubjectId),
    Worker(WorkerId),
    Service(ServiceId),
    System(ProcessId),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subject(id) => write!(f, "subject:{id}"),
            Self::Worker(id) => write!(f, "worker:{id}"),
            Self::Service(id) => write!(f, "service:{id}"),
            Self::System(process) => write!(f, "system:{process}"),
        }
    }
}

/// The text is not an actor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidActor {
    #[error("an actor is written as subject:, worker:, service: or system: and an id")]
    Kind,
    #[error(transparent)]
    Id(#[from] InvalidId),
}

impl FromStr for Actor {
    type Err = InvalidActor;

    fn from_str(text: &str) -> Result<Self, InvalidActor> {
        let (kind, id) = text.split_once(':').ok_or(InvalidActor::Kind)?;
        Ok(match kind {
            "subject" => Self::Subject(id.parse()?),
            "worker" => Self::Worker(id.parse()?),
            "service" => Self::Service(id.parse()?),
            "system" => Self::System(id.parse()?),
            _ => return Err(InvalidActor::Kind),
        })
    }
}

impl Serialize for Actor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Actor {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The first 16 bytes of the SHA-256 of a command's body. Written in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BodyHash(pub [u8; 16]);

impl Serialize for BodyHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", u128::from_be_bytes(self.0)))
    }
}

impl<'de> Deserialize<'de> for BodyHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let value = u128::from_str_radix(&text, 16).map_err(serde::de::Error::custom)?;
        Ok(Self(value.to_be_bytes()))
    }
}

/// The idempotency key of a command, and a hash of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Idempotency {
    /// UUIDv5 of tenant, caller, route and the caller's key, so that keys of different callers never collide.
    pub key: Uuid,
    pub body: BodyHash,
}

/// The metadata of every event. Stored as JSON beside the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    pub schema_version: u16,
    /// The time at which it happened, as reported by its producer.
    pub occurred_at: Timestamp,
    pub tenant: Tenant,
    pub actor: Actor,
    /// The first command of the chain.
    pub correlation_id: CorrelationId,
    /// The command or event that caused it.
    pub causation_id: Uuid,
    /// The person whose data the event contains, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<SubjectId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Idempotency>,
    /// W3C Trace Context of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// The origin of a command: the fields that all of its events share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub command_id: CommandId,
    pub correlation_id: CorrelationId,
    /// The event that made a process send the command; none for a caller's command, which is its own cause.
    pub event_id: Option<EventId>,
    pub tenant: Tenant,
    pub actor: Actor,
    pub subject: Option<SubjectId>,
    pub idempotency: Option<Idempotency>,
    pub traceparent: Option<String>,
}

/// The format of an event's data, as declared by its appender. A log stores it without checking it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataFormat {
    /// The format of all events of this program.
    #[default]
    Json,
    /// Any other format; only events of other programs have it.
    Bytes,
}

/// An event before a log has accepted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    pub id: EventId,
    pub event_type: EventType,
    pub format: DataFormat,
    /// JSON of [`Metadata`].
    pub metadata: Bytes,
    /// JSON of the event.
    pub data: Bytes,
}

impl NewEvent {
    /// The `index`th event that a command causes in `stream`; see [`EventEncoder::encode`].
    pub fn encode(
        cause: &Cause,
        stream: &StreamId,
        index: usize,
        occurred_at: Timestamp,
        event: &Event,
    ) -> Self {
        EventEncoder::new(cause, stream).encode(index, occurred_at, event)
    }
}

/// Encodes the events that a command causes in one stream.
#[derive(Debug)]
pub struct EventEncoder<'a> {
    cause: &'a Cause,
    stream: &'a StreamId,
    command: CommandId,
    /// The schema version, the time and the metadata of the previous event. The events of a batch often share them.
    previous: Option<(u16, Timestamp, Bytes)>,
}

impl<'a> EventEncoder<'a> {
    pub fn new(cause: &'a Cause, stream: &'a StreamId) -> Self {
        let command = cause
            .idempotency
            .map_or(cause.command_id, |asked| CommandId(uuid_v5(cause.command_id.0, &asked.body.0)));
        Self { cause, stream, command, previous: None }
    }

    /// The `index`th event. Commands under one key with different bodies get different event ids, so that no log mistakes
    /// one for a repetition of the other.
    pub fn encode(&mut self, index: usize, occurred_at: Timestamp, event: &Event) -> NewEvent {
        NewEvent {
            id: EventId::derive(self.command, self.stream.as_str(), index),
            event_type: event.event_type(),
            format: DataFormat::Json,
            metadata: self.metadata(event.schema_version(), occurred_at),
            data: event.encode(),
        }
    }

    fn metadata(&mut self, schema_version: u16, occurred_at: Timestamp) -> Bytes {
        if let Some((version, at, metadata)) = &self.previous
            && (*version, *at) == (schema_version, occurred_at)
        {
            return metadata.clone();
        }
        let Cause { tenant, actor, traceparent, .. } = self.cause;
        let metadata = Metadata {
            schema_version,
            occurred_at,
            tenant: tenant.clone(),
            actor: actor.clone(),
            correlation_id: self.cause.correlation_id,
            causation_id: self.cause.event_id.map_or(self.cause.command_id.0, |event| event.0),
            subject: self.cause.subject,
            idempotency: self.cause.idempotency,
            traceparent: traceparent.clone(),
        };
        let written = serde_json::to_vec(&metadata);
        let text = Bytes::from(written.expect("metadata has text keys only, so it can be written as JSON"));
        self.previous = Some((schema_version, occurred_at, text.clone()));
        text
    }
}

/// An event as it is stored in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub position: Position,
    /// The time at which the log accepted it; never decreasing along the log.
    pub recorded_at: Timestamp,
    pub stream: StreamId,
    pub revision: Revision,
    pub id: EventId,
    pub event_type: EventType,
    pub format: DataFormat,
    pub metadata: Bytes,
    pub data: Bytes,
}

/// A decoded event with all its metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    pub position: Position,
    pub recorded_at: Timestamp,
    pub stream: StreamId,
    pub revision: Revision,
    pub id: EventId,
    pub metadata: Metadata,
    pub event: Event,
}

/// A recorded event that this build cannot decode.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error(
        "the event at position {position} has the unknown type {event_type}; run a newer version of matchbook, or skip it"
    )]
    UnknownType { position: Position, event_type: EventType },
    #[error(
        "the {event_type} at position {position} has schema version {version}, but this build knows versions up to {known}; run a newer version of matchbook"
    )]
    Newer { position: Position, event_type: EventType, version: u16, known: u16 },
    #[error("the {event_type} at position {position} cannot be read: {source}")]
    Malformed { position: Position, event_type: EventType, source: serde_json::Error },
}

impl Recorded {
    /// The event's metadata alone, which has the same form for all types, known or not.
    pub fn metadata(&self) -> Result<Metadata, Unreadable> {
        serde_json::from_slice(&self.metadata).map_err(|source| self.malformed(source))
    }

    /// The decoded event.
    pub fn decode(&self) -> Result<Envelope, Unreadable> {
        self.decode_with(|| self.metadata())
    }

    fn decode_with(
        &self,
        metadata: impl FnOnce() -> Result<Metadata, Unreadable>,
    ) -> Result<Envelope, Unreadable> {
        let unknown =
            || Unreadable::UnknownType { position: self.position, event_type: self.event_type.clone() };
        let kind = catalogue::find(self.event_type.as_str()).ok_or_else(unknown)?;
        let metadata = metadata()?;
        if metadata.schema_version > kind.version {
            return Err(Unreadable::Newer {
                position: self.position,
                event_type: self.event_type.clone(),
                version: metadata.schema_version,
                known: kind.version,
            });
        }
        let event = Event::decode(kind.name, &self.data)
            .ok_or_else(unknown)?
            .map_err(|source| self.malformed(source))?;
        Ok(Envelope {
            position: self.position,
            recorded_at: self.recorded_at,
            stream: self.stream.clone(),
            revision: self.revision,
            id: self.id,
            metadata,
            event,
        })
    }

    fn malformed(&self, source: serde_json::Error) -> Unreadable {
        Unreadable::Malformed { position: self.position, event_type: self.event_type.clone(), source }
    }
}

/// Decodes events in their order. The events of one command often have the same metadata, which is then parsed once.
#[derive(Debug, Default)]
pub struct EventDecoder {
    /// The metadata of the previous event, as text and parsed.
    previous: Option<(Bytes, Metadata)>,
}

impl EventDecoder {
    /// The decoded event.
    ///
    /// # Errors
    /// As [`Recorded::decode`].
    pub fn decode(&mut self, recorded: &Recorded) -> Result<Envelope, Unreadable> {
        recorded.decode_with(|| match &self.previous {
            Some((text, metadata)) if *text == recorded.metadata => Ok(metadata.clone()),
            _ => {
                let metadata = recorded.metadata()?;
                self.previous = Some((recorded.metadata.clone(), metadata.clone()));
                Ok(metadata)
            }
        })
    }
}
