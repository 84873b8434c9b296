//! Vectors of products in one block of memory, compared one by one: always right, and fast for some ten thousand.

use super::Scored;

/// The vectors of products, by number. All have one length, and are normalised.
#[derive(Debug)]
pub struct Vectors {
    dimension: usize,
    /// Blocks of [`BLOCK`] vectors, so that none is moved when further ones come.
    blocks: Vec<Vec<f32>>,
    present: Vec<bool>,
}

/// The number of vectors in a block.
const BLOCK: usize = 1_024;

impl Vectors {
    pub fn new(dimension: usize) -> Self {
        Self { dimension, blocks: Vec::new(), present: Vec::new() }
    }

    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Adds or replaces the vector of a product.
    ///
    /// # Panics
    /// If it has another length than the others.
    pub fn insert(&mut self, number: u32, vector: &[f32]) {
        assert_eq!(vector.len(), self.dimension, "the caller checks the length");
        let index = number as usize;
        if self.present.len() <= index {
            self.present.resize(index + 1, false);
        }
        while self.blocks.len() <= index / BLOCK {
            self.blocks.push(vec![0.0; BLOCK * self.dimension]);
        }
        self.present[index] = true;
        let start = index % BLOCK * self.dimension;
        self.blocks[index / BLOCK][start..][..self.dimension].copy_from_slice(vector);
    }

    pub fn remove(&mut self, number: u32) {
        if let Some(present) = self.present.get_mut(number as usize) {
            *present = false;
        }
    }

    pub fn get(&self, number: u32) -> Option<&[f32]> {
        let index = number as usize;
        let is_present = self.present.get(index).is_some_and(|present| *present);
        is_present.then(|| &self.blocks[index / BLOCK][index % BLOCK * self.dimension..][..self.dimension])
    }

    /// The cosine similarity of the vector with that of each of these products, as far as they have one.
    pub fn compare(&self, vector: &[f32], numbers: &[u32]) -> Vec<Scored> {
        let scored = |number: &u32| Some(Scored { number: *number, score: dot(vector, self.get(*number)?) });
        numbers.iter().filter_map(scored).collect()
    }
}

/// The inner product. The eight sums are independent, so that the compiler uses wide instructions; their order is fixed, so
/// that the result is the same on every machine.
pub fn dot(one: &[f32], other: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let (ones, others) = (one.chunks_exact(LANES), other.chunks_exact(LANES));
    let rest: f32 = ones.remainder().iter().zip(others.remainder()).map(|(one, other)| one * other).sum();
    for (one, other) in ones.zip(others) {
        for lane in 0..LANES {
            sums[lane] += one[lane] * other[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_is_the_inner_product_at_any_length() {
        for length in [0, 1, 7, 8, 9, 384, 385] {
            let one: Vec<f32> = (0..length).map(|n| n as f32).collect();
            let other: Vec<f32> = (0..length).map(|n| (n % 3) as f32).collect();
            let expected: f32 = (0..length).map(|n| (n * (n % 3)) as f32).sum();
            assert_eq!(dot(&one, &other), expected, "{length}");
        }
    }

    #[test]
    fn removed_and_replaced_vectors_are_not_compared() {
        let mut vectors = Vectors::new(2);
        vectors.insert(0, &[1.0, 0.0]);
        vectors.insert(5, &[1.0, 0.0]);
        vectors.insert(5, &[0.0, 1.0]);
        vectors.insert(6, &[1.0, 0.0]);
        vectors.remove(6);
        vectors.remove(99_999);
        vectors.insert(5_000, &[1.0, 0.0]);
        assert_eq!((vectors.get(5_000), vectors.get(4_999)), (Some(&[1.0, 0.0][..]), None));
        let found = vectors.compare(&[0.6, 0.8], &[0, 1, 5, 6, 99]);
        assert_eq!(found, [Scored { number: 0, score: 0.6 }, Scored { number: 5, score: 0.8 }]);
    }
}
