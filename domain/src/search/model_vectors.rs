//! The vectors of one embedding model, which its callers sent: of products as a whole, and of their images.
//!
//! Each vector has a slot, which its later versions replace. A product is as similar to a query as the best of its vectors.

use std::borrow::Cow;
use std::collections::BTreeMap;

use event_schemas::ids::ImageId;

use super::Scored;
use super::encoder::normalised;
use super::exact::{Vectors, dot};
use super::number_set::NumberSet;

/// An approximate index of the vectors of a model. It may lag behind them: what it finds is compared again, together with the
/// vectors that it does not contain yet, so that it can only miss results, and never makes wrong ones.
pub trait VectorGraph {
    /// All changes up to this one are contained.
    fn contained_changes(&self) -> u64;

    /// About `count` admitted slots that are near to the vector, in any order.
    fn nearest(&self, vector: &[f32], count: usize, admits: impl Fn(u32) -> bool) -> Vec<u32>;
}

/// No vector index: every vector is compared.
#[derive(Clone, Copy, Debug)]
pub enum NoGraph {}

impl VectorGraph for NoGraph {
    fn contained_changes(&self) -> u64 {
        match *self {}
    }

    fn nearest(&self, _: &[f32], _: usize, _: impl Fn(u32) -> bool) -> Vec<u32> {
        match *self {}
    }
}

/// A product with a vector, or one of its images.
#[derive(Debug)]
struct Owner {
    product: u32,
    image: Option<ImageId>,
    /// A further slot of the same product.
    next: Option<u32>,
    /// The change that set its vector.
    change: u64,
}

/// The vectors of a model.
#[derive(Debug)]
pub struct ModelVectors {
    vectors: Vectors,
    owners: Vec<Owner>,
    /// The first slot of each product.
    first: Vec<Option<u32>>,
    /// The products with a vector of their own, or of an image.
    products: NumberSet,
    /// The number of changes so far; each has a number, from 1.
    changes: u64,
    /// The slots by their last change.
    by_change: BTreeMap<u64, u32>,
}

impl ModelVectors {
    pub fn new(dimension: usize) -> Self {
        Self {
            vectors: Vectors::new(dimension),
            owners: Vec::new(),
            first: Vec::new(),
            products: NumberSet::default(),
            changes: 0,
            by_change: BTreeMap::new(),
        }
    }

    pub fn dimension(&self) -> usize {
        self.vectors.dimension()
    }

    /// The number of vectors.
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// The number of the last change.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Sets the vector of a product, or of one of its images. One without a direction or with another length is ignored: no
    /// command records it.
    pub fn set(&mut self, product: u32, image: Option<&ImageId>, vector: &[f32]) {
        if vector.len() != self.dimension() {
            return;
        }
        let Some(vector) = normalised(vector.to_vec()) else { return };
        self.changes += 1;
        let known = self.slots(product).find(|slot| self.owners[*slot as usize].image.as_ref() == image);
        let slot = known.unwrap_or_else(|| {
            let slot = u32::try_from(self.owners.len()).expect("memory holds fewer vectors");
            if self.first.len() <= product as usize {
                self.first.resize(product as usize + 1, None);
            }
            let next = self.first[product as usize].replace(slot);
            self.owners.push(Owner { product, image: image.cloned(), next, change: 0 });
            slot
        });
        self.products.insert(product);
        let earlier = std::mem::replace(&mut self.owners[slot as usize].change, self.changes);
        self.by_change.remove(&earlier);
        self.by_change.insert(self.changes, slot);
        self.vectors.insert(slot, &vector);
    }

    /// Removes the vectors of a product, whose slots stay its own.
    pub(super) fn clear(&mut self, product: u32) {
        let slots: Vec<u32> = self.slots(product).collect();
        for slot in slots {
            self.by_change.remove(&self.owners[slot as usize].change);
            self.vectors.remove(slot);
        }
        self.products.remove(product);
    }

    fn slots(&self, product: u32) -> impl Iterator<Item = u32> {
        let first = self.first.get(product as usize).copied().flatten();
        std::iter::successors(first, |slot| self.owners[*slot as usize].next)
    }

    /// All vectors of a product, of its images too.
    pub fn vectors_of(&self, product: u32) -> impl Iterator<Item = &[f32]> {
        self.slots(product).filter_map(|slot| self.vector(slot))
    }

