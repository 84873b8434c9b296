//! All cutouts of a tenant as the search for candidates sees them: a fold of their events.
//!
//! A cutout gets its number when it first comes, and keeps it.

use std::collections::{BTreeSet, HashMap};

use event_schemas::cutout::{CutoutEvent, CutoutId};
use event_schemas::ids::{ModelId, ProductId};
use serde::{Deserialize, Serialize};

use crate::search::model_vectors::{ModelVectors, VectorGraph};
use crate::search::number_set::NumberSet;
use crate::search::product_index::{GRAPH_LAG_MAX, GRAPH_RESULTS_MAX};

/// What is added to the similarity of a cutout whose predicted product code is that of the product: about the difference between a
/// good and a mediocre candidate, because the prediction is often wrong.
pub const UPC_BOOST: f32 = 0.1;

#[derive(Debug)]
struct Indexed {
    id: CutoutId,
    predicted_upc: Option<Box<str>>,
    product: Option<ProductId>,
}

/// The cutouts of a tenant.
#[derive(Debug, Default)]
pub struct CutoutIndex {
    numbers: HashMap<CutoutId, u32>,
    cutouts: Vec<Indexed>,
    models: HashMap<ModelId, ModelVectors>,
    /// Those that show no product.
    unmatched: NumberSet,
    of_code: HashMap<Box<str>, BTreeSet<u32>>,
    /// The cutouts that show each product.
    of_product: HashMap<ProductId, BTreeSet<u32>>,
}

/// A cutout that may show a product.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub cutout_id: CutoutId,
    /// The cosine similarity of the nearest of the product's vectors.
    pub similarity: f32,
    /// Whether the predicted product code is that of the product.
    pub upc_agrees: bool,
    /// The product that it shows already.
    pub product: Option<ProductId>,
}

/// The place of a candidate in their order: unmatched ones first, then by score, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rank {
    is_matched: bool,
    score: f32,
    id: CutoutId,
}

impl Rank {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let scores = other.score.total_cmp(&self.score);
        self.is_matched.cmp(&other.is_matched).then(scores).then(self.id.cmp(&other.id))
    }
}

/// The product whose candidates are asked for, and the page of them.
#[derive(Clone, Debug)]
pub struct CandidateSearch<'a> {
    pub model_id: &'a ModelId,
    /// Its own cutouts are no candidates.
    pub product_id: &'a ProductId,
    /// The vectors of the product, its images and its cutouts.
    pub vectors: &'a [&'a [f32]],
    pub upc: Option<&'a str>,
    /// Only cutouts that show a product, or only those that show none.
    pub is_matched: Option<bool>,
    /// Only candidates after this one.
    pub after: Option<Rank>,
    pub limit: usize,
}

fn score(similarity: f32, upc_agrees: bool) -> f32 {
    similarity + if upc_agrees { UPC_BOOST } else { 0.0 }
}

impl Candidate {
    /// The similarity with the boost.
    pub fn score(&self) -> f32 {
        score(self.similarity, self.upc_agrees)
    }

    pub fn rank(&self) -> Rank {
        Rank { is_matched: self.product.is_some(), score: self.score(), id: self.cutout_id }
    }
}

impl CutoutIndex {
    /// The number of cutouts.
    pub fn len(&self) -> usize {
        self.cutouts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.cutouts.is_empty()
    }

    /// The cutout with a number: each has one below [`Self::len`], in the order in which they came.
    pub fn id(&self, number: u32) -> Option<CutoutId> {
        self.cutouts.get(number as usize).map(|cutout| cutout.id)
    }

