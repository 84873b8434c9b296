//! Two lines that face each other: work that waits for workers, and workers that wait for work.
//!
//! A worker is woken for one piece of work, the first in line that can do it; so a crowd of waiting workers never runs for
//! the same piece.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use event_schemas::ids::{Position, Tenant};
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkKind;
use tokio::sync::oneshot;

use super::Work;

/// Since when work waits. The position settles which of two came first.
pub(super) type Since = (Timestamp, Position);

#[derive(Debug, Default)]
pub(super) struct Line {
    work: HashMap<(Tenant, WorkKind), BTreeSet<(Since, Work)>>,
    waiters: BTreeMap<u64, Waiter>,
    next_place: u64,
}

#[derive(Debug)]
struct Waiter {
    tenant: Tenant,
    kinds: Vec<WorkKind>,
    wake: oneshot::Sender<()>,
}

impl Line {
    /// Lines work up, and wakes one worker for it. Nothing changes if it stands there already.
    pub(super) fn add(&mut self, tenant: &Tenant, kind: WorkKind, since: Since, work: Work) {
        if self.work.entry((tenant.clone(), kind)).or_default().insert((since, work)) {
            self.wake_one(tenant, &[kind]);
        }
    }

    /// Takes work out of the line, if it stands there.
    pub(super) fn remove(&mut self, tenant: &Tenant, kind: WorkKind, since: Since, work: &Work) {
        let key = (tenant.clone(), kind);
        if let Some(line) = self.work.get_mut(&key) {
            line.remove(&(since, work.clone()));
            if line.is_empty() {
                self.work.remove(&key);
            }
        }
    }

    /// Takes up to `max` pieces of work of these kinds out of the line, the longest waiting first.
    pub(super) fn take(&mut self, tenant: &Tenant, kinds: &[WorkKind], max: usize) -> Vec<(Work, WorkKind)> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(first) = self.pop(tenant, kinds)
        {
            taken.push(first);
        }
        // Whoever took this may have been woken for work of another kind, which must not wait for them.
        for kind in kinds {
            let waits = self.work.contains_key(&(tenant.clone(), *kind));
            if waits && !taken.iter().any(|(_, taken)| taken == kind) {
                self.wake_one(tenant, &[*kind]);
            }
        }
        taken
    }

    /// Takes the longest waiting work of these kinds out of the line.
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

    /// Lines a worker up, at the place that it had before, if any. Answers the place.
    pub(super) fn wait(
        &mut self,
        tenant: Tenant,
        kinds: Vec<WorkKind>,
        wake: oneshot::Sender<()>,
        place: Option<u64>,
    ) -> u64 {
        let place = place.unwrap_or_else(|| {
            self.next_place += 1;
            self.next_place
        });
        self.waiters.insert(place, Waiter { tenant, kinds, wake });
        place
    }

    /// A worker goes away. If it was woken on its way out, the next one is woken in its stead.
    pub(super) fn leave(&mut self, place: u64, woken: &mut oneshot::Receiver<()>) {
        if self.waiters.remove(&place).is_some() || woken.try_recv().is_err() {
            return;
        }
        let waiting: Vec<_> = self.work.keys().cloned().collect();
        for (tenant, kind) in waiting {
            self.wake_one(&tenant, &[kind]);
        }
    }

    /// Wakes workers for up to `max` pieces of the kind that stand in line, of each tenant.
    pub(super) fn wake(&mut self, kind: WorkKind, max: usize) {
        let of_kind = self.work.iter().filter(|((_, known), _)| *known == kind);
        let waiting: Vec<_> =
            of_kind.map(|((tenant, _), line)| (tenant.clone(), line.len().min(max))).collect();
        for (tenant, count) in waiting {
            for _ in 0..count {
                if !self.wake_one(&tenant, &[kind]) {
                    break;
                }
            }
        }
    }

    /// Whether there was somebody to wake.
    fn wake_one(&mut self, tenant: &Tenant, kinds: &[WorkKind]) -> bool {
        let wants = |waiter: &Waiter| {
            waiter.tenant == *tenant && kinds.iter().any(|kind| waiter.kinds.contains(kind))
        };
        while let Some(place) = self.waiters.iter().find(|(_, waiter)| wants(waiter)).map(|(place, _)| *place)
        {
            let sent = self.waiters.remove(&place).map(|waiter| waiter.wake.send(()));
            if sent == Some(Ok(())) {
                return true;
            }
        }
        false
    }

    /// How much work of each kind waits.
    pub(super) fn lengths(&self) -> BTreeMap<WorkKind, usize> {
        let mut lengths = BTreeMap::new();
        for ((_, kind), line) in &self.work {
            *lengths.entry(*kind).or_default() += line.len();
        }
        lengths
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
    fn waits(line: &mut Line, tenant: &Tenant, kinds: &[WorkKind]) -> oneshot::Receiver<()> {
        let (wake, woken) = oneshot::channel();
        line.wait(tenant.clone(), kinds.to_vec(), wake, None);
        woken
    }

    #[test]
    fn who_is_woken_for_one_kind_and_takes_another_leaves_the_first_to_somebody_who_waits() {
        let (mut line, tenant) = (Line::default(), "default".parse().unwrap());
        let mut any = waits(&mut line, &tenant, &[A, B]);
        let mut only_b = waits(&mut line, &tenant, &[B]);
        let mut only_a = waits(&mut line, &tenant, &[A]);
        line.add(&tenant, A, since(2), work(2));
        // Lost by its holder, so that it is older than what came in before.
        line.add(&tenant, B, since(1), work(1));
        any.try_recv().unwrap();
        only_b.try_recv().unwrap();
        assert_eq!(line.take(&tenant, &[A, B], 1), [(work(1), B)]);
        only_a.try_recv().expect("the other work waits for whom nobody woke");
    }

    #[test]
    fn who_takes_one_of_many_pieces_of_a_kind_wakes_nobody_for_the_others_once_more() {
        let (mut line, tenant) = (Line::default(), "default".parse().unwrap());
        let mut waiting: Vec<_> = (0..4).map(|_| waits(&mut line, &tenant, &[A])).collect();
        (0..2).for_each(|n| line.add(&tenant, A, since(n), work(n.into())));
        line.take(&tenant, &[A], 1);
        let woken = waiting.iter_mut().filter_map(|woken| woken.try_recv().ok()).count();
        assert_eq!(woken, 2);
    }
}
