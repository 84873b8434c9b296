//! A read model in SQL as a target of a follower.

use std::sync::Arc;

use event_log::{EventLog, Log};
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, Position, Revision, SubjectId};
use event_schemas::user::UserEvent;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::checkpoint::Checkpoint;
use crate::follower::{FoundTargets, OpenTarget, Target, TargetStore};
use crate::generation::{Generation, Slot};
use crate::projection::Projection;
use crate::sql::{Batch, SqlError};
use crate::store::{Generations, OpenGeneration, StoreError, Tables};

#[derive(Debug)]
struct SqlTarget<P: Projection> {
    projection: P,
    generation: Arc<Generation<P::View>>,
    slot: Arc<Slot<P::View>>,
    log: Log,
    generations: Generations,
}

/// The number of an erased person's events that are forgotten at once.
const FORGOTTEN_EVENTS: usize = 4096;

/// The person whom an event erases.
fn erased(envelope: &Envelope) -> Option<SubjectId> {
    match &envelope.event {
        Event::User(UserEvent::SubjectKeyDestroyed(erased)) => Some(erased.subject_id),
        _ => None,
    }
}

impl<P: Projection> SqlTarget<P> {
    /// Folds consecutive events. What an erased person did before is read again and forgotten.
    async fn fold(&mut self, mut events: &[&Envelope], position: Position) -> Result<(), SqlError> {
        let next = |events: &[&Envelope]| {
            events.iter().enumerate().find_map(|(index, event)| Some((index, erased(event)?)))
        };
        while let Some((index, subject)) = next(events) {
            let (before, erasure) = (&events[..index], events[index]);
            if let Some(last) = before.last() {
                self.projection.fold(&self.generation.db, before, last.position).await?;
            }
            self.forget(erasure, subject).await?;
            events = &events[index + 1..];
        }
        if events.is_empty() {
            return Ok(());
        }
        self.projection.fold(&self.generation.db, events, position).await
    }

    async fn forget(&mut self, erasure: &Envelope, subject: SubjectId) -> Result<(), SqlError> {
        let stream = (P::ERASED_STREAM)(&erasure.metadata.tenant, subject);
        let mut next = Revision(0);
        loop {
            let read = self.log.read_stream(&stream, next, FORGOTTEN_EVENTS).await;
            let read = read.map_err(|error| SqlError::Unavailable(error.to_string()))?;
            let Some(last) = read.last() else { return Ok(()) };
            next = Revision(last.revision.0 + 1);
            let earlier = read.iter().take_while(|event| event.position < erasure.position);
            let earlier: Result<Vec<Envelope>, _> = earlier.map(|event| event.decode()).collect();
            let earlier = earlier.map_err(|error| SqlError::Refused(error.into()))?;
            if earlier.is_empty() {
                return Ok(());
            }
            self.projection.forget(&self.generation.db, erasure, &earlier).await?;
        }
    }
}

impl<P: Projection> Target for SqlTarget<P> {
    fn number(&self) -> u64 {
        self.generation.number
    }

    fn apply<'a>(
        &'a mut self,
        events: &'a [&'a Envelope],
        position: Position,
    ) -> BoxFuture<'a, Result<(), SqlError>> {
        if events.is_empty() {
            self.projection.skip_to(position);
            return std::future::ready(Ok(())).boxed();
        }
        self.fold(events, position).boxed()
    }

    fn has_changes(&self) -> bool {
        self.projection.has_changes()
    }

    fn store(&mut self, checkpoint: Checkpoint) -> BoxFuture<'_, Result<(), SqlError>> {
        async move {
            let mut batch = Batch::default();
            self.projection.store(&mut batch).await?;
            checkpoint.write(&mut batch);
            self.generation.db.write(batch).await?;
            self.projection.on_stored();
            Ok(())
        }
        .boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<(), SqlError>> {
        self.generation.db.create_indexes(P::DDL).boxed()
    }

    fn publish(&mut self) {
        self.projection.on_published();
        self.slot.publish(&self.generation);
    }

    fn advance(&self, position: Position) {
        self.slot.advance(&self.generation, position);
    }

    fn recheck(&mut self, job: JobId, position: Position) -> BoxFuture<'_, Result<Option<bool>, SqlError>> {
        self.projection.recheck(job, &self.log, &self.generation.db, position).boxed()
    }

    fn damage(&self) -> watch::Receiver<Option<String>> {
        self.generation.damage()
    }

    fn shrink(&self) -> BoxFuture<'_, Result<(), SqlError>> {
        self.generation.db.shrink().boxed()
    }

    fn retire(&self) {
        self.generation.db.retire();
    }

    fn withdraw(&self) -> BoxFuture<'_, Result<(), SqlError>> {
        async {
            // Removed now, because it is reopened before its last reader may be done with it.
            self.generations.note_withdrawal(self.number());
            let removed = self.generation.db.remove().await;
            self.slot.withdraw();
            removed
        }
        .boxed()
    }

    fn close_writer(&self) -> BoxFuture<'_, ()> {
        self.generation.db.close_writer().boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.generation.db.close().boxed()
    }
}

/// The generations of one read model.
#[derive(Debug)]
pub(crate) struct SqlTargets<P: Projection> {
    pub(crate) generations: Generations,
    pub(crate) shared: P::Shared,
    pub(crate) slot: Arc<Slot<P::View>>,
    pub(crate) log: Log,
    pub(crate) revision: u32,
}

impl<P: Projection> SqlTargets<P> {
    fn tables(&self) -> Tables {
        Tables { revision: self.revision, ddl: P::DDL }
    }

    /// Continues from the stored rows. If they are damaged, the generation is removed, and none is returned.
    async fn open(&self, opened: OpenGeneration) -> Result<Option<OpenTarget>, StoreError> {
        let OpenGeneration { number, db, checkpoint } = opened;
        let projection = match P::open(&db, &self.shared, checkpoint.position).await {
            Ok(projection) => projection,
            Err(SqlError::Damaged(reason)) => {
                db.close().await;
                self.generations.remove_damaged(number, &reason).await?;
                return Ok(None);
            }
            Err(source) => return Err(self.generations.error(number, source)),
        };
        self.generations.note_use(number);
        let generation = Generation::new(number, db, projection.view(), checkpoint.position);
        let (generation, slot, log) = (Arc::new(generation), Arc::clone(&self.slot), self.log.clone());
        let generations = self.generations.clone();
        let target = Box::new(SqlTarget { projection, generation, slot, log, generations });
        Ok(Some(OpenTarget { target, checkpoint }))
    }
}

impl<P: Projection> TargetStore for SqlTargets<P> {
    fn find(&self) -> BoxFuture<'_, Result<FoundTargets, StoreError>> {
        async {
            let found = self.generations.find(self.tables(), &self.log).await?;
            let mut targets = FoundTargets::default();
            if let Some(live) = found.live {
                targets.live = self.open(live).await?;
            }
            if let Some(unfinished) = found.unfinished {
                targets.unfinished = self.open(unfinished).await?;
            }
            Ok(targets)
        }
        .boxed()
    }

    fn create(&self) -> BoxFuture<'_, Result<OpenTarget, StoreError>> {
        async {
            loop {
                let created = self.generations.create(self.tables(), self.log.identity()).await?;
                if let Some(opened) = self.open(created).await? {
                    return Ok(opened);
                }
            }
        }
        .boxed()
    }
}
