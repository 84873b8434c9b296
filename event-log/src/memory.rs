//! A log in memory: the simplest implementation of the contract, for tests of the layers above the log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{EventId, LogId, Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

use crate::clock::Clock;
use crate::{
    AppendError, Appended, EventLog, Expected, Filter, Identity, ImportError, Page, ReadError, check_size,
};

/// A log in memory. Clones share the same events.
#[derive(Clone, Debug)]
pub struct MemoryLog {
    identity: Identity,
    clock: Clock,
    events: Arc<Mutex<Events>>,
    head: watch::Sender<Position>,
    /// Whether every call yields to other tasks, before and after its work.
    yields: bool,
}

#[derive(Debug, Default)]
struct Events {
    /// The event at position `n + 1` is at index `n`.
    all: Vec<Recorded>,
    /// Indices into `all`, by stream.
    streams: HashMap<StreamId, Vec<usize>>,
    stream_reads: u64,
}

impl MemoryLog {
    pub fn new(clock: Clock) -> Self {
        let identity = Identity { id: LogId(Uuid::new_v4()), epoch: 0 };
        let head = watch::Sender::new(Position::START);
        Self { identity, clock, events: Arc::default(), head, yields: false }
    }

    /// A log whose calls yield to other tasks before their work and again before they return: for tests of interleaved
    /// calls and of callers that are dropped in between.
    pub fn yielding(clock: Clock) -> Self {
        Self { yields: true, ..Self::new(clock) }
    }

    /// The number of reads of single streams so far.
    pub fn stream_reads(&self) -> u64 {
        self.locked().stream_reads
    }

    async fn yield_now(&self) {
        if self.yields {
            tokio::task::yield_now().await;
        }
    }

    fn append_now(
        &self,
        stream: &StreamId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Appended, AppendError> {
        let mut log = self.locked();
        let of_stream = log.of_stream(stream);
        let actual = of_stream.len().checked_sub(1).map(|last| Revision(last as u64));
        let as_expected = match expected {
            Expected::NoStream => actual.is_none(),
            Expected::At(revision) => actual == Some(revision),
            Expected::Any => true,
        };
        if let Some(earlier) = log.find_duplicate(of_stream, expected, &events) {
            return Ok(earlier);
        }
        if !as_expected {
            return Err(AppendError::Conflict { actual });
        }
        let recorded_at =
            log.all.last().map_or(self.clock.now(), |last| last.recorded_at.max(self.clock.now()));
        let mut revision = actual.map_or(Revision(0), Revision::next);
        let mut appended = Appended { position: Position::START, revision, recorded_at };
        for event in events {
            let index = log.all.len();
            let position = Position(index as u64 + 1);
            log.all.push(Recorded {
                position,
                recorded_at,
                stream: stream.clone(),
                revision,
                id: event.id,
                event_type: event.event_type,
                format: event.format,
                metadata: event.metadata,
                data: event.data,
            });
            log.streams.entry(stream.clone()).or_default().push(index);
            appended = Appended { position, revision, recorded_at };
            revision = revision.next();
        }
        self.head.send_replace(appended.position);
        Ok(appended)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Events> {
        // A panic in another test's thread leaves the events consistent: each append is a single operation.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    fn of_stream(&self, stream: &StreamId) -> &[usize] {
        self.streams.get(stream).map_or(&[], Vec::as_slice)
    }

    /// The outcome of an earlier append of the same events, if there was one.
    fn find_duplicate(&self, stream: &[usize], expected: Expected, events: &[NewEvent]) -> Option<Appended> {
        let first = match expected {
            Expected::NoStream => 0,
            Expected::At(revision) => usize::try_from(revision.0).ok()?.checked_add(1)?,
            Expected::Any => stream.len().checked_sub(events.len())?,
        };
        let earlier = stream.get(first..first.checked_add(events.len())?)?;
        let ids = earlier.iter().map(|index| self.all.get(*index).map(|event| event.id));
        ids.eq(events.iter().map(|event| Some::<EventId>(event.id))).then_some(())?;
        let last = self.all.get(*earlier.last()?)?;
        Some(Appended { position: last.position, revision: last.revision, recorded_at: last.recorded_at })
    }
}

impl EventLog for MemoryLog {
    async fn append(
        &self,
        stream: &StreamId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Appended, AppendError> {
        check_size(&events)?;
        self.yield_now().await;
        let appended = self.append_now(stream, expected, events);
        self.yield_now().await;
        appended
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        from: Revision,
        events_max: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        self.yield_now().await;
        let mut log = self.locked();
        log.stream_reads += 1;
        let skip = usize::try_from(from.0).unwrap_or(usize::MAX);
        let indices = log.of_stream(stream).iter().skip(skip).take(events_max);
        Ok(indices.filter_map(|index| log.all.get(*index)).cloned().collect())
    }

    async fn read_all(&self, after: Position, filter: &Filter, events_max: usize) -> Result<Page, ReadError> {
        self.yield_now().await;
        let log = self.locked();
        let skip = usize::try_from(after.0).unwrap_or(usize::MAX);
        let head = Position(log.all.len() as u64);
        let events: Vec<Recorded> = log
            .all
            .iter()
            .skip(skip)
            .filter(|event| filter.matches(&event.stream))
            .take(events_max)
            .cloned()
            .collect();
        let next = match events.last() {
            Some(last) if events.len() == events_max => last.position,
            _ => head.max(after),
        };
        Ok(Page { events, next, at_head: next >= head })
    }

    async fn position_at(&self, at: Timestamp) -> Result<Position, ReadError> {
        let log = self.locked();
        Ok(Position(log.all.partition_point(|event| event.recorded_at <= at) as u64))
    }

    fn head(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }

    fn identity(&self) -> Identity {
        self.identity
    }

    async fn import(&self, events: Vec<Recorded>) -> Result<(), ImportError> {
        let mut log = self.locked();
        let mut last = log.all.last().map(|event| event.recorded_at);
        let mut added: HashMap<&StreamId, u64> = HashMap::new();
        for event in &events {
            if let Some(last) = last.filter(|last| event.recorded_at < *last) {
                return Err(ImportError::Time { position: event.position, at: event.recorded_at, last });
            }
            last = Some(event.recorded_at);
            let added = added.entry(&event.stream).or_default();
            let next = Revision(log.of_stream(&event.stream).len() as u64 + *added);
            if event.revision != next {
                let stream = event.stream.clone();
                return Err(ImportError::Revision { stream, found: event.revision, next });
            }
            *added += 1;
        }
        for event in events {
            let index = log.all.len();
            log.streams.entry(event.stream.clone()).or_default().push(index);
            log.all.push(Recorded { position: Position(index as u64 + 1), ..event });
        }
        self.head.send_replace(Position(log.all.len() as u64));
        Ok(())
    }

    async fn close(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Log;

    fn make(clock: Clock) -> (Log, ()) {
        (Log::new(MemoryLog::new(clock)), ())
    }

    crate::conformance_tests!(make);
}
