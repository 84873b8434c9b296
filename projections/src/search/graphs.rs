//! The graphs of a generation's large models, their state, and the thread that builds them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use domain::recommend::sources::ListSources;
use domain::search::model_vectors::{ModelVectors, VectorGraph};
use domain::search::product_index::GRAPH_LAG_MAX;
use event_log::Log;
use event_log::clock::Clock;
use event_schemas::ids::{ModelId, Tenant};
use event_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::graph::Graph;
use super::graph_builder::GraphBuilder;
use super::{Generation, ProductSearch};

/// What vectors are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VectorsOf {
    /// Products and their images.
    Products,
    Cutouts,
}

/// The vectors of a model of a tenant.
pub(super) type ModelKey = (Tenant, ModelId, VectorsOf);

/// How searches for vectors of a model find the nearest ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VectorIndexState {
    /// Every vector that passes the filter is compared: there are too few for a graph.
    ExactScan,
    /// A graph is being built. Until it has almost all vectors, every one that passes the filter is compared.
    Building,
    /// Many vectors are searched with the graph.
    Ready,
    /// Many vectors are searched with the graph, while one is being built that replaces it, because many of its vectors were
    /// replaced.
    Replacing,
}

/// The vector index of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VectorIndexStatus {
    pub tenant: Tenant,
    pub model_id: ModelId,
    pub of: VectorsOf,
    pub dimension: usize,
    pub state: VectorIndexState,
    /// The number of vectors.
    pub vectors: usize,
    /// The number of these vectors that the graph contains, of a graph that is being built if there is one. The others are
    /// compared one by one. Null without a graph.
    pub indexed: Option<usize>,
    /// When the building of the graph began, if one is being built.
    pub since: Option<Timestamp>,
}

/// A graph that searches may use, and the one that will replace it.
#[derive(Clone, Debug)]
pub(super) struct ModelGraph {
    pub(super) graph: Arc<Graph>,
    pub(super) next: Option<Arc<Graph>>,
    /// When the building of the newest of them began.
    pub(super) since: Timestamp,
}

impl ModelGraph {
    fn status(&self, key: ModelKey, vectors: &ModelVectors) -> VectorIndexStatus {
        let built = self.next.as_ref().unwrap_or(&self.graph);
        let missing = vectors.count_after(built.contained_changes());
        let state = match &self.next {
            Some(_) => VectorIndexState::Replacing,
            None if missing > GRAPH_LAG_MAX => VectorIndexState::Building,
            None => VectorIndexState::Ready,
        };
        let vectors = VectorIndexStatus::exact_scan(key, vectors);
        let indexed = Some(vectors.vectors.saturating_sub(missing));
        let since = (state != VectorIndexState::Ready).then_some(self.since);
        VectorIndexStatus { state, indexed, since, ..vectors }
    }
}

impl VectorIndexStatus {
    fn exact_scan((tenant, model_id, of): ModelKey, vectors: &ModelVectors) -> Self {
        Self {
            tenant,
            model_id,
            of,
            dimension: vectors.dimension(),
            state: VectorIndexState::ExactScan,
            vectors: vectors.present(),
            indexed: None,
            since: None,
        }
    }
}

/// The vectors of all models of a tenant.
pub(super) fn vectors_of(fold: &ListSources) -> impl Iterator<Item = (&ModelId, VectorsOf, &ModelVectors)> {
    let products = fold.products.models().map(|(model, vectors)| (model, VectorsOf::Products, vectors));
    products.chain(fold.cutouts.models().map(|(model, vectors)| (model, VectorsOf::Cutouts, vectors)))
}

/// The graphs by model.
#[derive(Debug, Default)]
pub(super) struct Graphs {
    by_model: RwLock<HashMap<ModelKey, ModelGraph>>,
    /// Wakes the builder, which starts when the generation becomes live.
    builder: OnceLock<SyncSender<()>>,
}

