//! The source and settings of a group, as a client sets them and as they are stored in the log.

use std::time::Duration;

use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use serde::{Deserialize, Serialize};

/// A position in the source of a group: a revision of its stream, or a position of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct SourcePosition(pub(super) u64);

impl SourcePosition {
    pub(super) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl From<Revision> for SourcePosition {
    fn from(revision: Revision) -> Self {
        Self(revision.0)
    }
}

impl From<Position> for SourcePosition {
    fn from(position: Position) -> Self {
        Self(position.0)
    }
}

/// The source of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum GroupSource {
    All,
    Stream(StreamId),
}

impl GroupSource {
    /// The name in the protocol.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::All => "$all",
            Self::Stream(stream) => stream.as_str(),
        }
    }
}

/// The key of a group: its source and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct GroupKey {
    pub(super) source: GroupSource,
    pub(super) group: String,
}

/// The start of a group without a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum GroupStart {
    First,
    /// At this position, inclusive.
    At(SourcePosition),
    /// With the first event after the group was created.
    End,
}

/// The strategy that assigns events to consumers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[derive(strum::Display, strum::EnumString, strum::VariantArray)]
pub(super) enum Strategy {
    /// The first consumer with a free slot.
    DispatchToSingle,
    /// Each consumer in turn.
    RoundRobin,
    /// The same consumer for all events of a stream, while the consumers stay the same.
    Pinned,
    /// The same consumer for all events with the same correlation id.
    PinnedByCorrelation,
}

/// The settings of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) start: GroupStart,
    pub(super) resolve_links: bool,
    pub(super) extra_statistics: bool,
    /// The time after which an unanswered event is retried; never if zero.
    #[serde(with = "millis")]
    pub(super) message_timeout: Duration,
    /// The retries after which an event is parked.
    pub(super) max_retries: u32,
    #[serde(with = "millis")]
    pub(super) checkpoint_after: Duration,
    pub(super) min_checkpoint_count: u32,
    pub(super) max_checkpoint_count: u32,
    /// Unlimited if 0.
    pub(super) max_subscribers: u32,
    pub(super) live_buffer_size: u32,
    pub(super) read_batch_size: u32,
    /// The most events that are read and not sent to a consumer yet.
    pub(super) history_buffer_size: u32,
    pub(super) strategy: Strategy,
}

/// The settings are invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidSettings {
    #[error("Read batch size must be greater than 0.")]
    ReadBatch,
    #[error("Buffer size must be greater than read batch size.")]
    Buffer,
    #[error("Live buffer size must be greater than 0.")]
    LiveBuffer,
    #[error("a number must not be negative")]
    Negative,
    #[error("Consumer strategy must be one of DispatchToSingle, RoundRobin, Pinned and PinnedByCorrelation.")]
    Strategy,
}

/// The most events that a group keeps in memory.
const BUFFER_MAX: u32 = 100_000;

impl Settings {
    /// # Errors
    /// [`InvalidSettings`] if a value, or a combination of values, is not allowed.
    pub(super) fn check(&self) -> Result<(), InvalidSettings> {
        if self.live_buffer_size == 0 {
            Err(InvalidSettings::LiveBuffer)
        } else if self.read_batch_size == 0 {
            Err(InvalidSettings::ReadBatch)
        } else if self.history_buffer_size <= self.read_batch_size || self.history_buffer_size > BUFFER_MAX {
            Err(InvalidSettings::Buffer)
        } else {
            Ok(())
        }
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}
