//! The distinct words of all products, and the words that resemble a word of a query.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::words::has_digit;

/// The number of a word.
pub(super) type Term = u32;

/// The shortest word of a query in which one edit is tolerated.
const EDITED_WORD_MIN: usize = 5;
/// How much a word counts that is one edit away from the query's word.
const EDITED_WEIGHT: f32 = 0.8;
/// The least share of common trigrams of words that resemble each other.
const RESEMBLING_MIN: f32 = 0.5;
/// How much a word counts that has the same trigrams as the query's word.
const RESEMBLING_WEIGHT: f32 = 0.5;
/// The largest number of words that stand for one word of the query.
const VARIANTS_MAX: usize = 32;

/// A word of the index that stands for a word of a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Variant {
    pub(super) term: Term,
    /// How much it counts, at most 1.
    pub(super) weight: f32,
    /// It is the word itself, or one edit away from it.
    pub(super) is_whole: bool,
}

#[derive(Debug, Default)]
struct Word {
    text: Arc<str>,
    /// The number of its trigrams; 0 for one that never stands for another word.
    trigrams: u8,
}

/// All distinct words. A word that no product has any more is removed, and its number is used again.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    words: Vec<Word>,
    numbers: HashMap<Arc<str>, Term>,
    unused: Vec<Term>,
    /// The words with this trigram, in no order.
    trigrams: HashMap<u64, Vec<Term>>,
}

impl Vocabulary {
    pub(super) fn find(&self, word: &str) -> Option<Term> {
        self.numbers.get(word).copied()
    }

