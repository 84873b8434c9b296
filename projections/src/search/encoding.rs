//! Computes the vectors of texts behind the index: a thread that encodes what has changed, text by text.
//!
//! The index never waits for it. While many products lack their vectors, after a start or an import, searches use the built-in
//! encoder.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use domain::recommend::sources::ListSources;
use domain::search::derived_vectors::{DerivedVectors, PendingText};
use domain::search::product_index::ProductIndex;
use domain::search::question::{Answer, Question, Search, Unanswerable};
use event_schemas::ids::{ModelId, Position, Tenant};
use tokio::sync::watch;
use tokio::time::Instant;

use super::text_vectors::TextVectors;
use super::{Generation, ProductSearch};
use crate::generation::QueryError;
use crate::projection::Name;
use crate::text_encoder::TextEncoder;

/// The number of texts of each tenant in turn, so that none waits for the whole catalogue of another.
const ENCODED_AT_ONCE: usize = 8;

/// Searches use the model of a catalogue in which more products lack their vectors only if these are at most one in
/// [`PENDING_SHARE`]: otherwise a search would miss many products.
const PENDING_MAX: usize = 100;
const PENDING_SHARE: usize = 20;
/// The longest time for which an exact answer waits for vectors.
const VECTORS_WAIT_MAX: Duration = Duration::from_secs(2);

/// The server's encoder, and the vectors that earlier runs have computed with it.
#[derive(Debug)]
pub(crate) struct Encoding {
    encoder: TextEncoder,
    vectors: Option<Mutex<TextVectors>>,
}

/// How far the vectors of a generation are.
#[derive(Debug)]
pub(super) struct EncodingProgress {
    /// Changes after each vector.
    steps: watch::Sender<u64>,
    /// All products had their vectors once.
    is_complete: AtomicBool,
    /// The number of texts of which the model could make no vector.
    failed: AtomicU64,
    /// Wakes the thread, which starts when the generation becomes live.
    thread: OnceLock<SyncSender<()>>,
}

impl Default for EncodingProgress {
    fn default() -> Self {
        let steps = watch::Sender::new(0);
        Self {
            steps,
            is_complete: AtomicBool::new(false),
            failed: AtomicU64::new(0),
            thread: OnceLock::new(),
        }
    }
}

/// The state of the server's encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderStatus {
    pub model: ModelId,
    pub dimension: usize,
    /// The number of products with a vector.
    pub encoded: usize,
    /// The number of products whose vector has to be computed.
    pub pending: usize,
    /// The number of texts of which the model could make no vector, since the start.
    pub failed: u64,
    /// All products had their vectors once since the start.
    pub is_complete: bool,
}

impl Encoding {
    pub(super) fn new(encoder: TextEncoder, vectors: Option<TextVectors>) -> Self {
        Self { encoder, vectors: vectors.map(Mutex::new) }
    }

    pub(super) fn model(&self) -> &ModelId {
        &self.encoder.model
    }

    /// The empty fold for the vectors of this encoder.
    pub(super) fn prepare(&self, mut fold: ListSources) -> ListSources {
        fold.products = ProductIndex::with_model(self.encoder.model.clone(), self.encoder.dimension);
        fold
    }

    /// The vector of a text, from an earlier run if there is one.
    fn vector(&self, text: &str) -> Result<Option<Vec<f32>>, String> {
        let lock = |vectors: &'_ Mutex<TextVectors>| {
            vectors.lock().unwrap_or_else(PoisonError::into_inner).get(text)
        };
        if let Some(known) = self.vectors.as_ref().and_then(lock) {
            return Ok(Some(known));
        }
        let vector = self.encoder.encode(text)?;
        if let (Some(vector), Some(vectors)) = (&vector, &self.vectors) {
            let added = vectors.lock().unwrap_or_else(PoisonError::into_inner).add(text, vector);
            if let Err(error) = added {
                tracing::warn!(%error, "a vector is not saved, and is computed again after a start; check the disk");
            }
        }
        Ok(vector)
    }

    /// Computes all vectors that a fold lacks.
    fn complete(&self, products: &mut ProductIndex) {
        for pending in products.pending_texts(usize::MAX) {
            let vector = self.vector(&pending.text).unwrap_or_default();
            products.set_derived(&pending, vector.as_deref());
        }
    }

    /// The search with the vector of its text.
    fn with_vector(&self, search: Search) -> Result<Search, String> {
        let Question::Text(text, mode) = search.question else { return Ok(search) };
        let vector = self.encoder.encode(&text)?;
        // A text without a vector resembles no product more than another.
        let vector = vector.unwrap_or_else(|| vec![0.0; self.encoder.dimension]);
        Ok(Search { question: Question::Encoded(text, mode, vector), ..search })
    }

    /// As [`Self::with_vector`], on a thread for blocking work.
    pub(super) async fn encode_query(self: &Arc<Self>, search: Search) -> Result<Search, QueryError> {
        let encoding = Arc::clone(self);
        let encoded = tokio::task::spawn_blocking(move || encoding.with_vector(search)).await;
        let encoded = encoded.map_err(|source| QueryError::Panicked { name: Name::Search, source })?;
        encoded.map_err(|reason| QueryError::Encoder { model: self.model().to_string(), reason })
    }

    /// Answers a search in a fold that no thread completes.
    pub(super) fn answer(&self, mut fold: ListSources, search: Search) -> Result<Answer, Unanswerable> {
        self.complete(&mut fold.products);
        let search = self.with_vector(search).map_err(|_| Unanswerable::NoEncoder)?;
        fold.products.search(&search)
    }
}

