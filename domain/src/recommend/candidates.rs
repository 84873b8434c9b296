//! The products that can be in a list, ranked: the co-visits and the vectors, joined by their ranks.

use std::collections::HashMap;

use event_schemas::ids::SubjectId;
use event_schemas::time::Timestamp;
use event_schemas::user::ListContext;

use super::admission::Admission;
use super::co_visits::{Partner, Visited};
use super::signals::Interests;
use super::sources::ListSources;
use super::{Blend, Request, UserEmbeddings, Weights};
use crate::search::encoder::{encode, normalised};
use crate::search::filter::Filter;
use crate::search::{Field, Scored};

/// The most products of each ranking.
pub(super) const RANKED_MAX: usize = 500;

/// Among more products, vectors are compared with those only that co-visits or words lead to, if they are enough: comparing
/// the vectors of a whole catalogue takes longer than everything else.
const SCANNED_MAX: usize = 2_000;

/// The usual constant of reciprocal rank fusion: the larger, the less the first ranks stand out.
const K: f64 = 60.0;

/// A co-visited product: its place in the ranking, and how it came there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct CoVisited {
    /// From 1.
    pub(super) rank: usize,
    pub(super) strength: f64,
    /// The number, among the signals, of the product that contributed most.
    pub(super) with: u32,
}

/// A product that can be in a list. Its number is that in the catalogue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) number: u32,
    /// From 0 to 1, unless a rule boosts it.
    pub(super) score: f64,
    pub(super) co_visits: Option<CoVisited>,
    /// The place in the ranking of vectors, from 1, and the cosine similarity.
    pub(super) similarity: Option<(usize, f32)>,
    /// Whether it was added because it is popular.
    pub(super) is_popular: bool,
}

impl Candidate {
    pub(super) fn new(number: u32) -> Self {
        Self { number, score: 0.0, co_visits: None, similarity: None, is_popular: false }
    }

    /// The share of its score that comes from co-visits.
    pub(super) fn co_visit_score(&self, share: f64) -> f64 {
        self.co_visits.map_or(0.0, |co_visited| share * vote(co_visited.rank))
    }

    pub(super) fn vector_score(&self, share: f64) -> f64 {
        self.similarity.map_or(0.0, |(rank, _)| (1.0 - share) * vote(rank))
    }
}

/// The vote of a place in a ranking, from 1: the first has the vote 1.
pub(super) fn vote(rank: usize) -> f64 {
    (K + 1.0) / (K + rank as f64)
}

/// The vectors of the signals, each of length 1, and their blend.
#[derive(Debug, Default)]
pub(super) struct SignalVectors {
    pub(super) long_term: Option<Vec<f32>>,
    pub(super) session: Option<Vec<f32>>,
    pub(super) query: Option<Vec<f32>>,
    pub(super) product: Option<Vec<f32>>,
    pub(super) blend: Option<Vec<f32>>,
}

impl SignalVectors {
    /// The vectors of the signals that count, with the weights after those of missing signals were given to the others.
    pub(super) fn new(
        sources: &ListSources,
        request: &Request,
        interests: &Interests,
        weights: Weights,
    ) -> (Self, Weights) {
        let of = |weight: f32, products: &[(u32, i64)]| {
            if weight > 0.0 { sources.vector_of(products) } else { None }
        };
        let query = request.query.as_deref().filter(|_| weights.query > 0.0);
        let product = request.product_id.as_ref().filter(|_| weights.product > 0.0);
        let product = product.and_then(|id| sources.products.vector(sources.number(id)?));
        let mut vectors = Self {
            long_term: of(weights.long_term, &interests.long_term),
            session: of(weights.session, &interests.session),
            query: query.and_then(|text| encode(&[Field { text, weight: 1 }])),
            product,
            blend: None,
        };
        let used = |vector: &Option<Vec<f32>>, weight: f32| if vector.is_some() { weight } else { 0.0 };
        let mut used = Weights {
            long_term: used(&vectors.long_term, weights.long_term),
            session: used(&vectors.session, weights.session),
            query: used(&vectors.query, weights.query),
            product: used(&vectors.product, weights.product),
            collaborative: weights.collaborative,
        };
        let sum = used.long_term + used.session + used.query + used.product;
        if sum > 0.0 {
            for weight in
                [&mut used.long_term, &mut used.session, &mut used.query, &mut used.product].into_iter()
            {
                *weight /= sum;
            }
            vectors.blend = vectors.blended(&used);
        }
        (vectors, used)
    }

