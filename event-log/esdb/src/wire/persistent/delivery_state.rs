//! The state of each event of a group: in the read buffer, in flight, in the retry buffer, to be parked, or done. A pure state
//! machine: the caller passes in the time and does all I/O.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use event_schemas::envelope::Recorded;
use event_schemas::ids::{EventId, Revision};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::settings::{Settings, SourcePosition, Strategy};

/// The id of a consumer, for the duration of its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ConsumerId(pub(super) u64);

/// The origin of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Source(SourcePosition),
    /// The event was parked at this revision of the stream of parked events, and is replayed.
    Parked(Revision),
}

/// An event that the group has not finished.
#[derive(Clone, Debug)]
pub(super) struct QueuedEvent {
    pub(super) event: Recorded,
    pub(super) origin: Origin,
    pub(super) retries: u32,
}

/// An event to send to a consumer.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) consumer: ConsumerId,
    pub(super) event: Recorded,
    pub(super) retries: u32,
}

/// The action that a consumer requests for an event that it failed to process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NackAction {
    Retry,
    Park,
    Skip,
}

#[derive(Debug)]
struct Consumer {
    id: ConsumerId,
    /// The most events in flight to it.
    slots: usize,
    busy: usize,
}

/// An event that was sent to a consumer and not answered yet.
#[derive(Debug)]
struct InFlight {
    item: QueuedEvent,
    consumer: ConsumerId,
    deadline: Option<Instant>,
}

/// The events of a group and their consumers.
#[derive(Debug)]
pub(super) struct DeliveryState {
    settings: Settings,
    /// In the order in which they joined.
    consumers: Vec<Consumer>,
    /// The consumer whose turn it is, for round robin.
    next_consumer: usize,
    /// Retried and replayed events, which are sent first.
    retry_buffer: VecDeque<QueuedEvent>,
    /// New events, in the order of the source.
    read_buffer: VecDeque<QueuedEvent>,
    in_flight: HashMap<EventId, InFlight>,
    /// Failed events that are to be parked, with the reason.
    failed: VecDeque<(QueuedEvent, String)>,
    /// The positions of all events that were read and are not done.
    unfinished: BTreeSet<SourcePosition>,
    /// Events before this position were read.
    next: SourcePosition,
    /// Like `unfinished`, for the stream of parked events.
    replaying: BTreeSet<Revision>,
    /// Like `next`, for the stream of parked events.
    next_parked: Revision,
    /// The events done since the last checkpoint.
    done: u32,
}

impl DeliveryState {
    /// A group that resumes at these positions, inclusive.
    pub(super) fn new(settings: Settings, next: SourcePosition, next_parked: Revision) -> Self {
        Self {
            settings,
            consumers: Vec::new(),
            next_consumer: 0,
            retry_buffer: VecDeque::new(),
            read_buffer: VecDeque::new(),
            in_flight: HashMap::new(),
            failed: VecDeque::new(),
            unfinished: BTreeSet::new(),
            next,
            replaying: BTreeSet::new(),
            next_parked,
            done: 0,
        }
    }

    pub(super) fn join(&mut self, id: ConsumerId, slots: usize) {
        self.consumers.push(Consumer { id, slots: slots.max(1), busy: 0 });
    }

    /// Removes a consumer. Its events in flight are retried with other consumers, in their order and before all others. This
    /// counts as a retry, so that an event that crashes its consumers is parked in the end.
    pub(super) fn leave(&mut self, id: ConsumerId) {
        self.consumers.retain(|consumer| consumer.id != id);
        let mut returned: Vec<_> = self
            .in_flight
            .extract_if(|_, in_flight| in_flight.consumer == id)
            .map(|(_, in_flight)| in_flight.item)
            .collect();
        returned.sort_by_key(|item| item.event.position);
        let mut retry_buffer = std::mem::take(&mut self.retry_buffer);
        returned.into_iter().for_each(|item| self.retry(item));
        self.retry_buffer.append(&mut retry_buffer);
    }

