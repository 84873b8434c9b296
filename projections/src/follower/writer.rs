//! The projector's side of a generation: the fold, the file, and the position of both.

use std::sync::Arc;
use std::time::{Duration, Instant};

use event_log::clock::Clock;
use event_schemas::envelope::Envelope;
use event_schemas::ids::Position;
use event_schemas::stream::Category;
use event_schemas::time::Timestamp;

use super::{Followed, OpenTarget, StorePolicy, Target};
use crate::checkpoint::{Checkpoint, EventRef};
use crate::feed::FeedPage;
use crate::sql::SqlError;
use crate::status::Failure;

/// The delay of a checkpoint while no row has changed. A crash in between costs reading the same events again, and a server
/// that only reads is as far behind.
const IDLE_CHECKPOINT_AFTER: Duration = Duration::from_secs(1);

/// The same during catch-up, in which many events are stored at once.
const CATCH_UP_CHECKPOINT_AFTER: Duration = Duration::from_secs(5);

/// The number of events that are stored at once during catch-up. The larger it is, the fewer times each page of an
/// index is written.
const CATCH_UP_EVENTS: u64 = 32_768;

/// The mode decides how many events are stored at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The events are new, and readers wait for them.
    Live,
    /// The events are history.
    CatchUp,
}

/// A batch was not applied as a whole.
#[derive(Debug)]
pub(crate) enum ApplyError {
    /// An event or the log cannot be read. All previous events have been applied and stored.
    Unreadable(Failure),
    /// Memory and rows may differ now: the file must be reopened.
    Storage(SqlError),
}

impl From<SqlError> for ApplyError {
    fn from(error: SqlError) -> Self {
        Self::Storage(error)
    }
}

#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) target: Box<dyn Target>,
    followed: Followed,
    /// The stored checkpoint.
    checkpoint: Checkpoint,
    /// The position of the fold.
    position: Position,
    /// The time at which the last applied event was recorded; the epoch before the first event of this run.
    recorded_at: Timestamp,
    /// The position that readers see.
    visible: Position,
    pending: Option<Pending>,
    /// The last event that was folded.
    last_event: Option<EventRef>,
    clock: Clock,
}

/// The changes that are folded and not stored.
#[derive(Clone, Copy, Debug)]
struct Pending {
    since: Timestamp,
    events: u64,
    mode: Mode,
}

impl Writer {
    pub(crate) fn new(opened: OpenTarget, followed: Followed, clock: Clock) -> Self {
        let OpenTarget { target, checkpoint } = opened;
        Self {
            target,
            followed,
            position: checkpoint.position,
            recorded_at: Timestamp::EPOCH,
            visible: checkpoint.position,
            last_event: checkpoint.last_event,
            checkpoint,
            pending: None,
            clock,
        }
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }

    pub(crate) fn recorded_at(&self) -> Timestamp {
        self.recorded_at
    }

    pub(crate) fn is_published(&self) -> bool {
        self.checkpoint.published
    }

    /// Applies consecutive pages. Events up to the fold's position are skipped.
    pub(crate) async fn apply(&mut self, pages: &[Arc<FeedPage>], mode: Mode) -> Result<(), ApplyError> {
        let started = Instant::now();
        let batch = Relevant::collect(pages, self.position, self.followed.categories);
        let position = match (&batch.failure, batch.events.last()) {
            (None, _) => pages.last().map_or(self.position, |page| page.next).max(self.position),
            (Some(_), Some(last)) => last.position,
            (Some(_), None) => self.position,
        };
        self.target.apply(&batch.events, position).await?;
        let last = batch.events.last().map(|event| EventRef { position: event.position, id: event.id });
        self.last_event = last.or(self.last_event);
        self.recorded_at = batch.recorded_at.unwrap_or(self.recorded_at).max(self.recorded_at);
        if position > self.position {
            self.position = position;
            let pending = self.pending.unwrap_or(Pending { since: self.clock.now(), events: 0, mode });
            let events = pending.events + batch.events.len() as u64;
            self.pending = Some(Pending { events, mode, ..pending });
        }
        if self.needs_flush(mode) || batch.failure.is_some() {
            self.store().await?;
        } else {
            self.advance();
        }
        self.measure(batch.events.len(), started);
        batch.failure.map_or(Ok(()), |failure| Err(ApplyError::Unreadable(failure)))
    }