    fn blended(&self, weights: &Weights) -> Option<Vec<f32>> {
        let parts = [
            (&self.long_term, weights.long_term),
            (&self.session, weights.session),
            (&self.query, weights.query),
            (&self.product, weights.product),
        ];
        let mut sum = Vec::new();
        for (vector, weight) in parts {
            if let Some(vector) = vector {
                add(&mut sum, vector, weight);
            }
        }
        normalised(sum)
    }
}

/// Adds a vector with a weight.
fn add(sum: &mut Vec<f32>, vector: &[f32], weight: f32) {
    if sum.is_empty() {
        sum.resize(vector.len(), 0.0);
    }
    for (sum, value) in sum.iter_mut().zip(vector) {
        *sum += weight * value;
    }
}

impl ListSources {
    /// Which vectors there are of a user at an instant.
    pub fn embeddings_of(&self, subject: SubjectId, now: Timestamp) -> UserEmbeddings {
        let interests = self.signals.interests(subject, now).unwrap_or_default();
        UserEmbeddings {
            long_term: self.vector_of(&interests.long_term).is_some(),
            session: self.vector_of(&interests.session).is_some(),
        }
    }

    /// The vector of weighted products; None if none of them has one, or they cancel each other out.
    fn vector_of(&self, weights: &[(u32, i64)]) -> Option<Vec<f32>> {
        let largest = weights.iter().map(|(_, weight)| weight.abs()).max().filter(|largest| *largest > 0)?;
        let mut sum = Vec::new();
        for (number, weight) in weights {
            let vector = self.in_catalogue(*number).and_then(|number| self.products.vector(number));
            if let Some(vector) = vector {
                add(&mut sum, &vector, (*weight as f64 / largest as f64) as f32);
            }
        }
        normalised(sum)
    }

    /// The products whose partners are candidates. The product that the list is about counts as its vector does.
    pub(super) fn visited(&self, request: &Request, interests: Interests, weights: &Weights) -> Vec<Visited> {
        let about = request.product_id.as_ref().filter(|_| request.context == ListContext::Similar);
        let Some(number) = about.and_then(|id| self.signals.number(id)) else { return interests.visited };
        let total = f64::from(weights.product) + f64::from(weights.long_term);
        let share = if total > 0.0 { f64::from(weights.product) / total } else { 1.0 };
        let others = interests.visited.iter().map(|one| one.weight.abs()).sum::<f64>().max(f64::MIN_POSITIVE);
        let of_user = interests.visited.iter().filter(|one| one.number != number);
        let of_user = of_user.map(|one| Visited { weight: one.weight / others * (1.0 - share), ..*one });
        std::iter::once(Visited { number, weight: share })
            .chain(of_user)
            .filter(|one| one.weight != 0.0)
            .collect()
    }

    /// The products that are visited together with others and can be in the list, the strongest first. Of a filtered list
    /// they are among `passing`.
    fn co_visited(
        &self,
        visited: &[Visited],
        passing: Option<&[u32]>,
        admission: &mut Admission<'_>,
    ) -> Vec<(u32, Partner)> {
        let mut partners = self.signals.partners(visited);
        partners.retain(|partner| {
            let passes = |passing: &[u32]| {
                self.in_catalogue(partner.number).is_some_and(|number| passing.binary_search(&number).is_ok())
            };
            partner.strength > 0.0 && passing.is_none_or(passes)
        });
        let mut ranked = Vec::new();
        let mut rest = &mut partners[..];
        // In parts, because most of the weak ones are never needed.
        while ranked.len() < RANKED_MAX && !rest.is_empty() {
            let count = rest.len().min(2 * RANKED_MAX);
            let order = |one: &Partner, other: &Partner| {
                let ids = || self.signals.id(one.number).cmp(self.signals.id(other.number));
                other.strength.total_cmp(&one.strength).then_with(ids)
            };
            if count < rest.len() {
                rest.select_nth_unstable_by(count, order);
            }
            let (strongest, weaker) = rest.split_at_mut(count);
            strongest.sort_unstable_by(order);
            let in_catalogue =
                strongest.iter().filter_map(|partner| Some((self.in_catalogue(partner.number)?, *partner)));
            let admitted = in_catalogue.filter(|(number, _)| admission.admits(*number));
            ranked.extend(admitted.take(RANKED_MAX - ranked.len()));
            rest = weaker;
        }
        ranked
    }