impl Generation {
    /// Starts to compute vectors. Without a thread, searches use the built-in encoder.
    pub(super) fn start_encoding(self: &Arc<Self>) {
        if self.encoding.is_none() {
            return;
        }
        let (sender, receiver) = sync_channel(1);
        if self.encoded.thread.set(sender).is_ok() {
            let generation = Arc::downgrade(self);
            let run = move || {
                while receiver.recv().is_ok() {
                    while generation.upgrade().is_some_and(|generation| generation.encode_some()) {}
                }
            };
            if let Err(error) = std::thread::Builder::new().name("text-encoder".to_owned()).spawn(run) {
                tracing::error!(%error, "no vectors of texts are computed: the system refused a thread");
            }
        }
        self.wake_encoding();
    }

    /// The thread is awake already if the channel is full.
    pub(super) fn wake_encoding(&self) {
        if let Some(thread) = self.encoded.thread.get() {
            let _ = thread.try_send(());
        }
    }

    /// Computes the vectors of a few products of each tenant. False if all have theirs.
    fn encode_some(&self) -> bool {
        let Some(encoding) = &self.encoding else { return false };
        let pending = self.pending_texts();
        for (tenant, pending) in &pending {
            let vector = encoding.vector(&pending.text).unwrap_or_else(|error| {
                tracing::error!(%tenant, %error, "a product is found by its words only");
                self.encoded.failed.fetch_add(1, Ordering::Relaxed);
                None
            });
            let mut folds = self.folds.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(fold) = folds.tenants.get_mut(tenant) {
                fold.products.set_derived(pending, vector.as_deref());
            }
            drop(folds);
            self.encoded.steps.send_modify(|steps| *steps += 1);
        }
        if !pending.is_empty() {
            self.graphs.wake_builder();
            return true;
        }
        if !self.encoded.is_complete.swap(true, Ordering::Release) {
            tracing::info!(model = %encoding.model(), "all products have vectors: searches use the model");
            let compact = |vectors: &Mutex<TextVectors>| {
                vectors.lock().unwrap_or_else(PoisonError::into_inner).compact()
            };
            if let Some(Err(error)) = encoding.vectors.as_ref().map(compact) {
                tracing::warn!(%error, "the saved vectors of texts are not compacted; check the disk");
            }
        }
        self.encoded.steps.send_modify(|steps| *steps += 1);
        false
    }

    fn pending_texts(&self) -> Vec<(Tenant, PendingText)> {
        let folds = self.folds.read().unwrap_or_else(PoisonError::into_inner);
        let of_tenant = |(tenant, fold): (&Tenant, &ListSources)| {
            let pending = fold.products.pending_texts(ENCODED_AT_ONCE);
            pending.into_iter().map(|pending| (tenant.clone(), pending)).collect::<Vec<_>>()
        };
        folds.tenants.iter().flat_map(of_tenant).collect()
    }

    /// Whether all products had their vectors once.
    fn is_encoded(&self) -> bool {
        self.encoded.is_complete.load(Ordering::Acquire)
    }

    /// Whether searches of a tenant use the model.
    fn uses_encoder(&self, tenant: &Tenant) -> bool {
        let has_most = |products: &ProductIndex| {
            products.derived().is_none_or(|derived| {
                derived.pending() <= PENDING_MAX.max(derived.vectors().len() / PENDING_SHARE)
            })
        };
        self.is_encoded() && self.read(tenant, |fold, _| has_most(&fold.products))
    }

