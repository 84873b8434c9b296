//! What recommendations read of an index: products by number, and their vectors.

use std::cmp::Ordering;

use event_schemas::ids::ProductId;
use event_schemas::product::ProductDetails;

use super::super::Scored;
use super::super::compact_vectors::Asked;
use super::super::encoder::encode;
use super::super::filter::Filter;
use super::super::fusion::sort_first;
use super::super::ranking::{Mode, Query};
use super::{ProductIndex, fields};

impl ProductIndex {
    /// The number of a product that was ever in the catalogue.
    pub fn number(&self, id: &ProductId) -> Option<u32> {
        self.numbers.get(id).copied()
    }

    /// The number of products, with the inactive ones: each has a number below it, in the order in which they came.
    pub fn known(&self) -> usize {
        self.products.len()
    }

    pub fn id(&self, number: u32) -> &ProductId {
        &self.products[number as usize].id
    }

    pub fn details(&self, number: u32) -> &ProductDetails {
        &self.products[number as usize].details
    }

    /// The active products that pass the filter, in ascending order.
    pub fn passing(&self, filter: &Filter) -> Vec<u32> {
        self.candidates(filter).iter().collect()
    }

    /// The vector of a product, of an inactive one too; None if its texts contain no word.
    pub fn vector(&self, number: u32) -> Option<Vec<f32>> {
        if self.details(number).is_active {
            return self.texts.vectors().get(number);
        }
        encode(&fields(self.details(number)))
    }

    /// Whether [`Self::vector`] has a vector.
    pub fn has_vector(&self, number: u32) -> bool {
        match self.details(number).is_active {
            true => self.texts.vectors().contains(number),
            false => encode(&fields(self.details(number))).is_some(),
        }
    }

    /// The number of products with a vector of the built-in model.
    pub fn vector_count(&self) -> usize {
        self.active.iter().filter(|number| self.texts.vectors().contains(*number)).count()
    }

    /// The cosine similarity of a vector with that of a product.
    pub fn similarity(&self, asked: &Asked, number: u32) -> Option<f32> {
        self.texts.vectors().similarity(asked, number)
    }

    /// The cosine similarity of the vectors of two active products.
    pub fn similarity_between(&self, one: u32, other: u32) -> Option<f32> {
        self.texts.vectors().between(one, other)
    }

    /// The name of a product with its brand and category.
    pub fn text(&self, number: u32) -> String {
        let details = self.details(number);
        let parts = [Some(&details.name), details.brand_name.as_ref(), details.category_name.as_ref()];
        parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    /// The active products that contain whole words of a text, those with the rarest and most words first.
    pub fn with_words(&self, text: &str) -> Vec<u32> {
        let hits = self.texts.lexical().search(text).into_iter().filter(|hit| hit.whole_words > 0);
        let mut hits: Vec<Scored> = hits.map(|hit| Scored { number: hit.number, score: hit.score }).collect();
        sort_first(&mut hits, usize::MAX, |one, other| self.by_id(one, other));
        hits.into_iter().map(|hit| hit.number).collect()
    }

    /// The best of the products for a query, in order.
    pub fn best(&self, query: &str, products: &[u32], count: usize) -> Vec<u32> {
        let ids = |one, other| self.by_id(one, other);
        let mut ranked = self.texts.rank(Query::Text(query, Mode::Hybrid), products, count, ids);
        ranked.truncate(count);
        ranked.into_iter().map(|product| product.number).collect()
    }

    /// The products whose vectors are nearest, in order.
    pub fn nearest(&self, vector: &[f32], products: &[u32], count: usize) -> Vec<Scored> {
        let mut nearest = self.texts.vectors().compare(vector, products);
        sort_first(&mut nearest, count, |one, other| self.by_id(one, other));
        nearest.truncate(count);
        nearest
    }

    pub fn by_id(&self, one: u32, other: u32) -> Ordering {
        self.id(one).cmp(self.id(other))
    }
}