    /// Applies the next event of a cutout.
    pub fn apply(&mut self, event: &CutoutEvent) {
        let known = self.numbers.get(&event.cutout_id()).copied();
        match (event, known) {
            (CutoutEvent::CutoutSynced(synced), known) => {
                let predicted_upc = synced.predicted_upc.as_deref().map(Box::from);
                let number = known.unwrap_or_else(|| {
                    let number = u32::try_from(self.cutouts.len()).expect("memory holds fewer cutouts");
                    self.numbers.insert(synced.cutout_id, number);
                    self.cutouts.push(Indexed { id: synced.cutout_id, predicted_upc: None, product: None });
                    self.unmatched.insert(number);
                    number
                });
                self.set_code(number, predicted_upc);
            }
            (CutoutEvent::CutoutEmbedded(embedded), Some(number)) => {
                let vector = embedded.vector.values();
                let model = self.models.entry(embedded.model_id.clone());
                model.or_insert_with(|| ModelVectors::new(vector.len())).set(number, None, vector);
            }
            (CutoutEvent::CutoutMatched(matched), Some(number)) => {
                self.show(number, Some(&matched.product_id));
            }
            (CutoutEvent::CutoutUnmatched(_), Some(number)) => self.show(number, None),
            // No command records anything about a cutout before it arrives.
            (_, None) => {}
        }
    }

    fn set_code(&mut self, number: u32, code: Option<Box<str>>) {
        let earlier = std::mem::replace(&mut self.cutouts[number as usize].predicted_upc, code.clone());
        if let Some(earlier) = earlier
            && let Some(cutouts) = self.of_code.get_mut(&earlier)
        {
            cutouts.remove(&number);
            if cutouts.is_empty() {
                self.of_code.remove(&earlier);
            }
        }
        if let Some(code) = code {
            self.of_code.entry(code).or_default().insert(number);
        }
    }

    /// Sets the product that a cutout shows.
    fn show(&mut self, number: u32, product: Option<&ProductId>) {
        if product.is_some() {
            self.unmatched.remove(number);
        } else {
            self.unmatched.insert(number);
        }
        let earlier = std::mem::replace(&mut self.cutouts[number as usize].product, product.cloned());
        if let Some(earlier) = earlier
            && let Some(cutouts) = self.of_product.get_mut(&earlier)
        {
            cutouts.remove(&number);
            if cutouts.is_empty() {
                self.of_product.remove(&earlier);
            }
        }
        if let Some(product) = product {
            self.of_product.entry(product.clone()).or_default().insert(number);
        }
    }

    /// The id of a cutout, and the product that it shows.
    pub fn cutout(&self, number: u32) -> (CutoutId, Option<&ProductId>) {
        let Indexed { id, product, .. } = &self.cutouts[number as usize];
        (*id, product.as_ref())
    }

    /// The number of cutouts that show a product.
    pub fn shown_by(&self, product: &ProductId) -> usize {
        self.of_product.get(product).map_or(0, BTreeSet::len)
    }

    /// The vectors of the cutouts that show a product.
    pub fn vectors_of(&self, model: &ModelId, product: &ProductId) -> impl Iterator<Item = &[f32]> {
        let cutouts = self.of_product.get(product).into_iter().flatten();
        let vectors = self.models.get(model);
        cutouts.filter_map(move |number| vectors?.vectors_of(*number).next())
    }

    /// Removes the vectors of a model.
    pub fn delete_model(&mut self, model: &ModelId) {
        self.models.remove(model);
    }

    /// The models of which there are vectors, with these.
    pub fn models(&self) -> impl Iterator<Item = (&ModelId, &ModelVectors)> {
        self.models.iter()
    }

    pub fn model_vectors(&self, model: &ModelId) -> Option<&ModelVectors> {
        self.models.get(model)
    }

    /// The cutouts that are nearest to any of the vectors. Without a graph, or if it cannot answer, every one is compared.
    pub fn candidates(
        &self,
        search: &CandidateSearch<'_>,
        graph: Option<&impl VectorGraph>,
    ) -> Vec<Candidate> {
        let Some(vectors) = self.models.get(search.model_id) else { return Vec::new() };
        let near = graph.and_then(|graph| self.near(search, vectors, graph));
        let compared: Vec<u32> = near.unwrap_or_else(|| (0..self.cutouts.len() as u32).collect());
        let ranked = |number: u32| {
            let cutout = &self.cutouts[number as usize];
            let is_matched = cutout.product.is_some();
            let is_other = search.is_matched.is_some_and(|wanted| wanted != is_matched);
            if is_other || cutout.product.as_ref() == Some(search.product_id) {
                return None;
            }
            let similarities = search.vectors.iter().filter_map(|vector| vectors.similarity(vector, number));
            let (cutout_id, similarity) = (cutout.id, similarities.max_by(f32::total_cmp)?);
            let upc_agrees = search.upc.is_some() && cutout.predicted_upc.as_deref() == search.upc;
            let rank = Rank { is_matched, score: score(similarity, upc_agrees), id: cutout_id };
            let is_later = search.after.is_none_or(|after| after.cmp(&rank).is_lt());
            is_later.then_some((rank, number, similarity, upc_agrees))
        };
        let mut found: Vec<_> = compared.into_iter().filter_map(ranked).collect();
        if found.len() > search.limit {
            found.select_nth_unstable_by(search.limit, |one, other| one.0.cmp(&other.0));
            found.truncate(search.limit);
        }
        found.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        let candidate = |(_, number, similarity, upc_agrees): (Rank, u32, f32, bool)| {
            let Indexed { id, product, .. } = &self.cutouts[number as usize];
            Candidate { cutout_id: *id, similarity, upc_agrees, product: product.clone() }
        };
        found.into_iter().map(candidate).collect()
    }

