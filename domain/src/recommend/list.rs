//! A list: the candidates after the rules, with the score and the reason of each.

use std::collections::{BTreeMap, HashSet};

use event_schemas::ids::{ProductId, RuleId};
use event_schemas::time::Timestamp;
use event_schemas::user::ListContext;

use super::admission::{Admission, Effects};
use super::candidates::{Candidate, RANKED_MAX, SignalVectors, vote};
use super::sources::ListSources;
use super::{
    Fallback, FallbackRanking, Item, NoList, Parts, Recommendation, Request, Strategy, Weights, diversity,
};
use crate::search::compact_vectors::Asked;
use crate::search::filter::Filter;
use crate::user::profile::UNIT;

/// What the votes of popularity count in a list that has signals: less than those of any signal.
const FILLING: f64 = 1e-6;

fn check(request: &Request, sources: &ListSources) -> Result<Weights, NoList> {
    match request.context {
        ListContext::Search if request.query.is_none() => return Err(NoList::QueryMissing),
        ListContext::Category if request.filter.category_id.is_none() => return Err(NoList::CategoryMissing),
        ListContext::Similar => {
            let id = request.product_id.as_ref().ok_or(NoList::ProductMissing)?;
            sources.signals.number(id).ok_or(NoList::UnknownProduct)?;
        }
        _ => {}
    }
    if !(0.0..=1.0).contains(&request.diversity) {
        return Err(NoList::Diversity);
    }
    let weights = request.weights.unwrap_or(Weights::of(request.context));
    weights.check().map(|()| weights)
}

impl ListSources {
    /// The product of which it is a variant, which is a variant of itself.
    pub(super) fn family(&self, number: u32) -> Option<&ProductId> {
        let details = self.products.details(number);
        Some(details.family_id.as_ref().unwrap_or(self.products.id(number)))
    }

    /// Makes a list from one set of weights.
    ///
    /// # Errors
    /// What the request lacks.
    pub(super) fn ranked(&self, request: &Request, now: Timestamp) -> Result<Recommendation, NoList> {
        let weights = check(request, self)?;
        let limit = request.limit.min(super::LIMIT_MAX);
        let effects = Effects::new(self, request, now);
        let mut admission = Admission::new(self, request, &effects.banned);
        let interests = request.subject.and_then(|subject| self.signals.interests(subject, now));
        let interests = interests.unwrap_or_default();
        let (vectors, used) = SignalVectors::new(self, request, &interests, weights);
        let visited = self.visited(request, interests, &weights);
        let (mut ranked, used) = self.candidates(request, &visited, &vectors, used, &mut admission);
        let strategy = match (ranked.is_empty(), used.collaborative) {
            (true, _) => Strategy::Popularity,
            (false, 0.0) => Strategy::Embedding,
            (false, 1.0) if vectors.blend.is_none() => Strategy::CoVisits,
            _ => Strategy::Joined,
        };
        self.add_popular(&mut ranked, limit, strategy, &mut admission);
        for candidate in &mut ranked {
            candidate.score *= effects.boosts.get(&candidate.number).copied().unwrap_or(1.0);
        }
        ranked.sort_unstable_by(|one, other| {
            other.score.total_cmp(&one.score).then_with(|| self.products.by_id(one.number, other.number))
        });
        let pins = self.pins(&effects, &ranked, &mut admission);
        self.collapse(&mut ranked, &pins, &mut admission);
        if request.diversity > 0.0 {
            ranked = diversity::choose(&self.products, &ranked, limit, request.diversity);
        }
        let places = placed(&pins, &ranked, limit);
        let describe =
            Described { sources: self, request, vectors: &vectors, weights: &used, effects: &effects, now };
        let items: Vec<Item> =
            places.iter().map(|(candidate, rule)| describe.item(candidate, *rule)).collect();
        let popular = places.iter().filter(|(candidate, _)| candidate.is_popular).count();
        let ranking = match request.filter.category_id {
            Some(_) => FallbackRanking::PopularityInCategory,
            None => FallbackRanking::Popularity,
        };
        let fallback =
            (popular > 0 || strategy == Strategy::Popularity).then_some(Fallback { ranking, items: popular });
        Ok(Recommendation { items, strategy, weights_used: used, fallback, left_out: admission.counts() })
    }

