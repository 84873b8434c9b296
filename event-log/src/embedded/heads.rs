//! The ends of the streams that were appended to lately: what the writer checks expectations against. And the ids of
//! what clients appended lately, by which their repetitions are recognised.

use std::collections::HashMap;
use std::hash::BuildHasher;

use event_schemas::envelope::NewEvent;
use event_schemas::ids::{EventId, Revision};
use event_schemas::stream::StreamId;
use foldhash::fast::RandomState;

/// Streams in one generation; two are kept, of at most 40 MB together if names are not unusually long.
const GENERATION_MAX: usize = 131_072;

/// The end of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) revision: Revision,
    /// Of the last event, once it was needed.
    pub(super) id: Option<EventId>,
    /// Where the stream's last event is, if it is in a group that is not written yet.
    pub(super) pending: Option<Pending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    /// The number of the group.
    pub(super) group: u64,
    /// Among the group's events.
    pub(super) index: usize,
}

/// A cache that forgets streams nobody has appended to for a while. Streams without events are remembered as well.
#[derive(Debug, Default)]
pub(super) struct Heads {
    young: HashMap<StreamId, Option<Head>, RandomState>,
    old: HashMap<StreamId, Option<Head>, RandomState>,
}

impl Heads {
    pub(super) fn get(&mut self, stream: &StreamId) -> Option<Option<Head>> {
        if let Some(head) = self.young.get(stream) {
            return Some(*head);
        }
        let (stream, head) = self.old.remove_entry(stream)?;
        self.set(stream, head);
        Some(head)
    }

    pub(super) fn set(&mut self, stream: StreamId, head: Option<Head>) {
        if self.young.len() >= GENERATION_MAX && !self.young.contains_key(&stream) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(stream, head);
    }
}

/// Ids of events in one generation; two are kept, of at most 8 MB together.
pub(super) const IDS_MAX: usize = 65_536;

/// Where events with these ids are in their streams. Forgets the oldest.
#[derive(Debug, Default)]
pub(super) struct Ids {
    hasher: RandomState,
    young: HashMap<(EventId, u64), Revision, RandomState>,
    old: HashMap<(EventId, u64), Revision, RandomState>,
}

impl Ids {
    /// The place in the stream that an event of this id got, if it was lately.
    pub(super) fn find(&self, stream: &StreamId, id: EventId) -> Option<Revision> {
        let key = (id, self.hasher.hash_one(stream));
        self.young.get(&key).or_else(|| self.old.get(&key)).copied()
    }

    /// Remembers events that follow `last`.
    pub(super) fn add(&mut self, stream: &StreamId, last: Option<Revision>, events: &[NewEvent]) {
        let stream = self.hasher.hash_one(stream);
        let mut revision = last.map_or(Revision(0), Revision::next);
        for event in events {
            if self.young.len() >= IDS_MAX {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert((event.id, stream), revision);
            revision = revision.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_in_use_is_not_forgotten_and_the_others_are() {
        let name = |n: usize| format!("a-{n}").parse::<StreamId>().unwrap();
        let head = Some(Head { revision: Revision(7), id: None, pending: None });
        let mut heads = Heads::default();
        heads.set(name(0), head);
        for n in 1..3 * GENERATION_MAX {
            heads.set(name(n), None);
            assert_eq!(heads.get(&name(0)), Some(head));
        }
        assert_eq!(heads.get(&name(1)), None);
    }
}