    /// The position and number of events to read from the source; `None` without consumers, or if the buffers are full.
    pub(super) fn next_read(&self) -> Option<(SourcePosition, usize)> {
        let batch = self.settings.read_batch_size as usize;
        let room = (self.settings.history_buffer_size as usize).saturating_sub(self.read_buffer.len());
        // Retried, unanswered and failed events count too, so that a slow group does not read ahead without limit.
        let pending = self.retry_buffer.len() + self.in_flight.len() + self.failed.len();
        let is_full = pending > self.settings.history_buffer_size as usize;
        (!self.consumers.is_empty() && !is_full && room >= batch).then_some((self.next, batch))
    }

    /// Adds events that were read. All events before `next` were scanned.
    pub(super) fn add_events(
        &mut self,
        events: impl IntoIterator<Item = (SourcePosition, Recorded)>,
        next: SourcePosition,
    ) {
        for (position, event) in events {
            self.unfinished.insert(position);
            self.read_buffer.push_back(QueuedEvent { event, origin: Origin::Source(position), retries: 0 });
        }
        self.next = self.next.max(next);
    }

    /// Adds parked events to replay. All parked events before `next` were read.
    pub(super) fn add_replayed(
        &mut self,
        events: impl IntoIterator<Item = (Revision, Recorded)>,
        next: Revision,
    ) {
        for (revision, event) in events {
            self.replaying.insert(revision);
            self.retry_buffer.push_back(QueuedEvent { event, origin: Origin::Parked(revision), retries: 0 });
        }
        self.next_parked = self.next_parked.max(next);
    }

    /// The next parked event to replay.
    pub(super) fn next_parked(&self) -> Revision {
        self.next_parked
    }