    pub(super) fn text(&self, term: Term) -> &str {
        &self.words[term as usize].text
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The number of the word, which is added if it is new.
    pub(super) fn insert(&mut self, word: &str) -> Term {
        if let Some(term) = self.find(word) {
            return term;
        }
        let text: Arc<str> = word.into();
        let term = self.unused.pop().unwrap_or_else(|| {
            self.words.push(Word::default());
            Term::try_from(self.words.len() - 1).expect("memory holds fewer words")
        });
        let trigrams = trigrams(word);
        for trigram in &trigrams {
            self.trigrams.entry(*trigram).or_default().push(term);
        }
        self.words[term as usize] = Word { text: Arc::clone(&text), trigrams: trigrams.len() as u8 };
        self.numbers.insert(text, term);
        term
    }

    pub(super) fn remove(&mut self, term: Term) {
        let word = std::mem::take(&mut self.words[term as usize]);
        for trigram in trigrams(&word.text) {
            let Some(terms) = self.trigrams.get_mut(&trigram) else { continue };
            terms.retain(|other| *other != term);
            if terms.is_empty() {
                self.trigrams.remove(&trigram);
            }
        }
        self.numbers.remove(&word.text);
        self.unused.push(term);
    }

    /// The words that stand for a word of a query: the word itself, and those that resemble it. A word that is in the index
    /// is not taken for a misspelling; only its longer and shorter forms resemble it (`shoe`, `shoes`).
    pub(super) fn variants(&self, word: &str) -> Vec<Variant> {
        let exact = self.find(word);
        let mut variants: Vec<Variant> = Vec::new();
        let wanted = trigrams(word);
        let letters: Vec<char> = word.chars().collect();
        for (term, common) in self.sharing(&wanted) {
            let other = &self.words[term as usize];
            let share = 2.0 * f32::from(common) / (wanted.len() as f32 + f32::from(other.trigrams));
            let is_form = other.text.starts_with(word) || word.starts_with(&*other.text);
            if exact == Some(term) || exact.is_some() && !is_form {
                continue;
            }
            // An edit changes at most four trigrams.
            let may_be_edited = exact.is_none()
                && letters.len() >= EDITED_WORD_MIN
                && usize::from(common) + 4 >= wanted.len();
            let is_edited = may_be_edited && is_one_edit(&letters, &other.text);
            if is_edited {
                variants.push(Variant { term, weight: EDITED_WEIGHT, is_whole: true });
            } else if share > RESEMBLING_MIN {
                variants.push(Variant { term, weight: share * RESEMBLING_WEIGHT, is_whole: false });
            }
        }
        // By text where the weight is equal: the numbers depend on the order in which products came.
        variants.sort_by(|one, other| {
            other.weight.total_cmp(&one.weight).then_with(|| self.text(one.term).cmp(self.text(other.term)))
        });
        variants.truncate(VARIANTS_MAX);
        let exact = exact.map(|term| Variant { term, weight: 1.0, is_whole: true });
        exact.into_iter().chain(variants).collect()
    }

    /// The words that share trigrams with these, and how many.
    fn sharing(&self, wanted: &[u64]) -> Vec<(Term, u8)> {
        let mut common = vec![0_u8; self.words.len()];
        let mut found = Vec::new();
        for term in wanted.iter().filter_map(|trigram| self.trigrams.get(trigram)).flatten() {
            let count = &mut common[*term as usize];
            if *count == 0 {
                found.push(*term);
            }
            *count += 1;
        }
        found.into_iter().map(|term| (term, common[term as usize])).collect()
    }
}

/// The distinct trigrams of a word with its start and end marked; none of a number, a code or a single letter.
fn trigrams(word: &str) -> Vec<u64> {
    if has_digit(word) {
        return Vec::new();
    }
    // A character takes 21 bits; 0 marks both ends.
    let letters: Vec<u64> =
        std::iter::once(0).chain(word.chars().map(u64::from)).chain(std::iter::once(0)).collect();
    let mut trigrams: Vec<u64> =
        letters.windows(3).map(|window| window[0] << 42 | window[1] << 21 | window[2]).collect();
    if letters.len() < 4 {
        return Vec::new();
    }
    trigrams.sort_unstable();
    trigrams.dedup();
    trigrams
}

/// Reports whether one inserted, removed or replaced letter, or two exchanged neighbours, turn one word into the other.
fn is_one_edit(word: &[char], other: &str) -> bool {
    let other: Vec<char> = other.chars().collect();
    let (short, long) = if word.len() <= other.len() { (word, &other[..]) } else { (&other[..], word) };
    if long.len() - short.len() > 1 {
        return false;
    }
    let start = short.iter().zip(long).take_while(|(one, other)| one == other).count();
    let (short, long) = (&short[start..], &long[start..]);
    if short.len() < long.len() {
        return short == &long[1..];
    }
    match (short, long) {
        ([_, one @ ..], [_, other @ ..]) if one == other => true,
        ([a, b, one @ ..], [c, d, other @ ..]) => a == d && b == c && one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variants(known: &[&str], word: &str) -> Vec<(String, bool)> {
        let mut vocabulary = Vocabulary::default();
        for word in known {
            vocabulary.insert(word);
        }
        let found = vocabulary.variants(word);
        found
            .into_iter()
            .map(|variant| (vocabulary.text(variant.term).to_owned(), variant.is_whole))
            .collect()
    }

    fn whole(word: &str) -> (String, bool) {
        (word.to_owned(), true)
    }

    #[test]
    fn one_edit_is_tolerated_in_words_of_five_letters() {
        // Removed, inserted, replaced, exchanged; at the start, in the middle and at the end.
        for typo in [
            "blener", "blendder", "blemder", "bledner", "lender", "blende", "xblender", "blenders", "lbender",
        ] {
            assert_eq!(variants(&["blender", "kettle"], typo), [whole("blender")], "{typo}");
        }
        assert_eq!(variants(&["lamp"], "lamb"), []);
        assert_eq!(variants(&["lamp"], "lmap"), []);
        assert_eq!(variants(&["blender"], "blemdar"), [], "two edits");
    }

    #[test]
    fn numbers_and_codes_match_exactly() {
        assert_eq!(variants(&["1000xm4", "12345"], "1000xm5"), []);
        assert_eq!(variants(&["1000xm4", "12345"], "12346"), []);
        assert_eq!(variants(&["1000xm4"], "1000xm4"), [whole("1000xm4")]);
        // A code is not taken for a word either.
        assert_eq!(variants(&["shoes2"], "shoess"), []);
    }

    #[test]
    fn known_word_is_not_taken_for_a_misspelling() {
        assert_eq!(variants(&["cable", "table"], "cable"), [whole("cable")]);
        assert_eq!(variants(&["shoe", "shoes"], "shoes"), [whole("shoes"), ("shoe".to_owned(), false)]);
    }

    #[test]
    fn edits_count_characters_instead_of_bytes() {
        assert_eq!(variants(&["елочка"], "елачка"), [whole("елочка")]);
    }

    #[test]
    fn removed_word_leaves_nothing_behind() {
        let mut vocabulary = Vocabulary::default();
        let term = vocabulary.insert("blender");
        vocabulary.remove(term);
        assert_eq!(vocabulary.variants("blender"), []);
        assert!(vocabulary.trigrams.is_empty() && vocabulary.numbers.is_empty());
        assert_eq!(vocabulary.insert("kettle"), term);
    }
}
