//! All products of a tenant as a search sees them: a fold of their events.
//!
//! A product gets its number when it first comes, and keeps it. An inactive one is in no answer.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use event_schemas::ids::{ModelId, ProductId};
use event_schemas::product::{ProductDetails, ProductEmbedded, ProductEvent};

use super::compact_vectors::Asked;
use super::derived_vectors::DerivedVectors;
use super::encoder::{DIMENSION, encode};
use super::filter::{Facets, Filter};
use super::fusion::{VOTES_MAX, sort_first};
use super::model_vectors::{ModelVectors, NoGraph, VectorGraph};
use super::number_set::NumberSet;
use super::page::Page;
use super::plan::{Strategy, plan};
use super::question::{Answer, Found, PageStart, Question, ScoreParts, Search, Unanswerable};
use super::ranking::{Mode, Query, TextIndexes, WordVotes};
use super::{Field, Scored};

#[derive(Debug)]
struct Indexed {
    id: ProductId,
    details: ProductDetails,
}

/// A property by which products are found without looking at all of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Group {
    Category(String),
    Brand(String),
    Merchant(String),
}

/// The products of a tenant.
#[derive(Debug, Default)]
pub struct ProductIndex {
    numbers: HashMap<ProductId, u32>,
    products: Vec<Indexed>,
    texts: TextIndexes,
    models: HashMap<ModelId, ModelVectors>,
    /// Those of the server's own encoder, if it has one.
    derived: Option<DerivedVectors>,
    /// The active products.
    active: NumberSet,
    /// The price of each product, not a number without one: filters by price read no further memory.
    prices: Vec<f64>,
    in_stock: NumberSet,
    /// The active products of each category, brand and merchant.
    groups: HashMap<Group, BTreeSet<u32>>,
}

/// The most results for which a vector index is searched: to search it for more takes as long as comparing all.
pub(crate) const GRAPH_RESULTS_MAX: usize = 1_000;

/// The most vectors that a vector index may not contain yet: they are compared one by one.
pub const GRAPH_LAG_MAX: usize = 20_000;

/// The texts by which a product is found.
fn fields(details: &ProductDetails) -> [Field<'_>; 4] {
    fn text(text: &Option<String>, weight: u8) -> Field<'_> {
        Field { text: text.as_deref().unwrap_or_default(), weight }
    }
    [
        Field { text: &details.name, weight: 3 },
        text(&details.brand_name, 2),
        text(&details.category_name, 2),
        text(&details.description, 1),
    ]
}

fn groups(details: &ProductDetails) -> impl Iterator<Item = Group> {
    let category = details.category_id.as_ref().map(|id| Group::Category(id.to_string()));
    let brand = details.brand_id.as_ref().map(|id| Group::Brand(id.to_string()));
    let merchant = details.merchant_id.as_ref().map(|id| Group::Merchant(id.to_string()));
    [category, brand, merchant].into_iter().flatten()
}

impl ProductIndex {
    /// The number of active products.
    pub fn len(&self) -> usize {
        self.active.len()
    }

    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// Applies the next event of a product.
    pub fn apply(&mut self, event: &ProductEvent) {
        match event {
            ProductEvent::ProductUpserted(upserted) => self.upsert(&upserted.product_id, &upserted.details),
            ProductEvent::ProductDeactivated(deactivated) => {
                if let Some(number) = self.numbers.get(&deactivated.product_id).copied() {
                    self.leave(number);
                    self.products[number as usize].details.is_active = false;
                }
            }
            ProductEvent::ProductEmbedded(embedded) => self.embed(embedded),
        }
    }

    fn embed(&mut self, embedded: &ProductEmbedded) {
        let Some(number) = self.numbers.get(&embedded.product_id).copied() else { return };
        let vector = embedded.vector.values();
        let model = self.models.entry(embedded.model_id.clone());
        let vectors = model.or_insert_with(|| ModelVectors::new(vector.len()));
        vectors.set(number, embedded.image_id.as_ref(), vector);
    }

    fn upsert(&mut self, id: &ProductId, details: &ProductDetails) {
        let known = self.numbers.get(id).copied();
        let number =
            known.unwrap_or_else(|| u32::try_from(self.products.len()).expect("memory holds fewer products"));
        let (mut is_text_known, mut is_text_unchanged) = (false, false);
        if known.is_some() {
            let was_active = self.active.contains(number);
            is_text_known = fields(&self.products[number as usize].details) == fields(details);
            is_text_unchanged = was_active && is_text_known;
            self.leave_groups(number);
            self.products[number as usize].details = details.clone();
        } else {
            self.numbers.insert(id.clone(), number);
            self.products.push(Indexed { id: id.clone(), details: details.clone() });
            self.prices.push(f64::NAN);
        }
        self.prices[number as usize] = details.price.unwrap_or(f64::NAN);
        if details.in_stock {
            self.in_stock.insert(number);
        } else {
            self.in_stock.remove(number);
        }
        if !details.is_active {
            self.texts.remove(number);
            match &mut self.derived {
                Some(derived) if is_text_known => derived.settle(number),
                Some(derived) => derived.set(number, None),
                None => {}
            }
            return;
        }
        if !is_text_unchanged {
            self.texts.insert(number, &fields(details));
            if let Some(derived) = &mut self.derived {
                derived.change(number);
            }
        }
        self.active.insert(number);
        for group in groups(details) {
            self.groups.entry(group).or_default().insert(number);
        }
    }

