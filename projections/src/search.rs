//! `search`: the search index of each tenant's products and what recommendations are made from, in memory only. It has no
//! rows: every start builds it from the log, while the other read models can already be read.
//!
//! Models with many vectors have a graph in addition ([`graph`]), which [`graph_builder`] builds behind the index.

pub mod answers;
pub mod candidates;
mod collected;
pub(crate) mod encoding;
mod extraction;
mod graph;
mod graph_builder;
mod graph_file;
pub(crate) mod graphs;
pub mod models;
mod target;
#[cfg(test)]
mod tests;
mod text_vectors;

use std::borrow::Borrow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, TryLockError};

use domain::recommend::settings::Settings;
use domain::recommend::sources::ListSources;
use domain::recommend::{NoList, Recommendation, Request, UserEmbeddings};
use domain::search::plan::EXACT_MAX;
use domain::search::question::{Answer, Search, Unanswerable};
use event_log::clock::Clock;
use event_log::{EventLog, Filter, Log};
use event_schemas::cutout::CutoutEvent;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{Position, SubjectId, Tenant};
use event_schemas::product::ProductEvent;
use event_schemas::stream::{Category, StreamId};
use event_schemas::time::Timestamp;
use event_schemas::user::{ListServed, UserEvent};
use tokio::sync::{Semaphore, watch};

use crate::OpenError;
use crate::checkpoint::EventRef;
use crate::follower::{Followed, StorePolicy};
use crate::generation::QueryError;
use crate::matching_summary::{ReplayError, UpTo, for_each_event};
use crate::projection::Name;
use crate::starter::{RunnerHandle, RunnerStarter};
use crate::text_encoder::TextEncoder;
use answers::Answers;
use encoding::{Encoding, EncodingProgress};
use graph::SEARCHES_MAX;
use graphs::{Graphs, VectorsOf};
use target::IndexTargets;
use text_vectors::TextVectors;

/// Raised when an index of an earlier build would answer differently.
const REVISION: u32 = 2;

const FOLLOWED: Followed = Followed {
    name: Name::Search,
    categories: &[
        Category::Product,
        Category::User,
        Category::Merchandising,
        Category::Model,
        Category::Cutout,
    ],
    policy: StorePolicy::EachBatch,
};

/// The number of events that are applied before readers get their turn.
const LOCKED_EVENTS_MAX: usize = 16;

/// The folds of all tenants.
#[derive(Debug, Default)]
struct Folds {
    /// The last event that was applied.
    last_event: Option<EventRef>,
    tenants: HashMap<Tenant, ListSources>,
}

#[derive(Debug)]
struct Generation {
    number: u64,
    folds: RwLock<Folds>,
    /// The position up to which every event was applied or changes no fold.
    reached: AtomicU64,
    graphs: Graphs,
    encoding: Option<Arc<Encoding>>,
    /// How interactions and co-visits count.
    settings: Settings,
    encoded: EncodingProgress,
    /// Models with more vectors have a graph, and more products are not compared one by one if it can be used.
    exact_max: usize,
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

/// Whether the event changes a fold.
fn is_folded(envelope: &Envelope) -> bool {
    !matches!(envelope.event, Event::User(UserEvent::ListServed(_)))
}

/// An empty fold, for the vectors of the encoder if there is one.
fn new_fold(encoding: Option<&Encoding>, settings: Settings) -> ListSources {
    let fold = ListSources::new(settings);
    match encoding {
        Some(encoding) => encoding.prepare(fold),
        None => fold,
    }
}

impl Generation {
    fn new(number: u64) -> Self {
        let (folds, graphs) = (RwLock::default(), Graphs::default());
        let (encoding, encoded, reached) = (None, EncodingProgress::default(), AtomicU64::new(0));
        let settings = Settings::default();
        Self { number, folds, reached, graphs, encoding, settings, encoded, exact_max: EXACT_MAX }
    }

    /// Applies the next events. Readers never wait for more than a few of them.
    fn apply<E: Borrow<Envelope>>(&self, events: &[E]) {
        for events in events.chunks(LOCKED_EVENTS_MAX) {
            let mut folds = self.folds.write().unwrap_or_else(PoisonError::into_inner);
            for envelope in events.iter().map(Borrow::borrow) {
                let tenant = envelope.metadata.tenant.clone();
                let fold = folds.tenants.entry(tenant).or_insert_with(|| self.new_fold());
                fold.apply(envelope);
                folds.last_event = Some(EventRef { position: envelope.position, id: envelope.id });
            }
        }
        let is_embedded = |event: &E| match &event.borrow().event {
            Event::Product(ProductEvent::ProductEmbedded(_)) | Event::Model(_) => true,
            Event::Cutout(event) => matches!(event, CutoutEvent::CutoutEmbedded(_)),
            _ => false,
        };
        if events.iter().any(is_embedded) {
            self.graphs.wake_builder();
        }
        self.wake_encoding();
    }

