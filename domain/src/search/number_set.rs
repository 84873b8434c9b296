//! A set of product numbers as bits: a search of a vector index asks it about each product that it visits.

/// A set of numbers, with memory for each number up to the largest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumberSet(Vec<u64>);

impl NumberSet {
    pub fn contains(&self, number: u32) -> bool {
        let word = self.0.get(number as usize / 64).copied().unwrap_or_default();
        word >> (number % 64) & 1 == 1
    }

    fn insert(&mut self, number: u32) {
        let word = number as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (number % 64);
    }
}

impl<'a> FromIterator<&'a u32> for NumberSet {
    fn from_iter<I: IntoIterator<Item = &'a u32>>(numbers: I) -> Self {
        let mut set = Self::default();
        numbers.into_iter().for_each(|number| set.insert(*number));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_contains_its_numbers_only() {
        let numbers = [0, 1, 63, 64, 200];
        let set: NumberSet = numbers.iter().collect();
        assert!((0..1_000).all(|number| set.contains(number) == numbers.contains(&number)));
        assert!(!set.contains(u32::MAX) && !NumberSet::default().contains(0));
    }
}
