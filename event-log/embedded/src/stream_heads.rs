//! Caches of the writer: the heads of recently used streams, against which expectations are checked, and the ids of
//! recent appends of protocol clients, by which retries are recognised.

use std::collections::HashMap;
use std::hash::BuildHasher;

use event_schemas::envelope::NewEvent;
use event_schemas::ids::{EventId, Revision};
use event_schemas::stream::StreamId;
use foldhash::fast::RandomState;

/// The most streams in one generation of the cache. Two generations take at most 40 MB unless names are very long.
const GENERATION_MAX: usize = 131_072;

/// The head of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamHead {
    pub(super) revision: Revision,
    /// The id of the last event, once it was needed.
    pub(super) id: Option<EventId>,
    /// The location of the stream's last event, if its group is not written yet.
    pub(super) pending: Option<PendingLocation>,
}

/// The location of an event in a group that is not written yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PendingLocation {
    /// The number of the group.
    pub(super) group: u64,
    /// The index among the group's events.
    pub(super) index: usize,
}

/// A cache that evicts streams without recent appends. Streams without events are cached as well.
#[derive(Debug, Default)]
pub(super) struct StreamHeadCache {
    current: HashMap<StreamId, Option<StreamHead>, RandomState>,
    previous: HashMap<StreamId, Option<StreamHead>, RandomState>,
}

impl StreamHeadCache {
    pub(super) fn get(&mut self, stream: &StreamId) -> Option<Option<StreamHead>> {
        if let Some(head) = self.current.get(stream) {
            return Some(*head);
        }
        let (stream, head) = self.previous.remove_entry(stream)?;
        self.set(stream, head);
        Some(head)
    }

    pub(super) fn set(&mut self, stream: StreamId, head: Option<StreamHead>) {
        if self.current.len() >= GENERATION_MAX && !self.current.contains_key(&stream) {
            self.previous = std::mem::take(&mut self.current);
        }
        self.current.insert(stream, head);
    }
}

/// The most event ids in one generation. Two generations take at most 8 MB.
pub(super) const IDS_MAX: usize = 65_536;

/// The revisions of recently appended events, by id. The oldest are evicted.
#[derive(Debug, Default)]
pub(super) struct RecentEventIds {
    hasher: RandomState,
    current: HashMap<(EventId, u64), Revision, RandomState>,
    previous: HashMap<(EventId, u64), Revision, RandomState>,
}

impl RecentEventIds {
    /// The revision of the event with this id in the stream, if it was appended recently.
    pub(super) fn find(&self, stream: &StreamId, id: EventId) -> Option<Revision> {
        let key = (id, self.hasher.hash_one(stream));
        self.current.get(&key).or_else(|| self.previous.get(&key)).copied()
    }

    /// Adds events that follow `last`. Of an event that is there twice, the first one counts: a repeated append is
    /// recognised from its first event on.
    pub(super) fn add(&mut self, stream: &StreamId, last: Option<Revision>, events: &[NewEvent]) {
        let stream = self.hasher.hash_one(stream);
        let first = last.map_or(Revision(0), Revision::next);
        for (index, event) in events.iter().enumerate().rev() {
            if self.current.len() >= IDS_MAX {
                self.previous = std::mem::take(&mut self.current);
            }
            self.current.insert((event.id, stream), Revision(first.0 + index as u64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_in_use_stay_cached_and_others_are_evicted() {
        let name = |n: usize| format!("a-{n}").parse::<StreamId>().unwrap();
        let head = Some(StreamHead { revision: Revision(7), id: None, pending: None });
        let mut heads = StreamHeadCache::default();
        heads.set(name(0), head);
        for n in 1..3 * GENERATION_MAX {
            heads.set(name(n), None);
            assert_eq!(heads.get(&name(0)), Some(head));
        }
        assert_eq!(heads.get(&name(1)), None);
    }
}
