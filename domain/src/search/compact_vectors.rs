//! Vectors of the built-in encoder, in a byte a number, compared one by one.
//!
//! An exact search reads every vector, so its time is that of reading the memory: a byte a number is a quarter of what `f32`
//! takes, and its products are sums of whole numbers, which are the same in any order and on every machine. Each vector is
//! stored as the direction of small whole numbers that is nearest to it: its cosine similarities differ by some thousandths
//! from those of the vector that was encoded, for every search alike.

use super::Scored;

/// The largest number of a stored vector.
const STORED_MAX: f32 = 127.0;
/// The largest number of the vector that is asked for: 384 products of both fit an `i32`.
const ASKED_MAX: f32 = 32_767.0;
/// The number of vectors in a block.
const BLOCK: usize = 1_024;

/// The vectors of products, by number.
#[derive(Debug)]
pub struct CompactVectors {
    dimension: usize,
    /// Blocks of [`BLOCK`] vectors, so that none is moved when further ones come.
    blocks: Vec<Vec<i8>>,
    /// What the whole numbers of a product's vector are multiplied with, so that its length is 1; 0 without a vector.
    scales: Vec<f32>,
}

/// A vector that others are compared with.
#[derive(Clone, Debug)]
pub struct Asked {
    numbers: Vec<i16>,
    scale: f32,
}

impl Asked {
    /// The direction of the vector; with only zeros, every similarity is 0.
    pub fn new(vector: &[f32]) -> Self {
        let (numbers, scale) = whole(vector, ASKED_MAX);
        Self { numbers: numbers.into_iter().map(|number| number as i16).collect(), scale }
    }
}

/// The numbers of the vector, with the largest at `max`, and the factor that gives them the length 1.
fn whole(vector: &[f32], max: f32) -> (Vec<f32>, f32) {
    let largest = vector.iter().fold(0.0_f32, |largest, number| largest.max(number.abs()));
    if largest == 0.0 {
        return (vec![0.0; vector.len()], 0.0);
    }
    let numbers: Vec<f32> = vector.iter().map(|number| (number / largest * max).round()).collect();
    let length = numbers.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
    (numbers, (1.0 / length) as f32)
}

/// The inner product.
fn dot(asked: &[i16], stored: &[i8]) -> i32 {
    asked.iter().zip(stored).map(|(one, other)| i32::from(*one) * i32::from(*other)).sum()
}

impl CompactVectors {
    pub fn new(dimension: usize) -> Self {
        Self { dimension, blocks: Vec::new(), scales: Vec::new() }
    }

    /// Adds or replaces the vector of a product.
    ///
    /// # Panics
    /// If it has another length than the others.
    pub fn insert(&mut self, number: u32, vector: &[f32]) {
        assert_eq!(vector.len(), self.dimension, "the encoder's vectors have one length");
        let index = number as usize;
        if self.scales.len() <= index {
            self.scales.resize(index + 1, 0.0);
        }
        while self.blocks.len() <= index / BLOCK {
            self.blocks.push(vec![0; BLOCK * self.dimension]);
        }
        let (numbers, scale) = whole(vector, STORED_MAX);
        self.scales[index] = scale;
        let start = index % BLOCK * self.dimension;
        let stored = &mut self.blocks[index / BLOCK][start..][..self.dimension];
        stored.iter_mut().zip(numbers).for_each(|(stored, number)| *stored = number as i8);
    }

    pub fn remove(&mut self, number: u32) {
        if let Some(scale) = self.scales.get_mut(number as usize) {
            *scale = 0.0;
        }
    }

    pub fn contains(&self, number: u32) -> bool {
        self.stored(number).is_some()
    }

    /// The vector of a product, of length 1.
    pub fn get(&self, number: u32) -> Option<Vec<f32>> {
        let (stored, scale) = self.stored(number)?;
        Some(stored.iter().map(|number| f32::from(*number) * scale).collect())
    }

    fn stored(&self, number: u32) -> Option<(&[i8], f32)> {
        let index = number as usize;
        let scale = self.scales.get(index).copied().filter(|scale| *scale > 0.0)?;
        Some((&self.blocks[index / BLOCK][index % BLOCK * self.dimension..][..self.dimension], scale))
    }

