//! The ready queue: work items that wait for workers, and workers that wait for work.
//!
//! Each work item wakes one worker, the first waiting one that can do it, so that waiting workers do not race for one
//! item.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use event_schemas::ids::{Position, Tenant};
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkKind;
use tokio::sync::oneshot;

use super::{Reservation, WaitTicket, Work, WorkBoard};

/// The time since which work waits. The position breaks ties.
pub(super) type Since = (Timestamp, Position);

#[derive(Debug, Default)]
pub(super) struct ReadyQueue {
    work: HashMap<(Tenant, WorkKind), BTreeSet<(Since, Work)>>,
    waiters: BTreeMap<u64, Waiter>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Waiter {
    /// None for one that waits for the work of any tenant.
    tenant: Option<Tenant>,
    kinds: Vec<WorkKind>,
    wake: oneshot::Sender<()>,
}

impl ReadyQueue {
    /// Enqueues work, and wakes one worker for it. Does nothing if it is in the queue already.
    pub(super) fn push(&mut self, tenant: &Tenant, kind: WorkKind, since: Since, work: Work) {
        if self.work.entry((tenant.clone(), kind)).or_default().insert((since, work)) {
            self.wake_one(tenant, &[kind]);
        }
    }

    /// Removes work from the queue, if it is there.
    pub(super) fn remove(&mut self, tenant: &Tenant, kind: WorkKind, since: Since, work: &Work) {
        let key = (tenant.clone(), kind);
        if let Some(queue) = self.work.get_mut(&key) {
            queue.remove(&(since, work.clone()));
            if queue.is_empty() {
                self.work.remove(&key);
            }
        }
    }

    /// Dequeues up to `max` work items of these kinds, oldest first.
    pub(super) fn take(&mut self, tenant: &Tenant, kinds: &[WorkKind], max: usize) -> Vec<(Work, WorkKind)> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(first) = self.pop(tenant, kinds)
        {
            taken.push(first);
        }
        // The claiming worker may have been woken for work of another kind, which must not wait for that worker.
        for kind in kinds {
            let is_ready = self.work.contains_key(&(tenant.clone(), *kind));
            if is_ready && !taken.iter().any(|(_, taken)| taken == kind) {
                self.wake_one(tenant, &[*kind]);
            }
        }
        taken
    }

    /// Dequeues the oldest work item of these kinds.
    fn pop(&mut self, tenant: &Tenant, kinds: &[WorkKind]) -> Option<(Work, WorkKind)> {
        let firsts = kinds.iter().filter_map(|kind| {
            let first = self.work.get(&(tenant.clone(), *kind))?.first()?;
            Some((first, *kind))
        });
        let ((since, work), kind) =
            firsts.min().map(|((since, work), kind)| ((*since, work.clone()), kind))?;
        self.remove(tenant, kind, since, &work);
        Some((work, kind))
    }

    /// The tenants with ready work of the kind; those whose work waits longest first.
    pub(super) fn tenants(&self, kind: WorkKind) -> Vec<Tenant> {
        let of_kind = self.work.iter().filter(|((_, other), _)| *other == kind);
        let mut waiting: Vec<_> =
            of_kind.filter_map(|((tenant, _), queue)| Some((queue.first()?.0, tenant))).collect();
        waiting.sort_unstable();
        waiting.into_iter().map(|(_, tenant)| tenant.clone()).collect()
    }

    /// Adds a waiting worker, under its earlier ticket if it has one. Returns the ticket.
    pub(super) fn add_waiter(
        &mut self,
        tenant: Option<Tenant>,
        kinds: Vec<WorkKind>,
        wake: oneshot::Sender<()>,
        ticket: Option<u64>,
    ) -> u64 {
        let ticket = ticket.unwrap_or_else(|| {
            self.next_ticket += 1;
            self.next_ticket
        });
        self.waiters.insert(ticket, Waiter { tenant, kinds, wake });
        ticket
    }

    /// Removes a waiting worker. If it was woken meanwhile, the next one is woken instead.
    pub(super) fn remove_waiter(&mut self, ticket: u64, woken: &mut oneshot::Receiver<()>) {
        if self.waiters.remove(&ticket).is_some() || woken.try_recv().is_err() {
            return;
        }
        let waiting: Vec<_> = self.work.keys().cloned().collect();
        for (tenant, kind) in waiting {
            self.wake_one(&tenant, &[kind]);
        }
    }

