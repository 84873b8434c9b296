//! Whether a product image is in a frame, and how surely.

use serde::Serialize;

use crate::features::Features;
use crate::homography::Homography;
use crate::matching::{Correspondence, correspondences};
use crate::ransac::consensus;
use crate::splitmix::SplitMix64;

/// A match rests on at least so many inliers at different places.
pub const INLIERS_MIN: usize = 12;
/// Inliers nearer to each other than this in the product image, in pixels, are one place: a strong corner is
/// found again on several levels of the pyramid and must not vote for each.
pub const PLACE_RADIUS: f64 = 3.0;

/// What comparing a product image with a frame gave.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Correspondences that the vector pass found.
    pub correspondences: usize,
    /// Whether the candidate went to geometric verification: with fewer correspondences than a match
    /// needs inliers, there is nothing to verify.
    pub ransac_checked: bool,
    /// Correspondences at different places that one plausible map agrees with.
    pub inliers: usize,
    pub found: Option<Found>,
}

/// The product image's place in the frame.
#[derive(Debug, Clone)]
pub struct Found {
    pub homography: Homography,
    pub inliers: Vec<Correspondence>,
    pub score: Score,
}

/// How sure a match is, 0 to 1. It orders matches; it is no probability.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Score(f64);

impl Score {
    /// `0.7 · n / (n + 12) + 0.3 · n / c`, of `n` inliers among `c` correspondences, to four decimals: it rises with
    /// the number of places that agree and with their share, and is never the one alone.
    pub fn of(inliers: usize, correspondences: usize) -> Self {
        let (n, c) = (inliers as f64, correspondences.max(inliers).max(1) as f64);
        let score = 0.7 * n / (n + INLIERS_MIN as f64) + 0.3 * n / c;
        Self((score * 10_000.0).round() / 10_000.0)
    }

    pub fn get(self) -> f64 {
        self.0
    }
}

/// Compares a product image with a frame; the names seed the sampling, so that a pair's verdict never changes.
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
    let inliers = at_different_places(consensus.inliers);
    verdict.inliers = inliers.len();
    if inliers.len() >= INLIERS_MIN {
        let score = Score::of(inliers.len(), pairs.len());
        verdict.found = Some(Found { homography: consensus.homography, inliers, score });
    }
    verdict
}

/// Of inliers near each other, on either side, keeps the most alike.
fn at_different_places(mut inliers: Vec<Correspondence>) -> Vec<Correspondence> {
    inliers.sort_by_key(|pair| pair.distance);
    let mut kept: Vec<Correspondence> = Vec::with_capacity(inliers.len());
    for pair in inliers {
        let taken = kept.iter().any(|held| {
            nalgebra::distance(&held.product, &pair.product) < PLACE_RADIUS
                || nalgebra::distance(&held.frame, &pair.frame) < PLACE_RADIUS
        });
        if !taken {
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
        fn a_score_is_between_0_and_1_and_rises_with_inliers_and_with_their_share(
            inliers in 0_usize..2_000, others in 0_usize..2_000,
        ) {
            let score = Score::of(inliers, inliers + others);
            prop_assert!((0.0..=1.0).contains(&score.get()));
            prop_assert!(Score::of(inliers + 1, inliers + others + 1) >= score);
            prop_assert!(Score::of(inliers, inliers + others + 1) <= score);
        }
    }

    #[test]
    fn a_corner_found_on_several_levels_votes_once() {
        let pair = |x: f64, frame_x: f64, distance| Correspondence {
            product: Point2::new(x, 10.0),
            frame: Point2::new(frame_x, 10.0),
            distance,
        };
        let kept = at_different_places(vec![pair(10.0, 50.0, 9), pair(11.0, 60.0, 3), pair(90.0, 61.0, 5)]);
        assert_eq!(kept, [pair(11.0, 60.0, 3)], "near on either side is one place, and the most alike stays");
    }

    #[test]
    fn a_picture_without_features_is_found_nowhere_and_never_verified() {
        let blank = Features { width: 100, height: 100, list: Vec::new() };
        let verdict = verdict(&blank, &blank, &["a", "b"]);
        assert!(!verdict.ransac_checked && verdict.found.is_none());
    }
}
