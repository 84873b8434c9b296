//! One making of a read model, as its projector holds it: the fold, the file, and how far both are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use event_log::clock::Clock;
use event_schemas::envelope::Envelope;
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

use crate::checkpoint::{Checkpoint, Seen};
use crate::feed::Page;
use crate::generation::{Generation, Slot};
use crate::projection::{Projection, Store};
use crate::rebuild::Opened;
use crate::sql::SqlError;
use crate::status::Stop;

/// How long a checkpoint may wait if no row has changed. It only costs reading the same events once more.
const IDLE_CHECKPOINT_AFTER: Duration = Duration::from_secs(1);

/// How many events are stored at once while catching up. The more there are, the fewer times each page of an index is
/// written.
const CATCH_UP_EVENTS: u64 = 32_768;

/// Whether more events wait than can be taken in at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rush {
    /// Readers wait for these.
    Live,
    CatchingUp,
}

/// Why a batch was not taken in whole.
#[derive(Debug)]
pub(crate) enum Halt {
    /// An event cannot be read. Everything before it has been taken in and stored.
    Poison(Stop),
    /// Memory and rows may differ now: the file must be opened anew.
    Store(SqlError),
}

impl From<SqlError> for Halt {
    fn from(error: SqlError) -> Self {
        Self::Store(error)
    }
}

#[derive(Debug)]
pub(crate) struct Writer<P: Projection> {
    pub(crate) projection: P,
    pub(crate) generation: Arc<Generation<P::View>>,
    /// As it was stored last.
    checkpoint: Checkpoint,
    /// The fold is here.
    position: Position,
    /// When the last event taken in was recorded; the epoch before the first one of this run.
    recorded_at: Timestamp,
    pending: Option<Pending>,
    /// The last event that the fold took in.
    seen: Option<Seen>,
    clock: Clock,
}

/// What has been folded and not stored.
#[derive(Clone, Copy, Debug)]
struct Pending {
    since: Timestamp,
    events: u64,
}

