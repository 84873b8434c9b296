//! The vector pass: which feature of a product image looks like which feature of a frame.

use nalgebra::Point2;

use crate::features::{Feature, Features};

/// The best candidate must be nearer than this share of the second best: a look that many places
/// have says nothing about where.
pub const RATIO_MAX: f64 = 0.8;
/// A best candidate with more differing bits than this is no likeness, however lonely. Unrelated patches
/// differ in about 128.
pub const DISTANCE_MAX: u32 = 80;

/// A place in the product image and the place in the frame that looks like it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Correspondence {
    pub product: Point2<f64>,
    pub frame: Point2<f64>,
    /// Differing bits of the two descriptors.
    pub distance: u32,
}

/// At most one correspondence for each feature, on both sides. O(product features × frame features).
pub fn correspondences(product: &Features, frame: &Features) -> Vec<Correspondence> {
    // For each frame feature the nearest product feature that chose it: several may, and only one can be right.
    let mut chosen: Vec<Option<Correspondence>> = vec![None; frame.list.len()];
    for feature in &product.list {
        let Some((index, distance)) = nearest(feature, &frame.list) else { continue };
        let rival = &mut chosen[index];
        if rival.is_none_or(|held| distance < held.distance) {
            *rival = Some(Correspondence { product: feature.at, frame: frame.list[index].at, distance });
        }
    }
    chosen.into_iter().flatten().collect()
}

/// The nearest by Hamming distance, if it is near and clearly nearer than the next elsewhere.
fn nearest(feature: &Feature, among: &[Feature]) -> Option<(usize, u32)> {
    let (mut best, mut best_index, mut second) = (u32::MAX, 0, u32::MAX);
    for (index, other) in among.iter().enumerate() {
        let distance = feature.descriptor.distance(&other.descriptor);
        if distance < best {
            second = best;
            best = distance;
            best_index = index;
        } else if distance < second {
            second = distance;
        }
    }
    let clear = second != u32::MAX && f64::from(best) < RATIO_MAX * f64::from(second);
    (best <= DISTANCE_MAX && clear).then_some((best_index, best))
}