    fn new_fold(&self) -> ListSources {
        new_fold(self.encoding.as_deref(), self.settings)
    }

    fn reach(&self, position: Position) {
        self.reached.fetch_max(position.0, Ordering::Release);
    }

    /// Reads a tenant's fold, which reflects exactly the events up to the position.
    fn read<T>(&self, tenant: &Tenant, read: impl FnOnce(&ListSources, Position) -> T) -> T {
        self.read_locked(&self.folds.read().unwrap_or_else(PoisonError::into_inner), tenant, read)
    }

    /// Reads a tenant's fold as [`Self::read`], unless events are being applied.
    fn try_read<T>(&self, tenant: &Tenant, read: impl FnOnce(&ListSources, Position) -> T) -> Option<T> {
        let folds = match self.folds.try_read() {
            Ok(folds) => folds,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(self.read_locked(&folds, tenant, read))
    }

    fn read_locked<T>(
        &self,
        folds: &Folds,
        tenant: &Tenant,
        read: impl FnOnce(&ListSources, Position) -> T,
    ) -> T {
        // While this is locked no event is applied; those up to `reached` were applied before.
        let applied = folds.last_event.map_or(Position::START, |event| event.position);
        let position = applied.max(Position(self.reached.load(Ordering::Acquire)));
        match folds.tenants.get(tenant) {
            Some(fold) => read(fold, position),
            None => read(&self.new_fold(), position),
        }
    }

    /// Answers a search, with the graph of its model if there is one.
    fn search(&self, tenant: &Tenant, search: &Search) -> Result<(Answer, Position), Unanswerable> {
        let graph = search
            .model
            .as_ref()
            .and_then(|model| self.graphs.get(&(tenant.clone(), model.clone(), VectorsOf::Products)));
        self.read(tenant, |fold, position| {
            Ok((fold.products.search_with(search, graph.as_deref(), self.exact_max)?, position))
        })
    }
}

impl RunnerStarter {
    /// Starts the index in memory, which a server that only reads has as well.
    pub(crate) async fn start_search(
        &self,
        encoder: Option<TextEncoder>,
        folder: Option<PathBuf>,
        answer_bytes: usize,
    ) -> Result<(ProductSearch, RunnerHandle), OpenError> {
        let slot = Arc::new(IndexSlot::default());
        let (log, clock) = (self.log.clone(), self.clock.clone());
        let encoding = encoder.map(|encoder| {
            let vectors = folder.as_deref().map(|folder| TextVectors::open(folder, &encoder)).transpose();
            let vectors = vectors.map_err(|source| OpenError { name: Name::Search, source })?;
            Ok(Arc::new(Encoding::new(encoder, vectors)))
        });
        let encoding = encoding.transpose()?;
        let settings = self.recommend;
        let store = Arc::new(IndexTargets {
            slot: Arc::clone(&slot),
            log: log.clone(),
            clock: clock.clone(),
            folder,
            encoding: encoding.clone(),
            settings,
            created: AtomicU64::new(0),
        });
        let handle = self.follow(FOLLOWED, REVISION, store, slot.watch()).await?;
        let permits = Arc::new(Semaphore::new(SEARCHES_MAX));
        let answers = Arc::new(Answers::new(answer_bytes));
        Ok((ProductSearch { slot, log, clock, permits, answers, encoding, settings }, handle))
    }
}

/// The queries of `search`.
#[derive(Clone, Debug)]
pub struct ProductSearch {
    slot: Arc<IndexSlot>,
    log: Log,
    clock: Clock,
    /// Of the searches of graphs at once: a graph has room for as many.
    permits: Arc<Semaphore>,
    answers: Arc<Answers>,
    /// The server's encoder of texts, if it has one.
    encoding: Option<Arc<Encoding>>,
    /// How interactions and co-visits count.
    settings: Settings,
}

impl ProductSearch {
    /// Answers a search among the tenant's products, and returns the position that the answer reflects; or the reason why
    /// it has no answer. In large catalogues it may miss a few results.
    ///
    /// # Errors
    /// [`QueryError::Building`] until the index is complete for the first time; [`QueryError::Encoding`] for the model of the
    /// server's encoder, while many products lack their vectors.
    pub async fn search(
        &self,
        tenant: &Tenant,
        search: Search,
    ) -> Result<Result<(Answer, Position), Unanswerable>, QueryError> {
        if search.model.is_none() {
            return self.search_exactly(tenant, search).await;
        }
        let search = self.with_vector(tenant, search).await?;
        // The semaphore is never closed.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let of = tenant.clone();
        let answered = move |live: &Generation| {
            let answer = live.search(&of, &search);
            drop(permit);
            answer
        };
        self.on_live(answered).await
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
        self.recommend_with(tenant, request, self.settings, upto, now).await
    }

