//! A job's history, straight from the log: its streams merged by position.
//!
//! The log keeps a job in 18 streams, so that reporters do not wait for each other; whoever reads its history wants one
//! order. Each stream is read by revision, so that a page far into a job of a million matches costs what the first does.

use std::collections::VecDeque;

use event_log::{EventLog, Log, ReadError};
use event_schemas::envelope::Recorded;
use event_schemas::ids::{JobId, Position, Revision};
use event_schemas::stream::{MATCH_SHARDS, StreamId};

/// How many events of one stream are fetched at a time.
const CHUNK_EVENTS: usize = 64;

/// How many streams a job has: its life, its matching, and the shards of its matches.
const STREAMS: usize = 2 + MATCH_SHARDS as usize;

/// How far each of a job's streams has been read: revisions, in the order of [`streams`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place([u64; STREAMS]);

impl Place {
    /// Dot-separated numbers, for a cursor.
    pub(crate) fn to_text(self) -> String {
        self.0.map(|revision| revision.to_string()).join(".")
    }

    /// Undoes [`Place::to_text`].
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut place = Self::default();
        let mut parts = text.split('.');
        for revision in &mut place.0 {
            *revision = parts.next()?.parse().ok()?;
        }
        parts.next().is_none().then_some(place)
    }
}

/// A reader over one job's events, oldest first.
#[derive(Debug)]
pub(crate) struct History<'a> {
    log: &'a Log,
    /// In the order of [`streams`].
    streams: Vec<Source>,
    /// Nothing beyond is handed out: a stream read later could otherwise overtake one read earlier.
    until: Position,
}

#[derive(Debug)]
struct Source {
    stream: StreamId,
    /// Of the first event that has not been handed out.
    next: Revision,
    fetched: VecDeque<Recorded>,
    exhausted: bool,
}

fn streams(job: JobId) -> impl Iterator<Item = StreamId> {
    let shards = (0..MATCH_SHARDS).map(move |shard| StreamId::match_shard(job, shard));
    [StreamId::job(job), StreamId::matching(job)].into_iter().chain(shards)
}

impl<'a> History<'a> {
    /// The job's events from `place` on, as far as the log reaches now.
    pub(crate) fn from(log: &'a Log, job: JobId, place: Place) -> Self {
        Self::over(log, streams(job).zip(place.0))
    }

    /// The job's events without the single matches: what its course through phases and attempts is made of.
    pub(crate) fn course(log: &'a Log, job: JobId) -> Self {
        Self::over(log, [StreamId::job(job), StreamId::matching(job)].into_iter().map(|stream| (stream, 0)))
    }

    fn over(log: &'a Log, streams: impl Iterator<Item = (StreamId, u64)>) -> Self {
        let source = |(stream, next)| Source {
            stream,
            next: Revision(next),
            fetched: VecDeque::new(),
            exhausted: false,
        };
        Self { log, until: *log.head().borrow(), streams: streams.map(source).collect() }
    }

    /// The next event. Costs one read of the log for every [`CHUNK_EVENTS`] events of a stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Recorded>, ReadError> {
        let mut first: Option<(Position, usize)> = None;
        for (index, source) in self.streams.iter_mut().enumerate() {
            if let Some(position) = source.peek(self.log, self.until).await?
                && first.is_none_or(|(earliest, _)| position < earliest)
            {
                first = Some((position, index));
            }
        }
        Ok(first.and_then(|(_, index)| self.streams.get_mut(index)?.take()))
    }

    /// Where to go on after what has been handed out by a reader [`from`](Self::from) a place.
    pub(crate) fn place(&self) -> Place {
        let mut place = Place::default();
        for (revision, source) in place.0.iter_mut().zip(&self.streams) {
            *revision = source.next.0;
        }
        place
    }
}

impl Source {
    async fn peek(&mut self, log: &Log, until: Position) -> Result<Option<Position>, ReadError> {
        if self.fetched.is_empty() && !self.exhausted {
            let events = log.read_stream(&self.stream, self.next, CHUNK_EVENTS).await?;
            let full = events.len() == CHUNK_EVENTS;
            self.fetched = events.into_iter().take_while(|event| event.position <= until).collect();
            self.exhausted = !full || self.fetched.len() < CHUNK_EVENTS;
        }
        Ok(self.fetched.front().map(|event| event.position))
    }

    fn take(&mut self) -> Option<Recorded> {
        let event = self.fetched.pop_front()?;
        self.next = event.revision.next();
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_place_survives_its_text(revisions in prop::array::uniform18(any::<u64>())) {
            let place = Place(revisions);
            prop_assert_eq!(Place::from_text(&place.to_text()), Some(place));
        }

        #[test]
        fn any_other_text_is_no_place(text in "[0-9.a]{0,60}") {
            if let Some(place) = Place::from_text(&text) {
                prop_assert_eq!(text.split('.').count(), STREAMS);
                prop_assert!(place.to_text().len() <= text.len());
            }
        }
    }
}
