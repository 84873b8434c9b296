//! Which event is where: read, with a consumer, to be tried again, to be parked, or done. Without time, tasks or disk of
//! its own: it is told what happens, and asked what to do.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use event_schemas::envelope::Recorded;
use event_schemas::ids::{EventId, Revision};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::settings::{Place, Settings, Strategy};

/// A consumer of the group, for as long as its call lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ConsumerId(pub(super) u64);

/// Where an event came to the group from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Source(Place),
    /// It was parked, under this revision of the stream of parked events, and is replayed.
    Parked(Revision),
}

/// An event on its way through the group.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) event: Recorded,
    pub(super) origin: Origin,
    pub(super) retries: u32,
}

/// An event that a consumer is to get.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) consumer: ConsumerId,
    pub(super) event: Recorded,
    pub(super) retries: u32,
}

/// What a consumer wants done with an event that it did not manage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Retry,
    Park,
    Skip,
}

#[derive(Debug)]
struct Consumer {
    id: ConsumerId,
    /// How many events it may have at a time.
    slots: usize,
    busy: usize,
}

#[derive(Debug)]
struct Out {
    item: Item,
    consumer: ConsumerId,
    deadline: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Flow {
    settings: Settings,
    /// In the order in which they came.
    consumers: Vec<Consumer>,
    /// Whose turn it is.
    turn: usize,
    /// Retried and replayed events: they go first.
    again: VecDeque<Item>,
    /// In the source's order.
    waiting: VecDeque<Item>,
    out: HashMap<EventId, Out>,
    /// Events that no consumer managed, with the reason.
    failed: VecDeque<(Item, String)>,
    /// The places of all events that are read and not done.
    open: BTreeSet<Place>,
    /// Everything before was read.
    next: Place,
    /// The same two of the stream of parked events.
    replayed: BTreeSet<Revision>,
    next_parked: Revision,
    /// Events done since this was last asked.
    done: u32,
}

impl Flow {
    /// A group that goes on at these places, those included.
    pub(super) fn new(settings: Settings, next: Place, next_parked: Revision) -> Self {
        Self {
            settings,
            consumers: Vec::new(),
            turn: 0,
            again: VecDeque::new(),
            waiting: VecDeque::new(),
            out: HashMap::new(),
            failed: VecDeque::new(),
            open: BTreeSet::new(),
            next,
            replayed: BTreeSet::new(),
            next_parked,
            done: 0,
        }
    }

    pub(super) fn join(&mut self, id: ConsumerId, slots: usize) {
        self.consumers.push(Consumer { id, slots: slots.max(1), busy: 0 });
    }

    /// What the consumer had is tried again with another: in its old order, and before anything else. It counts as a
    /// retry, so that an event that its consumers die of is parked in the end.
    pub(super) fn leave(&mut self, id: ConsumerId) {
        self.consumers.retain(|consumer| consumer.id != id);
        let mut left: Vec<_> =
            self.out.extract_if(|_, out| out.consumer == id).map(|(_, out)| out.item).collect();
        left.sort_by_key(|item| item.event.position);
        let mut again = std::mem::take(&mut self.again);
        left.into_iter().for_each(|item| self.retry(item));
        self.again.append(&mut again);
    }

    /// How many events to read from the source, and from where on: none while nobody would get them.
    pub(super) fn wants(&self) -> Option<(Place, usize)> {
        let batch = self.settings.read_batch_size as usize;
        let room = (self.settings.history_buffer_size as usize).saturating_sub(self.waiting.len());
        // What waits for a consumer or for its answer counts too: a slow group does not read ahead without end.
        let held = self.again.len() + self.out.len() + self.failed.len();
        let is_full = held > self.settings.history_buffer_size as usize;
        (!self.consumers.is_empty() && !is_full && room >= batch).then_some((self.next, batch))
    }

