//! The shape of every decision.

use event_schemas::time::Timestamp;

/// An event that a decision makes, with the instant at which its producer says that it happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Occurred<E> {
    pub at: Timestamp,
    pub event: E,
}

/// What may happen next, given what has happened.
///
/// Synchronous on purpose: what a decision needs to know beyond the state is looked up first and put into the command.
pub trait Decider {
    /// The initial state is its default.
    type State: Default;
    type Command;
    type Event;
    /// Why a command is refused.
    type Refusal: std::error::Error;

    /// The events that carry out the command; none means that it already is so, as when a request arrives twice.
    ///
    /// # Errors
    /// The rule that forbids the command in this state.
    fn decide(
        command: &Self::Command,
        state: &Self::State,
    ) -> Result<Vec<Occurred<Self::Event>>, Self::Refusal>;

    /// The state after the event. Total: a recorded event is a fact, so folding it cannot fail.
    fn evolve(state: Self::State, event: &Self::Event, occurred_at: Timestamp) -> Self::State;
}
