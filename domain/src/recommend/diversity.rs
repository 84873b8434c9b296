//! Diversity: products that differ from those before them (maximal marginal relevance).

use super::candidates::Candidate;
use crate::search::product_index::ProductIndex;

/// The most products among which those of a list are chosen.
const CHOSEN_FROM_MAX: usize = 500;

/// How similar two products without vectors are, if they are of one category.
const SAME_CATEGORY: f32 = 0.5;

fn similarity(products: &ProductIndex, one: u32, other: u32) -> f32 {
    products.similarity_between(one, other).unwrap_or_else(|| {
        let category = |number| products.details(number).category_id.as_ref();
        if category(one).is_some() && category(one) == category(other) { SAME_CATEGORY } else { 0.0 }
    })
}

/// Chooses the products of a list from ranked ones, one by one: each has the best score less its similarity with the most
/// similar product before it. Both are weighted by `diversity`.
pub(super) fn choose(
    products: &ProductIndex,
    ranked: &[Candidate],
    count: usize,
    diversity: f32,
) -> Vec<Candidate> {
    let best = ranked.first().map_or(0.0, |first| first.score).max(f64::MIN_POSITIVE);
    // With the largest similarity to a chosen one.
    let mut rest: Vec<(Candidate, f32)> =
        ranked.iter().take(CHOSEN_FROM_MAX.max(count)).map(|candidate| (*candidate, 0.0)).collect();
    let mut chosen: Vec<Candidate> = Vec::with_capacity(count);
    while chosen.len() < count && !rest.is_empty() {
        let value = |(candidate, similarity): &(Candidate, f32)| {
            f64::from(1.0 - diversity) * candidate.score / best - f64::from(diversity * similarity)
        };
        // The first of equal ones, which are in their order.
        let place = (1..rest.len())
            .fold(0, |best, place| if value(&rest[place]) > value(&rest[best]) { place } else { best });
        let (next, _) = rest.remove(place);
        for (candidate, largest) in &mut rest {
            *largest = largest.max(similarity(products, candidate.number, next.number));
        }
        chosen.push(next);
    }
    chosen
}
