//! Reads the log from its end to its start. The log is read forwards only, so a range of positions is read at a time.

use event_log::{EventLog, Filter, Log, ReadError};
use event_schemas::envelope::Recorded;
use event_schemas::ids::Position;

/// The number of events that a range should have, and that are read from the log at a time.
const RANGE_EVENTS: usize = 1000;

/// The events of a part of the log, the newest first.
#[derive(Clone, Debug)]
pub(super) struct NewestFirst {
    /// Everything up to this position is left out.
    after: Position,
    /// Everything beyond this position was read.
    next: Position,
    /// The length of the next range. On a cluster there are gaps between positions, so it adapts.
    length: u64,
}

impl NewestFirst {
    /// The events after one position, up to another.
    pub(super) fn new(after: Position, last: Position) -> Self {
        Self { after, next: last, length: RANGE_EVENTS as u64 }
    }

    /// The position from which on everything was read.
    pub(super) fn next(&self) -> Position {
        self.next
    }

    /// The events of the next range that pass the filter; none when all were read.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub(super) async fn read(
        &mut self,
        log: &Log,
        filter: &Filter,
    ) -> Result<Option<Vec<Recorded>>, ReadError> {
        if self.next <= self.after {
            return Ok(None);
        }
        let start = self.after.max(Position(self.next.0.saturating_sub(self.length)));
        let (mut events, mut at) = (Vec::new(), start);
        loop {
            let page = log.read_all(at, filter, RANGE_EVENTS).await?;
            at = at.max(page.next);
            events.extend(page.events);
            if page.at_head || at >= self.next {
                break;
            }
        }
        events.retain(|event| event.position <= self.next);
        events.reverse();
        self.next = start;
        match events.len() {
            0..RANGE_EVENTS => self.length = self.length.saturating_mul(2),
            RANGE_EVENTS => {}
            _ => self.length = (self.length / 2).max(1),
        }
        Ok(Some(events))
    }
}
