//! Under which keys jobs were created. A caller may name a job's id, so the same key can arrive for two ids, which no
//! job's own stream would notice.

use std::collections::{HashMap, VecDeque};

use event_schemas::envelope::{BodyHash, Idempotency};
use event_schemas::ids::{JobId, Position};
use event_schemas::time::Timestamp;
use uuid::Uuid;

use crate::idempotency::{Done, KEPT, Seen};

#[derive(Debug, Default)]
pub(super) struct Created {
    seen: HashMap<Uuid, (BodyHash, Position, JobId)>,
    order: VecDeque<(Timestamp, Uuid)>,
}

impl Created {
    pub(super) fn note(
        &mut self,
        carried: Idempotency,
        job: JobId,
        position: Position,
        recorded_at: Timestamp,
    ) {
        self.forget(recorded_at);
        self.seen.insert(carried.key, (carried.body, position, job));
        self.order.push_back((recorded_at, carried.key));
    }

    pub(super) fn find(&mut self, asked: Idempotency, now: Timestamp) -> Seen {
        self.forget(now);
        match self.seen.get(&asked.key) {
            None => Seen::Never,
            Some((body, position, _)) if *body == asked.body => {
                Seen::Done(Done { events: 1, position: *position })
            }
            Some(_) => Seen::OtherBody,
        }
    }

    pub(super) fn job(&self, key: Uuid) -> Option<JobId> {
        self.seen.get(&key).map(|(_, _, job)| *job)
    }

    fn forget(&mut self, now: Timestamp) {
        let oldest = now.before(KEPT);
        while let Some((recorded_at, key)) = self.order.front()
            && *recorded_at < oldest
        {
            self.seen.remove(key);
            self.order.pop_front();
        }
    }
}
