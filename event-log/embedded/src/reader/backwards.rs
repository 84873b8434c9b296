//! Reading backwards. Revisions and positions have no gaps, so the events before an event are known by number.

use event_schemas::envelope::Recorded;
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;

use super::{Access, LogView};
use crate::segment::SegmentFault;
use event_log::Filter;

impl LogView {
    /// The events of a stream from a revision down, newest first.
    pub(crate) fn stream_backwards(
        &self,
        stream: &StreamId,
        from: Revision,
        events_max: usize,
        access: Access,
    ) -> Result<Vec<Recorded>, SegmentFault> {
        let Some(last) = self.last_revision(stream, access)? else { return Ok(Vec::new()) };
        let mut end = last.min(from).0.saturating_add(1);
        while end > 0 && events_max > 0 {
            let start = end.saturating_sub(events_max as u64);
            let count = usize::try_from(end - start).unwrap_or(events_max);
            let mut events = self.stream(stream, Revision(start), count, access)?;
            if !events.is_empty() {
                events.reverse();
                return Ok(events);
            }
            // These events are written, but not visible to readers yet.
            end = start;
        }
        Ok(Vec::new())
    }

    /// The events before a position, newest first.
    pub(crate) fn page_backwards(
        &self,
        before: Position,
        events_max: usize,
        access: Access,
    ) -> Result<Vec<Recorded>, SegmentFault> {
        let end = before.0.saturating_sub(1).min(self.durable().0);
        let mut after = Position(end.saturating_sub(events_max as u64));
        let mut events = Vec::new();
        while after.0 < end {
            let left = usize::try_from(end - after.0).unwrap_or(events_max);
            let page = self.page(after, &Filter::All, left, access)?;
            events.extend(page.events);
            after = page.next;
        }
        events.reverse();
        Ok(events)
    }
}