    /// The products among which vectors are compared, if not all are, in ascending order: the results of a query, or the
    /// products that are visited together and those with common words, if they are enough.
    fn compared(
        &self,
        request: &Request,
        co_visited: &[(u32, Partner)],
        passing: Option<&[u32]>,
        admission: &mut Admission<'_>,
    ) -> Option<Vec<u32>> {
        let enough = 2 * request.limit;
        let is_small = passing.map_or(self.products.len(), <[u32]>::len) <= SCANNED_MAX;
        let text = match request.context {
            ListContext::Search => request.query.clone(),
            ListContext::Similar => self.about(request).map(|number| self.products.text(number)),
            ListContext::Feed | ListContext::Category => None,
        };
        let with_words = match &text {
            Some(text) if !is_small => admission.first(self.products.with_words(text)),
            _ => Vec::new(),
        };
        let mut compared = match request.context {
            ListContext::Search if with_words.len() < enough => {
                let query = text.unwrap_or_default();
                let all = self.products.passing(&request.filter);
                admission.first(self.products.best(&query, &all, admission.needed()))
            }
            ListContext::Search => with_words,
            _ if is_small || request.blend == Blend::Embedding => return None,
            _ if co_visited.len() + with_words.len() < enough => return None,
            _ => co_visited.iter().map(|(number, _)| *number).chain(with_words).collect(),
        };
        compared.sort_unstable();
        compared.dedup();
        Some(compared)
    }

    /// The product that a list is about.
    pub(super) fn about(&self, request: &Request) -> Option<u32> {
        let id = request.product_id.as_ref().filter(|_| request.context == ListContext::Similar)?;
        self.number(id)
    }

    /// The candidates of a list, in no order, and the weights that were used.
    pub(super) fn candidates(
        &self,
        request: &Request,
        visited: &[Visited],
        vectors: &SignalVectors,
        mut weights: Weights,
        admission: &mut Admission<'_>,
    ) -> (Vec<Candidate>, Weights) {
        if request.blend == Blend::Embedding {
            weights.collaborative = 0.0;
        }
        let passing = (request.filter != Filter::default()).then(|| self.products.passing(&request.filter));
        let mut co_visited = if weights.collaborative > 0.0 {
            self.co_visited(visited, passing.as_deref(), admission)
        } else {
            Vec::new()
        };
        let compared = self.compared(request, &co_visited, passing.as_deref(), admission);
        if let Some(results) = compared.as_ref().filter(|_| request.context == ListContext::Search) {
            // Co-visits order the results of a query, and add none.
            co_visited.retain(|(number, _)| results.binary_search(number).is_ok());
        }
        let nearest = match (&vectors.blend, compared) {
            (None, _) => Vec::new(),
            (Some(blend), Some(compared)) => self.products.nearest(blend, &compared, RANKED_MAX),
            (Some(blend), None) => {
                let all = passing.unwrap_or_else(|| self.products.passing(&request.filter));
                let mut nearest = self.products.nearest(blend, &all, admission.needed());
                nearest.retain(|product| admission.admits(product.number));
                nearest.truncate(RANKED_MAX);
                nearest
            }
        };
        match (co_visited.is_empty(), nearest.is_empty()) {
            (true, _) => weights.collaborative = 0.0,
            (false, true) => weights.collaborative = 1.0,
            (false, false) => {}
        }
        let mut candidates = joined(&co_visited, &nearest);
        for candidate in &mut candidates {
            let has_vector = candidate.similarity.is_some() || self.products.has_vector(candidate.number);
            // A product without a vector is ranked by its co-visits alone.
            let share = if has_vector { f64::from(weights.collaborative) } else { 1.0 };
            candidate.score = candidate.co_visit_score(share) + candidate.vector_score(share);
        }
        (candidates, weights)
    }
}

/// The products of two rankings, each once, with their ranks.
fn joined(co_visited: &[(u32, Partner)], nearest: &[Scored]) -> Vec<Candidate> {
    let mut places: HashMap<u32, usize> = HashMap::with_capacity(co_visited.len());
    let mut candidates = Vec::with_capacity(co_visited.len() + nearest.len());
    for (rank, (number, partner)) in (1..).zip(co_visited) {
        places.insert(*number, candidates.len());
        let co_visits = Some(CoVisited { rank, strength: partner.strength, with: partner.with });
        candidates.push(Candidate { co_visits, ..Candidate::new(*number) });
    }
    for (rank, product) in (1..).zip(nearest) {
        let similarity = Some((rank, product.score));
        match places.get(&product.number) {
            Some(place) => candidates[*place].similarity = similarity,
            None => candidates.push(Candidate { similarity, ..Candidate::new(product.number) }),
        }
    }
    candidates
}
