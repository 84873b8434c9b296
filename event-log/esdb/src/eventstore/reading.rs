//! Reads from the cluster, with recorded times, and no further than the subscriber has read.

use std::sync::PoisonError;
use std::time::Instant;

use event_schemas::envelope::Recorded;
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;

use super::backoff::Backoff;
use super::client::{CallError, ClusterEvent, ReadFrom};
use super::recorded_times::PositionLookup;
use super::{EventStoreLog, REVISION_MAX, user_event};
use event_log::{Filter, Page, ReadError};

/// The most events that one call reads, of a stream or of the whole log.
const READ_EVENTS_MAX: usize = 4096;

/// The fewest events that one call reads where some of them will be skipped.
const SKIP_EVENTS: usize = 1024;

/// The number of recent page ends that are kept; the next page can start exactly there.
const PAGE_ENDS_MAX: usize = 256;

/// The result of one read call.
struct ScannedPage {
    events: Vec<Recorded>,
    /// The position of the last event that was scanned, of any kind.
    last: Option<Position>,
    /// Whether there may be more events after it.
    full: bool,
}

impl EventStoreLog {
    pub(super) async fn stream(
        &self,
        stream: &StreamId,
        from: Revision,
        events_max: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        if events_max == 0 || from.0 > REVISION_MAX {
            return Ok(Vec::new());
        }
        let count = events_max.min(READ_EVENTS_MAX);
        let read = self.retry(|| async {
            match self.connection().read_stream(stream.as_str(), ReadFrom::At(from), count).await {
                Err(CallError::StreamNotFound) => Ok(Vec::new()),
                read => read,
            }
        });
        let mut events: Vec<Recorded> = read.await?.into_iter().filter_map(user_event).collect();
        if let Some(last) = events.last() {
            if last.position.0 == u64::MAX {
                return Err(ReadError::Unavailable(
                    "the cluster does not return the positions of a stream's events; use version 22.6 or later".to_owned(),
                ));
            }
            if !self.wait_reached(last.position, Instant::now() + self.retry_timeout()).await {
                return Err(ReadError::Unavailable(
                    "the connection to the cluster is not restored yet".to_owned(),
                ));
            }
        }
        let times = self.times();
        for event in &mut events {
            event.recorded_at = times.recorded_at(event.position, event.recorded_at);
        }
        Ok(events)
    }

    pub(super) async fn all(
        &self,
        after: Position,
        filter: &Filter,
        events_max: usize,
    ) -> Result<Page, ReadError> {
        let head = *self.0.head.borrow();
        if let Some(page) = self.tail_page(after, head, filter, events_max) {
            return Ok(page);
        }
        let until = Instant::now() + self.retry_timeout();
        let mut backoff = Backoff::new();
        let mut from = self.start_for(after);
        loop {
            if after >= head {
                return Ok(Page { events: Vec::new(), next: after, at_head: true });
            }
            let count = match from {
                // The event at the start was returned before.
                ReadFrom::At(start) if start == after && *filter == Filter::All => {
                    events_max.saturating_add(1)
                }
                _ => events_max.max(SKIP_EVENTS),
            };
            let count = count.min(READ_EVENTS_MAX);
            let ScannedPage { mut events, last, full } = self.scan_page(from, count, head).await?;
            let last = last.unwrap_or(after);
            if last <= after && full {
                from = ReadFrom::At(last);
                continue;
            }
            if last <= after || (!full && last < head) {
                // The node that answered is behind the one that the subscriber reads from.
                if Instant::now() >= until {
                    return Err(ReadError::Unavailable("the node is behind the cluster".to_owned()));
                }
                backoff.wait().await;
                continue;
            }
            events.retain(|event| event.position > after && filter.matches(&event.stream));
            let mut next = last.min(head);
            if events.len() > events_max {
                events.truncate(events_max);
                next = events.last().map_or(after, |event| event.position);
            }
            self.remember_page_end(next);
            return Ok(Page { events, next, at_head: next >= head });
        }
    }

    /// The position of the last event at or before an instant.
    pub(super) async fn last_by(&self, at: Timestamp) -> Result<Position, ReadError> {
        let (lookup, head) = (self.times().position_at(at), *self.0.head.borrow());
        let mut found = match lookup {
            PositionLookup::Exact(position) => return Ok(position.min(head)),
            PositionLookup::ScanFrom(position) => position,
        };
        loop {
            let page = self.scan_page(ReadFrom::At(found), READ_EVENTS_MAX, head).await?;
            let by_then = page.events.iter().take_while(|event| event.recorded_at <= at).count();
            let last = by_then.checked_sub(1).and_then(|index| page.events.get(index));
            let further = last.is_some_and(|last| last.position > found);
            found = last.map_or(found, |last| last.position);
            if by_then < page.events.len() || !page.full || !further {
                return Ok(found);
            }
        }
    }

    /// Retries a call until it succeeds or the timeout is reached.
    async fn retry<T, F>(&self, call: impl Fn() -> F) -> Result<T, ReadError>
    where
        F: Future<Output = Result<T, CallError>> + Send,
    {
        let until = Instant::now() + self.retry_timeout();
        let mut backoff = Backoff::new();
        loop {
            match call().await {
                Ok(answer) => return Ok(answer),
                Err(error @ CallError::StreamDeleted) => {
                    return Err(ReadError::Corrupt(format!("in the cluster at {}: {error}", self.url())));
                }
                Err(
                    error @ (CallError::Unreachable(_) | CallError::Interrupted(_) | CallError::NotLeader),
                ) => {
                    if Instant::now() >= until {
                        return Err(ReadError::Unavailable(error.to_string()));
                    }
                }
                Err(error) => return Err(ReadError::Unavailable(error.to_string())),
            }
            backoff.wait().await;
        }
    }

    fn tail_page(&self, after: Position, head: Position, filter: &Filter, events_max: usize) -> Option<Page> {
        let tail = self.0.state.tail.read().unwrap_or_else(PoisonError::into_inner);
        tail.page(after, head, filter, events_max)
    }

    /// Where to start reading the events after `after`: there, if it is known to be the position of an event, because a
    /// cluster reads from no other position; otherwise at a known event before it.
    fn start_for(&self, after: Position) -> ReadFrom<Position> {
        let ends = self.0.page_ends.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.contains(&after) {
            return ReadFrom::At(after);
        }
        self.times().start_for(after).map_or(ReadFrom::Start, ReadFrom::At)
    }

    fn remember_page_end(&self, end: Position) {
        let mut ends = self.0.page_ends.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.back() != Some(&end) {
            ends.push_back(end);
        }
        if ends.len() > PAGE_ENDS_MAX {
            ends.pop_front();
        }
    }

    /// Reads events of the whole log from a position on, with recorded times, up to `head`.
    async fn scan_page(
        &self,
        from: ReadFrom<Position>,
        count: usize,
        head: Position,
    ) -> Result<ScannedPage, ReadError> {
        let found = self.retry(|| self.connection().read_all(from, count)).await?;
        let last = found.last().map(ClusterEvent::position);
        let full = found.len() >= count;
        let mut events: Vec<Recorded> = found.into_iter().filter_map(user_event).collect();
        events.retain(|event| event.position <= head);
        let times = self.times();
        for event in &mut events {
            event.recorded_at = times.recorded_at(event.position, event.recorded_at);
        }
        Ok(ScannedPage { events, last, full })
    }
}