    fn leave(&mut self, number: u32) {
        self.leave_groups(number);
        self.texts.remove(number);
        if let Some(derived) = &mut self.derived {
            derived.settle(number);
        }
    }

    fn leave_groups(&mut self, number: u32) {
        if !self.active.remove(number) {
            return;
        }
        for group in groups(&self.products[number as usize].details) {
            if let Some(members) = self.groups.get_mut(&group) {
                members.remove(&number);
                if members.is_empty() {
                    self.groups.remove(&group);
                }
            }
        }
    }

    /// The active products that pass the filter.
    fn candidates(&self, filter: &Filter) -> NumberSet {
        if *filter == Filter::default() {
            return self.active.clone();
        }
        let wanted = [
            filter.category_id.as_ref().map(|id| Group::Category(id.to_string())),
            filter.brand_id.as_ref().map(|id| Group::Brand(id.to_string())),
            filter.merchant_id.as_ref().map(|id| Group::Merchant(id.to_string())),
        ];
        let empty = BTreeSet::new();
        let groups = wanted.iter().flatten().map(|group| self.groups.get(group).unwrap_or(&empty));
        let smallest = groups.min_by_key(|members| members.len());
        let rest = Filter { min_price: None, max_price: None, in_stock: None, ..filter.clone() };
        let has_rest = rest != Filter::default();
        let admits = |number: &u32| {
            let price = self.prices[*number as usize];
            filter.min_price.is_none_or(|min| price >= min)
                && filter.max_price.is_none_or(|max| price <= max)
                && filter.in_stock.is_none_or(|in_stock| in_stock == self.in_stock.contains(*number))
                && (!has_rest || rest.admits(&self.products[*number as usize].details))
        };
        match smallest {
            Some(members) => members.iter().copied().filter(admits).collect(),
            None => self.active.iter().filter(admits).collect(),
        }
    }

    /// Answers a search by comparing every product that passes its filter.
    ///
    /// # Errors
    /// [`Unanswerable`]
    pub fn search(&self, search: &Search) -> Result<Answer, Unanswerable> {
        self.search_with(search, None::<&NoGraph>, usize::MAX)
    }

    /// Answers a search; with the graph of the search's model if more than `exact_max` products would be compared.
    ///
    /// # Errors
    /// [`Unanswerable`]
    pub fn search_with(
        &self,
        search: &Search,
        graph: Option<&impl VectorGraph>,
        exact_max: usize,
    ) -> Result<Answer, Unanswerable> {
        let vectors = search
            .model
            .as_ref()
            .map(|model| self.model_vectors(model))
            .map_or(Ok(None), |vectors| vectors.map(Some).ok_or(Unanswerable::UnknownModel))?;
        let mut candidates = self.candidates(&search.filter);
        let passing = candidates.len();
        let vector = self.asked_vector(search, vectors)?;
        let query = match &search.question {
            Question::Text(text, mode) => Query::Text(text, *mode),
            Question::Encoded(text, mode @ (Mode::Hybrid | Mode::Lexical), _) => Query::Text(text, *mode),
            Question::Encoded(..) | Question::Vector(_) | Question::SimilarTo(_) => Query::Vector(&vector),
        };
        if let Question::SimilarTo(id) = &search.question {
            self.numbers.get(id).map(|number| candidates.remove(*number));
        }
        let (skipped, earlier) = match &search.start {
            PageStart::Offset(offset) => (*offset, None),
            PageStart::After(continuation) => (continuation.served.len(), Some(continuation)),
        };
        if let Some(continuation) = earlier {
            candidates.keep_below(continuation.products);
        }
        let count = skipped.saturating_add(search.limit).saturating_add(1);
        let usable = graph.zip(vectors).filter(|(graph, vectors)| {
            search.min_score.is_none()
                && !vector.is_empty()
                && matches!(query, Query::Vector(_))
                && count <= GRAPH_RESULTS_MAX
                && vectors.has_at_most_after(graph.contained_changes(), GRAPH_LAG_MAX)
        });
        let mut plan = plan(passing, self.active.len(), usable.map(|_| exact_max));
        let usable = usable.filter(|_| matches!(plan.strategy, Strategy::FilteredSearch | Strategy::Search));
        let near = usable.and_then(|(graph, vectors)| vectors.nearest(graph, &vector, &candidates, count));
        let (results, total) = match (near, vectors) {
            (Some(mut near), Some(vectors)) => {
                sort_first(&mut near, count, |one, other| self.by_id(one, other));
                near.truncate(count);
                (near, vectors.count(&candidates))
            }
            _ => {
                plan.strategy = if passing == 0 { Strategy::Empty } else { Strategy::ExactScan };
                let candidates: Vec<u32> = candidates.iter().collect();
                let results = self.exact_results(search, (query, &vector), vectors, &candidates, count);
                let total = results.len();
                (results, total)
            }
        };
        let page = Page::new(&results, total, search.limit, skipped, earlier, self.products.len());
        let facets = search.facets.then(|| {
            let all: Vec<u32> = match vectors.filter(|_| total > results.len()) {
                Some(vectors) => candidates.iter().filter(|one| vectors.contains(*one)).collect(),
                None => results.iter().map(|product| product.number).collect(),
            };
            Facets::count(all.iter().map(|number| &self.products[*number as usize].details))
        });
        let parts = self.parts(search, (query, &vector), vectors, &page.products);
        let results = page.products.iter().zip(parts);
        let results = results.map(|(product, parts)| self.found(*product, parts)).collect();
        Ok(Answer { results, total: page.total, next: page.next, plan, facets })
    }

