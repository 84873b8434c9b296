//! An LRU cache of folded stream states.

use std::sync::{Arc, Mutex, PoisonError};

use domain::decider::Decider;
use event_schemas::stream::StreamId;
use hashlink::LruCache;

use super::CachedStream;

/// A stream's state, if it is cached. Locked while a command runs on the stream.
pub(super) type Entry<D> = Option<CachedStream<D>>;

/// The cost of a stream's entry, however few events it has.
const COST_BASE: usize = 4;

type SharedEntry<D> = Arc<tokio::sync::Mutex<Entry<D>>>;

pub(super) struct Cache<D: Decider> {
    entries: Arc<Mutex<Entries<D>>>,
    cost_max: usize,
}

struct Entries<D: Decider> {
    lru: LruCache<StreamId, CacheItem<D>>,
    cost: usize,
}

struct CacheItem<D: Decider> {
    entry: SharedEntry<D>,
    cost: usize,
}

impl<D: Decider> Clone for Cache<D> {
    fn clone(&self) -> Self {
        Self { entries: Arc::clone(&self.entries), cost_max: self.cost_max }
    }
}

impl<D: Decider> Cache<D> {
    pub(super) fn new(cost_max: usize) -> Self {
        let entries = Entries { lru: LruCache::new_unbounded(), cost: 0 };
        Self { entries: Arc::new(Mutex::new(entries)), cost_max }
    }

    /// The entry for the stream's state, empty if it is not cached.
    pub(super) fn entry(&self, stream: &StreamId) -> SharedEntry<D> {
        let mut entries = self.locked();
        if let Some(known) = entries.lru.get(stream) {
            return Arc::clone(&known.entry);
        }
        let entry = SharedEntry::<D>::default();
        entries.cost += COST_BASE;
        entries.lru.insert(stream.clone(), CacheItem { entry: Arc::clone(&entry), cost: COST_BASE });
        entry
    }

    /// Records the current cost of the stream's state, and evicts other entries if the total exceeds the limit. An
    /// entry in use is evicted, too: its command keeps a reference, and the log's expected revision resolves the
    /// conflict of two copies.
    pub(super) fn record_cost(&self, stream: &StreamId, cost: usize) {
        let mut entries = self.locked();
        let entries = &mut *entries;
        if let Some(known) = entries.lru.peek_mut(stream) {
            entries.cost = entries.cost - known.cost + cost + COST_BASE;
            known.cost = cost + COST_BASE;
        }
        while entries.cost > self.cost_max
            && entries.lru.len() > 1
            && let Some((_, oldest)) = entries.lru.remove_lru()
        {
            entries.cost -= oldest.cost;
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
