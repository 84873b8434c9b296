//! Work on its way between the line and its worker, and what waits for an instant.

use event_schemas::ids::{Position, Tenant};
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkKind;

use super::{State, Work};

impl State {
    /// Takes up to `max` pieces of work out of the line and holds them.
    pub(in crate::work) fn pick(
        &mut self,
        tenant: &Tenant,
        kinds: &[WorkKind],
        max: usize,
        now: Timestamp,
    ) -> Vec<(Work, WorkKind)> {
        let room = |kind: &WorkKind| self.doors.room(*kind, now);
        let open: Vec<WorkKind> = kinds.iter().copied().filter(|kind| room(kind) == usize::MAX).collect();
        let ajar: Vec<(WorkKind, usize)> = kinds
            .iter()
            .map(|kind| (*kind, room(kind)))
            .filter(|(_, room)| (1..usize::MAX).contains(room))
            .collect();
        let mut picked = self.line.take(tenant, &open, max);
        for (kind, room) in ajar {
            picked.extend(self.line.take(tenant, &[kind], room.min(max - picked.len())));
        }
        for (work, kind) in &picked {
            if let Some(item) = self.items.get_mut(work) {
                item.held = true;
                self.doors.hold(*kind);
            }
        }
        picked
    }

    pub(in crate::work) fn hold_until(&mut self, work: &Work, position: Position, now: Timestamp) {
        if position <= self.reached {
            self.release(work, now);
        } else {
            self.holds.entry(position).or_default().push(work.clone());
        }
    }

    pub(in crate::work) fn release(&mut self, work: &Work, now: Timestamp) {
        if let Some(item) = self.items.get_mut(work)
            && std::mem::take(&mut item.held)
        {
            self.doors.let_go(item.kind);
        }
        self.line_up(work, now);
    }

    /// Everything up to here is in the state.
    pub(in crate::work) fn reach(&mut self, reached: Position, now: Timestamp) {
        self.reached = reached;
        while let Some(first) = self.holds.first_entry()
            && *first.key() <= reached
        {
            for work in first.remove() {
                self.release(&work, now);
            }
        }
        self.look_at_doors(now);
    }

    /// When a lease runs out, work falls due, or a service that is left alone is asked again.
    pub(in crate::work) fn next_deadline(&self, now: Timestamp) -> Option<Timestamp> {
        let later = self.later.first().map(|(due, _)| *due);
        let probe = self.doors.services.next_probe(now);
        [self.leases.next_deadline(), later, probe].into_iter().flatten().min()
    }

    /// Lines up the work that has fallen due.
    pub(in crate::work) fn line_up_due(&mut self, now: Timestamp) {
        while let Some((due, work)) = self.later.first().cloned()
            && due <= now
        {
            self.later.pop_first();
            self.line_up(&work, now);
        }
        self.look_at_doors(now);
    }

    /// Wakes those who wait for work that could not be begun before.
    fn look_at_doors(&mut self, now: Timestamp) {
        for (kind, room) in self.doors.opened(now) {
            self.line.wake(kind, room);
        }
    }
}