    /// The vector that is asked for; empty if only words are, or if the product has no vector.
    fn asked_vector<'a>(
        &'a self,
        search: &'a Search,
        vectors: Option<&'a ModelVectors>,
    ) -> Result<Cow<'a, [f32]>, Unanswerable> {
        match &search.question {
            Question::Text(..) if vectors.is_some() => Err(Unanswerable::NoEncoder),
            Question::Text(..) => Ok(Cow::default()),
            Question::Encoded(_, _, vector) | Question::Vector(vector) => {
                let expected = vectors.map_or(DIMENSION, ModelVectors::dimension);
                if vector.len() == expected {
                    Ok(vector.into())
                } else {
                    Err(Unanswerable::Dimension { expected })
                }
            }
            Question::SimilarTo(id) => {
                let number = *self.numbers.get(id).ok_or(Unanswerable::UnknownProduct)?;
                Ok(match vectors {
                    Some(vectors) => vectors.representative(number).unwrap_or_default(),
                    // An inactive product has no vector any more.
                    None => {
                        encode(&fields(&self.products[number as usize].details)).unwrap_or_default().into()
                    }
                })
            }
        }
    }

    /// All results, of which the first `count` are in order.
    fn exact_results(
        &self,
        search: &Search,
        (query, vector): (Query<'_>, &[f32]),
        vectors: Option<&ModelVectors>,
        candidates: &[u32],
        count: usize,
    ) -> Vec<Scored> {
        // With a minimal score, all results are needed in order, because a joined score depends on the ranks.
        let count = if search.min_score.is_some() { count.max(VOTES_MAX + 1) } else { count };
        let ids = |one, other| self.by_id(one, other);
        let mut results = match (query, vectors) {
            (Query::Vector([]), _) => Vec::new(),
            (Query::Vector(vector), Some(vectors)) => {
                let mut results = vectors.compare(vector, candidates);
                sort_first(&mut results, count, ids);
                results
            }
            (Query::Text(text, mode), Some(vectors)) => {
                let nearest = (vectors.compare(vector, candidates), WordVotes::SENTENCES);
                self.texts.join((text, mode), nearest, candidates, count, ids)
            }
            (query, None) => self.texts.rank(query, candidates, count, ids),
        };
        if let Some(min) = search.min_score {
            results.retain(|product| product.score >= min);
        }
        results
    }

    fn found(&self, product: Scored, parts: Option<ScoreParts>) -> Found {
        let Indexed { id, details } = &self.products[product.number as usize];
        Found { product_id: id.clone(), details: details.clone(), score: product.score, parts }
    }

    /// The parts of the scores of a page, if they were asked for.
    fn parts(
        &self,
        search: &Search,
        (query, vector): (Query<'_>, &[f32]),
        vectors: Option<&ModelVectors>,
        page: &[Scored],
    ) -> Vec<Option<ScoreParts>> {
        if !search.explain {
            return vec![None; page.len()];
        }
        let (hits, vector) = match query {
            Query::Vector(vector) => (Vec::new(), Some(vector.to_vec())),
            Query::Text(text, mode) => {
                let hits =
                    if mode == Mode::Semantic { Vec::new() } else { self.texts.lexical().search(text) };
                let vector = match (mode, vectors) {
                    (Mode::Lexical, _) => None,
                    (_, Some(_)) => Some(vector.to_vec()),
                    (_, None) => encode(&[Field { text, weight: 1 }]),
                };
                (hits, vector)
            }
        };
        let parts = |product: &Scored| {
            let hit = hits.iter().find(|hit| hit.number == product.number);
            let similarity = |vector: &Vec<f32>| match vectors {
                Some(vectors) => vectors.similarity(vector, product.number),
                None => self.texts.vectors().similarity(&Asked::new(vector), product.number),
            };
            Some(ScoreParts {
                lexical: hit.map(|hit| hit.score),
                words: hit.map_or(0, |hit| hit.whole_words),
                similarity: vector.as_ref().and_then(similarity),
            })
        };
        page.iter().map(parts).collect()
    }
}

mod derived;
mod lookup;
#[cfg(test)]
mod tests;
