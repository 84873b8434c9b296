//! A cache of the newest events, so that subscribers that follow the log read no file.

use std::collections::VecDeque;
use std::sync::Arc;

use event_schemas::envelope::Recorded;
use event_schemas::ids::Position;

/// The memory that an event uses in addition to its bytes.
const EVENT_OVERHEAD_BYTES: usize = size_of::<Recorded>() + 32;

/// The newest groups, up to a number of bytes.
#[derive(Debug)]
pub(super) struct Tail {
    groups: VecDeque<Arc<TailGroup>>,
    bytes: usize,
    bytes_max: usize,
}

/// The events of one group. Never empty.
#[derive(Debug)]
pub(super) struct TailGroup {
    pub(super) events: Vec<Recorded>,
    bytes: usize,
}

impl TailGroup {
    pub(super) fn new(events: Vec<Recorded>, bytes: usize) -> Self {
        let bytes = bytes + events.len() * EVENT_OVERHEAD_BYTES;
        Self { events, bytes }
    }

    fn first(&self) -> Position {
        self.events.first().map_or(Position::START, |event| event.position)
    }

    fn last(&self) -> Position {
        self.events.last().map_or(Position::START, |event| event.position)
    }
}

impl Tail {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { groups: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds the newest group and returns the evicted ones, so that the caller can drop them outside the lock.
    pub(super) fn push(&mut self, group: Arc<TailGroup>) -> Vec<Arc<TailGroup>> {
        self.bytes += group.bytes;
        self.groups.push_back(group);
        let mut evicted = Vec::new();
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.groups.pop_front()
        {
            self.bytes -= oldest.bytes;
            evicted.push(oldest);
        }
        evicted
    }

    /// The groups with the `events_max` events after `after`; `None` if the first of these was evicted.
    pub(super) fn after(&self, after: Position, events_max: usize) -> Option<Vec<Arc<TailGroup>>> {
        if self.groups.front()?.first().0 > after.0 + 1 {
            return None;
        }
        let start = self.groups.partition_point(|group| group.last() <= after);
        let mut groups = Vec::new();
        let last_wanted = after.0.saturating_add(events_max as u64);
        for group in self.groups.range(start..) {
            if group.first().0 > last_wanted {
                break;
            }
            groups.push(Arc::clone(group));
        }
        Some(groups)
    }

    /// The event at `position`, if it is in the cache.
    pub(super) fn at(&self, position: Position) -> Option<Recorded> {
        let group = self.groups.get(self.groups.partition_point(|group| group.last() < position))?;
        let index = position.0.checked_sub(group.first().0)?;
        group.events.get(usize::try_from(index).ok()?).cloned()
    }
}