    /// The cutouts among which those of a first page are: the nearest unmatched ones, and those with the product's code, which may
    /// pass them. None if the graph cannot answer, or if the page has matched ones.
    fn near(
        &self,
        search: &CandidateSearch<'_>,
        vectors: &ModelVectors,
        graph: &impl VectorGraph,
    ) -> Option<Vec<u32>> {
        let is_usable = search.after.is_none()
            && search.is_matched != Some(true)
            && search.limit <= GRAPH_RESULTS_MAX
            && vectors.count(&self.unmatched) >= search.limit
            && vectors.has_at_most_after(graph.contained_changes(), GRAPH_LAG_MAX);
        if !is_usable {
            return None;
        }
        let of_code = search.upc.and_then(|code| self.of_code.get(code));
        let mut near: BTreeSet<u32> = of_code.cloned().unwrap_or_default();
        for vector in search.vectors {
            let found = vectors.nearest(graph, vector, &self.unmatched, search.limit)?;
            near.extend(found.into_iter().map(|found| found.number));
        }
        Some(near.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use event_schemas::cutout::{CutoutEmbedded, CutoutMatched, CutoutSynced, CutoutUnmatched};
    use event_schemas::vector::Vector;
    use proptest::prelude::*;

    use super::*;
    use crate::scenario::id;
    use crate::search::model_vectors::NoGraph;

    const NO_GRAPH: Option<&NoGraph> = None;

    /// A graph that contains every change, and proposes every admitted vector.
    struct Everything {
        slots: u32,
    }

    impl VectorGraph for Everything {
        fn contained_changes(&self) -> u64 {
            u64::from(self.slots)
        }

        fn nearest(&self, _: &[f32], _: usize, admits: impl Fn(u32) -> bool) -> Vec<u32> {
            (0..self.slots).filter(|slot| admits(*slot)).collect()
        }
    }

    proptest! {
        #[test]
        fn candidates_of_a_graph_are_those_of_a_scan(
            cutouts in proptest::collection::vec((0..3_u8, -1.0..1.0_f32, 0..4_u8), 1..40), limit in 1..6_usize,
        ) {
            let code = |n: u8| (n == 0).then_some("7");
            let all: Vec<_> = cutouts.iter().map(|(n, x, _)| (code(*n), [*x, 0.5])).collect();
            let mut index = index(&all);
            for (number, (.., product)) in (1..).zip(&cutouts) {
                if *product == 0 {
                    index.apply(&matched(number));
                }
            }
            let (model_id, product_id) = (id("m"), id("q"));
            let vectors: &[&[f32]] = &[&[1.0, 0.0], &[-0.6, 0.8]];
            let search = CandidateSearch {
                model_id: &model_id,
                product_id: &product_id,
                vectors,
                upc: Some("7"),
                is_matched: None,
                after: None,
                limit,
            };
            let graph = Everything { slots: cutouts.len() as u32 };
            prop_assert_eq!(index.candidates(&search, Some(&graph)), index.candidates(&search, NO_GRAPH));
        }
    }

    /// Cutouts by their predicted codes and vectors, numbered from 1.
    fn index(cutouts: &[(Option<&str>, [f32; 2])]) -> CutoutIndex {
        let mut index = CutoutIndex::default();
        for (number, (upc, values)) in (1_u64..).zip(cutouts) {
            let cutout_id = CutoutId::new(number).unwrap();
            let (image_url, predicted_upc) = ("/1.jpg".to_owned(), upc.map(str::to_owned));
            index.apply(&CutoutSynced { cutout_id, image_url, predicted_upc }.into());
            let vector = Vector::new(*values);
            index.apply(&CutoutEmbedded { cutout_id, model_id: id("m"), vector }.into());
        }
        index
    }

    /// The ids of the candidates of a product with the code 7.
    fn found(index: &CutoutIndex, vectors: &[&[f32]], product: &str, is_matched: Option<bool>) -> String {
        let (model_id, product_id) = (id("m"), id(product));
        let search = CandidateSearch {
            model_id: &model_id,
            product_id: &product_id,
            vectors,
            upc: Some("7"),
            is_matched,
            after: None,
            limit: 10,
        };
        let ids = index.candidates(&search, NO_GRAPH).into_iter().map(|found| found.cutout_id.to_string());
        ids.collect::<Vec<_>>().join(" ")
    }

    fn matched(number: u64) -> CutoutEvent {
        let cutout_id = CutoutId::new(number).unwrap();
        CutoutMatched { cutout_id, product_id: id("p"), similarity: None }.into()
    }

    #[test]
    fn nearest_to_any_vector_come_first_and_matched_ones_last() {
        let mut index =
            index(&[(None, [1.0, 0.0]), (None, [0.8, 0.6]), (None, [0.0, 1.0]), (None, [-1.0, 0.0])]);
        assert_eq!(found(&index, &[&[1.0, 0.0]], "q", None), "1 2 3 4");
        assert_eq!(found(&index, &[&[1.0, 0.0], &[0.0, 1.0]], "q", None), "1 3 2 4");
        index.apply(&matched(1));
        assert_eq!(found(&index, &[&[1.0, 0.0]], "q", None), "2 3 4 1");
        assert_eq!(found(&index, &[&[1.0, 0.0]], "q", Some(true)), "1");
        assert_eq!(found(&index, &[&[1.0, 0.0]], "q", Some(false)), "2 3 4");
        let own = id("p");
        assert_eq!(found(&index, &[&[1.0, 0.0]], "p", None), "2 3 4");
        assert_eq!((index.shown_by(&own), index.vectors_of(&id("m"), &own).count()), (1, 1));
        let unmatched = CutoutUnmatched { cutout_id: id("1"), product_id: id("p") };
        index.apply(&unmatched.into());
        assert_eq!(found(&index, &[&[1.0, 0.0]], "q", None), "1 2 3 4");
        assert_eq!(index.shown_by(&id("p")), 0);
        assert_eq!(found(&index, &[], "q", None), "");
        index.delete_model(&id("m"));
        assert_eq!(found(&index, &[&[1.0, 0.0]], "q", None), "");
    }

    #[test]
    fn agreeing_product_code_is_a_boost_and_no_key() {
        let index = index(&[(None, [1.0, 0.0]), (Some("7"), [0.95, 0.312]), (Some("7"), [0.0, 1.0])]);
        assert_eq!(found(&index, &[&[1.0, 0.0]], "q", None), "2 1 3");
    }

    #[test]
    fn pages_of_candidates_continue_after_the_last_one() {
        let mut index = index(&[(None, [1.0, 0.0]); 5]);
        index.apply(&matched(2));
        let (model_id, product_id) = (id("m"), id("7"));
        let (mut after, mut all) = (None, Vec::new());
        loop {
            let vectors: &[&[f32]] = &[&[1.0, 0.0]];
            let (upc, is_matched, limit) = (None, None, 2);
            let search = CandidateSearch {
                model_id: &model_id,
                product_id: &product_id,
                vectors,
                upc,
                is_matched,
                after,
                limit,
            };
            let page = index.candidates(&search, NO_GRAPH);
            let Some(last) = page.last() else { break };
            after = Some(last.rank());
            all.extend(page.iter().map(|found| found.cutout_id.get()));
        }
        assert_eq!(all, [1, 3, 4, 5, 2]);
    }
}
