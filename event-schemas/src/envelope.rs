//! What surrounds an event: who, when, why, where.
//!
//! A log sees a [`NewEvent`] and gives back a [`Recorded`]: type, metadata and data as bytes, so that it can keep and
//! pass on what it does not know. Everyone else reads the [`Envelope`], which [`Recorded::decode`] makes of it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::catalogue;
use crate::challenge::ChallengeEvent;
use crate::ids::{
    CommandId, CorrelationId, EventId, InvalidId, Position, ProcessId, Revision, ServiceId, SubjectId,
    Tenant, WorkerId,
};
use crate::job::JobEvent;
use crate::match_record::MatchRecordEvent;
use crate::matching::MatchingEvent;
use crate::player::PlayerEvent;
use crate::pool::PoolEvent;
use crate::stream::{Category, StreamId};
use crate::time::Timestamp;
use crate::worker::WorkerEvent;

/// The name of a type of event. Names that this build knows cost nothing to copy.
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

/// Who acted. Written as `subject:<id>`, `worker:<id>`, `service:<id>` or `system:<process>`.
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

/// The text names no actor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnActor {
    #[error("an actor is written as subject:, worker:, service: or system: and an id")]
    Kind,
    #[error(transparent)]
    Id(#[from] InvalidId),
}

impl FromStr for Actor {
    type Err = NotAnActor;

    fn from_str(text: &str) -> Result<Self, NotAnActor> {
        let (kind, id) = text.split_once(':').ok_or(NotAnActor::Kind)?;
        Ok(match kind {
            "subject" => Self::Subject(id.parse()?),
            "worker" => Self::Worker(id.parse()?),
            "service" => Self::Service(id.parse()?),
            "system" => Self::System(id.parse()?),
            _ => return Err(NotAnActor::Kind),
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

/// The key under which a command may be repeated, and what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Idempotency {
    /// UUIDv5 of tenant, caller, route and the caller's key, so that keys of different callers cannot meet.
    pub key: Uuid,
    pub body: BodyHash,
}

/// What the metadata of every event says. Stored as JSON beside the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    pub schema_version: u16,
    /// When it happened, as its producer says.
    pub occurred_at: Timestamp,
    pub tenant: Tenant,
    pub actor: Actor,
    /// The first command of the chain.
    pub correlation_id: CorrelationId,
    /// The command or event that caused it.
    pub causation_id: Uuid,
    /// Whose data it is, if a person's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<SubjectId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Idempotency>,
    /// W3C Trace Context of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// Who asks for a command, and why: what all events of the command share.
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

/// Makes [`Event`] of the categories, and the ways between it and each of them.
macro_rules! categories {
    ($($category:ident($events:ident)),* $(,)?) => {
        /// An event of any category.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Event {
            $($category($events)),*
        }

        impl Event {
            pub fn category(&self) -> Category {
                match self {
                    $(Self::$category(_) => Category::$category),*
                }
            }

            pub fn event_type(&self) -> EventType {
                match self {
                    $(Self::$category(event) => event.event_type()),*
                }
            }

            pub fn schema_version(&self) -> u16 {
                match self {
                    $(Self::$category(event) => event.schema_version()),*
                }
            }

            /// The stored form of the data: JSON.
            pub fn encode(&self) -> Bytes {
                match self {
                    $(Self::$category(event) => event.encode()),*
                }
            }

            fn decode(name: &str, data: &[u8]) -> Option<serde_json::Result<Self>> {
                None$(.or_else(|| $events::decode(name, data).map(|read| read.map(Self::$category))))*
            }
        }

        $(
            impl From<$events> for Event {
                fn from(event: $events) -> Self {
                    Self::$category(event)
                }
            }

            impl TryFrom<Event> for $events {
                type Error = OtherCategory;

                fn try_from(event: Event) -> Result<Self, OtherCategory> {
                    if let Event::$category(event) = event { Ok(event) } else { Err(OtherCategory(event.category())) }
                }
            }
        )*
    };
}

categories! {
    Job(JobEvent),
    Matching(MatchingEvent),
    Worker(WorkerEvent),
    Player(PlayerEvent),
    Pool(PoolEvent),
    MatchRecord(MatchRecordEvent),
    Challenge(ChallengeEvent),
}

/// The event is of another category than asked for: of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the category {}", .0.as_str())]
pub struct OtherCategory(pub Category);

/// What an event's data is, as its appender says. A log keeps it and does not look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataFormat {
    /// What all events of this program are.
    #[default]
    Json,
    /// Anything else: only events of others.
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
    /// The `index`th event that a command causes in `stream`. Its id tells commands apart that came under one key with
    /// different bodies, so that no log takes the one for the other's repetition.
    pub fn encode(
        cause: &Cause,
        stream: &StreamId,
        index: usize,
        occurred_at: Timestamp,
        event: &Event,
    ) -> Self {
        let metadata = Metadata {
            schema_version: event.schema_version(),
            occurred_at,
            tenant: cause.tenant.clone(),
            actor: cause.actor.clone(),
            correlation_id: cause.correlation_id,
            causation_id: cause.event_id.map_or(cause.command_id.0, |event| event.0),
            subject: cause.subject,
            idempotency: cause.idempotency,
            traceparent: cause.traceparent.clone(),
        };
        let command = cause
            .idempotency
            .map_or(cause.command_id, |asked| CommandId(Uuid::new_v5(&cause.command_id.0, &asked.body.0)));
        Self {
            id: EventId::derive(command, stream.as_str(), index),
            event_type: event.event_type(),
            format: DataFormat::Json,
            metadata: serde_json::to_vec(&metadata)
                .expect("metadata has text keys only, so it can be written as JSON")
                .into(),
            data: event.encode(),
        }
    }
}

/// An event as a log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub position: Position,
    /// When the log accepted it; never decreasing along the log.
    pub recorded_at: Timestamp,
    pub stream: StreamId,
    pub revision: Revision,
    pub id: EventId,
    pub event_type: EventType,
    pub format: DataFormat,
    pub metadata: Bytes,
    pub data: Bytes,
}

/// An event with all that is known about it.
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

/// A recorded event that this build cannot make sense of.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error(
        "the event at position {position} is of the unknown type {event_type}; run a newer version of matchbook, or skip it"
    )]
    UnknownType { position: Position, event_type: EventType },
    #[error(
        "the {event_type} at position {position} has schema version {version}, newer than the {known} known here; run a newer version of matchbook"
    )]
    Newer { position: Position, event_type: EventType, version: u16, known: u16 },
    #[error("the {event_type} at position {position} cannot be read: {source}")]
    Malformed { position: Position, event_type: EventType, source: serde_json::Error },
}

impl Recorded {
    /// The event's metadata alone, which is the same for all types, known here or not.
    pub fn metadata(&self) -> Result<Metadata, Unreadable> {
        serde_json::from_slice(&self.metadata).map_err(|source| self.malformed(source))
    }

    /// The typed event.
    pub fn decode(&self) -> Result<Envelope, Unreadable> {
        let unknown =
            || Unreadable::UnknownType { position: self.position, event_type: self.event_type.clone() };
        let kind = catalogue::find(self.event_type.as_str()).ok_or_else(unknown)?;
        let metadata = self.metadata()?;
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