    fn measure(&self, events: usize, started: Instant) {
        let name = self.followed.name.as_str();
        metrics::gauge!("matchbook_projection_position", "projection" => name).set(self.position.0 as f64);
        metrics::counter!("matchbook_projection_events_total", "projection" => name).increment(events as u64);
        if events > 0 {
            // The age of the last visible event. The status reports the age of the first invisible one.
            metrics::gauge!("matchbook_projection_lag_seconds", "projection" => name)
                .set(self.clock.now().seconds_since(self.recorded_at).max(0.0));
            metrics::histogram!("matchbook_projection_batch_seconds", "projection" => name)
                .record(started.elapsed().as_secs_f64());
        }
    }

    /// Lets readers see everything up to the fold's position. While there are changes that they cannot see, they stay at
    /// the position before the first of these.
    fn advance(&mut self) {
        if !(self.followed.policy == StorePolicy::EachBatch && self.target.has_changes()) {
            self.visible = self.position;
        }
        self.target.advance(self.visible);
    }

    fn needs_flush(&self, mode: Mode) -> bool {
        let Some(pending) = self.pending else { return false };
        let is_full = match (self.followed.policy, mode) {
            (StorePolicy::EachBatch, Mode::Live) => {
                self.target.has_changes() || pending.events >= CATCH_UP_EVENTS
            }
            (StorePolicy::EachBatch, Mode::CatchUp) => pending.events >= CATCH_UP_EVENTS,
            (StorePolicy::WriteBehind { events_max, .. }, _) => pending.events >= events_max,
        };
        is_full || self.flush_at().is_some_and(|due_at| self.clock.now() >= due_at)
    }

    /// The time at which the pending changes must be stored; none without changes.
    pub(crate) fn flush_at(&self) -> Option<Timestamp> {
        let pending = self.pending?;
        let after = match (self.followed.policy, pending.mode) {
            (_, Mode::CatchUp) => CATCH_UP_CHECKPOINT_AFTER,
            (StorePolicy::EachBatch, Mode::Live) => IDLE_CHECKPOINT_AFTER,
            (StorePolicy::WriteBehind { after, .. }, Mode::Live) => after,
        };
        Some(pending.since.after(after))
    }

    /// Writes rows and checkpoint in one transaction.
    pub(crate) async fn store(&mut self) -> Result<(), SqlError> {
        let checkpoint =
            Checkpoint { position: self.position, last_event: self.last_event, ..self.checkpoint };
        self.commit(checkpoint).await
    }

    /// Stores the pending changes, and finishes what is stored.
    pub(crate) async fn finish(&mut self) -> Result<(), SqlError> {
        self.store().await?;
        self.target.finish().await
    }

    /// Finishes the generation, marks it as complete, and shows it to readers.
    pub(crate) async fn publish(&mut self) -> Result<(), SqlError> {
        // Before the mark, so that after a crash in between a complete generation is finished.
        self.finish().await?;
        self.commit(Checkpoint { published: true, ..self.checkpoint }).await?;
        self.target.shrink().await?;
        self.target.publish();
        Ok(())
    }

    async fn commit(&mut self, checkpoint: Checkpoint) -> Result<(), SqlError> {
        self.target.store(checkpoint).await?;
        self.checkpoint = checkpoint;
        self.pending = None;
        self.advance();
        Ok(())
    }
}

/// The events of some pages that are of a projection's categories.
struct Relevant<'p> {
    events: Vec<&'p Envelope>,
    /// The time at which the last event of the pages was recorded, whatever its category.
    recorded_at: Option<Timestamp>,
    /// The first event of the projection's categories that cannot be decoded.
    failure: Option<Failure>,
}

impl<'p> Relevant<'p> {
    fn collect(pages: &'p [Arc<FeedPage>], after: Position, categories: &[Category]) -> Self {
        let mut events = Vec::new();
        let mut recorded_at = None;
        let items = pages.iter().flat_map(|page| &page.items);
        let relevant = items.filter(|item| item.position > after && categories.contains(&item.category));
        for item in relevant {
            match &item.event {
                Ok(event) => events.push(event),
                Err(error) => {
                    return Self { events, recorded_at, failure: Some(Failure::undecodable(item, error)) };
                }
            }
            recorded_at = Some(item.recorded_at);
        }
        let recorded_at = pages.last().and_then(|page| page.recorded_at()).or(recorded_at);
        Self { events, recorded_at, failure: None }
    }
}
