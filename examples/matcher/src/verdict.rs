//! Decides whether a product image is in a frame, with a score.

use serde::Serialize;

use crate::features::Features;
use crate::homography::Homography;
use crate::matching::{Correspondence, correspondences};
use crate::ransac::consensus;
use crate::splitmix::SplitMix64;

/// The least number of inliers at different positions for a match.
pub const INLIERS_MIN: usize = 12;
/// Inliers within this distance in pixels count once: a strong corner is found on several levels of the pyramid.
pub const PLACE_RADIUS: f64 = 3.0;

/// The result of comparing a product image with a frame.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The number of correspondences of the vector pass.
    pub correspondences: usize,
    /// Whether the candidate was verified geometrically, which needs at least as many correspondences as a match needs
    /// inliers.
    pub ransac_checked: bool,
    /// The number of inliers of the best plausible map at different positions.
    pub inliers: usize,
    pub found: Option<Detection>,
}

/// The product image in the frame.
#[derive(Debug, Clone)]
pub struct Detection {
    pub homography: Homography,
    pub inliers: Vec<Correspondence>,
    pub score: Score,
}

/// The score of a match, 0 to 1. It ranks matches; it is not a probability.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Score(f64);

impl Score {
    /// `0.7 · n / (n + 12) + 0.3 · n / c`, of `n` inliers among `c` correspondences, to four decimals: it rises with
    /// the number of inliers and with their share.
    pub fn of(inliers: usize, correspondences: usize) -> Self {
        let (n, c) = (inliers as f64, correspondences.max(inliers).max(1) as f64);
        let score = 0.7 * n / (n + INLIERS_MIN as f64) + 0.3 * n / c;
        Self((score * 10_000.0).round() / 10_000.0)
    }

    pub fn get(self) -> f64 {
        self.0
    }
}

/// Compares a product image with a frame. The names seed the sampling, so that the verdict is deterministic.
pub fn verdict(product: &Features, frame: &Features, names: &[&str; 2]) -> Verdict {
    let pairs = correspondences(product, frame);
    let mut verdict =
        Verdict { correspondences: pairs.len(), ransac_checked: false, inliers: 0, found: None };
    if pairs.len() < INLIERS_MIN {
        return verdict;
    }
    verdict.ransac_checked = true;
    let random = SplitMix64::from_names(names);
    let Some(consensus) = consensus(&pairs, product.width, product.height, random) else { return verdict };
    let inliers = deduplicated(consensus.inliers);
    verdict.inliers = inliers.len();
    if inliers.len() >= INLIERS_MIN {
        let score = Score::of(inliers.len(), pairs.len());
        verdict.found = Some(Detection { homography: consensus.homography, inliers, score });
    }
    verdict
}

/// Keeps the most similar of inliers that are close to each other on either side.
fn deduplicated(mut inliers: Vec<Correspondence>) -> Vec<Correspondence> {
    inliers.sort_by_key(|pair| pair.distance);
    let mut kept: Vec<Correspondence> = Vec::with_capacity(inliers.len());
    for pair in inliers {
        let is_duplicate = kept.iter().any(|held| {
            nalgebra::distance(&held.product, &pair.product) < PLACE_RADIUS
                || nalgebra::distance(&held.frame, &pair.frame) < PLACE_RADIUS
        });
        if !is_duplicate {
            kept.push(pair);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use nalgebra::Point2;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn score_is_between_0_and_1_and_rises_with_inliers(
            inliers in 0_usize..2_000, others in 0_usize..2_000,
        ) {
            let score = Score::of(inliers, inliers + others);
            prop_assert!((0.0..=1.0).contains(&score.get()));
            prop_assert!(Score::of(inliers + 1, inliers + others + 1) >= score);
            prop_assert!(Score::of(inliers, inliers + others + 1) <= score);
        }
    }

    #[test]
    fn corner_on_several_levels_counts_once() {
        let pair = |x: f64, frame_x: f64, distance| Correspondence {
            product: Point2::new(x, 10.0),
            frame: Point2::new(frame_x, 10.0),
            distance,
        };
        let kept = deduplicated(vec![pair(10.0, 50.0, 9), pair(11.0, 60.0, 3), pair(90.0, 61.0, 5)]);
        assert_eq!(
            kept,
            [pair(11.0, 60.0, 3)],
            "inliers close on either side count once, and the most similar is kept"
        );
    }

    #[test]
    fn image_without_features_is_never_verified() {
        let blank = Features { width: 100, height: 100, list: Vec::new() };
        let verdict = verdict(&blank, &blank, &["a", "b"]);
        assert!(!verdict.ransac_checked && verdict.found.is_none());
    }
}
