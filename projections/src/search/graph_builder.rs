//! Builds the graphs of large models behind the vectors: a thread that adds what has changed, saves, and replaces graphs in
//! which many vectors were replaced, because they find less.
//!
//! Searches never wait for it: until a graph has almost all vectors, they are compared one by one.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError, Weak};

use domain::search::model_vectors::{ModelVectors, VectorGraph};
use event_log::clock::Clock;
use event_log::{EventLog, Log};
use event_schemas::time::Timestamp;
use tokio::runtime::Handle;

use super::Generation;
use super::graph::{ChangedVector, Churn, Graph, GraphError};
use super::graph_file::{GraphFile, LoadError};
use super::graphs::{ModelGraph, ModelKey, VectorsOf, vectors_of};
use crate::checkpoint::EventRef;
use crate::store::DAMAGE;

/// The number of vectors for which searches of a graph wait at a time: a few milliseconds.
const ADDED_AT_ONCE: usize = 16;
/// The share of replaced vectors with which a graph is replaced: 1 in this number.
const REPLACED_SHARE: u64 = 4;
/// A graph is saved when it contains this share of further changes, 1 in this number, but not more often than after
/// [`SAVED_AFTER_MIN`] of them.
const SAVED_SHARE: u64 = 20;
const SAVED_AFTER_MIN: u64 = 1_000;

/// A graph that searches use, and what follows it.
#[derive(Debug)]
struct Built {
    graph: Arc<Graph>,
    /// A new graph of the same vectors, until it contains all of them.
    next: Option<Arc<Graph>>,
    /// When the building of the newest of them began.
    since: Timestamp,
    /// The last change in the file.
    saved: u64,
}

impl Built {
    /// What searches and `/status` find.
    fn shown(&self) -> ModelGraph {
        ModelGraph { graph: Arc::clone(&self.graph), next: self.next.clone(), since: self.since }
    }
}

/// Builds the graphs of one generation.
#[derive(Debug)]
pub(super) struct GraphBuilder {
    log: Log,
    clock: Clock,
    /// Where graphs are saved; none if they are built again after each start.
    folder: Option<PathBuf>,
    runtime: Handle,
    built: HashMap<ModelKey, Built>,
}

impl GraphBuilder {
    pub(super) fn new(log: Log, clock: Clock, folder: Option<PathBuf>, runtime: Handle) -> Self {
        Self { log, clock, folder, runtime, built: HashMap::new() }
    }

    /// Starts the thread, which ends with the generation.
    pub(super) fn start(mut self, generation: Weak<Generation>, changes: Receiver<()>) -> io::Result<()> {
        let run = move || {
            while changes.recv().is_ok() {
                while generation.upgrade().is_some_and(|generation| self.advance(&generation)) {}
            }
        };
        std::thread::Builder::new().name("vector-graphs".to_owned()).spawn(run).map(|_| ())
    }

    /// Adds a few changes to each graph that lacks some. False if none does.
    pub(super) fn advance(&mut self, generation: &Generation) -> bool {
        let mut has_advanced = false;
        // The graphs of deleted models are not needed any more.
        self.built.retain(|key, _| {
            let exists = generation.with_vectors(key, |_| ()).is_some();
            if !exists {
                generation.graphs.set(key.clone(), None);
            }
            exists
        });
        for key in generation.models(|vectors| vectors.len() > generation.exact_max) {
            match self.advance_model(generation, &key) {
                Ok(advanced) => has_advanced |= advanced,
                Err(error) => {
                    tracing::error!(tenant = %key.0, model = %key.1, %error, "a vector index is built again");
                    self.built.remove(&key);
                    generation.graphs.set(key, None);
                }
            }
        }
        has_advanced
    }

    fn advance_model(&mut self, generation: &Generation, key: &ModelKey) -> Result<bool, GraphError> {
        let built = match self.built.entry(key.clone()) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let folder = self.folder.as_ref().filter(|_| !generation.derives(&key.1));
                let file = folder.map(|folder| GraphFile::new(folder, key));
                let (graph, saved) = open(generation, key, file.as_ref(), &self.log, &self.runtime)?;
                let built = Built { graph: Arc::new(graph), next: None, since: self.clock.now(), saved };
                generation.graphs.set(key.clone(), Some(built.shown()));
                entry.insert(built)
            }
        };
        let mut has_advanced = add_changes(generation, key, &built.graph)?;
        let Churn { replaced, .. } = built.graph.churn();
        if built.next.is_none() && replaced > built.graph.len() as u64 / REPLACED_SHARE {
            built.next = Some(Arc::new(Graph::new(generation.dimension(key))?));
            built.since = self.clock.now();
            generation.graphs.set(key.clone(), Some(built.shown()));
        }
        if let Some(next) = built.next.take() {
            if add_changes(generation, key, &next)? {
                built.next = Some(next);
                return Ok(true);
            }
            built.graph = next;
            // The file is that of the other graph.
            built.saved = 0;
            generation.graphs.set(key.clone(), Some(built.shown()));
            has_advanced = true;
        }
        // The changes of computed vectors have other numbers after each start.
        let folder = self.folder.as_ref().filter(|_| !generation.derives(&key.1));
        if let (false, Some(folder)) = (has_advanced, folder) {
            let file = GraphFile::new(folder, key);
            save(generation, key, &file, &self.log, built);
        }
        Ok(has_advanced)
    }
}

