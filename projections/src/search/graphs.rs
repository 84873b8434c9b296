//! The graphs of a generation's large models, and the thread that builds them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use event_log::Log;
use event_schemas::ids::{ModelId, Tenant};
use tokio::runtime::Handle;

use super::Generation;
use super::graph::Graph;
use super::graph_builder::GraphBuilder;

/// A model of a tenant.
pub(super) type ModelKey = (Tenant, ModelId);

/// The graphs by model.
#[derive(Debug, Default)]
pub(super) struct Graphs {
    by_model: RwLock<HashMap<ModelKey, Arc<Graph>>>,
    /// Wakes the builder, which starts when the generation becomes live.
    builder: OnceLock<SyncSender<()>>,
}

impl Graphs {
    pub(super) fn get(&self, key: &ModelKey) -> Option<Arc<Graph>> {
        self.by_model.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(super) fn set(&self, key: ModelKey, graph: Option<Arc<Graph>>) {
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
    pub(super) fn start_builder(self: &Arc<Self>, log: &Log, folder: Option<PathBuf>) {
        let Ok(runtime) = Handle::try_current() else { return };
        let (sender, receiver) = sync_channel(1);
        if self.graphs.builder.set(sender).is_ok() {
            let builder = GraphBuilder::new(log.clone(), folder, runtime);
            if let Err(error) = builder.start(Arc::downgrade(self), receiver) {
                tracing::warn!(%error, "vector indexes are not built: the system refused a thread");
            }
        }
        self.graphs.wake_builder();
    }
}
