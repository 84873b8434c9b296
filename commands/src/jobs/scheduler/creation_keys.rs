//! The idempotency keys of job creations. A caller may choose a job's id, so the same key can arrive for two ids, which
//! no job's own stream would detect.

use std::collections::{HashMap, VecDeque};

use event_schemas::envelope::{BodyHash, Idempotency};
use event_schemas::ids::{JobId, Position};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::idempotency::{CompletedCommand, KEY_TTL, KeyStatus};

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct CreationKeys {
    known: HashMap<Uuid, (BodyHash, Position, JobId)>,
    order: VecDeque<(Timestamp, Uuid)>,
}

impl CreationKeys {
    pub(super) fn record(
        &mut self,
        carried: Idempotency,
        job: JobId,
        position: Position,
        recorded_at: Timestamp,
    ) {
        self.evict(recorded_at);
        self.known.insert(carried.key, (carried.body, position, job));
        self.order.push_back((recorded_at, carried.key));
    }

    pub(super) fn find(&mut self, idempotency: Idempotency, now: Timestamp) -> KeyStatus {
        self.evict(now);
        match self.known.get(&idempotency.key) {
            None => KeyStatus::Unused,
            Some((body, position, _)) if *body == idempotency.body => {
                KeyStatus::Completed(CompletedCommand { events: 1, position: *position })
            }
            Some(_) => KeyStatus::BodyMismatch,
        }
    }

    pub(super) fn job(&self, key: Uuid) -> Option<JobId> {
        self.known.get(&key).map(|(_, _, job)| *job)
    }

    fn evict(&mut self, now: Timestamp) {
        let oldest = now.before(KEY_TTL);
        while let Some((recorded_at, key)) = self.order.front()
            && *recorded_at < oldest
        {
            self.known.remove(key);
            self.order.pop_front();
        }
    }
}