/// Reads the graph that an earlier run has saved, or begins a new one.
fn open(
    generation: &Generation,
    key: &ModelKey,
    file: Option<&GraphFile>,
    log: &Log,
    runtime: &Handle,
) -> Result<(Graph, u64), GraphError> {
    let (tenant, model, _) = key;
    let dimension = generation.dimension(key);
    let Some(file) = file else { return Ok((Graph::new(dimension)?, 0)) };
    let changes = generation.with_vectors(key, ModelVectors::changes).unwrap_or_default();
    let head = *log.head().borrow();
    match runtime.block_on(file.load(dimension, changes, log, head)) {
        Ok(graph) => {
            let contained = graph.contained_changes();
            tracing::info!(%tenant, %model, vectors = graph.len(), "a vector index was loaded");
            return Ok((graph, contained));
        }
        Err(LoadError::Missing) => {}
        Err(reason) => {
            if matches!(reason, LoadError::Damaged(_)) {
                metrics::counter!(DAMAGE, "projection" => "search").increment(1);
            }
            tracing::warn!(%tenant, %model, %reason, "a saved vector index is not used, and is built again");
        }
    }
    Ok((Graph::new(dimension)?, 0))
}

/// Adds the first changes that the graph lacks. False if there are none.
fn add_changes(generation: &Generation, key: &ModelKey, graph: &Graph) -> Result<bool, GraphError> {
    let contained = graph.contained_changes();
    let changed = generation.with_vectors(key, |vectors| {
        let copy = |(change, slot)| {
            let vector = vectors.vector(slot)?.to_vec();
            Some(ChangedVector { change, slot, vector })
        };
        vectors.changed_after(contained, ADDED_AT_ONCE).filter_map(copy).collect::<Vec<_>>()
    });
    let changed = changed.unwrap_or_default();
    graph.add(&changed)?;
    Ok(!changed.is_empty())
}

/// Saves the graph if it has enough further changes. A failure costs only the time to build it again.
fn save(generation: &Generation, key: &ModelKey, file: &GraphFile, log: &Log, built: &mut Built) {
    let contained = built.graph.contained_changes();
    let enough = SAVED_AFTER_MIN.max(built.graph.len() as u64 / SAVED_SHARE);
    if contained < built.saved + enough {
        return;
    }
    let Some(last_event) = generation.last_event() else { return };
    match file.save(&built.graph, generation.dimension(key), contained, log.identity(), last_event) {
        Ok(()) => built.saved = contained,
        Err(error) => {
            tracing::warn!(tenant = %key.0, model = %key.1, %error, "a vector index cannot be saved");
            // Tried again after as many further changes.
            built.saved = contained;
        }
    }
}

/// What the builder needs of a generation.
impl Generation {
    fn last_event(&self) -> Option<EventRef> {
        self.folds.read().unwrap_or_else(PoisonError::into_inner).last_event
    }

    fn models(&self, is_wanted: impl Fn(&ModelVectors) -> bool) -> Vec<ModelKey> {
        let folds = self.folds.read().unwrap_or_else(PoisonError::into_inner);
        let models = folds.tenants.iter().flat_map(|(tenant, fold)| {
            let wanted = vectors_of(fold).filter(|(_, _, vectors)| is_wanted(vectors));
            wanted.map(|(model, of, _)| (tenant.clone(), model.clone(), of))
        });
        models.collect()
    }

    fn with_vectors<T>(&self, key: &ModelKey, read: impl FnOnce(&ModelVectors) -> T) -> Option<T> {
        let folds = self.folds.read().unwrap_or_else(PoisonError::into_inner);
        let fold = folds.tenants.get(&key.0)?;
        let vectors = match key.2 {
            VectorsOf::Products => fold.products.model_vectors(&key.1),
            VectorsOf::Cutouts => fold.cutouts.model_vectors(&key.1),
        };
        vectors.map(read)
    }

    fn dimension(&self, key: &ModelKey) -> usize {
        self.with_vectors(key, ModelVectors::dimension).unwrap_or_default()
    }
}
