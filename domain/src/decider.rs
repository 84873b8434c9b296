//! The shape of every decision.

use event_schemas::time::Timestamp;

/// An event that a decision makes, with the instant at which its producer says that it happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Occurred<E> {
    pub at: Timestamp,
    pub event: E,
}

/// What a refusal means to whoever sent the command; an edge such as HTTP needs to know no more than this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// What the command is about is not there.
    NotFound,
    /// It is somebody else's to do.
    Forbidden,
    /// The state forbids it.
    Conflict,
    /// It came under a lease that is no longer, or never was, the one in force.
    LeaseLost,
    /// It makes no sense in any state.
    Invalid,
}

/// Why a command is refused, in words and in kind.
pub trait Refused: std::error::Error {
    fn kind(&self) -> RefusalKind;
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
    type Refusal: Refused;

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

    /// A copy of the state, of which parts that these commands neither look at nor change may be missing.
    fn excerpt(_commands: &[Self::Command], state: &Self::State) -> Self::State
    where
        Self::State: Clone,
    {
        state.clone()
    }
}

/// What several commands to one stream decide together.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch<E> {
    /// Of all the commands, in their order.
    pub events: Vec<Occurred<E>>,
    /// How many events each command made; 0 says that it already was so.
    pub made: Vec<usize>,
}

/// One command of a batch that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedItem<R> {
    /// The command's place in the batch, from 0.
    pub index: usize,
    pub refusal: R,
}

/// Decides commands to one stream one after the other, each in the state that those before it lead to: all of them or
/// none. A single command is decided without a copy of the state.
///
/// # Errors
/// Every command that is refused, so that a caller can correct all of them at once.
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
            Ok(events) => Ok(Batch { made: vec![events.len()], events }),
            Err(refusal) => Err(vec![RefusedItem { index: 0, refusal }]),
        };
    }
    let mut state = D::excerpt(commands, state);
    let mut batch = Batch { events: Vec::new(), made: Vec::with_capacity(commands.len()) };
    let mut refused = Vec::new();
    for (index, command) in commands.iter().enumerate() {
        match D::decide(command, &state) {
            Ok(events) => {
                state = events.iter().fold(state, |state, new| D::evolve(state, &new.event, new.at));
                batch.made.push(events.len());
                batch.events.extend(events);
            }
            Err(refusal) => refused.push(RefusedItem { index, refusal }),
        }
    }
    if refused.is_empty() { Ok(batch) } else { Err(refused) }
}
