//! The vectors that the server computes from the texts of products, with the model of its own encoder.
//!
//! They follow the texts: the fold notes which products have changed, in order, and the encoder, which is not part of the
//! core, hands in their vectors afterwards. A vector counts only if its text is still that of the product.

use std::collections::{BTreeMap, HashMap};

use event_schemas::ids::ModelId;
use event_schemas::product::ProductDetails;

use super::model_vectors::ModelVectors;

/// A product whose vector has to be computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingText {
    pub number: u32,
    pub text: String,
}

/// The vectors of the server's model.
#[derive(Debug)]
pub struct DerivedVectors {
    model: ModelId,
    vectors: ModelVectors,
    /// The products whose texts have changed, by the change, and their changes.
    pending: BTreeMap<u64, u32>,
    changes_of: HashMap<u32, u64>,
    changes: u64,
}

/// The text that represents a product.
pub(super) fn text(details: &ProductDetails) -> String {
    let parts = [&details.brand_name, &details.category_name, &details.description];
    let parts = parts.into_iter().filter_map(|part| part.as_deref()).filter(|part| !part.is_empty());
    // The name first: a long text is cut at the end.
    std::iter::once(details.name.as_str()).chain(parts).collect::<Vec<_>>().join(". ")
}

impl DerivedVectors {
    pub(super) fn new(model: ModelId, dimension: usize) -> Self {
        Self {
            model,
            vectors: ModelVectors::new(dimension),
            pending: BTreeMap::new(),
            changes_of: HashMap::new(),
            changes: 0,
        }
    }

    pub fn model(&self) -> &ModelId {
        &self.model
    }

    pub fn vectors(&self) -> &ModelVectors {
        &self.vectors
    }

    /// The number of products without the vector of their current text.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The last change of a text so far.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether all texts up to this change have their vectors.
    pub fn has_reached(&self, change: u64) -> bool {
        self.pending.keys().next().is_none_or(|first| *first > change)
    }

    pub(super) fn first_pending(&self, count: usize) -> impl Iterator<Item = u32> {
        self.pending.values().take(count).copied()
    }

    /// The text of a product has changed, and the product is active.
    pub(super) fn change(&mut self, number: u32) {
        self.settle(number);
        self.changes += 1;
        self.pending.insert(self.changes, number);
        self.changes_of.insert(number, self.changes);
    }

    /// No vector of the product is awaited any more.
    pub(super) fn settle(&mut self, number: u32) {
        if let Some(change) = self.changes_of.remove(&number) {
            self.pending.remove(&change);
        }
    }

    /// Sets the vector of a product; none if its text has no vector.
    pub(super) fn set(&mut self, number: u32, vector: Option<&[f32]>) {
        self.settle(number);
        match vector {
            Some(vector) => self.vectors.set(number, None, vector),
            None => self.vectors.clear(number),
        }
    }
}
