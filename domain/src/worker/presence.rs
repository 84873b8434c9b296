//! Which of a tenant's workers are present, and how the others ended.

use std::collections::BTreeMap;

use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{Position, WorkerId};
use event_schemas::time::Timestamp;
use event_schemas::worker::{WorkKind, WorkerEnd, WorkerEvent};
use serde::{Deserialize, Serialize};

/// A fold over the streams of one tenant's workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Presence {
    workers: BTreeMap<WorkerId, Worker>,
}

/// A worker as of its latest events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    pub kinds: Vec<WorkKind>,
    pub version: Option<String>,
    pub state: WorkerState,
    /// The time at which the log accepted the event that led to this state, and its position.
    pub since: Timestamp,
    pub position: Position,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    Present,
    Ended(WorkerEnd),
}

impl Presence {
    /// Applies the next event; ignores other categories.
    pub fn apply(&mut self, envelope: &Envelope) {
        let Event::Worker(event) = &envelope.event else { return };
        let (worker_id, state) = match event {
            WorkerEvent::WorkerRegistered(registered) => {
                let known = self.workers.get(&registered.worker_id);
                // Other kinds or another version of a present worker do not change the time since which it is
                // present.
                let (since, position) = match known {
                    Some(known) if known.state == WorkerState::Present => (known.since, known.position),
                    _ => (envelope.recorded_at, envelope.position),
                };
                self.workers.insert(
                    registered.worker_id.clone(),
                    Worker {
                        kinds: registered.kinds.clone(),
                        version: registered.version.clone(),
                        state: WorkerState::Present,
                        since,
                        position,
                    },
                );
                return;
            }
            WorkerEvent::WorkerReturned(returned) => (&returned.worker_id, WorkerState::Present),
            WorkerEvent::WorkerLost(lost) => (&lost.worker_id, WorkerState::Ended(WorkerEnd::Lost)),
            WorkerEvent::WorkerExited(exited) => (&exited.worker_id, WorkerState::Ended(exited.end)),
        };
        if let Some(worker) = self.workers.get_mut(worker_id) {
            worker.state = state;
            worker.since = envelope.recorded_at;
            worker.position = envelope.position;
        }
    }

    /// All workers that were ever registered, by id.
    pub fn workers(&self) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.workers.iter()
    }

    pub fn worker(&self, id: &WorkerId) -> Option<&Worker> {
        self.workers.get(id)
    }

    /// Whether a present worker can do this kind of work.
    pub fn has(&self, kind: WorkKind) -> bool {
        self.able(kind).any(|worker| worker.state == WorkerState::Present)
    }

    /// The time since which no present worker can do this; none if one can, or none ever could.
    pub fn without_since(&self, kind: WorkKind) -> Option<Timestamp> {
        if self.has(kind) { None } else { self.able(kind).map(|worker| worker.since).max() }
    }

    /// Whether the worker is present, and has returned after `position`.
    pub(crate) fn has_returned_after(&self, id: &WorkerId, position: Position) -> bool {
        self.worker(id)
            .is_some_and(|worker| worker.state == WorkerState::Present && worker.position > position)
    }

    fn able(&self, kind: WorkKind) -> impl Iterator<Item = &Worker> {
        self.workers.values().filter(move |worker| worker.kinds.contains(&kind))
    }
}
