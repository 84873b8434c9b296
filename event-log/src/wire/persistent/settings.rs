//! What a group follows and how: made by a client, kept in the log.

use std::time::Duration;

use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use serde::{Deserialize, Serialize};

/// A number of the group's source: a revision of its stream, or a position of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Place(pub(super) u64);

impl Place {
    pub(super) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl From<Revision> for Place {
    fn from(revision: Revision) -> Self {
        Self(revision.0)
    }
}

impl From<Position> for Place {
    fn from(position: Position) -> Self {
        Self(position.0)
    }
}

/// What a group follows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Source {
    All,
    Stream(StreamId),
}

impl Source {
    /// As clients write it.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::All => "$all",
            Self::Stream(stream) => stream.as_str(),
        }
    }
}

/// A group's name, within what it follows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) source: Source,
    pub(super) group: String,
}

/// Where a group begins before it has done anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Beginning {
    First,
    /// That one included.
    At(Place),
    /// With what comes after the group was made.
    End,
}

/// Which consumer gets an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Strategy {
    /// The first that has room.
    DispatchToSingle,
    /// Each in turn.
    RoundRobin,
    /// The same for all events of a stream, while the consumers stay the same.
    Pinned,
    /// The same for all events of a correlation id.
    PinnedByCorrelation,
}

impl Strategy {
    pub(super) const ALL: [Self; 4] =
        [Self::DispatchToSingle, Self::RoundRobin, Self::Pinned, Self::PinnedByCorrelation];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DispatchToSingle => "DispatchToSingle",
            Self::RoundRobin => "RoundRobin",
            Self::Pinned => "Pinned",
            Self::PinnedByCorrelation => "PinnedByCorrelation",
        }
    }
}

/// How a group works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) start: Beginning,
    pub(super) resolve_links: bool,
    pub(super) extra_statistics: bool,
    /// How long a consumer may take for an event before another gets it; for ever if none.
    #[serde(with = "millis")]
    pub(super) message_timeout: Duration,
    /// After so many retries an event is parked.
    pub(super) max_retries: u32,
    #[serde(with = "millis")]
    pub(super) checkpoint_after: Duration,
    pub(super) min_checkpoint_count: u32,
    pub(super) max_checkpoint_count: u32,
    /// Any number if 0.
    pub(super) max_subscribers: u32,
    pub(super) live_buffer_size: u32,
    pub(super) read_batch_size: u32,
    /// The most events that are read and not yet with a consumer.
    pub(super) history_buffer_size: u32,
    pub(super) strategy: Strategy,
}

/// Why settings are no settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsound {
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
    /// What of them does not go together.
    pub(super) fn check(&self) -> Result<(), Unsound> {
        if self.live_buffer_size == 0 {
            Err(Unsound::LiveBuffer)
        } else if self.read_batch_size == 0 {
            Err(Unsound::ReadBatch)
        } else if self.history_buffer_size <= self.read_batch_size || self.history_buffer_size > BUFFER_MAX {
            Err(Unsound::Buffer)
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
