//! What became of a client's stream: its settings, and whether it was deleted.
//!
//! The settings of a stream are the last event of the stream `$$` and its name. A stream that was deleted can be begun
//! anew: its settings hide all events that it has. One with a tombstone, which is its last event, cannot.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use event_schemas::envelope::{DataFormat, EventType, NewEvent, Recorded};
use event_schemas::ids::{EventId, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::RwLock;
use uuid::Uuid;

use super::access::Owner;
use super::node::Node;
use super::refusal::Refusal;
use crate::embedded::ClientExpected;

/// The type of the event that ends a stream for good.
pub(super) const TOMBSTONE: &str = "$streamDeleted";

/// The type of the events that settings are.
const SETTINGS: &str = "$metadata";

/// Where the settings of a deleted stream truncate it.
const DELETED: u64 = i64::MAX as u64;

const TRUNCATE_BEFORE: &str = "$tb";

/// How many streams are remembered.
const REMEMBERED_MAX: usize = 65_536;

/// Streams share locks, so that memory is bounded.
const LOCKS: usize = 1024;

/// How a stream stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Plain,
    /// With settings that hide some of its events.
    Limited(Limits),
    /// Deleted; appending begins it anew.
    Deleted,
    /// Deleted for good.
    Tombstoned,
}

/// Which events of a stream are hidden.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// All but the last so many.
    count_max: Option<u64>,
    /// Those recorded longer ago.
    age_max: Option<Duration>,
    /// Those before this one.
    truncate_before: u64,
}

/// The events of a stream that a client may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Visible {
    pub(super) first: Revision,
    pub(super) last: Revision,
    pub(super) recorded_from: Option<Timestamp>,
}

/// The states of streams, and the locks under which they change.
#[derive(Debug)]
pub(super) struct States {
    remembered: Mutex<HashMap<StreamId, State>>,
    hasher: std::hash::RandomState,
    /// Shared by those who append, until the log has the append in its queue; held alone by those who change a state.
    locks: Box<[RwLock<()>]>,
}

impl States {
    pub(super) fn new() -> Self {
        Self {
            remembered: Mutex::default(),
            hasher: std::hash::RandomState::new(),
            locks: (0..LOCKS).map(|_| RwLock::new(())).collect(),
        }
    }

    pub(super) fn lock(&self, stream: &StreamId) -> &RwLock<()> {
        use std::hash::BuildHasher;
        let slot = self.hasher.hash_one(stream) % self.locks.len() as u64;
        // The remainder is below their number.
        &self.locks[slot as usize]
    }

    fn get(&self, stream: &StreamId) -> Option<State> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).get(stream).cloned()
    }

    fn set(&self, stream: &StreamId, state: State) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(stream.clone(), state);
    }

    /// The next who asks looks it up.
    pub(super) fn forget(&self, stream: &StreamId) {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).remove(stream);
    }
}

/// The stream of a stream's settings; none if its name would be too long.
pub(super) fn settings_stream(stream: &StreamId) -> Option<StreamId> {
    format!("$${stream}").parse().ok()
}

impl Node {
    /// How a client's stream stands. Call it under the stream's lock, shared or not.
    pub(super) async fn state_under_lock(&self, stream: &StreamId) -> Result<State, Refusal> {
        if let Some(state) = self.states.get(stream) {
            return Ok(state);
        }
        let state = match self.log.last_of(stream).await? {
            Some(last) if last.event_type.as_str() == TOMBSTONE => State::Tombstoned,
            _ => self.settings_of(stream).await?.map_or(State::Plain, |settings| state_of(&settings)),
        };
        self.states.set(stream, state.clone());
        Ok(state)
    }

    /// How a stream stands, for those who read.
    pub(super) async fn state(&self, stream: &StreamId, owner: &Owner) -> Result<State, Refusal> {
        match owner {
            // Nobody can change how these stand.
            Owner::Domain | Owner::Identity | Owner::System => Ok(State::Plain),
            Owner::SettingsOf(of) => match Box::pin(self.state(of, &Owner::Client)).await? {
                State::Tombstoned => Ok(State::Tombstoned),
                _ => Ok(State::Limited(Limits { count_max: Some(1), ..Limits::default() })),
            },
            Owner::Client => {
                let _shared = self.states.lock(stream).read().await;
                self.state_under_lock(stream).await
            }
        }
    }