    /// Computes a served list as [`Self::recommend_as_of`] does, with the settings that it was computed with.
    ///
    /// # Errors
    /// [`ReplayError`] if the log cannot be read.
    pub async fn recommend_again(
        &self,
        tenant: &Tenant,
        request: Request,
        served: &ListServed,
        at: Timestamp,
    ) -> Result<Result<Recommendation, NoList>, ReplayError> {
        let settings = Settings::of_recorded(served.settings.as_deref());
        let upto = UpTo::Position(served.computed_from);
        let list = self.recommend_with(tenant, request, settings, upto, Some(at)).await?;
        Ok(list.map(|(list, ..)| list))
    }

    async fn recommend_with(
        &self,
        tenant: &Tenant,
        request: Request,
        settings: Settings,
        upto: UpTo,
        now: Option<Timestamp>,
    ) -> Result<Result<(Recommendation, Position, Timestamp), NoList>, ReplayError> {
        let (fold, upto, at) = self.fold_as_of(tenant, ListSources::new(settings), upto, now).await?;
        let list = tokio::task::spawn_blocking(move || fold.recommend(&request, at)).await?;
        Ok(list.map(|list| (list, upto, at)))
    }

    /// Which vectors there are of a user of the tenant.
    ///
    /// # Errors
    /// [`QueryError::Building`] until the index is complete for the first time.
    pub async fn embeddings_of(
        &self,
        tenant: &Tenant,
        subject: SubjectId,
    ) -> Result<UserEmbeddings, QueryError> {
        let now = self.clock.now();
        self.read(tenant, move |fold, _| fold.embeddings_of(subject, now)).await
    }

    /// How interactions and co-visits count.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Answers a search as [`Self::search_exactly`] does when it reflects the events up to a position.
    ///
    /// # Errors
    /// [`ReplayError`] if the log cannot be read.
    pub async fn search_as_of(
        &self,
        tenant: &Tenant,
        search: Search,
        upto: Position,
    ) -> Result<Result<Answer, Unanswerable>, ReplayError> {
        let encoding = self.encoding_of(&search);
        let start = new_fold(encoding.as_deref(), self.settings);
        let (fold, ..) = self.fold_as_of(tenant, start, UpTo::Position(upto), None).await?;
        let answer = tokio::task::spawn_blocking(move || match encoding {
            Some(encoding) => encoding.answer(fold, search),
            None => fold.products.search(&search),
        });
        Ok(answer.await?)
    }

    /// Folds the events of a tenant up to a point, and returns the point with the fold.
    async fn fold_as_of(
        &self,
        tenant: &Tenant,
        start: ListSources,
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
            StreamId::models(tenant).to_string(),
        ];
        let (start, of) = ((start, None), tenant.clone());
        let folded =
            for_each_event(&self.log, prefixes, Position::START, upto, start, move |state, envelope| {
                // The prefixes of the rules and the models are also those of tenants with a longer name.
                if envelope.metadata.tenant == of {
                    state.0.apply(envelope);
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
        let tenant = tenant.clone();
        self.on_live(move |live| live.read(&tenant, read)).await
    }

    fn live(&self) -> Result<Arc<Generation>, QueryError> {
        self.slot.live().ok_or(QueryError::Building { name: Name::Search })
    }

    async fn on_live<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Generation) -> T + Send + 'static,
    ) -> Result<T, QueryError> {
        let live = self.live()?;
        let answered = tokio::task::spawn_blocking(move || read(&live));
        answered.await.map_err(|source| QueryError::Panicked { name: Name::Search, source })
    }
}