    /// The vector in a slot.
    pub fn vector(&self, slot: u32) -> Option<&[f32]> {
        self.vectors.get(slot)
    }

    /// The product that a slot belongs to, and the image if its vector is that of one.
    pub fn owner(&self, slot: u32) -> (u32, Option<&ImageId>) {
        let owner = &self.owners[slot as usize];
        (owner.product, owner.image.as_ref())
    }

    /// Up to `count` slots whose vectors were set after this change, with their changes, the earliest first.
    pub fn changed_after(&self, change: u64, count: usize) -> impl Iterator<Item = (u64, u32)> {
        self.by_change.range(change + 1..).take(count).map(|(change, slot)| (*change, *slot))
    }

    /// The number of vectors that were not removed since.
    pub fn present(&self) -> usize {
        self.by_change.len()
    }

    /// The number of vectors that were set after this change.
    pub fn count_after(&self, change: u64) -> usize {
        self.by_change.range(change + 1..).count()
    }

    /// Whether at most `count` vectors were set after this change.
    pub fn has_at_most_after(&self, change: u64, count: usize) -> bool {
        self.by_change.range(change + 1..).nth(count).is_none()
    }

    /// The vector that represents a product: its own, or the mean of its images'.
    pub fn representative(&self, product: u32) -> Option<Cow<'_, [f32]>> {
        let mut slots: Vec<u32> = self.slots(product).collect();
        // In one order, so that the sum is the same after a restart.
        slots.sort_unstable_by(|one, other| self.image(*one).cmp(&self.image(*other)));
        let (first, vector) = slots.first().and_then(|slot| Some((*slot, self.vector(*slot)?)))?;
        if self.image(first).is_none() || slots.len() == 1 {
            return Some(vector.into());
        }
        let mut sum = vec![0.0; self.dimension()];
        for vector in slots.iter().filter_map(|slot| self.vector(*slot)) {
            sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value);
        }
        normalised(sum).map(Cow::from)
    }

    fn image(&self, slot: u32) -> Option<&ImageId> {
        self.owners[slot as usize].image.as_ref()
    }

    /// The cosine similarity of a product's best vector.
    pub fn similarity(&self, vector: &[f32], product: u32) -> Option<f32> {
        let similarities = self.slots(product).filter_map(|slot| self.vector(slot));
        similarities.map(|other| dot(vector, other)).max_by(f32::total_cmp)
    }

    /// The similarity of each of these products, as far as they have a vector.
    pub fn compare(&self, vector: &[f32], products: &[u32]) -> Vec<Scored> {
        let scored =
            |number: &u32| Some(Scored { number: *number, score: self.similarity(vector, *number)? });
        products.iter().filter_map(scored).collect()
    }

    /// Whether the product, or one of its images, has a vector.
    pub fn contains(&self, product: u32) -> bool {
        self.products.contains(product)
    }

    /// Whether this image of the product has a vector.
    pub fn contains_image(&self, product: u32, image: &ImageId) -> bool {
        self.slots(product).any(|slot| self.image(slot) == Some(image) && self.vector(slot).is_some())
    }

    /// The number of these products that have a vector.
    pub fn count(&self, products: &NumberSet) -> usize {
        self.products.count_common(products)
    }

    /// The nearest `count` of the products, and perhaps others, in no order. None if the graph finds too few.
    pub fn nearest(
        &self,
        graph: &impl VectorGraph,
        vector: &[f32],
        products: &NumberSet,
        count: usize,
    ) -> Option<Vec<Scored>> {
        let admits =
            |slot: u32| self.owners.get(slot as usize).is_some_and(|owner| products.contains(owner.product));
        // Several slots can be of one product.
        let slots_wanted = count.saturating_mul(self.len().div_ceil(self.products.len().max(1)));
        // Before the graph is searched: it may contain more meanwhile, but not less.
        let contained = graph.contained_changes();
        let mut slots = graph.nearest(vector, slots_wanted, admits);
        slots.extend(self.changed_after(contained, usize::MAX).map(|(_, slot)| slot));
        slots.retain(|slot| admits(*slot));
        let mut found: Vec<u32> = slots.iter().map(|slot| self.owners[*slot as usize].product).collect();
        found.sort_unstable();
        found.dedup();
        let is_enough = found.len() >= count || found.len() >= self.count(products);
        is_enough.then(|| self.compare(vector, &found))
    }
}

#[cfg(test)]
mod tests;
