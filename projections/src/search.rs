//! `search`: the search index of each tenant's products and what recommendations are made from, in memory only. It has no
//! rows: every start builds it from the log, while the other read models can already be read.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use domain::recommend::sources::ListSources;
use domain::recommend::{NoList, Recommendation, Request};
use domain::search::question::{Answer, Search, Unanswerable};
use event_log::clock::Clock;
use event_log::{EventLog, Filter, Log};
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, Position, Tenant};
use event_schemas::stream::{Category, StreamId};
use event_schemas::time::Timestamp;
use event_schemas::user::UserEvent;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::OpenError;
use crate::checkpoint::Checkpoint;
use crate::follower::{Followed, FoundTargets, OpenTarget, StorePolicy, Target, TargetStore};
use crate::generation::QueryError;
use crate::matching_summary::{ReplayError, UpTo, for_each_event};
use crate::projection::Name;
use crate::sql::SqlError;
use crate::starter::{RunnerHandle, RunnerStarter};
use crate::store::StoreError;

/// Raised when an index of an earlier build would answer differently.
const REVISION: u32 = 2;

const FOLLOWED: Followed = Followed {
    name: Name::Search,
    categories: &[Category::Product, Category::User, Category::Merchandising],
    policy: StorePolicy::EachBatch,
};

/// The number of events that are applied before readers get their turn.
const LOCKED_EVENTS_MAX: usize = 16;
/// More events at once are applied on a thread for blocking work.
const EVENTS_APPLIED_AT_ONCE: usize = 32;

/// The folds of all tenants.
#[derive(Debug, Default)]
struct Folds {
    /// The position of the last event that was applied.
    applied: Position,
    tenants: HashMap<Tenant, ListSources>,
}

#[derive(Debug)]
struct Generation {
    number: u64,
    folds: RwLock<Folds>,
    /// The position up to which every event was applied or changes no fold.
    reached: AtomicU64,
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
        let generation = Arc::new(Generation::new(number));
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

/// Applies the next event of a tenant.
fn apply(fold: &mut ListSources, envelope: &Envelope) {
    let at = envelope.metadata.occurred_at;
    match &envelope.event {
        Event::Product(event) => fold.apply_product(event),
        Event::User(event) => fold.apply_user(event, at),
        Event::Merchandising(event) => fold.apply_rules(event, at),
        _ => {}
    }
}

/// Whether the event changes a fold.
fn is_folded(envelope: &Envelope) -> bool {
    !matches!(envelope.event, Event::User(UserEvent::ListServed(_)))
}

impl Generation {
    fn new(number: u64) -> Self {
        Self { number, folds: RwLock::default(), reached: AtomicU64::new(0) }
    }

    /// Applies the next events. Readers never wait for more than a few of them.
    fn apply<E: Borrow<Envelope>>(&self, events: &[E]) {
        for events in events.chunks(LOCKED_EVENTS_MAX) {
            let mut folds = self.folds.write().unwrap_or_else(PoisonError::into_inner);
            for envelope in events.iter().map(Borrow::borrow) {
                let tenant = envelope.metadata.tenant.clone();
                apply(folds.tenants.entry(tenant).or_default(), envelope);
                folds.applied = envelope.position;
            }
        }
    }

    fn reach(&self, position: Position) {
        self.reached.fetch_max(position.0, Ordering::Release);
    }

