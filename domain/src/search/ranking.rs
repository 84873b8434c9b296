//! The results of a query among the products that pass its filter.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::compact_vectors::CompactVectors;
use super::encoder::{DIMENSION, encode};
use super::fusion::{VOTES_MAX, fuse, sort_first};
use super::lexical::LexicalIndex;
use super::words::words;
use super::{Field, Scored};

/// How the words of a query count beside its vector. Chosen on icons whose names have a typo, and on synonyms:
/// `tests/search.sh`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WordVotes {
    /// How much a ranking by words counts, beside 1 for the one by vectors.
    weight: f32,
    /// Whether a product needs all words of the query, not only one, to have a vote.
    needs_all: bool,
}

impl WordVotes {
    /// Beside vectors of the built-in encoder, which knows no synonyms.
    pub const BUILT_IN: Self = Self { weight: 2.0, needs_all: false };
    /// Beside those of a sentence encoder, which knows what products mean that have none or only some of the words.
    pub const SENTENCES: Self = Self { weight: 0.95, needs_all: true };

    /// The least number of the query's words that a product needs.
    fn least(self, query: &str) -> usize {
        if self.needs_all { words(query).into_iter().collect::<BTreeSet<_>>().len().max(1) } else { 1 }
    }
}

/// What a query is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "SearchMode")]
pub enum Mode {
    /// Words and vectors.
    #[default]
    Hybrid,
    /// Vectors only.
    Semantic,
    /// Words only.
    Lexical,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Query<'a> {
    Text(&'a str, Mode),
    /// A vector of length 1.
    Vector(&'a [f32]),
}

/// Both indexes over the texts of products.
#[derive(Debug)]
pub struct TextIndexes {
    lexical: LexicalIndex,
    vectors: CompactVectors,
}

impl Default for TextIndexes {
    fn default() -> Self {
        Self { lexical: LexicalIndex::default(), vectors: CompactVectors::new(DIMENSION) }
    }
}

impl TextIndexes {
    /// Adds a product, or replaces its texts.
    pub fn insert(&mut self, number: u32, fields: &[Field<'_>]) {
        self.lexical.insert(number, fields);
        match encode(fields) {
            Some(vector) => self.vectors.insert(number, &vector),
            None => self.vectors.remove(number),
        }
    }

    /// Removes a product. One that is not in the indexes is ignored.
    pub fn remove(&mut self, number: u32) {
        self.lexical.remove(number);
        self.vectors.remove(number);
    }

    pub fn lexical(&self) -> &LexicalIndex {
        &self.lexical
    }

    /// The vectors of the products whose texts contain a word.
    pub fn vectors(&self) -> &CompactVectors {
        &self.vectors
    }

    /// All results among the candidates, which are in ascending order. The first `count` are in order, with equal scores by
    /// `ids`; with `count` above [`VOTES_MAX`] all are.
    ///
    /// With words only, the results are the products that contain words of the query or similar ones. Otherwise they are
    /// all candidates with a vector, so that a filter never leaves fewer results than products that pass it.
    pub fn rank(
        &self,
        query: Query<'_>,
        candidates: &[u32],
        count: usize,
        ids: impl Fn(u32, u32) -> Ordering + Copy,
    ) -> Vec<Scored> {
        match query {
            Query::Text(text, mode) => {
                let vector = if mode == Mode::Lexical { None } else { encode(&[Field { text, weight: 1 }]) };
                let nearest = vector.map(|vector| self.vectors.compare(&vector, candidates));
                let nearest = (nearest.unwrap_or_default(), WordVotes::BUILT_IN);
                self.join((text, mode), nearest, candidates, count, ids)
            }
            Query::Vector(vector) => {
                let mut results = self.vectors.compare(vector, candidates);
                sort_first(&mut results, count, ids);
                results
            }
        }
    }

    /// As [`Self::rank`] for a text, with the similarities of the candidates' vectors, of whatever model, and how words count
    /// beside them.
    pub fn join(
        &self,
        (text, mode): (&str, Mode),
        (mut nearest, votes): (Vec<Scored>, WordVotes),
        candidates: &[u32],
        count: usize,
        ids: impl Fn(u32, u32) -> Ordering + Copy,
    ) -> Vec<Scored> {
        let (mut words, least) = (Vec::new(), votes.least(text));
        if mode != Mode::Semantic {
            for hit in self.lexical.search(text) {
                if candidates.binary_search(&hit.number).is_ok() {
                    // A word that only resembles the query's is no reason to contradict the vectors.
                    if usize::from(hit.whole_words) >= least || mode == Mode::Lexical {
                        words.push(Scored { number: hit.number, score: hit.score });
                    }
                }
            }
        }
        if mode == Mode::Lexical {
            sort_first(&mut words, count, ids);
            return words;
        }
        if mode == Mode::Semantic {
            sort_first(&mut nearest, count, ids);
            return nearest;
        }
        sort_first(&mut words, VOTES_MAX, ids);
        sort_first(&mut nearest, if count > VOTES_MAX { usize::MAX } else { VOTES_MAX }, ids);
        let mut results = fuse(&words, votes.weight, &nearest);
        sort_first(&mut results, count, ids);
        results
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(one: u32, other: u32) -> Ordering {
        one.cmp(&other)
    }

    fn indexes(names: &[&str]) -> TextIndexes {
        let mut indexes = TextIndexes::default();
        for (number, name) in (0..).zip(names) {
            indexes.insert(number, &[Field { text: name, weight: 1 }]);
        }
        indexes
    }

    fn ranked(indexes: &TextIndexes, text: &str, mode: Mode, candidates: &[u32]) -> Vec<u32> {
        let results = indexes.rank(Query::Text(text, mode), candidates, usize::MAX, ids);
        assert!(results.is_sorted_by(|one, other| one.score >= other.score));
        results.into_iter().map(|product| product.number).collect()
    }

    const NAMES: [&str; 5] = ["red shoe", "blue shoe", "red hat", "kettle", "espresso machine"];

    #[test]
    fn every_candidate_is_a_result_unless_only_words_count() {
        let indexes = indexes(&NAMES);
        for mode in [Mode::Hybrid, Mode::Semantic] {
            assert_eq!(ranked(&indexes, "red shoe", mode, &[0, 1, 2, 3, 4]).len(), 5);
            assert_eq!(ranked(&indexes, "red shoe", mode, &[3, 4]).len(), 2);
        }
        assert_eq!(ranked(&indexes, "red shoe", Mode::Lexical, &[0, 1, 2, 3, 4]), [0, 1, 2]);
        assert_eq!(ranked(&indexes, "red shoe", Mode::Lexical, &[2, 3]), [2]);
        assert_eq!(ranked(&indexes, "red shoe", Mode::Lexical, &[]), [0; 0]);
    }

    #[test]
    fn products_with_the_words_come_first() {
        let indexes = indexes(&NAMES);
        let all = [0, 1, 2, 3, 4];
        assert_eq!(ranked(&indexes, "red shoe", Mode::Hybrid, &all)[0], 0);
        assert_eq!(ranked(&indexes, "espreso", Mode::Hybrid, &all)[0], 4);
        assert_eq!(ranked(&indexes, "hat", Mode::Hybrid, &all)[0], 2);
    }

    /// The vectors of a sentence encoder are right about a part of the words, and the words about all of them.
    #[test]
    fn words_vote_beside_sentence_vectors_only_if_all_match() {
        let indexes = indexes(&NAMES);
        let nearest = || vec![Scored { number: 3, score: 0.9 }, Scored { number: 4, score: 0.8 }];
        let first = |text: &str, votes| {
            let results = indexes.join((text, Mode::Hybrid), (nearest(), votes), &[0, 1, 2, 3, 4], 5, ids);
            results.into_iter().map(|product| product.number).collect::<Vec<u32>>()
        };
        assert_eq!(first("red teapot", WordVotes::SENTENCES), [3, 4]);
        assert_eq!(first("red teapot", WordVotes::BUILT_IN)[..2], [0, 2]);
        assert_eq!(first("red shoe red", WordVotes::SENTENCES), [3, 4, 0]);
        assert_eq!(first("espreso machine", WordVotes::SENTENCES), [4, 3]);
    }

    #[test]
    fn query_without_words_has_no_results() {
        let indexes = indexes(&NAMES);
        for mode in [Mode::Hybrid, Mode::Semantic, Mode::Lexical] {
            assert_eq!(ranked(&indexes, "?!", mode, &[0, 1]), [0; 0]);
        }
    }

    #[test]
    fn removed_product_is_not_a_result() {
        let mut indexes = indexes(&NAMES);
        indexes.remove(0);
        assert!(!ranked(&indexes, "red shoe", Mode::Hybrid, &[0, 1, 2]).contains(&0));
        indexes.insert(1, &[Field { text: "…", weight: 1 }]);
        assert_eq!(ranked(&indexes, "shoe", Mode::Hybrid, &[0, 1, 2]), [2]);
    }

    #[test]
    fn vector_of_a_product_finds_it_first() {
        let indexes = indexes(&NAMES);
        let vector = indexes.vectors().get(3).unwrap();
        let results = indexes.rank(Query::Vector(&vector), &[0, 1, 2, 3, 4], 5, ids);
        assert_eq!((results.len(), results[0].number), (5, 3));
        assert!((results[0].score - 1.0).abs() < 1e-6);
    }

    /// The first results are the same, however many are asked for.
    #[test]
    fn part_of_the_results_is_the_start_of_all_results() {
        let names: Vec<String> = (0..3_000).map(|n| format!("shoe {} {}", n % 7, n)).collect();
        let mut indexes = TextIndexes::default();
        for (number, name) in (0..).zip(&names) {
            // Every other product has the word, and more than vote.
            let name = if number % 2 == 0 { name.as_str() } else { &name[5..] };
            indexes.insert(number, &[Field { text: name, weight: 1 }]);
        }
        let candidates: Vec<u32> = (0..3_000).collect();
        let query = Query::Text("shoe 3", Mode::Hybrid);
        let all = indexes.rank(query, &candidates, 3_000, ids);
        assert_eq!(all.len(), 3_000);
        for count in [1, 10, 999, 1_000, 1_001, 2_500] {
            let part = indexes.rank(query, &candidates, count, ids);
            assert_eq!(part[..count], all[..count], "{count}");
        }
    }
}