    /// Adds the most popular products behind those that the signals found, unless these suffice.
    fn add_popular(
        &self,
        ranked: &mut Vec<Candidate>,
        limit: usize,
        strategy: Strategy,
        admission: &mut Admission<'_>,
    ) {
        let families: HashSet<Option<&ProductId>> =
            ranked.iter().map(|candidate| self.family(candidate.number)).collect();
        if families.len() >= limit {
            return;
        }
        let numbers = if *admission.filter == Filter::default() {
            let all = self.signals.most_popular().filter_map(|number| self.in_catalogue(number));
            self.best_of_families(all, ranked, families, admission)
        } else {
            let mut passing = self.products.passing(admission.filter);
            passing.sort_by_cached_key(|number| {
                let order = self.signals.popularity_order(self.in_signals(*number));
                (order, self.products.id(*number).clone())
            });
            self.best_of_families(passing.into_iter(), ranked, families, admission)
        };
        let share = if strategy == Strategy::Popularity { 1.0 } else { FILLING };
        ranked.extend((1..).zip(numbers).map(|(rank, number)| {
            let score = share * vote(rank);
            Candidate { score, is_popular: true, ..Candidate::new(number) }
        }));
    }

    /// The first products that can be in the list, one of each family that is not ranked.
    fn best_of_families<'a>(
        &'a self,
        numbers: impl Iterator<Item = u32>,
        ranked: &[Candidate],
        mut families: HashSet<Option<&'a ProductId>>,
        admission: &mut Admission<'_>,
    ) -> Vec<u32> {
        let known: HashSet<u32> = ranked.iter().map(|candidate| candidate.number).collect();
        let mut best = Vec::new();
        for number in numbers {
            if best.len() == RANKED_MAX {
                break;
            }
            if known.contains(&number) || !admission.admits(number) {
                continue;
            }
            if families.insert(self.family(number)) {
                best.push(number);
            } else {
                admission.leave_out_variant(number);
            }
        }
        best
    }

    /// The pinned products that can be in the list, as candidates, by place.
    fn pins<'a>(
        &self,
        effects: &Effects<'a>,
        ranked: &[Candidate],
        admission: &mut Admission<'_>,
    ) -> BTreeMap<usize, (Candidate, &'a RuleId)> {
        let mut pins = BTreeMap::new();
        for (slot, (number, rule)) in &effects.pins {
            if admission.admits(*number) {
                let known = ranked.iter().find(|candidate| candidate.number == *number);
                let candidate = known.copied().unwrap_or(Candidate::new(*number));
                // It is not in the list because it is popular.
                pins.insert(*slot, (Candidate { is_popular: false, ..candidate }, *rule));
            }
        }
        pins
    }

    /// Leaves one product of each family: a pinned one, or the best.
    fn collapse(
        &self,
        ranked: &mut Vec<Candidate>,
        pins: &BTreeMap<usize, (Candidate, &RuleId)>,
        admission: &mut Admission<'_>,
    ) {
        let pinned: HashSet<u32> = pins.values().map(|(candidate, _)| candidate.number).collect();
        let mut families: HashSet<Option<&ProductId>> =
            pinned.iter().map(|number| self.family(*number)).collect();
        ranked.retain(|candidate| {
            if pinned.contains(&candidate.number) {
                return false;
            }
            let is_first = families.insert(self.family(candidate.number));
            if !is_first {
                admission.leave_out_variant(candidate.number);
            }
            is_first
        });
    }
}

/// The products by place: the pinned ones, and the ranked ones in between. After the last ranked one, the pinned ones follow
/// each other.
fn placed<'a>(
    pins: &BTreeMap<usize, (Candidate, &'a RuleId)>,
    ranked: &[Candidate],
    limit: usize,
) -> Vec<(Candidate, Option<&'a RuleId>)> {
    let mut pins = pins.iter().peekable();
    let mut ranked = ranked.iter();
    let mut places = Vec::with_capacity(limit);
    while places.len() < limit {
        let is_due = pins.peek().is_some_and(|(slot, _)| **slot <= places.len() + 1);
        let next = if is_due { None } else { ranked.next() };
        match next {
            Some(candidate) => places.push((*candidate, None)),
            None => match pins.next() {
                Some((_, (candidate, rule))) => places.push((*candidate, Some(*rule))),
                None => break,
            },
        }
    }
    places
}

