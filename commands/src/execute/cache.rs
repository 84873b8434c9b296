//! Folded states in memory, the least recently used leaving first.

use std::sync::{Arc, Mutex, PoisonError};

use domain::decider::Decider;
use event_schemas::stream::StreamId;
use hashlink::LruCache;

use super::Folded;

/// A stream's state, if it is known. Held locked while a command is carried out on the stream.
pub(super) type Slot<D> = Option<Folded<D>>;

/// What the entry of any stream weighs, however few events it has.
const WEIGHT_BASE: usize = 4;

type Entry<D> = Arc<tokio::sync::Mutex<Slot<D>>>;

pub(super) struct Cache<D: Decider> {
    entries: Arc<Mutex<Entries<D>>>,
    weight_max: usize,
}

struct Entries<D: Decider> {
    lru: LruCache<StreamId, Weighed<D>>,
    weight: usize,
}

struct Weighed<D: Decider> {
    entry: Entry<D>,
    weight: usize,
}

impl<D: Decider> Clone for Cache<D> {
    fn clone(&self) -> Self {
        Self { entries: Arc::clone(&self.entries), weight_max: self.weight_max }
    }
}

impl<D: Decider> Cache<D> {
    pub(super) fn new(weight_max: usize) -> Self {
        let entries = Entries { lru: LruCache::new_unbounded(), weight: 0 };
        Self { entries: Arc::new(Mutex::new(entries)), weight_max }
    }

    /// The place for the stream's state, empty if it is not cached.
    pub(super) fn entry(&self, stream: &StreamId) -> Entry<D> {
        let mut entries = self.locked();
        if let Some(known) = entries.lru.get(stream) {
            return Arc::clone(&known.entry);
        }
        let entry = Entry::<D>::default();
        entries.weight += WEIGHT_BASE;
        entries.lru.insert(stream.clone(), Weighed { entry: Arc::clone(&entry), weight: WEIGHT_BASE });
        entry
    }

    /// Says what the stream's state weighs now, and lets go of others if that is too much in all. One that a command is
    /// working on leaves too: the command keeps its own hold, and the log settles what two holds decide at once.
    pub(super) fn weigh(&self, stream: &StreamId, weight: usize) {
        let mut entries = self.locked();
        let entries = &mut *entries;
        if let Some(known) = entries.lru.peek_mut(stream) {
            entries.weight = entries.weight - known.weight + weight + WEIGHT_BASE;
            known.weight = weight + WEIGHT_BASE;
        }
        while entries.weight > self.weight_max
            && entries.lru.len() > 1
            && let Some((_, oldest)) = entries.lru.remove_lru()
        {
            entries.weight -= oldest.weight;
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.locked().lru.len()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Entries<D>> {
        // Nothing in a locked section can panic half-way.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