    /// Wakes workers for up to `max` ready work items of the tenant and kind.
    pub(super) fn wake(&mut self, tenant: &Tenant, kind: WorkKind, max: usize) {
        let ready = self.work.get(&(tenant.clone(), kind)).map_or(0, BTreeSet::len);
        for _ in 0..ready.min(max) {
            if !self.wake_one(tenant, &[kind]) {
                break;
            }
        }
    }

    /// True if a waiting worker was woken.
    fn wake_one(&mut self, tenant: &Tenant, kinds: &[WorkKind]) -> bool {
        let wants = |waiter: &Waiter| {
            waiter.tenant.as_ref().is_none_or(|waiting| waiting == tenant)
                && kinds.iter().any(|kind| waiter.kinds.contains(kind))
        };
        while let Some(ticket) =
            self.waiters.iter().find(|(_, waiter)| wants(waiter)).map(|(ticket, _)| *ticket)
        {
            let sent = self.waiters.remove(&ticket).map(|waiter| waiter.wake.send(()));
            if sent == Some(Ok(())) {
                return true;
            }
        }
        false
    }

    /// The number of ready work items of each kind.
    pub(super) fn lengths(&self) -> BTreeMap<WorkKind, usize> {
        let mut lengths = BTreeMap::new();
        for ((_, kind), queue) in &self.work {
            *lengths.entry(*kind).or_default() += queue.len();
        }
        lengths
    }
}

impl WorkBoard {
    /// Reserves the work item of the kind that has waited longest, of any tenant but the `excluded` ones; or returns a
    /// ticket to wait for one.
    pub(crate) fn reserve_of_any_tenant(
        &self,
        kind: WorkKind,
        excluded: &BTreeSet<Tenant>,
    ) -> Result<(Tenant, Reservation), WaitTicket> {
        let now = self.0.clock.now();
        let mut state = self.locked();
        let tenants = state.ready_queue.tenants(kind).into_iter().filter(|tenant| !excluded.contains(tenant));
        for tenant in tenants {
            if let Some((work, kind)) = state.reserve(&tenant, &[kind], 1, now).pop() {
                return Ok((tenant, Reservation { board: self.clone(), work, kind, confirmed: false }));
            }
        }
        let (wake, woken) = oneshot::channel();
        let ticket = state.ready_queue.add_waiter(None, vec![kind], wake, None);
        Err(WaitTicket { board: self.clone(), ticket, woken, is_done: false })
    }
}

#[cfg(test)]
mod tests {
    use event_schemas::ids::JobId;
    use uuid::Uuid;

    use super::*;

    const A: WorkKind = WorkKind::MatchRequest;
    const B: WorkKind = WorkKind::ExtractCutouts;

    fn work(n: u128) -> Work {
        Work::Job(JobId(Uuid::from_u128(n)))
    }

    fn since(position: u64) -> Since {
        (Timestamp::EPOCH, Position(position))
    }

    /// A worker that waits for these kinds.
    fn wait_for_work(queue: &mut ReadyQueue, tenant: &Tenant, kinds: &[WorkKind]) -> oneshot::Receiver<()> {
        let (wake, woken) = oneshot::channel();
        queue.add_waiter(Some(tenant.clone()), kinds.to_vec(), wake, None);
        woken
    }

    #[test]
    fn work_left_by_a_woken_worker_wakes_another_worker() {
        let (mut queue, tenant) = (ReadyQueue::default(), "default".parse().unwrap());
        let mut any = wait_for_work(&mut queue, &tenant, &[A, B]);
        let mut only_b = wait_for_work(&mut queue, &tenant, &[B]);
        let mut only_a = wait_for_work(&mut queue, &tenant, &[A]);
        queue.push(&tenant, A, since(2), work(2));
        // Its lease was lost, so it is older than the work that was enqueued before it.
        queue.push(&tenant, B, since(1), work(1));
        any.try_recv().unwrap();
        only_b.try_recv().unwrap();
        assert_eq!(queue.take(&tenant, &[A, B], 1), [(work(1), B)]);
        only_a.try_recv().expect("a worker is woken for the other work");
    }

    #[test]
    fn taking_one_of_many_items_wakes_no_worker_twice() {
        let (mut queue, tenant) = (ReadyQueue::default(), "default".parse().unwrap());
        let mut waiting: Vec<_> = (0..4).map(|_| wait_for_work(&mut queue, &tenant, &[A])).collect();
        (0..2).for_each(|n| queue.push(&tenant, A, since(n), work(n.into())));
        queue.take(&tenant, &[A], 1);
        let woken = waiting.iter_mut().filter_map(|woken| woken.try_recv().ok()).count();
        assert_eq!(woken, 2);
    }
}
