//! A user's interactions with products. They are facts that commute, so all of them are recorded.

pub mod profile;

use event_schemas::time::Timestamp;
use event_schemas::user::{InteractionRecorded, UserEvent};

use crate::decider::{Decider, Occurred, RefusalKind, Refused};

/// Interactions of one user, each with its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Command(pub Vec<(InteractionRecorded, Timestamp)>);

/// No command is refused: a user may do anything with a product, any number of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        match *self {}
    }
}

/// Decides for the streams `user-<tenant>.<subject>`.
#[derive(Debug)]
pub enum UserDecider {}

impl Decider for UserDecider {
    /// No decision depends on earlier interactions.
    type State = ();
    type Command = Command;
    type Event = UserEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, (): &()) -> Result<Vec<Occurred<UserEvent>>, Refusal> {
        let occurred = |(recorded, at): &(InteractionRecorded, Timestamp)| Occurred {
            at: *at,
            event: recorded.clone().into(),
        };
        Ok(command.0.iter().map(occurred).collect())
    }

    fn evolve((): (), _event: &UserEvent, _occurred_at: Timestamp) {}

    fn heap_bytes((): &(), _event_bytes: usize) -> usize {
        0
    }
}