    /// The cosine similarity with the vector of a product.
    pub fn similarity(&self, asked: &Asked, number: u32) -> Option<f32> {
        let (stored, scale) = self.stored(number)?;
        Some(dot(&asked.numbers, stored) as f32 * (asked.scale * scale))
    }

    /// The cosine similarity of the vectors of two products.
    pub fn between(&self, one: u32, other: u32) -> Option<f32> {
        let ((one, scale), (other, other_scale)) = (self.stored(one)?, self.stored(other)?);
        let products = one.iter().zip(other).map(|(one, other)| i32::from(*one) * i32::from(*other));
        Some(products.sum::<i32>() as f32 * (scale * other_scale))
    }

    /// The cosine similarities with the vectors of these products, as far as they have one.
    pub fn compare(&self, vector: &[f32], numbers: &[u32]) -> Vec<Scored> {
        let asked = Asked::new(vector);
        let scored =
            |number: &u32| Some(Scored { number: *number, score: self.similarity(&asked, *number)? });
        numbers.iter().filter_map(scored).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::encoder::{DIMENSION, normalised};
    use super::super::exact;
    use super::*;

    proptest! {
        #[test]
        fn similarities_are_those_of_the_vectors_but_for_rounding(
            one in prop::collection::vec(-1.0_f32..1.0, DIMENSION),
            other in prop::collection::vec(-1.0_f32..1.0, DIMENSION),
        ) {
            let (Some(one), Some(other)) = (normalised(one), normalised(other)) else { return Ok(()) };
            let mut vectors = CompactVectors::new(DIMENSION);
            vectors.insert(3, &other);
            let similarity = vectors.similarity(&Asked::new(&one), 3).unwrap();
            prop_assert!((similarity - exact::dot(&one, &other)).abs() < 0.005, "{similarity}");
            vectors.insert(4, &one);
            let between = vectors.between(3, 4).unwrap();
            prop_assert!((between - similarity).abs() < 0.005, "{between}");
            // What a search shows is what the vector of the product says.
            prop_assert!((similarity - exact::dot(&one, &vectors.get(3).unwrap())).abs() < 1e-4);
        }
    }

    #[test]
    fn largest_numbers_of_both_sides_do_not_overflow() {
        let vector = [1.0; DIMENSION];
        let mut vectors = CompactVectors::new(DIMENSION);
        vectors.insert(0, &vector);
        let similarity = vectors.similarity(&Asked::new(&vector), 0).unwrap();
        assert!((similarity - 1.0).abs() < 1e-6, "{similarity}");
    }

    #[test]
    fn removed_and_replaced_vectors_are_not_compared() {
        let mut vectors = CompactVectors::new(2);
        vectors.insert(0, &[1.0, 0.0]);
        vectors.insert(5, &[1.0, 0.0]);
        vectors.insert(5, &[0.0, 1.0]);
        vectors.insert(6, &[1.0, 0.0]);
        vectors.remove(6);
        vectors.remove(99_999);
        vectors.insert(5_000, &[1.0, 0.0]);
        assert_eq!((vectors.get(5_000), vectors.get(4_999)), (Some(vec![1.0, 0.0]), None));
        assert!(vectors.contains(5) && !vectors.contains(6));
        let found = vectors.compare(&[0.6, 0.8], &[0, 1, 5, 6, 99]);
        assert_eq!(found.iter().map(|one| one.number).collect::<Vec<_>>(), [0, 5]);
        assert!((found[0].score - 0.6).abs() < 1e-4 && (found[1].score - 0.8).abs() < 1e-4);
    }

    #[test]
    fn vector_of_zeros_resembles_nothing() {
        let mut vectors = CompactVectors::new(2);
        vectors.insert(0, &[0.0, 0.0]);
        assert_eq!(vectors.get(0), None);
        vectors.insert(0, &[1.0, 0.0]);
        assert_eq!(vectors.compare(&[0.0, 0.0], &[0]), [Scored { number: 0, score: 0.0 }]);
    }
}
