//! The order of results, and the join of two rankings into one (reciprocal rank fusion).
//!
//! Equal scores are ordered by product id, so that an answer is the same after a restart.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::Scored;

/// The number of a ranking's products that vote.
pub const VOTES_MAX: usize = 1_000;
/// The usual constant of reciprocal rank fusion: the larger, the less the first ranks stand out.
const K: f32 = 60.0;

/// Sorts the first `count` results by score, the best first, and equal ones by `ids`; the others follow in no order.
pub fn sort_first(results: &mut [Scored], count: usize, ids: impl Fn(u32, u32) -> Ordering) {
    let order = |one: &Scored, other: &Scored| {
        other.score.total_cmp(&one.score).then_with(|| ids(one.number, other.number))
    };
    let count = count.min(results.len());
    if count < results.len() {
        results.select_nth_unstable_by(count, order);
    }
    results[..count].sort_unstable_by(order);
}

/// Joins two rankings, each with the best first. The results are in no order.
///
/// A score is a share of the best possible one, which a product has that is first in each ranking with a vote. The first
/// [`VOTES_MAX`] products of a ranking vote; the others of the second one follow with the vote of their rank.
pub fn fuse(lexical: &[Scored], lexical_weight: f32, semantic: &[Scored]) -> Vec<Scored> {
    let lexical = &lexical[..lexical.len().min(VOTES_MAX)];
    let vote = |rank: usize| 1.0 / (K + 1.0 + rank as f32);
    let best = vote(0) * if lexical.is_empty() { 1.0 } else { 1.0 + lexical_weight };
    let mut places: HashMap<u32, usize> = HashMap::with_capacity(lexical.len());
    let mut fused: Vec<Scored> = Vec::with_capacity(lexical.len() + semantic.len());
    for (rank, product) in lexical.iter().enumerate() {
        places.insert(product.number, fused.len());
        fused.push(Scored { number: product.number, score: lexical_weight * vote(rank) / best });
    }
    for (rank, product) in semantic.iter().enumerate() {
        let score = vote(rank) / best;
        match places.get(&product.number) {
            Some(place) if rank < VOTES_MAX => fused[*place].score += score,
            Some(_) => {}
            None => fused.push(Scored { number: product.number, score }),
        }
    }
    fused
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranking(numbers: impl IntoIterator<Item = u32>) -> Vec<Scored> {
        numbers.into_iter().map(|number| Scored { number, score: 0.0 }).collect()
    }

    fn sorted(mut fused: Vec<Scored>) -> Vec<u32> {
        let count = fused.len();
        sort_first(&mut fused, count, |one, other| one.cmp(&other));
        fused.into_iter().map(|product| product.number).collect()
    }

    #[test]
    fn first_of_both_rankings_has_the_best_possible_score() {
        let fused = fuse(&ranking([7, 8]), 2.0, &ranking([7, 9]));
        assert_eq!(fused[0], Scored { number: 7, score: 1.0 });
        assert!(fused[1..].iter().all(|product| product.score < 1.0));
        assert_eq!(fuse(&[], 2.0, &ranking([7]))[0].score, 1.0);
        assert_eq!(fuse(&[], 2.0, &[]), []);
    }

    #[test]
    fn joined_order_keeps_the_order_of_a_single_ranking() {
        assert_eq!(sorted(fuse(&[], 2.0, &ranking([5, 1, 3]))), [5, 1, 3]);
        assert_eq!(sorted(fuse(&ranking([5, 1, 3]), 1.0, &ranking([5, 1, 3]))), [5, 1, 3]);
    }

    #[test]
    fn equal_scores_are_ordered_by_id() {
        assert_eq!(sorted(fuse(&ranking([9, 4]), 1.0, &ranking([4, 9]))), [4, 9]);
        let ids = |one: u32, other: u32| other.cmp(&one);
        let mut results = ranking(0..100);
        sort_first(&mut results, 3, ids);
        assert_eq!(results[..3], ranking([99, 98, 97])[..]);
    }

    #[test]
    fn only_the_first_thousand_of_a_ranking_vote() {
        let late = VOTES_MAX as u32 + 5;
        let semantic = ranking(0..late + 1);
        let lexical = ranking([late]);
        let fused = fuse(&lexical, 1.0, &semantic);
        let score = fused.iter().find(|product| product.number == late).unwrap().score;
        assert_eq!(score, 0.5, "only its words vote for it");
        assert_eq!(fused.len(), late as usize + 1);
        let many = fuse(&ranking(0..5_000), 1.0, &[]);
        assert_eq!(many.len(), VOTES_MAX);
    }
}
