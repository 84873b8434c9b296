//! A worker's presence: registered, present, ended, returned.
//!
//! Invariants: presence changes only by an event, and an event is recorded only when presence, kinds or
//! version change. Heartbeats are tracked outside this crate; their timeout arrives as [`Action::Lose`].

pub mod presence;

use event_schemas::ids::WorkerId;
use event_schemas::time::Timestamp;
use event_schemas::worker::{
    WorkKind, WorkerEnd, WorkerEvent, WorkerExited, WorkerLost, WorkerRegistered, WorkerReturned,
};

use self::presence::WorkerState;
use crate::decider::{Decider, Occurred, RefusalKind, Refused};

/// A command to a worker, and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub worker_id: WorkerId,
    pub at: Timestamp,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The worker registers, or claims work of these kinds. The order of the kinds and duplicates do not
    /// matter. Without a version the previous one remains.
    Register {
        kinds: Vec<WorkKind>,
        version: Option<String>,
    },
    /// A sign of life arrived.
    Seen,
    /// No heartbeat arrived for a whole term.
    Lose {
        last_seen_at: Timestamp,
    },
    Exit {
        exit_code: Option<i64>,
        signal: Option<i32>,
        reason: Option<String>,
    },
}

/// The state of a worker; empty before it registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State(Option<RegisteredWorker>);

/// A worker that has registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredWorker {
    /// Sorted, without duplicates.
    pub kinds: Vec<WorkKind>,
    pub version: Option<String>,
    pub state: WorkerState,
}

impl State {
    pub fn registered(&self) -> Option<&RegisteredWorker> {
        self.0.as_ref()
    }
}

/// The reason why a command to a worker is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no worker {0}; register it, or let it claim work")]
    Missing(WorkerId),
    #[error("a worker must have at least one kind of work")]
    NoKinds,
}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::Missing(_) => RefusalKind::NotFound,
            Self::NoKinds => RefusalKind::Invalid,
        }
    }
}

/// How a worker ended, derived from its reported exit.
///
/// SIGKILL (exit code 137 = 128 + 9) is how Linux kills a process that uses too much memory, so it counts as
/// out of memory. SIGTERM, SIGINT and their exit codes are requests to stop.
pub fn end_of(exit_code: Option<i64>, signal: Option<i32>, reason: Option<&str>) -> WorkerEnd {
    const ASKED: [&str; 6] = ["shutdown", "stopped", "stop", "sigterm", "sigint", "drained"];
    let reason = reason.map(str::to_lowercase);
    let is_asked = reason.as_deref().is_some_and(|reason| ASKED.contains(&reason));
    if exit_code == Some(137)
        || reason.as_deref() == Some("oom")
        || (exit_code.is_none() && signal == Some(9))
    {
        return WorkerEnd::OutOfMemory;
    }
    match (exit_code, signal) {
        (Some(0 | 130 | 143), _) | (None, Some(2 | 15)) => WorkerEnd::Stopped,
        (None, None) if reason.is_none() || is_asked => WorkerEnd::Stopped,
        _ => WorkerEnd::Crashed,
    }
}

/// Decides for the streams `worker-<tenant>.<id>`.
#[derive(Debug)]
pub enum WorkerDecider {}

impl Decider for WorkerDecider {
    type State = State;
    type Command = Command;
    type Event = WorkerEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<WorkerEvent>>, Refusal> {
        let worker_id = &command.worker_id;
        let missing = || Refusal::Missing(worker_id.clone());
        let events = match &command.action {
            Action::Register { kinds, version } => register(worker_id, kinds, version.as_ref(), state)?,
            Action::Seen => come_back(worker_id, state.registered().ok_or_else(missing)?),
            Action::Lose { last_seen_at } => match state.registered().ok_or_else(missing)?.state {
                WorkerState::Present => {
                    vec![WorkerLost { worker_id: worker_id.clone(), last_seen_at: *last_seen_at }.into()]
                }
                WorkerState::Ended(_) => Vec::new(),
            },
            Action::Exit { exit_code, signal, reason } => match state.registered().ok_or_else(missing)?.state
            {
                // An exit explains why heartbeats stopped, so it is recorded even if it is reported late.
                WorkerState::Present | WorkerState::Ended(WorkerEnd::Lost) => vec![
                    WorkerExited {
                        worker_id: worker_id.clone(),
                        end: end_of(*exit_code, *signal, reason.as_deref()),
                        exit_code: *exit_code,
                        signal: *signal,
                        reason: reason.clone(),
                    }
                    .into(),
                ],
                WorkerState::Ended(_) => Vec::new(),
            },
        };
        Ok(events.into_iter().map(|event| Occurred { at: command.at, event }).collect())
    }

    fn evolve(state: State, event: &WorkerEvent, _occurred_at: Timestamp) -> State {
        let changed = match event {
            WorkerEvent::WorkerRegistered(registered) => {
                return State(Some(RegisteredWorker {
                    kinds: registered.kinds.clone(),
                    version: registered.version.clone(),
                    state: WorkerState::Present,
                }));
            }
            WorkerEvent::WorkerReturned(_) => WorkerState::Present,
            WorkerEvent::WorkerLost(_) => WorkerState::Ended(WorkerEnd::Lost),
            WorkerEvent::WorkerExited(exited) => WorkerState::Ended(exited.end),
        };
        State(state.0.map(|known| RegisteredWorker { state: changed, ..known }))
    }
}

fn register(
    worker_id: &WorkerId,
    kinds: &[WorkKind],
    version: Option<&String>,
    state: &State,
) -> Result<Vec<WorkerEvent>, Refusal> {
    let mut kinds = kinds.to_vec();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.is_empty() {
        return Err(Refusal::NoKinds);
    }
    let known = state.registered();
    let version = version.or_else(|| known.and_then(|known| known.version.as_ref()));
    let mut events = known.map_or_else(Vec::new, |known| come_back(worker_id, known));
    if known.is_none_or(|known| known.kinds != kinds || known.version.as_ref() != version) {
        let version = version.cloned();
        events.push(WorkerRegistered { worker_id: worker_id.clone(), kinds, version }.into());
    }
    Ok(events)
}

fn come_back(worker_id: &WorkerId, known: &RegisteredWorker) -> Vec<WorkerEvent> {
    match known.state {
        WorkerState::Present => Vec::new(),
        WorkerState::Ended(_) => vec![WorkerReturned { worker_id: worker_id.clone() }.into()],
    }
}

#[cfg(test)]
mod tests;
