//! The generations of `search`, as a follower builds and publishes them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use domain::recommend::settings::Settings;
use event_log::clock::Clock;
use event_log::{EventLog, Log};
use event_schemas::envelope::Envelope;
use event_schemas::ids::{JobId, Position};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::encoding::Encoding;
use super::{Generation, IndexSlot, REVISION, is_folded};
use crate::checkpoint::Checkpoint;
use crate::follower::{FoundTargets, OpenTarget, Target, TargetStore};
use crate::sql::SqlError;
use crate::store::StoreError;

/// More events at once are applied on a thread for blocking work.
const EVENTS_APPLIED_AT_ONCE: usize = 32;

#[derive(Debug)]
pub(super) struct IndexTargets {
    pub(super) slot: Arc<IndexSlot>,
    pub(super) log: Log,
    pub(super) clock: Clock,
    /// Where graphs are saved.
    pub(super) folder: Option<PathBuf>,
    pub(super) encoding: Option<Arc<Encoding>>,
    pub(super) settings: Settings,
    pub(super) created: AtomicU64,
}

impl TargetStore for IndexTargets {
    fn find(&self) -> BoxFuture<'_, Result<FoundTargets, StoreError>> {
        std::future::ready(Ok(FoundTargets::default())).boxed()
    }

    fn create(&self) -> BoxFuture<'_, Result<OpenTarget, StoreError>> {
        let number = self.created.fetch_add(1, Ordering::Relaxed) + 1;
        let (encoding, settings) = (self.encoding.clone(), self.settings);
        let generation = Arc::new(Generation { encoding, settings, ..Generation::new(number) });
        let (slot, log, clock) = (Arc::clone(&self.slot), self.log.clone(), self.clock.clone());
        let target = Box::new(IndexTarget { generation, slot, log, clock, folder: self.folder.clone() });
        let checkpoint = Checkpoint::start(REVISION, self.log.identity());
        std::future::ready(Ok(OpenTarget { target, checkpoint })).boxed()
    }
}

#[derive(Debug)]
struct IndexTarget {
    generation: Arc<Generation>,
    slot: Arc<IndexSlot>,
    log: Log,
    clock: Clock,
    folder: Option<PathBuf>,
}

fn ready<'a>() -> BoxFuture<'a, Result<(), SqlError>> {
    std::future::ready(Ok(())).boxed()
}

impl Target for IndexTarget {
    fn number(&self) -> u64 {
        self.generation.number
    }

    fn apply<'a>(
        &'a mut self,
        events: &'a [&'a Envelope],
        position: Position,
    ) -> BoxFuture<'a, Result<(), SqlError>> {
        let folded: Vec<&Envelope> = events.iter().copied().filter(|envelope| is_folded(envelope)).collect();
        if folded.len() <= EVENTS_APPLIED_AT_ONCE {
            self.generation.apply(&folded);
            self.generation.reach(position);
            return ready();
        }
        let folded: Vec<Envelope> = folded.into_iter().cloned().collect();
        let generation = Arc::clone(&self.generation);
        let applied = tokio::task::spawn_blocking(move || {
            generation.apply(&folded);
            generation.reach(position);
        });
        async move { applied.await.map_err(|error| SqlError::Damaged(error.to_string())) }.boxed()
    }

    fn has_changes(&self) -> bool {
        false
    }

    fn store(&mut self, _: Checkpoint) -> BoxFuture<'_, Result<(), SqlError>> {
        ready()
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<(), SqlError>> {
        ready()
    }

    fn publish(&mut self) {
        let mut live = self.slot.live.write().unwrap_or_else(PoisonError::into_inner);
        *live = Some(Arc::clone(&self.generation));
        let position = Position(self.generation.reached.load(Ordering::Acquire));
        self.slot.position.send_replace(Some(position));
        self.generation.start_builder(&self.log, &self.clock, self.folder.clone());
        self.generation.start_encoding();
    }

    fn advance(&self, position: Position) {
        self.generation.reach(position);
        if self.slot.live().is_some_and(|live| live.number == self.generation.number) {
            self.slot.position.send_replace(Some(position));
        }
    }

    fn recheck(&mut self, _: JobId, _: Position) -> BoxFuture<'_, Result<Option<bool>, SqlError>> {
        std::future::ready(Ok(None)).boxed()
    }

    /// Memory is not checked.
    fn damage(&self) -> watch::Receiver<Option<String>> {
        watch::channel(None).1
    }

    fn shrink(&self) -> BoxFuture<'_, Result<(), SqlError>> {
        ready()
    }

    /// The memory is free when the last reader is done.
    fn retire(&self) {}

    fn withdraw(&self) -> BoxFuture<'_, Result<(), SqlError>> {
        *self.slot.live.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.slot.position.send_replace(None);
        ready()
    }

    fn close_writer(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}
