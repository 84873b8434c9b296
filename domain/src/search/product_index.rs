//! All products of a tenant as a search sees them: a fold of their events.
//!
//! A product gets its number when it first comes, and keeps it. An inactive one is in no answer.

use std::collections::{BTreeSet, HashMap};

use event_schemas::ids::ProductId;
use event_schemas::product::{ProductDetails, ProductEvent};
use schemars::JsonSchema;
use serde::Serialize;

use super::encoder::encode;
use super::filter::{Facets, Filter};
use super::fusion::VOTES_MAX;
use super::page::Continuation;
use super::plan::{Plan, plan};
use super::ranking::{Mode, Query, TextIndexes};
use super::{Field, Scored};

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    Text(String, Mode),
    /// A vector of length 1.
    Vector(Vec<f32>),
    /// Products that are similar to this one, which is not among them.
    SimilarTo(ProductId),
}

/// Which of the results are answered.
#[derive(Clone, Debug, PartialEq)]
pub enum PageStart {
    Offset(usize),
    /// After the pages so far.
    After(Continuation),
}

/// A search.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    pub question: Question,
    pub filter: Filter,
    pub min_score: Option<f32>,
    pub start: PageStart,
    pub limit: usize,
    pub facets: bool,
    pub explain: bool,
}

/// The parts of a result's score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ScoreParts {
    /// The score of the words (BM25); null if it contains none of the query, or words were not compared.
    pub lexical: Option<f32>,
    /// The number of the query's words that it contains, each with at most one edit.
    pub words: u8,
    /// The cosine similarity of its vector with that of the query; null if vectors were not compared.
    pub similarity: Option<f32>,
}

/// A result.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub product_id: ProductId,
    pub details: ProductDetails,
    pub score: f32,
    /// Only if they were asked for.
    pub parts: Option<ScoreParts>,
}

