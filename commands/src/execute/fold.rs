//! The state of one stream, and how far it reaches.

use std::fmt;

use event_schemas::envelope::{Event, Idempotency, Recorded};
use event_schemas::ids::{Position, Revision, Tenant};
use event_schemas::time::Timestamp;

use domain::decider::{Decider, Occurred};
use event_log::Appended;

use super::{Executed, LoadError};
use crate::idempotency::{Keys, Seen};

/// What the events of a stream, up to a revision, come to.
pub struct Folded<D: Decider> {
    /// The boundary's own state.
    pub state: D::State,
    revision: Option<Revision>,
    position: Position,
    tenant: Option<Tenant>,
    /// Of the data of all its events.
    bytes: usize,
    pub(super) keys: Keys,
}

/// The data of an ordinary event. A long list in one event weighs as many events as it is long.
const EVENT_BYTES: usize = 512;

impl<D: Decider> fmt::Debug for Folded<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folded").field("revision", &self.revision).finish_non_exhaustive()
    }
}

impl<D: Decider> Default for Folded<D> {
    fn default() -> Self {
        Self {
            state: D::State::default(),
            revision: None,
            position: Position::START,
            tenant: None,
            bytes: 0,
            keys: Keys::default(),
        }
    }
}

impl<D: Decider> Folded<D> {
    /// Of the last event; none if there is no event.
    pub fn revision(&self) -> Option<Revision> {
        self.revision
    }

    /// Of the last event; the start if there is no event.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Whose stream it is: that of its first event. None if there is no event.
    pub fn tenant(&self) -> Option<&Tenant> {
        self.tenant.as_ref()
    }

    /// Whether a command with this key was carried out on the stream.
    pub fn seen(&self, asked: Idempotency) -> Seen {
        self.keys.find(asked)
    }

    pub(super) fn next_revision(&self) -> Revision {
        self.revision.map_or(Revision(0), Revision::next)
    }

    /// About how much memory the state takes, in ordinary events that made it.
    pub(super) fn weight(&self) -> usize {
        let events = usize::try_from(self.next_revision().0).unwrap_or(usize::MAX);
        events.max(self.bytes / EVENT_BYTES).saturating_add(self.keys.len())
    }

    /// Moves the state on by an event as the log has it.
    pub(super) fn read(&mut self, recorded: &Recorded) -> Result<(), LoadError>
    where
        D::Event: TryFrom<Event>,
    {
        let envelope = recorded.decode()?;
        let event = D::Event::try_from(envelope.event).map_err(|_| LoadError::Foreign(recorded.position))?;
        self.evolve(&event, envelope.metadata.occurred_at);
        self.tenant.get_or_insert(envelope.metadata.tenant);
        if let Some(carried) = envelope.metadata.idempotency {
            self.keys.note(carried, 1, recorded.position, recorded.recorded_at);
        }
        self.bytes += recorded.data.len();
        self.revision = Some(recorded.revision);
        self.position = recorded.position;
        Ok(())
    }

    /// Moves the state on by events, with so many bytes of data, that were just appended.
    pub(super) fn appended(
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
            self.keys.note(carried, events.len(), appended.position, appended.recorded_at);
        }
        self.bytes += bytes;
        self.revision = Some(appended.revision);
        self.position = appended.position;
    }

    /// The answer to a command that changes nothing. Its key is remembered here only, for there is no event to carry it.
    pub(super) fn nothing_to_do(&mut self, asked: Option<Idempotency>, now: Timestamp) -> Executed {
        let position = self.position;
        if let Some(asked) = asked {
            self.keys.note(asked, 0, position, now);
        }
        let events = asked.map_or(0, |asked| self.keys.begun(asked));
        Executed { events, position, repeated: false }
    }

    fn evolve(&mut self, event: &D::Event, occurred_at: Timestamp) {
        self.state = D::evolve(std::mem::take(&mut self.state), event, occurred_at);
    }
}