    /// Reads a tenant's fold, which reflects exactly the events up to the position.
    fn read<T>(&self, tenant: &Tenant, read: impl FnOnce(&ListSources, Position) -> T) -> T {
        let folds = self.folds.read().unwrap_or_else(PoisonError::into_inner);
        // While this is locked no event is applied; those up to `reached` were applied before.
        let position = folds.applied.max(Position(self.reached.load(Ordering::Acquire)));
        match folds.tenants.get(tenant) {
            Some(fold) => read(fold, position),
            None => read(&ListSources::default(), position),
        }
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

impl RunnerStarter {
    /// Starts the index in memory, which a server that only reads has as well.
    pub(crate) async fn start_search(&self) -> Result<(ProductSearch, RunnerHandle), OpenError> {
        let slot = Arc::new(IndexSlot::default());
        let (log, clock) = (self.log.clone(), self.clock.clone());
        let store = Arc::new(IndexTargets::new(Arc::clone(&slot), log.clone()));
        let handle = self.follow(FOLLOWED, REVISION, store, slot.watch()).await?;
        Ok((ProductSearch { slot, log, clock }, handle))
    }
}

/// The queries of `search`.
#[derive(Clone, Debug)]
pub struct ProductSearch {
    slot: Arc<IndexSlot>,
    log: Log,
    clock: Clock,
}

impl ProductSearch {
    /// Answers a search among the tenant's products, and returns the position that the answer reflects; or the reason why
    /// it has no answer.
    ///
    /// # Errors
    /// [`QueryError::Building`] until the index is complete for the first time.
    pub async fn search(
        &self,
        tenant: &Tenant,
        search: Search,
    ) -> Result<Result<(Answer, Position), Unanswerable>, QueryError> {
        self.read(tenant, move |fold, position| Ok((fold.products.search(&search)?, position))).await
    }

    /// Recommends products of the tenant, for an instant, and returns the position that the list reflects.
    ///
    /// # Errors
    /// As [`Self::search`].
    pub async fn recommend(
        &self,
        tenant: &Tenant,
        request: Request,
        now: Timestamp,
    ) -> Result<Result<(Recommendation, Position), NoList>, QueryError> {
        self.read(tenant, move |fold, position| Ok((fold.recommend(&request, now)?, position))).await
    }

    /// Recommends products as [`Self::recommend`] does when it reflects the events up to a point: all of these are folded
    /// again. Returns the point with the list. Of a position, the instant is when its event was recorded; of a served list, the one
    /// for which it was computed.
    ///
    /// # Errors
    /// [`ReplayError`] if the log cannot be read.
    pub async fn recommend_as_of(
        &self,
        tenant: &Tenant,
        request: Request,
        upto: UpTo,
        now: Option<Timestamp>,
    ) -> Result<Result<(Recommendation, Position, Timestamp), NoList>, ReplayError> {
        let (fold, upto, at) = self.fold_as_of(tenant, upto, now).await?;
        let list = tokio::task::spawn_blocking(move || fold.recommend(&request, at)).await?;
        Ok(list.map(|list| (list, upto, at)))
    }

    /// Answers a search as [`Self::search`] does when it reflects the events up to a position.
    ///
    /// # Errors
    /// [`ReplayError`] if the log cannot be read.
    pub async fn search_as_of(
        &self,
        tenant: &Tenant,
        search: Search,
        upto: Position,
    ) -> Result<Result<Answer, Unanswerable>, ReplayError> {
        let (fold, ..) = self.fold_as_of(tenant, UpTo::Position(upto), None).await?;
        Ok(tokio::task::spawn_blocking(move || fold.products.search(&search)).await?)
    }

    /// Folds the events of a tenant up to a point, and returns the point with the fold.
    async fn fold_as_of(
        &self,
        tenant: &Tenant,
        upto: UpTo,
        now: Option<Timestamp>,
    ) -> Result<(ListSources, Position, Timestamp), ReplayError> {
        let head = *self.log.head().borrow();
        let (upto, now) = match upto {
            UpTo::Head => (head, now.or_else(|| Some(self.clock.now()))),
            UpTo::Instant(instant) => (self.log.position_at(instant).await?.min(head), now.or(Some(instant))),
            UpTo::Position(position) if now.is_some() => (position.min(head), now),
            UpTo::Position(position) => {
                let position = position.min(head);
                (position, self.instant_of(position).await?)
            }
        };
        let prefixes = vec![
            StreamId::products_prefix(tenant),
            StreamId::users_prefix(tenant),
            StreamId::merchandising(tenant).to_string(),
        ];
        let (start, of) = ((ListSources::default(), None), tenant.clone());
        let folded =
            for_each_event(&self.log, prefixes, Position::START, upto, start, move |state, envelope| {
                // The prefix of the rules is also that of tenants with a longer name.
                if envelope.metadata.tenant == of {
                    apply(&mut state.0, envelope);
                    state.1 = Some(envelope.recorded_at);
                }
            });
        let (fold, last_at) = folded.await?;
        let now = now.or(last_at).unwrap_or_else(|| self.clock.now());
        Ok((fold, upto, now))
    }

    /// The instant of the event at a position: when it was recorded, or that of the list if it is a served one. None if there
    /// is no event at exactly this position.
    async fn instant_of(&self, position: Position) -> Result<Option<Timestamp>, ReplayError> {
        let before = Position(position.0.saturating_sub(1));
        let page = self.log.read_all(before, &Filter::All, 1).await?;
        let Some(event) = page.events.first().filter(|event| event.position == position) else {
            return Ok(None);
        };
        Ok(Some(match event.decode() {
            Ok(envelope) if !is_folded(&envelope) => envelope.metadata.occurred_at,
            _ => event.recorded_at,
        }))
    }

    async fn read<T: Send + 'static>(
        &self,
        tenant: &Tenant,
        read: impl FnOnce(&ListSources, Position) -> T + Send + 'static,
    ) -> Result<T, QueryError> {
        let live = self.slot.live().ok_or(QueryError::Building { name: Name::Search })?;
        let tenant = tenant.clone();
        let answered = tokio::task::spawn_blocking(move || live.read(&tenant, read));
        answered.await.map_err(|source| QueryError::Panicked { name: Name::Search, source })
    }
}