impl<P: Projection> Writer<P> {
    pub(crate) async fn open(opened: Opened, shared: &P::Shared, clock: Clock) -> Result<Self, SqlError> {
        let Opened { number, db, checkpoint } = opened;
        let projection = P::open(&db, shared, checkpoint.position).await?;
        let generation = Generation::new(number, db, projection.view(), checkpoint.position);
        Ok(Self {
            projection,
            generation: Arc::new(generation),
            position: checkpoint.position,
            recorded_at: Timestamp::EPOCH,
            seen: checkpoint.seen,
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

    /// Takes in pages that follow each other. What lies before the fold's position is passed over.
    pub(crate) async fn apply(
        &mut self,
        pages: &[Arc<Page>],
        rush: Rush,
        slot: &Slot<P::View>,
    ) -> Result<(), Halt> {
        let started = Instant::now();
        let batch = Batch::of::<P>(pages, self.position);
        let position = match (&batch.stop, batch.events.last()) {
            (None, _) => pages.last().map_or(self.position, |page| page.next).max(self.position),
            (Some(_), Some(last)) => last.position,
            (Some(_), None) => self.position,
        };
        if batch.events.is_empty() {
            self.projection.passed(position);
        } else {
            self.projection.fold(&self.generation.db, &batch.events, position).await?;
        }
        let last = batch.events.last().map(|event| Seen { position: event.position, id: event.id });
        self.seen = last.or(self.seen);
        self.recorded_at = batch.recorded_at.unwrap_or(self.recorded_at).max(self.recorded_at);
        if position > self.position {
            self.position = position;
            let before = self.pending.unwrap_or(Pending { since: self.clock.now(), events: 0 });
            self.pending = Some(Pending { events: before.events + batch.events.len() as u64, ..before });
        }
        if self.is_due(rush) || batch.stop.is_some() {
            self.store(slot).await?;
        } else {
            slot.moved(&self.generation, self.visible());
        }
        self.measure(batch.events.len(), started);
        batch.stop.map_or(Ok(()), |stop| Err(Halt::Poison(stop)))
    }

    fn measure(&self, events: usize, started: Instant) {
        let name = P::NAME.as_str();
        metrics::gauge!("projection_position", "projection" => name).set(self.position.0 as f64);
        metrics::counter!("projection_events_total", "projection" => name).increment(events as u64);
        if events > 0 {
            // How old the last event was when readers could see it. The status says how old the first unseen one is.
            metrics::gauge!("projection_lag_seconds", "projection" => name)
                .set(self.clock.now().seconds_since(self.recorded_at).max(0.0));
            metrics::histogram!("projection_batch_seconds", "projection" => name)
                .record(started.elapsed().as_secs_f64());
        }
    }

    /// Up to where readers see everything.
    fn visible(&self) -> Position {
        match (P::STORE, self.pending) {
            (Store::EachBatch, Some(pending)) if pending.events > 0 => self.checkpoint.position,
            _ => self.position,
        }
    }

    fn is_due(&self, rush: Rush) -> bool {
        let Some(pending) = self.pending else { return false };
        let is_full = match (P::STORE, rush) {
            (Store::EachBatch, Rush::Live) => pending.events > 0,
            (Store::EachBatch, Rush::CatchingUp) => pending.events >= CATCH_UP_EVENTS,
            (Store::Behind { events_max, .. }, _) => pending.events >= events_max,
        };
        is_full || self.due_at().is_some_and(|due| self.clock.now() >= due)
    }

    /// When what is pending has to be stored; none if nothing is.
    pub(crate) fn due_at(&self) -> Option<Timestamp> {
        let after = match P::STORE {
            Store::EachBatch => IDLE_CHECKPOINT_AFTER,
            Store::Behind { after, .. } => after,
        };
        self.pending.map(|pending| pending.since.after(after))
    }

    /// Writes rows and checkpoint in one transaction.
    pub(crate) async fn store(&mut self, slot: &Slot<P::View>) -> Result<(), SqlError> {
        let checkpoint = Checkpoint { position: self.position, seen: self.seen, ..self.checkpoint };
        self.commit(checkpoint, slot).await
    }

    /// Says in the file that the generation is complete, and stores what is pending.
    pub(crate) async fn publish(&mut self, slot: &Slot<P::View>) -> Result<(), SqlError> {
        let checkpoint =
            Checkpoint { position: self.position, seen: self.seen, published: true, ..self.checkpoint };
        self.commit(checkpoint, slot).await?;
        self.generation.db.shrink().await?;
        self.projection.published();
        Ok(())
    }

    async fn commit(&mut self, checkpoint: Checkpoint, slot: &Slot<P::View>) -> Result<(), SqlError> {
        let mut tx = self.generation.db.begin().await?;
        self.projection.store(&mut tx).await?;
        checkpoint.write(&mut tx).await?;
        tx.commit().await?;
        self.checkpoint = checkpoint;
        self.pending = None;
        self.projection.stored();
        slot.moved(&self.generation, self.visible());
        Ok(())
    }
}

/// The events of some pages that a projection wants.
struct Batch<'p> {
    events: Vec<&'p Envelope>,
    /// When the last of them, or what lies behind it, was recorded.
    recorded_at: Option<Timestamp>,
    /// The first event that the projection wants and nobody can read.
    stop: Option<Stop>,
}

impl<'p> Batch<'p> {
    fn of<P: Projection>(pages: &'p [Arc<Page>], after: Position) -> Self {
        let mut events = Vec::new();
        let mut recorded_at = None;
        let items = pages.iter().flat_map(|page| &page.items);
        let wanted = items.filter(|item| item.position > after && P::CATEGORIES.contains(&item.category));
        for item in wanted {
            match &item.event {
                Ok(event) => events.push(event),
                Err(error) => {
                    return Self { events, recorded_at, stop: Some(Stop::at_event(item, error)) };
                }
            }
            recorded_at = Some(item.recorded_at);
        }
        let recorded_at = pages.last().and_then(|page| page.recorded_at()).or(recorded_at);
        Self { events, recorded_at, stop: None }
    }
}
