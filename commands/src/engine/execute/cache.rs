//! A cache of folded stream states, bounded by their memory.
//!
//! All kinds of streams share its two LRU lists. A state of few events is folded again from one page of the log, so a list of
//! modest size is enough for all of them. A state of many events takes long to fold, so it has a list of its own, in which
//! other streams do not displace it.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use domain::decider::Decider;
use event_schemas::stream::StreamId;
use hashlink::LruCache;

use super::{CachedStream, PAGE_EVENTS};

/// A stream's state, if it is cached. Locked while a command runs on the stream.
pub(super) type Entry<D> = Option<CachedStream<D>>;

type SharedEntry<D> = Arc<tokio::sync::Mutex<Entry<D>>>;

/// The memory of a stream's entry besides its state: its name, its place in the list, and the allocations of both.
const ENTRY_BYTES: usize = 320;

/// The bounds of the cached states, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateCacheLimits {
    /// For the states of streams with few events.
    pub small: usize,
    /// For the states of streams with many events.
    pub large: usize,
}

impl Default for StateCacheLimits {
    fn default() -> Self {
        Self { small: 32 << 20, large: 256 << 20 }
    }
}

/// The cached states of all streams. Clones share them.
#[derive(Clone, Debug)]
pub struct StateCache(Arc<Mutex<Lists>>);

#[derive(Debug)]
struct Lists {
    small: List,
    large: List,
}

#[derive(Debug)]
struct List {
    lru: LruCache<StreamId, CacheItem>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct CacheItem {
    /// A [`SharedEntry`] of the decider of the stream's category.
    entry: Arc<dyn Any + Send + Sync>,
    bytes: usize,
}

impl StateCache {
    pub fn new(limits: StateCacheLimits) -> Self {
        let list = |bytes_max| List { lru: LruCache::new_unbounded(), bytes: 0, bytes_max };
        Self(Arc::new(Mutex::new(Lists { small: list(limits.small), large: list(limits.large) })))
    }

    /// The entry for the stream's state, empty if it is not cached.
    pub(super) fn entry<D>(&self, stream: &StreamId) -> SharedEntry<D>
    where
        D: Decider + 'static,
        D::State: Send,
    {
        let mut lists = self.locked();
        let Lists { small, large } = &mut *lists;
        if let Some(known) = small.lru.get(stream).or_else(|| large.lru.get(stream))
            && let Ok(entry) = Arc::clone(&known.entry).downcast()
        {
            return entry;
        }
        let entry = SharedEntry::<D>::default();
        lists.small.insert(stream, CacheItem { entry: Arc::clone(&entry) as _, bytes: ENTRY_BYTES });
        entry
    }

    /// Records the current memory of the stream's state, and evicts other entries if the total exceeds the limit. An entry
    /// in use is evicted, too: its command keeps a reference, and the log's expected revision resolves the conflict of two
    /// copies.
    pub(super) fn record_cost<D: Decider>(&self, stream: &StreamId, entry: &Entry<D>) {
        let (state_bytes, events) = entry.as_ref().map_or((0, 0), |cached| (cached.bytes(), cached.events()));
        let bytes = ENTRY_BYTES + state_bytes;
        let mut lists = self.locked();
        let Lists { small, large } = &mut *lists;
        let (list, other) = if events > PAGE_EVENTS as u64 { (large, small) } else { (small, large) };
        if let Some(known) = list.lru.peek_mut(stream) {
            list.bytes = list.bytes - known.bytes + bytes;
            known.bytes = bytes;
        } else if let Some(moved) = other.remove(stream) {
            list.insert(stream, CacheItem { bytes, ..moved });
        }
        list.evict();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let lists = self.locked();
        lists.small.lru.len() + lists.large.lru.len()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Lists> {
        // Nothing in a locked section can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    fn insert(&mut self, stream: &StreamId, item: CacheItem) {
        self.bytes += item.bytes;
        if let Some(replaced) = self.lru.insert(stream.clone(), item) {
            self.bytes -= replaced.bytes;
        }
    }

    fn remove(&mut self, stream: &StreamId) -> Option<CacheItem> {
        let removed = self.lru.remove(stream)?;
        self.bytes -= removed.bytes;
        Some(removed)
    }

    /// Evicts the least recently used entries, but not the only one.
    fn evict(&mut self) {
        while self.bytes > self.bytes_max
            && self.lru.len() > 1
            && let Some((_, oldest)) = self.lru.remove_lru()
        {
            self.bytes -= oldest.bytes;
        }
    }
}