    /// Assigns events to consumers with free slots.
    pub(super) fn dispatch(&mut self, now: Instant) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        let mut retry_buffer = std::mem::take(&mut self.retry_buffer);
        self.dispatch_from(&mut retry_buffer, now, &mut deliveries);
        self.retry_buffer = retry_buffer;
        let mut read_buffer = std::mem::take(&mut self.read_buffer);
        self.dispatch_from(&mut read_buffer, now, &mut deliveries);
        self.read_buffer = read_buffer;
        deliveries
    }

    fn dispatch_from(
        &mut self,
        queue: &mut VecDeque<QueuedEvent>,
        now: Instant,
        deliveries: &mut Vec<Delivery>,
    ) {
        let mut held = VecDeque::new();
        while self.consumers.iter().any(|consumer| consumer.busy < consumer.slots) {
            let Some(item) = queue.pop_front() else { break };
            // Answers name events by their ids, so an id must not be in flight twice.
            let chosen =
                if self.in_flight.contains_key(&item.event.id) { None } else { self.choose_consumer(&item) };
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
            self.in_flight.insert(item.event.id, InFlight { item, consumer: consumer.id, deadline });
        }
        while let Some(item) = held.pop_back() {
            queue.push_front(item);
        }
    }

    /// The consumer for an event; `None` if the event has to wait. At least one consumer has a free slot.
    fn choose_consumer(&mut self, item: &QueuedEvent) -> Option<usize> {
        let has_room = |consumer: &Consumer| consumer.busy < consumer.slots;
        match self.settings.strategy {
            Strategy::DispatchToSingle => self.consumers.iter().position(has_room),
            Strategy::RoundRobin => {
                let count = self.consumers.len();
                let index = (0..count)
                    .map(|step| (self.next_consumer + step) % count)
                    .find(|&index| has_room(&self.consumers[index]))?;
                self.next_consumer = index + 1;
                Some(index)
            }
            Strategy::Pinned => self.pinned(item.event.stream.as_str().as_bytes()),
            Strategy::PinnedByCorrelation => match correlation(&item.event) {
                Some(id) => self.pinned(id.as_bytes()),
                None => self.pinned(item.event.stream.as_str().as_bytes()),
            },
        }
    }

    /// Rendezvous hashing: when a consumer joins or leaves, only its own keys move.
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

    /// A consumer has processed these events.
    pub(super) fn ack(&mut self, ids: &[EventId]) {
        for id in ids {
            if let Some(item) = self.take_in_flight(id) {
                self.finish(item.origin);
            }
        }
    }

    /// A consumer failed to process these events.
    pub(super) fn nack(&mut self, ids: &[EventId], action: NackAction, reason: &str) {
        for id in ids {
            let Some(item) = self.take_in_flight(id) else { continue };
            match action {
                NackAction::Retry => self.retry(item),
                NackAction::Park => self.failed.push_back((item, reason.to_owned())),
                NackAction::Skip => self.finish(item.origin),
            }
        }
    }

    /// Retries the events in flight whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant) {
        let is_late = |in_flight: &InFlight| in_flight.deadline.is_some_and(|deadline| deadline <= now);
        let mut late: Vec<_> = self
            .in_flight
            .iter()
            .filter(|(_, in_flight)| is_late(in_flight))
            .map(|(id, in_flight)| (in_flight.item.event.position, *id))
            .collect();
        late.sort_unstable_by_key(|(position, _)| *position);
        for (_, id) in late {
            if let Some(item) = self.take_in_flight(&id) {
                self.retry(item);
            }
        }
    }

    /// The earliest deadline of an event in flight.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.in_flight.values().filter_map(|in_flight| in_flight.deadline).min()
    }

    fn take_in_flight(&mut self, id: &EventId) -> Option<QueuedEvent> {
        let in_flight = self.in_flight.remove(id)?;
        if let Some(consumer) = self.consumers.iter_mut().find(|consumer| consumer.id == in_flight.consumer) {
            consumer.busy -= 1;
        }
        Some(in_flight.item)
    }

    fn retry(&mut self, mut item: QueuedEvent) {
        if item.retries < self.settings.max_retries {
            item.retries += 1;
            self.retry_buffer.push_back(item);
        } else {
            let reason = format!("it was retried {} times", item.retries);
            self.failed.push_back((item, reason));
        }
    }

    /// The next event to park. It stays unfinished until [`Self::parked`] is called.
    pub(super) fn next_failed(&self) -> Option<(&QueuedEvent, &str)> {
        self.failed.front().map(|(item, reason)| (item, reason.as_str()))
    }

    /// The event of [`Self::next_failed`] was parked durably.
    pub(super) fn parked(&mut self) {
        if let Some((item, _)) = self.failed.pop_front() {
            self.finish(item.origin);
        }
    }

    fn finish(&mut self, origin: Origin) {
        match origin {
            Origin::Source(position) => self.unfinished.remove(&position),
            Origin::Parked(revision) => self.replaying.remove(&revision),
        };
        self.done = self.done.saturating_add(1);
    }

    /// The checkpoint to resume from after a restart: all events before it are done.
    pub(super) fn checkpoint(&self) -> GroupCheckpoint {
        GroupCheckpoint {
            next: self.unfinished.first().copied().unwrap_or(self.next),
            next_parked: self.replaying.first().copied().unwrap_or(self.next_parked),
        }
    }

    /// The events done since the last checkpoint.
    pub(super) fn done(&self) -> u32 {
        self.done
    }

    pub(super) fn checkpointed(&mut self) {
        self.done = 0;
    }

    pub(super) fn stats(&self) -> DeliveryStats {
        DeliveryStats {
            read_buffer: self.read_buffer.len(),
            retry_buffer: self.retry_buffer.len(),
            in_flight: self.in_flight.len(),
            next: self.next,
            consumers: self
                .consumers
                .iter()
                .map(|consumer| (consumer.id, consumer.slots, consumer.busy))
                .collect(),
        }
    }
}

/// The progress of a group, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GroupCheckpoint {
    pub(super) next: SourcePosition,
    pub(super) next_parked: Revision,
}

/// Statistics of a group.
#[derive(Clone, Debug)]
pub(super) struct DeliveryStats {
    pub(super) read_buffer: usize,
    pub(super) retry_buffer: usize,
    pub(super) in_flight: usize,
    /// Events before this position were read.
    pub(super) next: SourcePosition,
    /// Each with its slots and its events in flight.
    pub(super) consumers: Vec<(ConsumerId, usize, usize)>,
}

/// The correlation id that clients write into the metadata of an event.
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
