//! The interface of all deciders.

use event_schemas::time::Timestamp;

/// An event that a decision produces, with the time at which it happened as reported by its producer.
#[derive(Clone, Debug, PartialEq)]
pub struct Occurred<E> {
    pub at: Timestamp,
    pub event: E,
}

/// The meaning of a refusal for the caller; an edge such as HTTP needs to know no more than this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// The target of the command does not exist.
    NotFound,
    /// The caller is not authorized.
    Forbidden,
    /// The current state forbids the command.
    Conflict,
    /// The command was sent under a lease that is not, or no longer, in force.
    LeaseLost,
    /// The command is invalid in every state.
    Invalid,
}

/// The reason why a command is refused, as a text and as a kind.
pub trait Refused: std::error::Error {
    fn kind(&self) -> RefusalKind;
}

/// A consistency boundary: which events may follow, given the events so far.
///
/// Synchronous on purpose: facts that a decision needs beyond the state are looked up first and passed in the
/// command.
pub trait Decider {
    /// `Default` is the initial state.
    type State: Default;
    type Command;
    type Event;
    /// The reasons why a command is refused.
    type Refusal: Refused;

    /// The events that carry out the command; none if the state already reflects it, as when a request
    /// arrives twice.
    ///
    /// # Errors
    /// The rule that forbids the command in this state.
    fn decide(
        command: &Self::Command,
        state: &Self::State,
    ) -> Result<Vec<Occurred<Self::Event>>, Self::Refusal>;

    /// The state after the event. Total: a recorded event is a fact, so folding it cannot fail.
    fn evolve(state: Self::State, event: &Self::Event, occurred_at: Timestamp) -> Self::State;

    /// A copy of the state that may omit the parts that these commands neither read nor change.
    fn excerpt(_commands: &[Self::Command], state: &Self::State) -> Self::State
    where
        Self::State: Clone,
    {
        state.clone()
    }

    /// The approximate memory of a state beyond its own size, in bytes; caches are bounded by it. `event_bytes` is the size
    /// of the data of all its events: the default, for states that grow with their events.
    fn heap_bytes(_state: &Self::State, event_bytes: usize) -> usize {
        event_bytes
    }
}

/// The joint decision of several commands to one stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch<E> {
    /// The events of all commands, in command order.
    pub events: Vec<Occurred<E>>,
    /// The number of events of each command; 0 if the state already reflected it.
    pub event_counts: Vec<usize>,
}

/// A refused command of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedItem<R> {
    /// The index of the command in the batch, from 0.
    pub index: usize,
    pub refusal: R,
}

/// Decides several commands to one stream in order, each in the state after the previous ones: all of them or
/// none. A single command is decided without a copy of the state.
///
/// # Errors
/// All refused commands, so that a caller can correct them at once.
pub fn decide_all<D>(
    commands: &[D::Command],
    state: &D::State,
) -> Result<Batch<D::Event>, Vec<RefusedItem<D::Refusal>>>
where
    D: Decider,
    D::State: Clone,
{
    if let [command] = commands {
        return match D::decide(command, state) {
            Ok(events) => Ok(Batch { event_counts: vec![events.len()], events }),
            Err(refusal) => Err(vec![RefusedItem { index: 0, refusal }]),
        };
    }
    let mut state = D::excerpt(commands, state);
    let mut batch = Batch { events: Vec::new(), event_counts: Vec::with_capacity(commands.len()) };
    let mut refused = Vec::new();
    for (index, command) in commands.iter().enumerate() {
        match D::decide(command, &state) {
            Ok(events) => {
                state = events.iter().fold(state, |state, new| D::evolve(state, &new.event, new.at));
                batch.event_counts.push(events.len());
                batch.events.extend(events);
            }
            Err(refusal) => refused.push(RefusedItem { index, refusal }),
        }
    }
    if refused.is_empty() { Ok(batch) } else { Err(refused) }
}
