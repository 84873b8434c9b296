//! The metadata of clients' streams, which limits the visible events and marks deleted streams.
//!
//! The metadata of a stream is the last event of the stream `$$<stream>`. Deleting a stream sets metadata that hides all its
//! events; it can be appended to again. A stream whose last event is a tombstone cannot.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use event_schemas::envelope::{DataFormat, EventType, NewEvent, Recorded};
use event_schemas::ids::{EventId, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use hashlink::LruCache;
use serde_json::{Map, Value};
use tokio::sync::RwLock;
use uuid::Uuid;

use super::access::Owner;
use super::node::Node;
use super::refusal::Refusal;
use event_log_embedded::ClientExpected;

/// The type of the event that deletes a stream permanently.
pub(super) const TOMBSTONE: &str = "$streamDeleted";

/// The type of metadata events.
const METADATA_TYPE: &str = "$metadata";

/// The truncation revision of a deleted stream.
const DELETED: u64 = i64::MAX as u64;

const TRUNCATE_BEFORE: &str = "$tb";

/// The most streams in the cache, at about 200 bytes each: 13 MB.
const CACHED_MAX: usize = 65_536;

/// Streams share locks, so that memory is bounded.
const LOCKS: usize = 1024;

/// The status of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum StreamStatus {
    #[default]
    Unlimited,
    /// The metadata hides some of its events.
    Limited(Limits),
    /// Deleted softly; it can be appended to again.
    Deleted,
    /// Deleted permanently.
    Tombstoned,
}

/// The limits of the visible events of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Only this many of the last events are visible.
    count_max: Option<u64>,
    /// Older events are hidden.
    age_max: Option<Duration>,
    /// Events before this revision are hidden.
    truncate_before: u64,
}

/// The events of a stream that a client may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VisibleRange {
    pub(super) first: Revision,
    pub(super) last: Revision,
    pub(super) recorded_from: Option<Timestamp>,
}

/// A cache of stream statuses, and the locks under which they change.
#[derive(Debug)]
pub(super) struct StreamStatusCache {
    cached: Mutex<LruCache<StreamId, StreamStatus>>,
    hasher: std::hash::RandomState,
    /// Held shared by an append until it is in the queue of the log; held exclusively to change a status.
    locks: Box<[RwLock<()>]>,
}

impl StreamStatusCache {
    pub(super) fn new() -> Self {
        Self {
            cached: Mutex::new(LruCache::new(CACHED_MAX)),
            hasher: std::hash::RandomState::new(),
            locks: (0..LOCKS).map(|_| RwLock::new(())).collect(),
        }
    }

    pub(super) fn lock(&self, stream: &StreamId) -> &RwLock<()> {
        use std::hash::BuildHasher;
        let slot = self.hasher.hash_one(stream) % self.locks.len() as u64;
        // The remainder is less than the number of locks.
        &self.locks[slot as usize]
    }

    fn get(&self, stream: &StreamId) -> Option<StreamStatus> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner).get(stream).cloned()
    }

    fn set(&self, stream: &StreamId, status: StreamStatus) {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner).insert(stream.clone(), status);
    }

    /// Removes a status from the cache, so that the next call reads it again.
    pub(super) fn invalidate(&self, stream: &StreamId) {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner).remove(stream);
    }
}

/// The metadata stream of a stream; `None` if its name would be too long.
pub(super) fn metadata_stream(stream: &StreamId) -> Option<StreamId> {
    format!("$${stream}").parse().ok()
}

impl Node {
    /// The status of a client's stream. The caller must hold the stream's lock, shared or exclusively.
    pub(super) async fn status_under_lock(&self, stream: &StreamId) -> Result<StreamStatus, Refusal> {
        if let Some(status) = self.statuses.get(stream) {
            return Ok(status);
        }
        let status = match self.log.last_event(stream).await? {
            Some(last) if last.event_type.as_str() == TOMBSTONE => StreamStatus::Tombstoned,
            _ => self
                .metadata_of(stream)
                .await?
                .map_or(StreamStatus::Unlimited, |metadata| status_from(&metadata)),
        };
        self.statuses.set(stream, status.clone());
        Ok(status)
    }

    /// The status of a stream, for reads.
    pub(super) async fn status(&self, stream: &StreamId, owner: &Owner) -> Result<StreamStatus, Refusal> {
        match owner {
            // The status of these streams never changes.
            Owner::Domain | Owner::Identity | Owner::System => Ok(StreamStatus::Unlimited),
            Owner::MetadataOf(of) => match Box::pin(self.status(of, &Owner::Client)).await? {
                StreamStatus::Tombstoned => Ok(StreamStatus::Tombstoned),
                _ => Ok(StreamStatus::Limited(Limits { count_max: Some(1), ..Limits::default() })),
            },
            Owner::Client => {
                let _shared = self.statuses.lock(stream).read().await;
                self.status_under_lock(stream).await
            }
        }
    }

