//! The latest events of the log, kept in memory, so that following the log does not read from the cluster.

use std::collections::VecDeque;

use event_schemas::envelope::Recorded;
use event_schemas::ids::Position;

use event_log::{Filter, Page};

/// The memory that an event takes in addition to its bytes.
const EVENT_OVERHEAD_BYTES: usize = size_of::<Recorded>() + 64;

/// Every event after `after` that the subscriber has received, without a gap.
#[derive(Debug)]
pub(super) struct Tail {
    bytes_max: usize,
    after: Position,
    events: VecDeque<Recorded>,
    bytes: usize,
}

fn bytes(event: &Recorded) -> usize {
    event.metadata.len() + event.data.len() + event.stream.as_str().len() + EVENT_OVERHEAD_BYTES
}

impl Tail {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, after: Position::START, events: VecDeque::new(), bytes: 0 }
    }

    /// Adds the next event of the log.
    pub(super) fn push(&mut self, event: Recorded) {
        self.bytes += bytes(&event);
        self.events.push_back(event);
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.events.pop_front()
        {
            self.bytes -= bytes(&oldest);
            self.after = oldest.position;
        }
    }

    /// The page of events after `after` up to `head`; `None` if the tail does not have all of them.
    pub(super) fn page(
        &self,
        after: Position,
        head: Position,
        filter: &Filter,
        events_max: usize,
    ) -> Option<Page> {
        if after < self.after {
            return None;
        }
        let first = self.events.partition_point(|event| event.position <= after);
        let mut page = Page { events: Vec::new(), next: after, at_head: false };
        for event in self.events.range(first..).take_while(|event| event.position <= head) {
            if page.events.len() == events_max {
                return Some(page);
            }
            page.next = event.position;
            if filter.matches(&event.stream) {
                page.events.push(event.clone());
            }
        }
        page.at_head = page.next >= head;
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use event_schemas::envelope::{DataFormat, EventType};
    use event_schemas::ids::{EventId, Revision};
    use event_schemas::time::Timestamp;
    use uuid::Uuid;

    use super::*;

    fn event(position: u64, bytes: usize) -> Recorded {
        Recorded {
            position: Position(position),
            recorded_at: Timestamp::EPOCH,
            stream: "a-1".parse().unwrap(),
            revision: Revision(position),
            id: EventId(Uuid::nil()),
            event_type: EventType::new("Happened"),
            format: DataFormat::Json,
            metadata: Bytes::new(),
            data: Bytes::from(vec![0; bytes]),
        }
    }

    #[test]
    fn a_page_that_was_partly_evicted_is_not_returned() {
        let mut tail = Tail::new(16_000);
        for n in 1..=40 {
            tail.push(event(n * 10, 1_000));
        }
        let page = |after: u64| tail.page(Position(after), Position(400), &Filter::All, 100);
        assert!(page(0).is_none() && page(200).is_none());
        let whole = page(tail.after.0).unwrap();
        assert!(whole.at_head && whole.events.len() > 5);
        assert_eq!(page(tail.after.0 + 5).unwrap().events, whole.events);
    }

    #[test]
    fn no_event_beyond_the_head_is_returned() {
        let mut tail = Tail::new(16_000);
        (1..=3).for_each(|n| tail.push(event(n * 10, 1)));
        let page = tail.page(Position(5), Position(20), &Filter::All, 100).unwrap();
        assert_eq!((page.events.len(), page.next, page.at_head), (2, Position(20), true));
        let none = tail.page(Position(5), Position(30), &Filter::StreamPrefixes(Vec::new()), 100).unwrap();
        assert_eq!((none.events.len(), none.next, none.at_head), (0, Position(30), true));
    }
}
