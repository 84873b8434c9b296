//! Appending: one call an append, or many over one call.

use event_schemas::envelope::NewEvent;
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;

use super::access::{self, Owner, Right};
use super::node::Node;
use super::refusal::Refusal;
use super::stream_state::State;
use crate::AppendError;
use crate::embedded::{CLIENT_APPEND_BYTES_MAX, ClientExpected, Pending};

/// The most events of one append, so that empty ones have a bound as well.
const EVENTS_MAX: usize = 65_536;

pub(super) mod batch;
pub(super) mod single;

/// What a client asks for, complete.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) stream: StreamId,
    pub(super) expected: ClientExpected,
    pub(super) events: Proposed,
}

/// Events while they come in. Those of an append that is too large are not kept.
#[derive(Debug, Default)]
pub(super) struct Proposed {
    events: Vec<NewEvent>,
    bytes: usize,
    count: usize,
}

impl Proposed {
    pub(super) fn push(&mut self, event: NewEvent) {
        self.bytes = self
            .bytes
            .saturating_add(event.event_type.as_str().len() + event.metadata.len() + event.data.len());
        self.count += 1;
        if self.is_too_large() {
            self.events = Vec::new();
        } else {
            self.events.push(event);
        }
    }

    pub(super) fn is_too_large(&self) -> bool {
        self.bytes > CLIENT_APPEND_BYTES_MAX || self.count > EVENTS_MAX
    }

    pub(super) fn bytes(&self) -> usize {
        if self.is_too_large() { 0 } else { self.bytes }
    }

    fn take(self) -> Result<Vec<NewEvent>, Refusal> {
        if self.is_too_large() { Err(Refusal::TooLarge) } else { Ok(self.events) }
    }
}

/// What became of an append that was not refused otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Appended {
        revision: Revision,
        position: Position,
    },
    /// There were no events, and the stream is as expected.
    Nothing {
        last: Option<Revision>,
    },
    Conflict {
        expected: ClientExpected,
        actual: Option<Revision>,
    },
}

/// An append on its way: its place in the log's order is taken.
#[derive(Debug)]
pub(super) enum Begun {
    Queued { pending: Pending, expected: ClientExpected },
    Over(Outcome),
}

impl Begun {
    pub(super) async fn outcome(self) -> Result<Outcome, Refusal> {
        match self {
            Self::Over(outcome) => Ok(outcome),
            Self::Queued { pending, expected } => match pending.outcome().await {
                Ok(appended) => {
                    Ok(Outcome::Appended { revision: appended.revision, position: appended.position })
                }
                Err(AppendError::Conflict { actual }) => Ok(Outcome::Conflict { expected, actual }),
                Err(error) => Err(error.into()),
            },
        }
    }
}

impl Node {
    /// Checks an append and gives it to the log. Appends come into the log in the order in which this was called.
    pub(super) async fn begin(&self, right: Right, append: Append) -> Result<Begun, Refusal> {
        let Append { stream, expected, events } = append;
        let events = events.take()?;
        let owner = access::owner(&stream);
        access::check_append(right, &stream, &owner, &events)?;
        match owner {
            Owner::Client => {
                let shared = self.states.lock(&stream).read().await;
                match self.state_under_lock(&stream).await? {
                    State::Plain | State::Limited(_) => self.submit(&stream, expected, events).await,
                    State::Tombstoned => Err(Refusal::Deleted(stream)),
                    State::Deleted => {
                        drop(shared);
                        self.begin_anew(stream, expected, events).await
                    }
                }
            }
            Owner::SettingsOf(of) => {
                let _alone = self.states.lock(&of).write().await;
                let begun = self.submit(&stream, expected, events).await?;
                let outcome = begun.outcome().await;
                self.states.forget(&of);
                Ok(Begun::Over(outcome?))
            }
            Owner::Domain | Owner::Identity | Owner::System => self.submit(&stream, expected, events).await,
        }
    }

    /// Appends to a stream that was deleted: its revisions go on, and what it had stays hidden.
    async fn begin_anew(
        &self,
        stream: StreamId,
        expected: ClientExpected,
        events: Vec<NewEvent>,
    ) -> Result<Begun, Refusal> {
        let _alone = self.states.lock(&stream).write().await;
        self.log.settle().await?;
        // Somebody may have been faster.
        match self.state_under_lock(&stream).await? {
            State::Plain | State::Limited(_) => return self.submit(&stream, expected, events).await,
            State::Tombstoned => return Err(Refusal::Deleted(stream)),
            State::Deleted => {}
        }
        let last = self.log.last_of(&stream).await?.map(|event| event.revision);
        let expected = match (expected, last) {
            (ClientExpected::Exists, _) => return Err(Refusal::Deleted(stream)),
            (ClientExpected::At(revision), last) if last != Some(revision) => {
                return Ok(Begun::Over(Outcome::Conflict { expected, actual: last }));
            }
            (ClientExpected::NoStream, Some(last)) => ClientExpected::At(last),
            (expected, _) => expected,
        };
        if !events.is_empty() {
            // If only this happens, the stream is as empty as before.
            let settings = self.settings_of(&stream).await?.unwrap_or_default();
            let next = last.map_or(Revision(0), Revision::next);
            self.truncate(&stream, settings, next.0).await?;
        }
        self.submit(&stream, expected, events).await
    }

    async fn submit(
        &self,
        stream: &StreamId,
        expected: ClientExpected,
        events: Vec<NewEvent>,
    ) -> Result<Begun, Refusal> {
        if !events.is_empty() {
            let pending = self.log.submit(stream, expected, events).await?;
            return Ok(Begun::Queued { pending, expected });
        }
        self.log.settle().await?;
        let last = self.log.last_of(stream).await?.map(|event| event.revision);
        let as_expected = match expected {
            ClientExpected::Any => true,
            ClientExpected::Exists => last.is_some(),
            ClientExpected::NoStream => last.is_none(),
            ClientExpected::At(revision) => last == Some(revision),
        };
        Ok(Begun::Over(if as_expected {
            Outcome::Nothing { last }
        } else {
            Outcome::Conflict { expected, actual: last }
        }))
    }
}
