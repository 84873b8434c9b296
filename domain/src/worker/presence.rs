//! Which of a tenant's workers are there, and how the others ended.

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

/// A worker, as its latest events say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    pub kinds: Vec<WorkKind>,
    pub version: Option<String>,
    pub state: WorkerState,
    /// When the log accepted the event that made it so, and where.
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
    /// Takes in one more event; those of other categories say nothing here.
    pub fn apply(&mut self, envelope: &Envelope) {
        let Event::Worker(event) = &envelope.event else { return };
        let (worker_id, state) = match event {
            WorkerEvent::WorkerRegistered(registered) => {
                let known = self.workers.get(&registered.worker_id);
                // Other kinds or another version do not make a worker that was there come anew.
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

    /// All workers that were ever heard of, by id.
    pub fn workers(&self) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.workers.iter()
    }

    pub fn worker(&self, id: &WorkerId) -> Option<&Worker> {
        self.workers.get(id)
    }

    /// Whether somebody is there who can do this.
    pub fn has(&self, kind: WorkKind) -> bool {
        self.able(kind).any(|worker| worker.state == WorkerState::Present)
    }

    /// Since when nobody is there who could do this; none if somebody is, or never was.
    pub fn without_since(&self, kind: WorkKind) -> Option<Timestamp> {
        if self.has(kind) { None } else { self.able(kind).map(|worker| worker.since).max() }
    }

    /// Whether the worker is there, and came after `position`.
    pub(crate) fn has_returned_after(&self, id: &WorkerId, position: Position) -> bool {
        self.worker(id)
            .is_some_and(|worker| worker.state == WorkerState::Present && worker.position > position)
    }

    fn able(&self, kind: WorkKind) -> impl Iterator<Item = &Worker> {
        self.workers.values().filter(move |worker| worker.kinds.contains(&kind))
    }
}
