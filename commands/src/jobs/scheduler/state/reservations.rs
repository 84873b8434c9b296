//! Reservations of work by claims, and work that is due later.

use event_schemas::ids::{Position, Tenant};
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkKind;

use super::{State, Work};

impl State {
    /// Dequeues and reserves up to `max` work items.
    pub(in crate::jobs::scheduler) fn reserve(
        &mut self,
        tenant: &Tenant,
        kinds: &[WorkKind],
        max: usize,
        now: Timestamp,
    ) -> Vec<(Work, WorkKind)> {
        let capacity = |kind: &WorkKind| self.admission.capacity(tenant, *kind, now);
        let unlimited: Vec<WorkKind> =
            kinds.iter().copied().filter(|kind| capacity(kind) == usize::MAX).collect();
        let limited: Vec<(WorkKind, usize)> = kinds
            .iter()
            .map(|kind| (*kind, capacity(kind)))
            .filter(|(_, capacity)| (1..usize::MAX).contains(capacity))
            .collect();
        let mut reserved = self.ready_queue.take(tenant, &unlimited, max);
        for (kind, capacity) in limited {
            reserved.extend(self.ready_queue.take(tenant, &[kind], capacity.min(max - reserved.len())));
        }
        for (work, kind) in &reserved {
            if let Some(item) = self.items.get_mut(work) {
                item.reserved = true;
                self.admission.reserve(tenant, *kind);
            }
        }
        reserved
    }

    pub(in crate::jobs::scheduler) fn suppress_until(
        &mut self,
        work: &Work,
        position: Position,
        now: Timestamp,
    ) {
        if position <= self.applied {
            self.release(work, now);
        } else {
            self.suppressed.entry(position).or_default().push(work.clone());
        }
    }

    pub(in crate::jobs::scheduler) fn release(&mut self, work: &Work, now: Timestamp) {
        if let Some(item) = self.items.get_mut(work)
            && std::mem::take(&mut item.reserved)
        {
            self.admission.release(&item.tenant, item.kind);
        }
        self.enqueue(work, now);
    }

    /// Records that all events up to this position are applied.
    pub(in crate::jobs::scheduler) fn advance_to(&mut self, position: Position, now: Timestamp) {
        self.applied = position;
        while let Some(first) = self.suppressed.first_entry()
            && *first.key() <= position
        {
            for work in first.remove() {
                self.release(&work, now);
            }
        }
        self.wake_admitted(now);
    }

    /// The time at which the next lease expires, work is due, or an open circuit breaker becomes half-open.
    pub(in crate::jobs::scheduler) fn next_deadline(&self, now: Timestamp) -> Option<Timestamp> {
        let scheduled = self.scheduled.first().map(|(due, _)| *due);
        let probe = self.admission.services.next_probe(now);
        [self.leases.next_deadline(), scheduled, probe].into_iter().flatten().min()
    }

    /// Enqueues the work that is due.
    pub(in crate::jobs::scheduler) fn enqueue_due(&mut self, now: Timestamp) {
        while let Some((due, work)) = self.scheduled.first().cloned()
            && due <= now
        {
            self.scheduled.pop_first();
            self.enqueue(&work, now);
        }
        self.wake_admitted(now);
    }

    /// Wakes workers for work that was not admitted before.
    fn wake_admitted(&mut self, now: Timestamp) {
        for (tenant, kind, capacity) in self.admission.newly_available(now) {
            self.ready_queue.wake(&tenant, kind, capacity);
        }
    }
}