    /// The events of a stream that can be seen; none if there is no such stream, or it is as if there were not.
    ///
    /// # Errors
    /// It was deleted for good.
    pub(super) async fn visible(&self, stream: &StreamId) -> Result<Option<Visible>, Refusal> {
        let state = self.state(stream, &super::access::owner(stream)).await?;
        if state == State::Tombstoned {
            return Err(Refusal::Deleted(stream.clone()));
        }
        let last = self.log.last_of(stream).await?;
        Ok(last.and_then(|last| state.visible(last.revision, self.clock.now())))
    }

    /// Where those begin who follow a stream: behind all that is hidden.
    ///
    /// # Errors
    /// It was deleted for good.
    pub(super) async fn begin_following(
        &self,
        stream: &StreamId,
    ) -> Result<(Revision, Option<Timestamp>), Refusal> {
        if let Some(visible) = self.visible(stream).await? {
            return Ok((visible.first, visible.recorded_from));
        }
        let last = self.log.last_of(stream).await?;
        Ok((last.map_or(Revision(0), |last| last.revision.next()), None))
    }

    /// The stream's settings as they were written.
    pub(super) async fn settings_of(&self, stream: &StreamId) -> Result<Option<Map<String, Value>>, Refusal> {
        let Some(settings) = settings_stream(stream) else { return Ok(None) };
        let last: Option<Recorded> = self.log.last_of(&settings).await?;
        // What cannot be read limits nothing.
        Ok(last.map(|event| serde_json::from_slice(&event.data).unwrap_or_default()))
    }

    /// Writes settings that truncate the stream, keeping the others if there are some.
    pub(super) async fn truncate(
        &self,
        stream: &StreamId,
        settings: Map<String, Value>,
        before: u64,
    ) -> Result<crate::Appended, Refusal> {
        let of = settings_stream(stream)
            .ok_or(Refusal::Malformed("the stream's name is too long for it to have settings"))?;
        let mut settings = settings;
        settings.insert(TRUNCATE_BEFORE.to_owned(), before.into());
        let event = system_event(SETTINGS, Value::Object(settings).to_string());
        let pending = self.log.submit(&of, ClientExpected::Any, vec![event]).await?;
        self.states.forget(stream);
        Ok(pending.outcome().await?)
    }

    /// Hides all events that the stream has.
    pub(super) async fn truncate_all(&self, stream: &StreamId) -> Result<crate::Appended, Refusal> {
        self.truncate(stream, Map::new(), DELETED).await
    }
}

/// An event that this server makes for a client's stream.
pub(super) fn system_event(event_type: &str, data: String) -> NewEvent {
    NewEvent {
        id: EventId(Uuid::new_v4()),
        event_type: EventType::new(event_type),
        format: DataFormat::Json,
        metadata: bytes::Bytes::new(),
        data: data.into(),
    }
}

fn state_of(settings: &Map<String, Value>) -> State {
    let number = |name: &str| settings.get(name).and_then(Value::as_u64);
    let limits = Limits {
        count_max: number("$maxCount").filter(|count| *count > 0),
        age_max: number("$maxAge").filter(|seconds| *seconds > 0).map(Duration::from_secs),
        truncate_before: number(TRUNCATE_BEFORE).unwrap_or(0),
    };
    if limits.truncate_before == DELETED {
        State::Deleted
    } else if limits == Limits::default() {
        State::Plain
    } else {
        State::Limited(limits)
    }
}

impl State {
    /// The events that can be seen of a stream that ends with `last`; none if it is as if it were not there.
    pub(super) fn visible(&self, last: Revision, now: Timestamp) -> Option<Visible> {
        match self {
            Self::Plain => Some(Visible { first: Revision(0), last, recorded_from: None }),
            Self::Deleted | Self::Tombstoned => None,
            Self::Limited(limits) => {
                let counted = limits.count_max.map_or(0, |max| (last.0 + 1).saturating_sub(max));
                let age = limits.age_max.map(|age| i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
                let recorded_from = age.map(|age| Timestamp::from_micros(now.micros().saturating_sub(age)));
                Some(Visible { first: Revision(counted.max(limits.truncate_before)), last, recorded_from })
            }
        }
    }
}
