//! The lexical index: which products contain the words of a query, and how much these words say (BM25).
//!
//! It is a fold over products. The scores depend only on the products that are in it now, to the last bit: not on the order
//! in which they came, and not on earlier texts or products. A word in a field of weight 3 counts as three words, so a
//! score is that of BM25 over the text in which each field is repeated that often.

mod vocabulary;

use std::collections::BTreeMap;

use super::Field;
use super::words::words;
use vocabulary::{Term, Variant, Vocabulary};

/// BM25's constants, with the values of Lucene and Tantivy.
const K1: f32 = 1.2;
const B: f32 = 0.75;

/// The products with one word, by number.
#[derive(Debug, Default)]
struct Postings {
    numbers: Vec<u32>,
    /// How often each of them contains the word, by the weights of the fields; at most 255.
    counts: Vec<u8>,
}

/// A product that contains words of the query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    pub number: u32,
    pub score: f32,
    /// The number of the query's words that it contains, except for at most one edit. A product with none only contains
    /// words that resemble them.
    pub whole_words: u8,
}

/// An index over texts of products.
#[derive(Debug, Default)]
pub struct LexicalIndex {
    vocabulary: Vocabulary,
    postings: Vec<Postings>,
    /// The distinct words of each product, in ascending order; none of a number that is not in the index.
    terms: Vec<Box<[Term]>>,
    /// The number of words of each product, by the weights of the fields.
    lengths: Vec<u32>,
    present: Vec<bool>,
    /// The number of products, and the sum of their lengths.
    count: u32,
    length: u64,
}

/// What was found of a product so far.
#[derive(Clone, Copy, Default)]
struct Tally {
    score: f32,
    whole_words: u8,
    is_found: bool,
}

impl LexicalIndex {
    /// The number of products.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The number of distinct words.
    pub fn word_count(&self) -> usize {
        self.vocabulary.len()
    }

    /// Adds a product, or replaces its texts.
    pub fn insert(&mut self, number: u32, fields: &[Field<'_>]) {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        let mut length = 0;
        for field in fields {
            for word in words(field.text) {
                *counts.entry(word).or_default() += u32::from(field.weight);
                length += u32::from(field.weight);
            }
        }
        let index = number as usize;
        if self.terms.len() <= index {
            self.terms.resize_with(index + 1, Box::default);
            self.lengths.resize(index + 1, 0);
            self.present.resize(index + 1, false);
        }
        let mut terms = Vec::with_capacity(counts.len());
        for (word, count) in counts {
            let term = self.vocabulary.insert(&word);
            terms.push(term);
            if self.postings.len() <= term as usize {
                self.postings.resize_with(term as usize + 1, Postings::default);
            }
            self.postings[term as usize].set(number, u8::try_from(count).unwrap_or(u8::MAX));
        }
        terms.sort_unstable();
        let previous = std::mem::replace(&mut self.terms[index], terms.into());
        let removed: Vec<Term> =
            previous.iter().copied().filter(|term| self.terms[index].binary_search(term).is_err()).collect();
        for term in removed {
            self.remove_posting(term, number);
        }
        self.length += u64::from(length);
        self.length -= u64::from(std::mem::replace(&mut self.lengths[index], length));
        self.count += u32::from(!std::mem::replace(&mut self.present[index], true));
    }

    /// Removes a product. One that is not in the index is ignored.
    pub fn remove(&mut self, number: u32) {
        let index = number as usize;
        if !self.present.get(index).is_some_and(|present| *present) {
            return;
        }
        for term in std::mem::take(&mut self.terms[index]) {
            self.remove_posting(term, number);
        }
        self.length -= u64::from(std::mem::take(&mut self.lengths[index]));
        self.count -= 1;
        self.present[index] = false;
    }

    fn remove_posting(&mut self, term: Term, number: u32) {
        let postings = &mut self.postings[term as usize];
        postings.remove(number);
        if postings.numbers.is_empty() {
            *postings = Postings::default();
            self.vocabulary.remove(term);
        }
    }

    /// The products that contain a word of the query or a similar one, in no order.
    pub fn search(&self, query: &str) -> Vec<Hit> {
        let mut distinct: Vec<String> = Vec::new();
        for word in words(query) {
            if !distinct.contains(&word) {
                distinct.push(word);
            }
        }
        let mut tallies = vec![Tally::default(); self.present.len()];
        let mut found: Vec<u32> = Vec::new();
        for word in &distinct {
            for hit in self.search_word(word) {
                let tally = &mut tallies[hit.number as usize];
                if !std::mem::replace(&mut tally.is_found, true) {
                    found.push(hit.number);
                }
                tally.score += hit.score;
                tally.whole_words = tally.whole_words.saturating_add(hit.whole_words);
            }
        }
        let hit = |number| {
            let Tally { score, whole_words, .. } = tallies[number as usize];
            Hit { number, score, whole_words }
        };
        found.into_iter().map(hit).collect()
    }

    /// The products that contain the word or a variant of it. Of several variants in a product, the best counts.
    fn search_word(&self, word: &str) -> Vec<Hit> {
        let variants = self.vocabulary.variants(word);
        // A form of the word says no more than the word itself, however rare it is.
        let limit = self.vocabulary.find(word).map_or(f32::INFINITY, |term| self.rarity(term));
        let mut hits = Vec::new();
        for Variant { term, weight, is_whole } in &variants {
            let rarity = self.rarity(*term).min(limit) * weight;
            let postings = &self.postings[*term as usize];
            hits.extend(postings.numbers.iter().zip(&postings.counts).map(|(number, count)| Hit {
                number: *number,
                score: rarity * self.frequency(*number, *count),
                whole_words: u8::from(*is_whole),
            }));
        }
        if variants.len() > 1 {
            hits.sort_unstable_by(|one, other| {
                one.number.cmp(&other.number).then_with(|| other.score.total_cmp(&one.score))
            });
            hits.dedup_by(|later, best| {
                let is_same = later.number == best.number;
                if is_same {
                    best.whole_words |= later.whole_words;
                }
                is_same
            });
        }
        hits
    }

    /// BM25's inverse document frequency.
    fn rarity(&self, term: Term) -> f32 {
        let (all, with) = (self.count as f32, self.postings[term as usize].numbers.len() as f32);
        ((all - with + 0.5) / (with + 0.5)).ln_1p()
    }

    /// BM25's term frequency, which is less in a long text.
    fn frequency(&self, number: u32, count: u8) -> f32 {
        let (count, length) = (f32::from(count), self.lengths[number as usize] as f32);
        let average = self.length as f32 / self.count as f32;
        count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length / average))
    }
}

impl Postings {
    fn set(&mut self, number: u32, count: u8) {
        match self.numbers.binary_search(&number) {
            Ok(index) => self.counts[index] = count,
            Err(index) => {
                self.numbers.insert(index, number);
                self.counts.insert(index, count);
            }
        }
    }

    fn remove(&mut self, number: u32) {
        if let Ok(index) = self.numbers.binary_search(&number) {
            self.numbers.remove(index);
            self.counts.remove(index);
        }
    }
}

#[cfg(test)]
mod tests;