    /// The visible events of a stream; `None` if the stream does not exist, or is deleted.
    ///
    /// # Errors
    /// The stream was deleted permanently.
    pub(super) async fn visible(&self, stream: &StreamId) -> Result<Option<VisibleRange>, Refusal> {
        let status = self.status(stream, &super::access::owner(stream)).await?;
        if status == StreamStatus::Tombstoned {
            return Err(Refusal::Deleted(stream.clone()));
        }
        let last = self.log.last_event(stream).await?;
        Ok(last.and_then(|last| status.visible(last.revision, self.clock.now())))
    }

    /// The first visible revision for a subscription to a stream, and the time limit of its events.
    ///
    /// # Errors
    /// The stream was deleted permanently.
    pub(super) async fn first_visible(
        &self,
        stream: &StreamId,
    ) -> Result<(Revision, Option<Timestamp>), Refusal> {
        if let Some(visible) = self.visible(stream).await? {
            return Ok((visible.first, visible.recorded_from));
        }
        let last = self.log.last_event(stream).await?;
        Ok((last.map_or(Revision(0), |last| last.revision.next()), None))
    }

    /// The metadata of a stream as it was written.
    pub(super) async fn metadata_of(&self, stream: &StreamId) -> Result<Option<Map<String, Value>>, Refusal> {
        let Some(metadata) = metadata_stream(stream) else { return Ok(None) };
        let last: Option<Recorded> = self.log.last_event(&metadata).await?;
        // Metadata that cannot be parsed has no effect.
        Ok(last.map(|event| serde_json::from_slice(&event.data).unwrap_or_default()))
    }

    /// Writes metadata that truncates the stream, and keeps the other members.
    pub(super) async fn truncate(
        &self,
        stream: &StreamId,
        metadata: Map<String, Value>,
        before: u64,
    ) -> Result<event_log::Appended, Refusal> {
        let of = metadata_stream(stream)
            .ok_or(Refusal::Malformed("the stream's name is too long for it to have metadata"))?;
        let mut metadata = metadata;
        metadata.insert(TRUNCATE_BEFORE.to_owned(), before.into());
        let event = system_event(METADATA_TYPE, Value::Object(metadata).to_string());
        let pending = self.log.submit(&of, ClientExpected::Any, vec![event]).await?;
        self.statuses.invalidate(stream);
        Ok(pending.outcome().await?)
    }

    /// Hides all existing events of the stream.
    pub(super) async fn truncate_all(&self, stream: &StreamId) -> Result<event_log::Appended, Refusal> {
        self.truncate(stream, Map::new(), DELETED).await
    }
}

/// A system event that this server appends.
pub(super) fn system_event(event_type: &str, data: String) -> NewEvent {
    NewEvent {
        id: EventId(Uuid::new_v4()),
        event_type: EventType::new(event_type),
        format: DataFormat::Json,
        metadata: bytes::Bytes::new(),
        data: data.into(),
    }
}

fn status_from(metadata: &Map<String, Value>) -> StreamStatus {
    let number = |name: &str| metadata.get(name).and_then(Value::as_u64);
    let limits = Limits {
        count_max: number("$maxCount").filter(|count| *count > 0),
        age_max: number("$maxAge").filter(|seconds| *seconds > 0).map(Duration::from_secs),
        truncate_before: number(TRUNCATE_BEFORE).unwrap_or(0),
    };
    if limits.truncate_before == DELETED {
        StreamStatus::Deleted
    } else if limits == Limits::default() {
        StreamStatus::Unlimited
    } else {
        StreamStatus::Limited(limits)
    }
}

impl StreamStatus {
    /// The visible events of a stream whose last revision is `last`; `None` if it is deleted.
    pub(super) fn visible(&self, last: Revision, now: Timestamp) -> Option<VisibleRange> {
        match self {
            Self::Unlimited => Some(VisibleRange { first: Revision(0), last, recorded_from: None }),
            Self::Deleted | Self::Tombstoned => None,
            Self::Limited(limits) => {
                let counted = limits.count_max.map_or(0, |max| (last.0 + 1).saturating_sub(max));
                let age = limits.age_max.map(|age| i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
                let recorded_from = age.map(|age| Timestamp::from_micros(now.micros().saturating_sub(age)));
                Some(VisibleRange {
                    first: Revision(counted.max(limits.truncate_before)),
                    last,
                    recorded_from,
                })
            }
        }
    }
}
