//! An approximate vector index of one model: a navigable graph (HNSW) of usearch, over half-precision copies of the vectors.
//!
//! It only proposes vectors, which are compared again in full precision. What usearch needs from its caller is in this file:
//! - A change excludes searches and other changes. With concurrent ones, some vectors could not be found any more.
//! - Room is reserved before vectors are added, and for as many concurrent searches as there are.
//! - No function that it calls may panic, because that would end the process.
//! - It trusts the bytes of a file, so they are checked before ([`super::graph_file`]).

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use domain::search::model_vectors::VectorGraph;
use usearch::Index;
use usearch::ffi::{IndexOptions, MetricKind, ScalarKind};

/// The most searches at once.
pub(crate) const SEARCHES_MAX: usize = 32;

/// The number of links of a vector.
const CONNECTIVITY: usize = 32;
/// The number of near vectors among which the links of a new one are chosen.
const EXPANSION_ADD: usize = 128;
/// The number of near vectors that a search keeps: the more, the fewer results it misses.
const EXPANSION_SEARCH: usize = 256;
/// The number of vectors that are proposed for each result, as far as a search keeps them anyway.
const PROPOSED_PER_RESULT: usize = 3;

/// The index refused an operation.
#[derive(Debug, thiserror::Error)]
#[error("the vector index failed: {0}")]
pub(crate) struct GraphError(String);

impl GraphError {
    /// usearch's errors have no type with a name.
    fn new(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// How often vectors were added and replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Churn {
    pub(crate) added: u64,
    pub(crate) replaced: u64,
}

/// A vector of a slot, and the change that set it.
#[derive(Clone, Debug)]
pub(crate) struct ChangedVector {
    pub(crate) change: u64,
    pub(crate) slot: u32,
    pub(crate) vector: Vec<f32>,
}

struct Inner {
    index: Index,
    churn: Churn,
}

/// The graph of a model's vectors, by their slots.
pub(crate) struct Graph {
    inner: RwLock<Inner>,
    contained: AtomicU64,
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph").field("contained", &self.contained).finish_non_exhaustive()
    }
}

fn open(dimension: usize) -> Result<Index, GraphError> {
    // The vectors have length 1, so their inner product is the cosine similarity, and is faster.
    let options = IndexOptions {
        dimensions: dimension,
        metric: MetricKind::IP,
        quantization: ScalarKind::BF16,
        connectivity: CONNECTIVITY,
        expansion_add: EXPANSION_ADD,
        expansion_search: EXPANSION_SEARCH,
        multi: false,
    };
    Index::new(&options).map_err(GraphError::new)
}

impl Graph {
    /// A graph without vectors.
    pub(crate) fn new(dimension: usize) -> Result<Self, GraphError> {
        let inner = Inner { index: open(dimension)?, churn: Churn::default() };
        inner.grow(0)?;
        Ok(Self { inner: RwLock::new(inner), contained: AtomicU64::new(0) })
    }

    /// Reads a graph from a file whose bytes were checked.
    pub(crate) fn load(
        path: &Path,
        dimension: usize,
        contained: u64,
        churn: Churn,
    ) -> Result<Self, GraphError> {
        let index = open(dimension)?;
        index.load(text(path)?).map_err(GraphError::new)?;
        if index.dimensions() != dimension {
            return Err(GraphError(format!("the file has vectors of {} numbers", index.dimensions())));
        }
        index.change_expansion_search(EXPANSION_SEARCH);
        let inner = Inner { index, churn };
        inner.grow(0)?;
        Ok(Self { inner: RwLock::new(inner), contained: AtomicU64::new(contained) })
    }

    /// Writes the graph to a file. Searches continue.
    pub(crate) fn save(&self, path: &Path) -> Result<(), GraphError> {
        self.read().index.save(text(path)?).map_err(GraphError::new)
    }

    pub(crate) fn churn(&self) -> Churn {
        self.read().churn
    }

    /// The number of vectors.
    pub(crate) fn len(&self) -> usize {
        self.read().index.size()
    }

    /// Adds vectors, or replaces those of their slots; they are in the order of their changes.
    ///
    /// # Errors
    /// If the index refuses one: then it must not be used any more.
    pub(crate) fn add(&self, changed: &[ChangedVector]) -> Result<(), GraphError> {
        let Some(last) = changed.last() else { return Ok(()) };
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.reserve(changed.len())?;
        for ChangedVector { slot, vector, .. } in changed {
            let key = u64::from(*slot);
            if inner.index.contains(key) {
                inner.index.remove(key).map_err(GraphError::new)?;
                inner.churn.replaced += 1;
            }
            inner.index.add(key, vector).map_err(GraphError::new)?;
            inner.churn.added += 1;
        }
        self.contained.store(last.change, Ordering::Release);
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Reserves room for further vectors, if there is none. Those that were replaced may still take some.
    fn reserve(&self, further: usize) -> Result<(), GraphError> {
        let taken = self.index.size().max(self.churn.added as usize);
        if taken + further < self.index.capacity() { Ok(()) } else { self.grow(further) }
    }

    fn grow(&self, further: usize) -> Result<(), GraphError> {
        let taken = self.index.size().max(self.churn.added as usize);
        let capacity = (taken + further).max(1_024) * 3 / 2;
        self.index.reserve_capacity_and_threads(capacity, SEARCHES_MAX + 1).map_err(GraphError::new)
    }
}

impl VectorGraph for Graph {
    fn contained_changes(&self) -> u64 {
        self.contained.load(Ordering::Acquire)
    }

    /// Nothing if the index refuses the search: then the caller compares all vectors.
    fn nearest(&self, vector: &[f32], count: usize, admits: impl Fn(u32) -> bool) -> Vec<u32> {
        let admits = |key: u64| u32::try_from(key).is_ok_and(&admits);
        // Further ones, because half precision orders near vectors otherwise than full precision does.
        let wanted = (PROPOSED_PER_RESULT * count).min(EXPANSION_SEARCH).max(count);
        let found = self.read().index.filtered_search(vector, wanted, admits);
        match found {
            Ok(found) => found.keys.into_iter().filter_map(|key| u32::try_from(key).ok()).collect(),
            Err(error) => {
                tracing::warn!(%error, "the vector index refused a search; all vectors are compared instead");
                Vec::new()
            }
        }
    }
}

fn text(path: &Path) -> Result<&str, GraphError> {
    path.to_str().ok_or_else(|| GraphError(format!("the path {} is not UTF-8", path.display())))
}
