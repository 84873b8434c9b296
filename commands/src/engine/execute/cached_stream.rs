//! The folded state of one stream, and its revision.

use std::fmt;

use event_schemas::envelope::{Event, EventDecoder, Idempotency, Recorded};
use event_schemas::ids::{Position, Revision, Tenant};
use event_schemas::time::Timestamp;

use domain::decider::{Decider, Occurred};
use event_log::Appended;

use super::LoadError;
use crate::engine::idempotency::{KeyStatus, Keys};

/// The state of a stream at a revision.
pub struct CachedStream<D: Decider> {
    /// The state of the consistency boundary.
    pub state: D::State,
    revision: Option<Revision>,
    position: Position,
    tenant: Option<Tenant>,
    /// The size of the data of all its events.
    event_bytes: usize,
    pub(super) keys: Keys,
}

/// The memory of one idempotency key.
const KEY_BYTES: usize = 160;

impl<D: Decider> fmt::Debug for CachedStream<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedStream").field("revision", &self.revision).finish_non_exhaustive()
    }
}

impl<D: Decider> Default for CachedStream<D> {
    fn default() -> Self {
        Self {
            state: D::State::default(),
            revision: None,
            position: Position::START,
            tenant: None,
            event_bytes: 0,
            keys: Keys::default(),
        }
    }
}

impl<D: Decider> CachedStream<D> {
    /// The revision of the last event; none if there is no event.
    pub fn revision(&self) -> Option<Revision> {
        self.revision
    }

    /// The position of the last event; the start if there is no event.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The tenant that owns the stream: the tenant of its first event. None if there is no event.
    pub fn tenant(&self) -> Option<&Tenant> {
        self.tenant.as_ref()
    }

    /// The status of an idempotency key on the stream.
    pub fn key_status(&self, idempotency: Idempotency) -> KeyStatus {
        self.keys.find(idempotency)
    }

    pub(super) fn next_revision(&self) -> Revision {
        self.revision.map_or(Revision(0), Revision::next)
    }

    /// The number of events that it is the fold of.
    pub(super) fn events(&self) -> u64 {
        self.next_revision().0
    }

    /// The approximate memory of the state and its keys.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + D::heap_bytes(&self.state, self.event_bytes) + self.keys.len() * KEY_BYTES
    }

    /// Applies an event that was read from the log.
    pub(super) fn apply_recorded(
        &mut self,
        decoder: &mut EventDecoder,
        recorded: &Recorded,
    ) -> Result<(), LoadError>
    where
        D::Event: TryFrom<Event>,
    {
        let envelope = decoder.decode(recorded)?;
        let event =
            D::Event::try_from(envelope.event).map_err(|_| LoadError::ForeignEvent(recorded.position))?;
        self.evolve(&event, envelope.metadata.occurred_at);
        self.tenant.get_or_insert(envelope.metadata.tenant);
        if let Some(carried) = envelope.metadata.idempotency {
            self.keys.record(carried, 1, recorded.position, recorded.recorded_at);
        }
        self.event_bytes += recorded.data.len();
        self.revision = Some(recorded.revision);
        self.position = recorded.position;
        Ok(())
    }

    /// Applies events that were just appended; `bytes` is the size of their data.
    pub(super) fn apply_appended(
        &mut self,
        events: &[Occurred<D::Event>],
        bytes: usize,
        appended: Appended,
        tenant: &Tenant,
        carried: Option<Idempotency>,
    ) {
        for occurred in events {
            self.evolve(&occurred.event, occurred.at);
        }
        self.tenant.get_or_insert_with(|| tenant.clone());
        if let Some(carried) = carried {
            self.keys.record(carried, events.len(), appended.position, appended.recorded_at);
        }
        self.event_bytes += bytes;
        self.revision = Some(appended.revision);
        self.position = appended.position;
    }

    fn evolve(&mut self, event: &D::Event, occurred_at: Timestamp) {
        self.state = D::evolve(std::mem::take(&mut self.state), event, occurred_at);
    }
}