    /// Takes what was read, and that everything before `next` was looked at.
    pub(super) fn read(&mut self, events: impl IntoIterator<Item = (Place, Recorded)>, next: Place) {
        for (place, event) in events {
            self.open.insert(place);
            self.waiting.push_back(Item { event, origin: Origin::Source(place), retries: 0 });
        }
        self.next = self.next.max(next);
    }

    /// Takes parked events to be tried once more, and that all before `next` were.
    pub(super) fn replay(&mut self, events: impl IntoIterator<Item = (Revision, Recorded)>, next: Revision) {
        for (revision, event) in events {
            self.replayed.insert(revision);
            self.again.push_back(Item { event, origin: Origin::Parked(revision), retries: 0 });
        }
        self.next_parked = self.next_parked.max(next);
    }

    /// From which parked event on replaying goes on.
    pub(super) fn next_parked(&self) -> Revision {
        self.next_parked
    }

    /// Gives out what consumers have room for.
    pub(super) fn dispatch(&mut self, now: Instant) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        let mut again = std::mem::take(&mut self.again);
        self.dispatch_from(&mut again, now, &mut deliveries);
        self.again = again;
        let mut waiting = std::mem::take(&mut self.waiting);
        self.dispatch_from(&mut waiting, now, &mut deliveries);
        self.waiting = waiting;
        deliveries
    }

    fn dispatch_from(&mut self, queue: &mut VecDeque<Item>, now: Instant, deliveries: &mut Vec<Delivery>) {
        let mut held = VecDeque::new();
        while self.consumers.iter().any(|consumer| consumer.busy < consumer.slots) {
            let Some(item) = queue.pop_front() else { break };
            // An answer names an event by its id, so no two of the same id are out at a time.
            let chosen = if self.out.contains_key(&item.event.id) { None } else { self.choose(&item) };
            let Some(index) = chosen else {
                held.push_back(item);
                continue;
            };
            let consumer = &mut self.consumers[index];
            consumer.busy += 1;
            let timeout = self.settings.message_timeout;
            deliveries.push(Delivery {
                consumer: consumer.id,
                event: item.event.clone(),
                retries: item.retries,
            });
            let deadline = (!timeout.is_zero()).then(|| now + timeout);
            self.out.insert(item.event.id, Out { item, consumer: consumer.id, deadline });
        }
        while let Some(item) = held.pop_back() {
            queue.push_front(item);
        }
    }

    /// The consumer for an event; none if it has to wait. There is one with room.
    fn choose(&mut self, item: &Item) -> Option<usize> {
        let has_room = |consumer: &Consumer| consumer.busy < consumer.slots;
        match self.settings.strategy {
            Strategy::DispatchToSingle => self.consumers.iter().position(has_room),
            Strategy::RoundRobin => {
                let count = self.consumers.len();
                let index = (0..count)
                    .map(|step| (self.turn + step) % count)
                    .find(|&index| has_room(&self.consumers[index]))?;
                self.turn = index + 1;
                Some(index)
            }
            Strategy::Pinned => self.pinned(item.event.stream.as_str().as_bytes()),
            Strategy::PinnedByCorrelation => match correlation(&item.event) {
                Some(id) => self.pinned(id.as_bytes()),
                None => self.pinned(item.event.stream.as_str().as_bytes()),
            },
        }
    }

    /// Rendezvous: a consumer that comes or goes moves only what is its own.
    fn pinned(&self, key: &[u8]) -> Option<usize> {
        let weight = |consumer: &Consumer| {
            let mut hasher = DefaultHasher::new();
            (key, consumer.id).hash(&mut hasher);
            hasher.finish()
        };
        let (index, consumer) =
            self.consumers.iter().enumerate().max_by_key(|(_, consumer)| (weight(consumer), consumer.id))?;
        (consumer.busy < consumer.slots).then_some(index)
    }

    /// A consumer has managed these.
    pub(super) fn ack(&mut self, ids: &[EventId]) {
        for id in ids {
            if let Some(item) = self.give_back(id) {
                self.finish(item.origin);
            }
        }
    }