/// The answer to a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub results: Vec<Found>,
    /// The number of results on all pages.
    pub total: usize,
    /// None on the last page.
    pub next: Option<Continuation>,
    pub plan: Plan,
    pub facets: Option<Facets>,
}

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
    /// The active products.
    active: BTreeSet<u32>,
    /// The active products of each category, brand and merchant.
    groups: HashMap<Group, BTreeSet<u32>>,
}

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
        }
    }

    fn upsert(&mut self, id: &ProductId, details: &ProductDetails) {
        let known = self.numbers.get(id).copied();
        let number =
            known.unwrap_or_else(|| u32::try_from(self.products.len()).expect("memory holds fewer products"));
        let mut is_text_unchanged = false;
        if known.is_some() {
            let was_active = self.active.contains(&number);
            is_text_unchanged =
                was_active && fields(&self.products[number as usize].details) == fields(details);
            self.leave_groups(number);
            self.products[number as usize].details = details.clone();
        } else {
            self.numbers.insert(id.clone(), number);
            self.products.push(Indexed { id: id.clone(), details: details.clone() });
        }
        if !details.is_active {
            self.texts.remove(number);
            return;
        }
        if !is_text_unchanged {
            self.texts.insert(number, &fields(details));
        }
        self.active.insert(number);
        for group in groups(details) {
            self.groups.entry(group).or_default().insert(number);
        }
    }

    fn leave(&mut self, number: u32) {
        self.leave_groups(number);
        self.texts.remove(number);
    }

    fn leave_groups(&mut self, number: u32) {
        if !self.active.remove(&number) {
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

    /// The active products that pass the filter, in ascending order.
    fn candidates(&self, filter: &Filter) -> Vec<u32> {
        let wanted = [
            filter.category_id.as_ref().map(|id| Group::Category(id.to_string())),
            filter.brand_id.as_ref().map(|id| Group::Brand(id.to_string())),
            filter.merchant_id.as_ref().map(|id| Group::Merchant(id.to_string())),
        ];
        let empty = BTreeSet::new();
        let groups = wanted.iter().flatten().map(|group| self.groups.get(group).unwrap_or(&empty));
        let smallest = groups.min_by_key(|members| members.len()).unwrap_or(&self.active);
        if *filter == Filter::default() {
            return smallest.iter().copied().collect();
        }
        let admits = |number: &u32| filter.admits(&self.products[*number as usize].details);
        smallest.iter().copied().filter(admits).collect()
    }

    /// Answers a search; None if it is for products that are similar to an unknown one.
    pub fn search(&self, search: &Search) -> Option<Answer> {
        let vector;
        let mut candidates = self.candidates(&search.filter);
        let plan = plan(candidates.len(), self.active.len(), false);
        let query = match &search.question {
            Question::Text(text, mode) => Query::Text(text, *mode),
            Question::Vector(vector) => Query::Vector(vector),
            Question::SimilarTo(id) => {
                let number = *self.numbers.get(id)?;
                candidates.retain(|candidate| *candidate != number);
                // An inactive product has no vector any more.
                vector = encode(&fields(&self.products[number as usize].details)).unwrap_or_default();
                Query::Vector(&vector)
            }
        };
        let (skipped, earlier) = match &search.start {
            PageStart::Offset(offset) => (*offset, None),
            PageStart::After(continuation) => (continuation.served.len(), Some(continuation)),
        };
        if let Some(continuation) = earlier {
            candidates.retain(|number| *number < continuation.products);
        }
        // With a minimal score, all results are needed in order, because a joined score depends on the ranks.
        let count = skipped.saturating_add(search.limit).saturating_add(1);
        let count = if search.min_score.is_some() { count.max(VOTES_MAX + 1) } else { count };
        let mut results = self.rank(query, &candidates, count);
        if let Some(min) = search.min_score {
            results.retain(|product| product.score >= min);
        }
        let all = &results;
        let page: Vec<Scored> = match earlier {
            None => all.iter().skip(skipped).take(search.limit).copied().collect(),
            Some(continuation) => {
                let remaining = all.iter().filter(|product| continuation.admits(product.number));
                remaining.take(search.limit).copied().collect()
            }
        };
        let total = earlier.map_or(all.len(), |continuation| continuation.total as usize);
        let has_more = match earlier {
            None => skipped.saturating_add(page.len()) < all.len(),
            Some(continuation) => {
                all.iter().filter(|product| continuation.admits(product.number)).nth(search.limit).is_some()
            }
        };
        let next = has_more.then(|| {
            // The earlier pages of an offset are served as well.
            let served: Vec<Scored> = match earlier {
                None => all.iter().take(skipped + page.len()).copied().collect(),
                Some(_) => page.clone(),
            };
            Continuation::after(earlier, total as u32, self.products.len() as u32, &served)
        });
        let facets = search.facets.then(|| {
            Facets::count(all.iter().map(|product| &self.products[product.number as usize].details))
        });
        let parts = self.parts(search, query, &page);
        let results = page.iter().zip(parts).map(|(product, parts)| self.found(*product, parts)).collect();
        Some(Answer { results, total, next, plan, facets })
    }

    fn rank(&self, query: Query<'_>, candidates: &[u32], count: usize) -> Vec<Scored> {
        if matches!(query, Query::Vector(vector) if vector.is_empty()) {
            return Vec::new();
        }
        let id = |number: u32| &self.products[number as usize].id;
        self.texts.rank(query, candidates, count, |one, other| id(one).cmp(id(other)))
    }

    fn found(&self, product: Scored, parts: Option<ScoreParts>) -> Found {
        let Indexed { id, details } = &self.products[product.number as usize];
        Found { product_id: id.clone(), details: details.clone(), score: product.score, parts }
    }

    /// The parts of the scores of a page, if they were asked for.
    fn parts(&self, search: &Search, query: Query<'_>, page: &[Scored]) -> Vec<Option<ScoreParts>> {
        if !search.explain {
            return vec![None; page.len()];
        }
        let (hits, vector) = match query {
            Query::Vector(vector) => (Vec::new(), Some(vector.to_vec())),
            Query::Text(text, mode) => {
                let hits =
                    if mode == Mode::Semantic { Vec::new() } else { self.texts.lexical().search(text) };
                let vector = if mode == Mode::Lexical { None } else { encode(&[Field { text, weight: 1 }]) };
                (hits, vector)
            }
        };
        let parts = |product: &Scored| {
            let hit = hits.iter().find(|hit| hit.number == product.number);
            let vectors = vector.as_ref().zip(self.texts.vector(product.number));
            Some(ScoreParts {
                lexical: hit.map(|hit| hit.score),
                words: hit.map_or(0, |hit| hit.whole_words),
                similarity: vectors.map(|(one, other)| super::exact::dot(one, other)),
            })
        };
        page.iter().map(parts).collect()
    }
}

mod lookup;
#[cfg(test)]
mod tests;
