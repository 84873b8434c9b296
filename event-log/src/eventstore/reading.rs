//! Reading: what the cluster has, as it is shown, and no further than the log's reader has seen.

use std::sync::PoisonError;
use std::time::Instant;

use event_schemas::envelope::Recorded;
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;

use super::backoff::Backoff;
use super::client::{Fault, Found, ReadFrom};
use super::times::Place;
use super::{EventStoreLog, REVISION_MAX, event};
use crate::{Filter, Page, ReadError};

/// The most events that one call reads of a stream, or of the whole log.
const READ_EVENTS_MAX: usize = 4096;

/// So many events are read at least where some of them are to be passed over.
const SKIP_EVENTS: usize = 1024;

/// Of so many places where pages ended it is remembered that one can read on there.
const ENDS_MAX: usize = 256;

/// What one call brought.
struct Looked {
    events: Vec<Recorded>,
    /// The last event that was looked at, of whatever kind.
    last: Option<Position>,
    /// Whether there may be more behind it.
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
        let read = self.ask(|| async {
            match self.connection().read_stream(stream.as_str(), ReadFrom::At(from), count).await {
                Err(Fault::Missing) => Ok(Vec::new()),
                read => read,
            }
        });
        let mut events: Vec<Recorded> = read.await?.into_iter().filter_map(event).collect();
        if let Some(last) = events.last() {
            if last.position.0 == u64::MAX {
                return Err(ReadError::Unavailable(
                    "the cluster does not say where a stream's events are; it must be of version 22.6 or later".to_owned(),
                ));
            }
            if !self.seen(last.position, Instant::now() + self.patience()).await {
                return Err(ReadError::Unavailable(
                    "the connection to the cluster is not back yet".to_owned(),
                ));
            }
        }
        let times = self.times();
        for event in &mut events {
            event.recorded_at = times.shown(event.position, event.recorded_at);
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
        if let Some(page) = self.of_tail(after, head, filter, events_max) {
            return Ok(page);
        }
        let until = Instant::now() + self.patience();
        let mut backoff = Backoff::new();
        let mut from = self.start_for(after);
        loop {
            if after >= head {
                return Ok(Page { events: Vec::new(), next: after, at_head: true });
            }
            let count = match from {
                // The event at the start is one that was seen already.
                ReadFrom::At(start) if start == after && *filter == Filter::All => {
                    events_max.saturating_add(1)
                }
                _ => events_max.max(SKIP_EVENTS),
            };
            let count = count.min(READ_EVENTS_MAX);
            let Looked { mut events, last, full } = self.page(from, count, head).await?;
            let last = last.unwrap_or(after);
            if last <= after && full {
                from = ReadFrom::At(last);
                continue;
            }
            if last <= after || (!full && last < head) {
                // The node that answered is behind the one whose events the reader has seen.
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
            self.remember_end(next);
            return Ok(Page { events, next, at_head: next >= head });
        }
    }

    /// The position of the last event by an instant.
    pub(super) async fn last_by(&self, at: Timestamp) -> Result<Position, ReadError> {
        let (place, head) = (self.times().place_at(at), *self.0.head.borrow());
        let mut found = match place {
            Place::Here(position) => return Ok(position.min(head)),
            Place::From(position) => position,
        };
        loop {
            let looked = self.page(ReadFrom::At(found), READ_EVENTS_MAX, head).await?;
            let by_then = looked.events.iter().take_while(|event| event.recorded_at <= at).count();
            let last = by_then.checked_sub(1).and_then(|index| looked.events.get(index));
            let further = last.is_some_and(|last| last.position > found);
            found = last.map_or(found, |last| last.position);
            if by_then < looked.events.len() || !looked.full || !further {
                return Ok(found);
            }
        }
    }

    /// Asks until there is an answer or patience ends.
    async fn ask<T, F>(&self, ask: impl Fn() -> F) -> Result<T, ReadError>
    where
        F: Future<Output = Result<T, Fault>> + Send,
    {
        let until = Instant::now() + self.patience();
        let mut backoff = Backoff::new();
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(fault @ Fault::Deleted) => {
                    return Err(ReadError::Corrupt(format!("in the cluster at {}: {fault}", self.url())));
                }
                Err(fault @ (Fault::Unreachable(_) | Fault::Broken(_) | Fault::NotLeader)) => {
                    if Instant::now() >= until {
                        return Err(ReadError::Unavailable(fault.to_string()));
                    }
                }
                Err(fault) => return Err(ReadError::Unavailable(fault.to_string())),
            }
            backoff.wait().await;
        }
    }

    fn of_tail(&self, after: Position, head: Position, filter: &Filter, events_max: usize) -> Option<Page> {
        let tail = self.0.seen.tail.read().unwrap_or_else(PoisonError::into_inner);
        tail.page(after, head, filter, events_max)
    }

    /// From where to read what is behind `after`: from there, if that is known to be the place of an event; a cluster
    /// reads from no other. Else from one before.
    fn start_for(&self, after: Position) -> ReadFrom<Position> {
        let ends = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.contains(&after) {
            return ReadFrom::At(after);
        }
        self.times().start_for(after).map_or(ReadFrom::Start, ReadFrom::At)
    }

    fn remember_end(&self, end: Position) {
        let mut ends = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.back() != Some(&end) {
            ends.push_back(end);
        }
        if ends.len() > ENDS_MAX {
            ends.pop_front();
        }
    }

    /// Events of the whole log from a place on, as they are shown, up to `head`.
    async fn page(
        &self,
        from: ReadFrom<Position>,
        count: usize,
        head: Position,
    ) -> Result<Looked, ReadError> {
        let found = self.ask(|| self.connection().read_all(from, count)).await?;
        let last = found.last().map(Found::position);
        let full = found.len() >= count;
        let mut events: Vec<Recorded> = found.into_iter().filter_map(event).collect();
        events.retain(|event| event.position <= head);
        let times = self.times();
        for event in &mut events {
            event.recorded_at = times.shown(event.position, event.recorded_at);
        }
        Ok(Looked { events, last, full })
    }
}