    /// A consumer has not managed these.
    pub(super) fn nack(&mut self, ids: &[EventId], action: Action, reason: &str) {
        for id in ids {
            let Some(item) = self.give_back(id) else { continue };
            match action {
                Action::Retry => self.retry(item),
                Action::Park => self.failed.push_back((item, reason.to_owned())),
                Action::Skip => self.finish(item.origin),
            }
        }
    }

    /// Takes events from consumers whose time for them is over.
    pub(super) fn expire(&mut self, now: Instant) {
        let is_late = |out: &Out| out.deadline.is_some_and(|deadline| deadline <= now);
        let mut late: Vec<_> = self
            .out
            .iter()
            .filter(|(_, out)| is_late(out))
            .map(|(id, out)| (out.item.event.position, *id))
            .collect();
        late.sort_unstable_by_key(|(position, _)| *position);
        for (_, id) in late {
            if let Some(item) = self.give_back(&id) {
                self.retry(item);
            }
        }
    }

    /// When [`Self::expire`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.out.values().filter_map(|out| out.deadline).min()
    }

    fn give_back(&mut self, id: &EventId) -> Option<Item> {
        let out = self.out.remove(id)?;
        if let Some(consumer) = self.consumers.iter_mut().find(|consumer| consumer.id == out.consumer) {
            consumer.busy -= 1;
        }
        Some(out.item)
    }

    fn retry(&mut self, mut item: Item) {
        if item.retries < self.settings.max_retries {
            item.retries += 1;
            self.again.push_back(item);
        } else {
            let reason = format!("it was retried {} times", item.retries);
            self.failed.push_back((item, reason));
        }
    }

    /// An event that must be parked. It stays open until [`Self::parked`] is called.
    pub(super) fn next_failed(&self) -> Option<(&Item, &str)> {
        self.failed.front().map(|(item, reason)| (item, reason.as_str()))
    }

    /// The event of [`Self::next_failed`] is durable among the parked ones.
    pub(super) fn parked(&mut self) {
        if let Some((item, _)) = self.failed.pop_front() {
            self.finish(item.origin);
        }
    }

    fn finish(&mut self, origin: Origin) {
        match origin {
            Origin::Source(place) => self.open.remove(&place),
            Origin::Parked(revision) => self.replayed.remove(&revision),
        };
        self.done = self.done.saturating_add(1);
    }

    /// Where to go on after a restart: everything before is done.
    pub(super) fn resume_at(&self) -> Mark {
        Mark {
            next: self.open.first().copied().unwrap_or(self.next),
            next_parked: self.replayed.first().copied().unwrap_or(self.next_parked),
        }
    }

    /// Events done since the last checkpoint.
    pub(super) fn done(&self) -> u32 {
        self.done
    }

    pub(super) fn checkpointed(&mut self) {
        self.done = 0;
    }

    pub(super) fn standing(&self) -> Standing {
        Standing {
            waiting: self.waiting.len(),
            again: self.again.len(),
            out: self.out.len(),
            next: self.next,
            consumers: self
                .consumers
                .iter()
                .map(|consumer| (consumer.id, consumer.slots, consumer.busy))
                .collect(),
        }
    }
}

/// How far a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) next: Place,
    pub(super) next_parked: Revision,
}

/// Numbers of events, for whoever looks at the group.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) waiting: usize,
    pub(super) again: usize,
    pub(super) out: usize,
    /// Everything before was read.
    pub(super) next: Place,
    /// With room for, and at work on, so many events.
    pub(super) consumers: Vec<(ConsumerId, usize, usize)>,
}

/// The correlation id that clients put into the metadata of an event.
fn correlation(event: &Recorded) -> Option<String> {
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(rename = "$correlationId")]
        correlation: Option<String>,
    }
    serde_json::from_slice::<Metadata>(&event.metadata).ok()?.correlation
}

#[cfg(test)]
mod tests;