    /// Whether the vectors of a model are computed by this server.
    pub(super) fn derives(&self, model: &ModelId) -> bool {
        self.encoding.as_ref().is_some_and(|encoding| encoding.model() == model)
    }

    fn encoder_status(&self, encoding: &Encoding) -> EncoderStatus {
        let folds = self.folds.read().unwrap_or_else(PoisonError::into_inner);
        let derived: Vec<&DerivedVectors> =
            folds.tenants.values().filter_map(|fold| fold.products.derived()).collect();
        EncoderStatus {
            model: encoding.model().clone(),
            dimension: encoding.encoder.dimension,
            encoded: derived.iter().map(|derived| derived.vectors().len()).sum(),
            pending: derived.iter().map(|derived| derived.pending()).sum(),
            failed: self.encoded.failed.load(Ordering::Relaxed),
            is_complete: self.is_encoded(),
        }
    }
}

impl ProductSearch {
    /// The server's encoder, if a search is for its model.
    pub(super) fn encoding_of(&self, search: &Search) -> Option<Arc<Encoding>> {
        self.encoding.clone().filter(|encoding| search.model.as_ref() == Some(encoding.model()))
    }

    /// The search with the vector of its text, if its model is that of the server's encoder.
    pub(super) async fn with_vector(&self, tenant: &Tenant, search: Search) -> Result<Search, QueryError> {
        let Some(encoding) = self.encoding_of(&search) else { return Ok(search) };
        let live = self.slot.live().ok_or(QueryError::Building { name: Name::Search })?;
        if !live.uses_encoder(tenant) {
            return Err(QueryError::Encoding { model: encoding.model().to_string() });
        }
        encoding.encode_query(search).await
    }

    /// Answers a search when no product of the tenant lacks its vector, so that the answer can be computed again.
    pub(super) async fn search_with_all_vectors(
        &self,
        tenant: &Tenant,
        search: Search,
    ) -> Result<Result<(Answer, Position), Unanswerable>, QueryError> {
        let search = self.with_vector(tenant, search).await?;
        let deadline = Instant::now() + VECTORS_WAIT_MAX;
        loop {
            let of = search.clone();
            let answered = move |fold: &ListSources, position: Position| {
                let has_all = fold.products.derived().is_none_or(|derived| derived.pending() == 0);
                has_all.then(|| fold.products.search(&of).map(|answer| (answer, position)))
            };
            if let Some(answered) = self.read(tenant, answered).await? {
                return Ok(answered);
            }
            if !self.wait_for_vectors(tenant, deadline.saturating_duration_since(Instant::now())).await {
                let model = search.model.map(|model| model.to_string()).unwrap_or_default();
                return Err(QueryError::Encoding { model });
            }
        }
    }

    /// The state of the server's encoder; none if it has only the built-in one.
    pub fn encoder(&self) -> Option<EncoderStatus> {
        let encoding = self.encoding.as_ref()?;
        Some(match self.slot.live() {
            Some(live) => live.encoder_status(encoding),
            None => EncoderStatus {
                model: encoding.model().clone(),
                dimension: encoding.encoder.dimension,
                encoded: 0,
                pending: 0,
                failed: 0,
                is_complete: false,
            },
        })
    }

    /// The model of the server's encoder, if it has one.
    pub fn encoder_model(&self) -> Option<ModelId> {
        self.encoding.as_ref().map(|encoding| encoding.model().clone())
    }

    /// Whether searches of a tenant use the server's encoder at present.
    pub fn uses_encoder(&self, tenant: &Tenant) -> bool {
        self.slot.live().is_some_and(|live| live.encoding.is_some() && live.uses_encoder(tenant))
    }

    /// Waits until the texts of the tenant's products up to now have their vectors. False if they have not in time.
    pub async fn wait_for_vectors(&self, tenant: &Tenant, timeout: Duration) -> bool {
        let Some(live) = self.slot.live().filter(|live| live.encoding.is_some()) else { return true };
        let change = live.read(tenant, |fold, _| fold.products.derived().map_or(0, DerivedVectors::changes));
        let has_reached =
            |fold: &ListSources| fold.products.derived().is_none_or(|derived| derived.has_reached(change));
        let mut steps = live.encoded.steps.subscribe();
        let reached = steps.wait_for(|_| live.read(tenant, |fold, _| has_reached(fold)));
        // Only the thread sends, and it lasts as long as the generation.
        tokio::time::timeout(timeout, reached).await.is_ok_and(|reached| reached.is_ok())
    }
}
