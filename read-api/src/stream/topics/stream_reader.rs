//! Reads one stream of the log as it grows.

use event_log::{EventLog, Log};
use event_schemas::envelope::Envelope;
use event_schemas::ids::Revision;
use event_schemas::stream::StreamId;
use web::problem::Problem;

use crate::errors::from_read_error;

/// The number of events that are read at a time.
pub(super) const CHUNK_EVENTS: usize = 256;

/// A position in a stream.
#[derive(Debug)]
pub(super) struct StreamReader {
    pub(super) stream: StreamId,
    /// The revision of the first event that has not been read.
    pub(super) next: Revision,
}

impl StreamReader {
    /// Reads at most `events_max` events.
    pub(super) async fn chunk(&mut self, log: &Log, events_max: usize) -> Result<Vec<Envelope>, Problem> {
        let events = log.read_stream(&self.stream, self.next, events_max).await;
        let events = events.map_err(|error| from_read_error(&error))?;
        let events: Result<Vec<_>, _> = events.iter().map(|event| event.decode()).collect();
        let events = events.map_err(|error| Problem::internal(&error))?;
        self.next = events.last().map_or(self.next, |last| last.revision.next());
        Ok(events)
    }

    /// Reads to the end of the stream.
    pub(super) async fn rest(&mut self, log: &Log) -> Result<Vec<Envelope>, Problem> {
        let mut events = Vec::new();
        loop {
            let chunk = self.chunk(log, CHUNK_EVENTS).await?;
            let is_end = chunk.len() < CHUNK_EVENTS;
            events.extend(chunk);
            if is_end {
                return Ok(events);
            }
        }
    }
}