impl Graphs {
    pub(super) fn get(&self, key: &ModelKey) -> Option<Arc<Graph>> {
        self.of_model(key).map(|of_model| of_model.graph)
    }

    fn of_model(&self, key: &ModelKey) -> Option<ModelGraph> {
        self.by_model.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(super) fn set(&self, key: ModelKey, graph: Option<ModelGraph>) {
        let mut graphs = self.by_model.write().unwrap_or_else(PoisonError::into_inner);
        match graph {
            Some(graph) => graphs.insert(key, graph),
            None => graphs.remove(&key),
        };
    }

    /// It is awake already if the channel is full.
    pub(super) fn wake_builder(&self) {
        if let Some(builder) = self.builder.get() {
            let _ = builder.try_send(());
        }
    }
}

impl Generation {
    /// Starts to build graphs. Without a thread every vector is compared.
    pub(super) fn start_builder(self: &Arc<Self>, log: &Log, clock: &Clock, folder: Option<PathBuf>) {
        let Ok(runtime) = Handle::try_current() else { return };
        let (sender, receiver) = sync_channel(1);
        if self.graphs.builder.set(sender).is_ok() {
            let builder = GraphBuilder::new(log.clone(), clock.clone(), folder, runtime);
            if let Err(error) = builder.start(Arc::downgrade(self), receiver) {
                tracing::warn!(%error, "vector indexes are not built: the system refused a thread");
            }
        }
        self.graphs.wake_builder();
    }

    /// The vector indexes of all models, by tenant and model.
    pub(super) fn vector_indexes(&self) -> Vec<VectorIndexStatus> {
        let folds = self.folds.read().unwrap_or_else(PoisonError::into_inner);
        let models = folds.tenants.iter().flat_map(|(tenant, fold)| {
            vectors_of(fold).map(move |(model, of, vectors)| ((tenant.clone(), model.clone(), of), vectors))
        });
        let status = |(key, vectors): (ModelKey, &ModelVectors)| match self.graphs.of_model(&key) {
            Some(graph) => graph.status(key, vectors),
            None => VectorIndexStatus::exact_scan(key, vectors),
        };
        let mut indexes: Vec<VectorIndexStatus> = models.map(status).collect();
        let key = |index: &VectorIndexStatus| (index.tenant.clone(), index.model_id.clone(), index.of);
        indexes.sort_by_cached_key(key);
        indexes
    }
}

impl ProductSearch {
    /// The vector indexes of all tenants' models; none before the index is complete for the first time.
    pub fn vector_indexes(&self) -> Vec<VectorIndexStatus> {
        self.slot.live().map(|live| live.vector_indexes()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::graph::ChangedVector;
    use super::*;

    #[test]
    fn index_is_being_built_while_searches_cannot_use_it() {
        let mut vectors = ModelVectors::new(2);
        for number in 0..=GRAPH_LAG_MAX as u32 {
            vectors.set(number, None, &[1.0, number as f32]);
        }
        let key = || ("acme".parse().unwrap(), "clip".parse().unwrap(), VectorsOf::Products);
        let new = || Arc::new(Graph::new(2).unwrap());
        let mut built = ModelGraph { graph: new(), next: None, since: Timestamp::from_micros(7) };
        let building = built.status(key(), &vectors);
        assert_eq!((building.state, building.vectors), (VectorIndexState::Building, GRAPH_LAG_MAX + 1));
        assert_eq!((building.indexed, building.since), (Some(0), Some(built.since)));
        built.graph.add(&[ChangedVector { change: 1, slot: 0, vector: vec![1.0, 0.0] }]).unwrap();
        let ready = built.status(key(), &vectors);
        assert_eq!((ready.state, ready.indexed, ready.since), (VectorIndexState::Ready, Some(1), None));
        built.next = Some(new());
        let replacing = built.status(key(), &vectors);
        assert_eq!((replacing.state, replacing.indexed), (VectorIndexState::Replacing, Some(0)));
        assert_eq!(replacing.since, Some(built.since));
    }
}
