//! The projector's side of a generation: the fold, the file, and the position of both.

use std::sync::Arc;
use std::time::{Duration, Instant};

use event_log::clock::Clock;
use event_schemas::envelope::Envelope;
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

use crate::checkpoint::{Checkpoint, EventRef};
use crate::feed::FeedPage;
use crate::generation::{Generation, Slot};
use crate::projection::{Projection, StorePolicy};
use crate::sql::{Batch, SqlError};
use crate::status::Failure;
use crate::store::OpenGeneration;

/// The delay of a checkpoint while no row has changed. A crash in between costs reading the same events again.
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
pub(crate) struct Writer<P: Projection> {
    pub(crate) projection: P,
    pub(crate) generation: Arc<Generation<P::View>>,
    /// The stored checkpoint.
    checkpoint: Checkpoint,
    /// The position of the fold.
    position: Position,
    /// The time at which the last applied event was recorded; the epoch before the first event of this run.
    recorded_at: Timestamp,
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

impl<P: Projection> Writer<P> {
    pub(crate) async fn open(
        opened: OpenGeneration,
        shared: &P::Shared,
        clock: Clock,
    ) -> Result<Self, SqlError> {
        let OpenGeneration { number, db, checkpoint } = opened;
        let projection = P::open(&db, shared, checkpoint.position).await?;
        let generation = Generation::new(number, db, projection.view(), checkpoint.position);
        Ok(Self {
            projection,
            generation: Arc::new(generation),
            position: checkpoint.position,
            recorded_at: Timestamp::EPOCH,
            last_event: checkpoint.last_event,
            checkpoint,
            pending: None,
            clock,
        })
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
    pub(crate) async fn apply(
        &mut self,
        pages: &[Arc<FeedPage>],
        mode: Mode,
        slot: &Slot<P::View>,
    ) -> Result<(), ApplyError> {
        let started = Instant::now();
        let batch = Relevant::collect::<P>(pages, self.position);
        let position = match (&batch.failure, batch.events.last()) {
            (None, _) => pages.last().map_or(self.position, |page| page.next).max(self.position),
            (Some(_), Some(last)) => last.position,
            (Some(_), None) => self.position,
        };
        if batch.events.is_empty() {
            self.projection.skip_to(position);
        } else {
            self.projection.fold(&self.generation.db, &batch.events, position).await?;
        }
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
            self.store(slot).await?;
        } else {
            slot.advance(&self.generation, self.visible_position());
        }
        self.measure(batch.events.len(), started);
        batch.failure.map_or(Ok(()), |failure| Err(ApplyError::Unreadable(failure)))
    }

    fn measure(&self, events: usize, started: Instant) {
        let name = P::NAME.as_str();
        metrics::gauge!("projection_position", "projection" => name).set(self.position.0 as f64);
        metrics::counter!("projection_events_total", "projection" => name).increment(events as u64);
        if events > 0 {
            // The age of the last visible event. The status reports the age of the first invisible one.
            metrics::gauge!("projection_lag_seconds", "projection" => name)
                .set(self.clock.now().seconds_since(self.recorded_at).max(0.0));
            metrics::histogram!("projection_batch_seconds", "projection" => name)
                .record(started.elapsed().as_secs_f64());
        }
    }

    /// The position up to which readers see everything.
    fn visible_position(&self) -> Position {
        match P::STORE {
            StorePolicy::EachBatch if self.projection.has_changes() => self.checkpoint.position,
            _ => self.position,
        }
    }

    fn needs_flush(&self, mode: Mode) -> bool {
        let Some(pending) = self.pending else { return false };
        let is_full = match (P::STORE, mode) {
            (StorePolicy::EachBatch, Mode::Live) => self.projection.has_changes(),
            (StorePolicy::EachBatch, Mode::CatchUp) => pending.events >= CATCH_UP_EVENTS,
            (StorePolicy::WriteBehind { events_max, .. }, _) => pending.events >= events_max,
        };
        is_full || self.flush_at().is_some_and(|due_at| self.clock.now() >= due_at)
    }

    /// The time at which the pending changes must be stored; none without changes.
    pub(crate) fn flush_at(&self) -> Option<Timestamp> {
        let pending = self.pending?;
        let after = match (P::STORE, pending.mode) {
            (_, Mode::CatchUp) => CATCH_UP_CHECKPOINT_AFTER,
            (StorePolicy::EachBatch, Mode::Live) => IDLE_CHECKPOINT_AFTER,
            (StorePolicy::WriteBehind { after, .. }, Mode::Live) => after,
        };
        Some(pending.since.after(after))
    }

    /// Writes rows and checkpoint in one transaction.
    pub(crate) async fn store(&mut self, slot: &Slot<P::View>) -> Result<(), SqlError> {
        let checkpoint =
            Checkpoint { position: self.position, last_event: self.last_event, ..self.checkpoint };
        self.commit(checkpoint, slot).await
    }

    /// Stores the pending changes and creates the indexes, which takes a while if there are many rows.
    pub(crate) async fn create_indexes(&mut self, slot: &Slot<P::View>) -> Result<(), SqlError> {
        self.store(slot).await?;
        self.generation.db.create_indexes(P::DDL).await
    }

    /// Stores the pending changes, and marks the generation as complete.
    pub(crate) async fn publish(&mut self, slot: &Slot<P::View>) -> Result<(), SqlError> {
        // Before the mark, so that after a crash in between a generation that is complete has its indexes.
        self.create_indexes(slot).await?;
        let checkpoint = Checkpoint { published: true, ..self.checkpoint };
        self.commit(checkpoint, slot).await?;
        self.generation.db.shrink().await?;
        self.projection.on_published();
        Ok(())
    }

    async fn commit(&mut self, checkpoint: Checkpoint, slot: &Slot<P::View>) -> Result<(), SqlError> {
        let mut batch = Batch::default();
        self.projection.store(&mut batch).await?;
        checkpoint.write(&mut batch);
        self.generation.db.write(batch).await?;
        self.checkpoint = checkpoint;
        self.pending = None;
        self.projection.on_stored();
        slot.advance(&self.generation, self.visible_position());
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
    fn collect<P: Projection>(pages: &'p [Arc<FeedPage>], after: Position) -> Self {
        let mut events = Vec::new();
        let mut recorded_at = None;
        let items = pages.iter().flat_map(|page| &page.items);
        let relevant = items.filter(|item| item.position > after && P::CATEGORIES.contains(&item.category));
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
