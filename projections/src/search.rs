//! `search`: the search index of each tenant's products, in memory only. It has no rows: every start builds it from the log,
//! while the other read models can already be read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use domain::search::product_index::{Answer, ProductIndex, Search};
use event_log::{EventLog, Log};
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, Position, Tenant};
use event_schemas::product::ProductEvent;
use event_schemas::stream::Category;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::OpenError;
use crate::checkpoint::Checkpoint;
use crate::follower::{Followed, FoundTargets, OpenTarget, StorePolicy, Target, TargetStore};
use crate::generation::QueryError;
use crate::projection::Name;
use crate::sql::SqlError;
use crate::starter::{RunnerHandle, RunnerStarter};
use crate::store::StoreError;

/// Raised when an index of an earlier build would answer differently.
const REVISION: u32 = 1;

const FOLLOWED: Followed =
    Followed { name: Name::Search, categories: &[Category::Product], policy: StorePolicy::EachBatch };

/// The number of events that are applied before readers get their turn.
const LOCKED_EVENTS_MAX: usize = 16;
/// More events at once are applied on a thread for blocking work.
const EVENTS_APPLIED_AT_ONCE: usize = 32;

/// The indexes of all tenants at a position.
#[derive(Debug, Default)]
struct Indexes {
    position: Position,
    tenants: HashMap<Tenant, ProductIndex>,
}

#[derive(Debug)]
struct Generation {
    number: u64,
    indexes: RwLock<Indexes>,
}

/// The place where readers find the live generation.
#[derive(Debug)]
pub(crate) struct IndexSlot {
    live: RwLock<Option<Arc<Generation>>>,
    position: watch::Sender<Option<Position>>,
}

impl Default for IndexSlot {
    fn default() -> Self {
        Self { live: RwLock::default(), position: watch::Sender::new(None) }
    }
}

impl IndexSlot {
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Position>> {
        self.position.subscribe()
    }

    fn live(&self) -> Option<Arc<Generation>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The generations of the index: each process has its own.
#[derive(Debug)]
struct IndexTargets {
    slot: Arc<IndexSlot>,
    log: Log,
    created: AtomicU64,
}

impl IndexTargets {
    fn new(slot: Arc<IndexSlot>, log: Log) -> Self {
        Self { slot, log, created: AtomicU64::new(0) }
    }
}

impl TargetStore for IndexTargets {
    fn find(&self) -> BoxFuture<'_, Result<FoundTargets, StoreError>> {
        std::future::ready(Ok(FoundTargets::default())).boxed()
    }

    fn create(&self) -> BoxFuture<'_, Result<OpenTarget, StoreError>> {
        let number = self.created.fetch_add(1, Ordering::Relaxed) + 1;
        let generation = Arc::new(Generation { number, indexes: RwLock::default() });
        let target = Box::new(IndexTarget { generation, slot: Arc::clone(&self.slot) });
        let checkpoint = Checkpoint::start(REVISION, self.log.identity());
        std::future::ready(Ok(OpenTarget { target, checkpoint })).boxed()
    }
}

#[derive(Debug)]
struct IndexTarget {
    generation: Arc<Generation>,
    slot: Arc<IndexSlot>,
}

impl Generation {
    fn apply(&self, events: &[(Tenant, ProductEvent)], position: Position) {
        let lock = || self.indexes.write().unwrap_or_else(PoisonError::into_inner);
        for events in events.chunks(LOCKED_EVENTS_MAX) {
            let mut indexes = lock();
            for (tenant, event) in events {
                indexes.tenants.entry(tenant.clone()).or_default().apply(event);
            }
        }
        lock().position = position;
    }
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
        let product = |envelope: &&Envelope| match &envelope.event {
            Event::Product(event) => Some((envelope.metadata.tenant.clone(), event.clone())),
            _ => None,
        };
        let events: Vec<(Tenant, ProductEvent)> = events.iter().filter_map(product).collect();
        if events.len() <= EVENTS_APPLIED_AT_ONCE {
            self.generation.apply(&events, position);
            return ready();
        }
        let generation = Arc::clone(&self.generation);
        let applied = tokio::task::spawn_blocking(move || generation.apply(&events, position));
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
        let position = self.generation.indexes.read().unwrap_or_else(PoisonError::into_inner).position;
        self.slot.position.send_replace(Some(position));
    }

    fn advance(&self, position: Position) {
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

impl RunnerStarter {
    /// Starts the index in memory, which a server that only reads has as well.
    pub(crate) async fn start_search(&self) -> Result<(ProductSearch, RunnerHandle), OpenError> {
        let slot = Arc::new(IndexSlot::default());
        let store = Arc::new(IndexTargets::new(Arc::clone(&slot), self.log.clone()));
        let handle = self.follow(FOLLOWED, REVISION, store, slot.watch()).await?;
        Ok((ProductSearch { slot }, handle))
    }
}

/// The queries of `search`.
#[derive(Clone, Debug)]
pub struct ProductSearch {
    pub(crate) slot: Arc<IndexSlot>,
}

impl ProductSearch {
    /// Answers a search among the tenant's products, and returns the position that the answer reflects. None if it is for
    /// products that are similar to an unknown one.
    ///
    /// # Errors
    /// [`QueryError::Building`] until the index is complete for the first time.
    pub async fn search(
        &self,
        tenant: &Tenant,
        search: Search,
    ) -> Result<Option<(Answer, Position)>, QueryError> {
        let live = self.slot.live().ok_or(QueryError::Building { name: Name::Search })?;
        let tenant = tenant.clone();
        let answered = tokio::task::spawn_blocking(move || {
            let indexes = live.indexes.read().unwrap_or_else(PoisonError::into_inner);
            let answer = match indexes.tenants.get(&tenant) {
                Some(index) => index.search(&search),
                None => ProductIndex::default().search(&search),
            };
            answer.map(|answer| (answer, indexes.position))
        });
        answered.await.map_err(|source| QueryError::Panicked { name: Name::Search, source })
    }
}
