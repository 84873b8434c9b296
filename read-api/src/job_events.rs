//! A job's events, read from the log: its streams merged by position.
//!
//! A job has 18 streams, so that concurrent reports do not conflict; its history needs one order. Each stream is read by
//! revision, so the last page of a job with a million matches costs as much as the first.

use std::collections::VecDeque;

use event_log::{EventLog, Log, ReadError};
use event_schemas::envelope::Recorded;
use event_schemas::ids::{JobId, Position, Revision};
use event_schemas::image_match::IMAGE_MATCH_SHARDS;
use event_schemas::stream::StreamId;

/// The number of events fetched from one stream at a time.
const CHUNK_EVENTS: usize = 64;

/// The number of streams of a job: the job itself, its matching, and the shards of its image matches.
const STREAMS: usize = 2 + IMAGE_MATCH_SHARDS as usize;

/// The next revision to read in each of a job's streams, in the order of [`streams`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct JobEventsCursor([u64; STREAMS]);

impl JobEventsCursor {
    /// Dot-separated numbers.
    pub(crate) fn to_text(self) -> String {
        self.0.map(|revision| revision.to_string()).join(".")
    }

    /// The inverse of [`JobEventsCursor::to_text`].
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut cursor = Self::default();
        let mut parts = text.split('.');
        for revision in &mut cursor.0 {
            *revision = parts.next()?.parse().ok()?;
        }
        parts.next().is_none().then_some(cursor)
    }
}

/// Reads one job's events, oldest first.
#[derive(Debug)]
pub(crate) struct JobEventReader<'a> {
    log: &'a Log,
    /// In the order of [`streams`].
    streams: Vec<StreamReader>,
    /// Events beyond this position are not returned: a stream read later could otherwise be ahead of one read earlier.
    until: Position,
}

#[derive(Debug)]
struct StreamReader {
    stream: StreamId,
    /// The revision of the first event that has not been returned.
    next: Revision,
    fetched: VecDeque<Recorded>,
    exhausted: bool,
}

fn streams(job: JobId) -> impl Iterator<Item = StreamId> {
    let shards = (0..IMAGE_MATCH_SHARDS).map(move |shard| StreamId::image_match_shard(job, shard));
    [StreamId::job(job), StreamId::image_matching(job)].into_iter().chain(shards)
}

impl<'a> JobEventReader<'a> {
    /// The job's events from `cursor` up to the current head of the log.
    pub(crate) fn resume(log: &'a Log, job: JobId, cursor: JobEventsCursor) -> Self {
        Self::new(log, streams(job).zip(cursor.0))
    }

    /// The job's events without its image matches, from which its timeline is computed.
    pub(crate) fn without_matches(log: &'a Log, job: JobId) -> Self {
        Self::new(
            log,
            [StreamId::job(job), StreamId::image_matching(job)].into_iter().map(|stream| (stream, 0)),
        )
    }

    fn new(log: &'a Log, streams: impl Iterator<Item = (StreamId, u64)>) -> Self {
        let reader = |(stream, next)| StreamReader {
            stream,
            next: Revision(next),
            fetched: VecDeque::new(),
            exhausted: false,
        };
        Self { log, until: *log.head().borrow(), streams: streams.map(reader).collect() }
    }

    /// Returns the next event. Costs one read of the log for every [`CHUNK_EVENTS`] events of a stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Recorded>, ReadError> {
        let mut first: Option<(Position, usize)> = None;
        for (index, reader) in self.streams.iter_mut().enumerate() {
            if let Some(position) = reader.peek(self.log, self.until).await?
                && first.is_none_or(|(earliest, _)| position < earliest)
            {
                first = Some((position, index));
            }
        }
        Ok(first.and_then(|(_, index)| self.streams.get_mut(index)?.take()))
    }

    /// The cursor at which to resume after the events returned so far; only for a reader made by [`Self::resume`].
    pub(crate) fn cursor(&self) -> JobEventsCursor {
        let mut cursor = JobEventsCursor::default();
        for (revision, reader) in cursor.0.iter_mut().zip(&self.streams) {
            *revision = reader.next.0;
        }
        cursor
    }
}

impl StreamReader {
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
        fn cursor_text_round_trips(revisions in prop::array::uniform18(any::<u64>())) {
            let cursor = JobEventsCursor(revisions);
            prop_assert_eq!(JobEventsCursor::from_text(&cursor.to_text()), Some(cursor));
        }

        #[test]
        fn malformed_text_is_not_a_cursor(text in "[0-9.a]{0,60}") {
            if let Some(cursor) = JobEventsCursor::from_text(&text) {
                prop_assert_eq!(text.split('.').count(), STREAMS);
                prop_assert!(cursor.to_text().len() <= text.len());
            }
        }
    }
}
