//! A set of product numbers as bits: small, fast to go through and to count, and to ask about single numbers.

/// A set of numbers, with memory for each number up to the largest.
#[derive(Clone, Debug, Default)]
pub struct NumberSet {
    words: Vec<u64>,
    len: usize,
}

impl NumberSet {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn contains(&self, number: u32) -> bool {
        let word = self.words.get(number as usize / 64).copied().unwrap_or_default();
        word >> (number % 64) & 1 == 1
    }

    pub fn insert(&mut self, number: u32) {
        let word = number as usize / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        if !self.contains(number) {
            self.words[word] |= 1 << (number % 64);
            self.len += 1;
        }
    }

    /// Whether the number was in the set.
    pub fn remove(&mut self, number: u32) -> bool {
        let was_present = self.contains(number);
        if was_present {
            self.words[number as usize / 64] &= !(1 << (number % 64));
            self.len -= 1;
        }
        was_present
    }

    /// Removes this number and all larger ones.
    pub fn keep_below(&mut self, number: u32) {
        let word = number as usize / 64;
        self.words.truncate(word + 1);
        if let Some(last) = self.words.get_mut(word) {
            *last &= (1 << (number % 64)) - 1;
        }
        self.len = self.words.iter().map(|word| word.count_ones() as usize).sum();
    }

    /// The numbers in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.words.iter().zip(0_u32..).flat_map(|(word, index)| {
            let next = |rest: &u64| Some(rest & (rest - 1)).filter(|rest| *rest != 0);
            std::iter::successors(Some(*word).filter(|word| *word != 0), next)
                .map(move |rest| index * 64 + rest.trailing_zeros())
        })
    }

    /// The number of those that are in the other set, too.
    pub fn count_common(&self, other: &Self) -> usize {
        self.words.iter().zip(&other.words).map(|(one, other)| (one & other).count_ones() as usize).sum()
    }
}

impl FromIterator<u32> for NumberSet {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        let mut set = Self::default();
        numbers.into_iter().for_each(|number| set.insert(number));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn set_is_as_a_set_of_the_standard_library(
            changes in proptest::collection::vec((0_u32..200, any::<bool>()), 0..100),
            others in proptest::collection::btree_set(0_u32..300, 0..50),
            below in 0_u32..260,
        ) {
            let (mut set, mut expected) = (NumberSet::default(), BTreeSet::new());
            for (number, is_inserted) in changes {
                if is_inserted {
                    set.insert(number);
                    expected.insert(number);
                } else {
                    prop_assert_eq!(set.remove(number), expected.remove(&number));
                }
            }
            let common = expected.intersection(&others).count();
            prop_assert_eq!(set.count_common(&others.iter().copied().collect()), common);
            for step in 0..2 {
                prop_assert_eq!(set.iter().collect::<BTreeSet<u32>>(), expected.clone());
                prop_assert_eq!((set.len(), set.is_empty()), (expected.len(), expected.is_empty()));
                prop_assert!((0..300).all(|number| set.contains(number) == expected.contains(&number)));
                if step == 0 {
                    set.keep_below(below);
                    expected.retain(|number| *number < below);
                }
            }
        }
    }
}