/// Everything that the description of a product in a list needs.
#[derive(Clone, Copy)]
struct Described<'a> {
    sources: &'a ListSources,
    request: &'a Request,
    vectors: &'a SignalVectors,
    weights: &'a Weights,
    effects: &'a Effects<'a>,
    now: Timestamp,
}

impl Described<'_> {
    fn item(&self, candidate: &Candidate, pinned_by: Option<&RuleId>) -> Item {
        let Self { sources, vectors, .. } = self;
        let products = &sources.products;
        let similarity = |vector: &Option<Vec<f32>>| {
            vector.as_ref().and_then(|vector| products.similarity(&Asked::new(vector), candidate.number))
        };
        let popularity = || sources.signals.popularity(sources.in_signals(candidate.number), self.now);
        let parts = Parts {
            co_visits: candidate.co_visits.map(|co_visited| co_visited.strength),
            co_visits_rank: candidate.co_visits.map(|co_visited| co_visited.rank),
            visited_with: candidate.co_visits.map(|co_visited| sources.signals.id(co_visited.with).into()),
            similarity: candidate.similarity.map(|(_, similarity)| similarity),
            similarity_rank: candidate.similarity.map(|(rank, _)| rank),
            long_term: similarity(&vectors.long_term),
            session: similarity(&vectors.session),
            query: similarity(&vectors.query),
            product: similarity(&vectors.product),
            popularity: candidate.is_popular.then(|| popularity() as f64 / UNIT as f64),
            boost: self.effects.boosts.get(&candidate.number).copied(),
            pinned_by: pinned_by.cloned(),
        };
        let reason = self.reason(candidate, &parts);
        let product_id = products.id(candidate.number).clone();
        let details = products.details(candidate.number).clone();
        let score = candidate.score;
        Item { product_id, details, score, probability: 1.0, variant: None, parts, reason }
    }

    /// The signal that contributed most, in words.
    fn reason(&self, candidate: &Candidate, parts: &Parts) -> String {
        if let Some(rule) = &parts.pinned_by {
            return format!("pinned here by the rule {rule}");
        }
        if candidate.is_popular {
            let category = self.sources.products.details(candidate.number).category_name.as_ref();
            return match category.filter(|_| self.request.filter.category_id.is_some()) {
                Some(category) => format!("popular in {category}"),
                None => "popular with all users".to_owned(),
            };
        }
        let share = f64::from(self.weights.collaborative);
        let with = candidate.co_visits.map(|co_visited| self.sources.signals.id(co_visited.with));
        if let Some(with) = with.filter(|_| candidate.co_visit_score(share) >= candidate.vector_score(share))
        {
            return format!("often visited together with {}", self.name(with));
        }
        let Weights { long_term, session, query, product, .. } = *self.weights;
        let signals = [
            (product, parts.product),
            (query, parts.query),
            (session, parts.session),
            (long_term, parts.long_term),
        ];
        let contribution =
            |(weight, similarity): (f32, Option<f32>)| similarity.map_or(f32::MIN, |part| weight * part);
        let largest = (1..signals.len()).fold(0, |largest, next| {
            if contribution(signals[next]) > contribution(signals[largest]) { next } else { largest }
        });
        match largest {
            0 => self
                .request
                .product_id
                .as_ref()
                .map_or_else(String::new, |id| format!("similar to {}", self.name(id))),
            1 => "matches the query".to_owned(),
            2 => "similar to products of this visit".to_owned(),
            _ => "similar to products of earlier visits".to_owned(),
        }
    }

    /// The name of a product; of one that is not in the catalogue, its id.
    fn name(&self, id: &ProductId) -> String {
        let number = self.sources.number(id);
        number.map_or_else(|| id.to_string(), |number| self.sources.products.details(number).name.clone())
    }
}

#[cfg(test)]
mod tests;
