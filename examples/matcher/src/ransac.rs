//! Geometric verification: the homography that most correspondences agree on, by random sample consensus.

use crate::homography::Homography;
use crate::matching::Correspondence;
use crate::splitmix::SplitMix64;

/// The largest error of an inlier, in frame pixels.
pub const INLIER_ERROR_MAX: f64 = 4.0;
const SAMPLES_MAX: usize = 5_000;
/// Sampling ends when a better map would have been found with this probability.
const CONFIDENCE: f64 = 0.999;
const REFINEMENTS_MAX: usize = 10;
/// The damping of tilt. A dozen inliers in one corner of an image determine the far corners badly, because noise looks like
/// tilt. With this damping, applied once the inliers are known, the worst corner on the sample images moves by 2.2 pixels
/// from frame to frame instead of 11.6, and the inliers fit as well.
const TILT_DAMPING: f64 = 3.0;

/// A map and its inliers.
#[derive(Debug, Clone)]
pub struct Consensus {
    pub homography: Homography,
    pub inliers: Vec<Correspondence>,
}

/// The plausible map with the most inliers, refined on them, if there is one. Deterministic for the same input and seed.
/// `width` and `height` are the size of the product image.
pub fn consensus(
    pairs: &[Correspondence],
    width: u32,
    height: u32,
    mut random: SplitMix64,
) -> Option<Consensus> {
    if pairs.len() < 4 {
        return None;
    }
    let mut best: Option<Consensus> = None;
    let mut samples = SAMPLES_MAX;
    let mut drawn = 0;
    while drawn < samples {
        drawn += 1;
        let sample = four_different(&mut random, pairs.len()).map(|index| &pairs[index]);
        let Some(homography) = Homography::through_four(sample) else { continue };
        let held = best.as_ref().map_or(3, |best| best.inliers.len());
        let agreeing = pairs.iter().filter(|pair| homography.error(pair) <= INLIER_ERROR_MAX).count();
        if agreeing <= held || !homography.is_plausible(width, height) {
            continue;
        }
        // Refining each new best map, not only the last, needs far fewer samples.
        let found = refined(homography, pairs, width, height);
        samples = samples.min(samples_needed(found.inliers.len(), pairs.len()));
        best = Some(found);
    }
    best.map(|best| damped(best, width, height))
}

/// The same consensus with the damped map, if all its inliers still agree.
fn damped(found: Consensus, width: u32, height: u32) -> Consensus {
    match Homography::fit(&found.inliers, TILT_DAMPING) {
        Some(damped) if damped.is_plausible(width, height) && agree(&damped, &found.inliers) => {
            Consensus { homography: damped, ..found }
        }
        _ => found,
    }
}

fn agree(homography: &Homography, pairs: &[Correspondence]) -> bool {
    pairs.iter().all(|pair| homography.error(pair) <= INLIER_ERROR_MAX)
}

/// Fits the map to its inliers as long as their number grows.
fn refined(homography: Homography, pairs: &[Correspondence], width: u32, height: u32) -> Consensus {
    let mut best = Consensus { homography, inliers: inliers(&homography, pairs) };
    for _ in 0..REFINEMENTS_MAX {
        let Some(fitted) = Homography::fit(&best.inliers, 0.0) else { break };
        let agreeing = inliers(&fitted, pairs);
        if agreeing.len() < best.inliers.len() || !fitted.is_plausible(width, height) {
            break;
        }
        let has_converged = agreeing.len() == best.inliers.len();
        best = Consensus { homography: fitted, inliers: agreeing };
        if has_converged {
            break;
        }
    }
    best
}

fn inliers(homography: &Homography, pairs: &[Correspondence]) -> Vec<Correspondence> {
    pairs.iter().filter(|pair| homography.error(pair) <= INLIER_ERROR_MAX).copied().collect()
}

fn samples_needed(inliers: usize, pairs: usize) -> usize {
    let all_four_right = (inliers as f64 / pairs as f64).powi(4);
    if all_four_right >= CONFIDENCE {
        return 1;
    }
    ((1.0 - CONFIDENCE).ln() / (1.0 - all_four_right).ln()).ceil() as usize
}

fn four_different(random: &mut SplitMix64, bound: usize) -> [usize; 4] {
    let mut chosen = [usize::MAX; 4];
    for place in 0..4 {
        chosen[place] = loop {
            let candidate = random.below(bound);
            if !chosen[..place].contains(&candidate) {
                break candidate;
            }
        };
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use nalgebra::{Matrix3, Point2};

    /// `right` correspondences of a known map with up to a pixel of noise, and `wrong` random ones.
    fn scene(right: usize, wrong: usize) -> (Homography, Vec<Correspondence>) {
        let matrix = Matrix3::new(0.5, -0.1, 220.0, 0.08, 0.55, 60.0, 1e-4, -1e-4, 1.0);
        let truth = Homography::from_matrix(matrix).unwrap();
        let mut random = SplitMix64::new(11);
        let mut pairs = Vec::new();
        for index in 0..right + wrong {
            let product = Point2::new(random.unit() * 400.0, random.unit() * 300.0);
            let exact = truth.project(product).unwrap();
            let frame = if index < right {
                Point2::new(exact.x + random.unit() - 0.5, exact.y + random.unit() - 0.5)
            } else {
                Point2::new(random.unit() * 640.0, random.unit() * 360.0)
            };
            pairs.push(Correspondence { product, frame, distance: index as u32 });
        }
        (truth, pairs)
    }

    #[test]
    fn map_is_recovered_among_three_outliers_per_inlier() {
        let (truth, pairs) = scene(30, 90);
        let found = consensus(&pairs, 400, 300, SplitMix64::new(1)).unwrap();
        assert!(found.inliers.iter().filter(|pair| pair.distance < 30).count() >= 29);
        for corner in [(0.0, 0.0), (399.0, 0.0), (399.0, 299.0), (0.0, 299.0)] {
            let corner = Point2::new(corner.0, corner.1);
            let off = nalgebra::distance(
                &truth.project(corner).unwrap(),
                &found.homography.project(corner).unwrap(),
            );
            assert!(off < 3.0, "a corner is off by {off} pixels");
        }
    }

    #[test]
    fn same_seed_gives_the_identical_result() {
        let (_, pairs) = scene(20, 60);
        let [one, other] = [0, 1].map(|_| consensus(&pairs, 400, 300, SplitMix64::new(9)).unwrap());
        assert_eq!(one.homography, other.homography);
        assert_eq!(one.inliers, other.inliers);
    }

    #[test]
    fn random_correspondences_give_no_match() {
        let (_, pairs) = scene(0, 120);
        let found = consensus(&pairs, 400, 300, SplitMix64::new(3));
        assert!(found.is_none_or(|found| found.inliers.len() < crate::verdict::INLIERS_MIN));
    }

    #[test]
    fn damping_stabilises_the_far_corner() {
        let matrix = Matrix3::new(0.5, 0.0, 200.0, 0.0, 0.5, 60.0, 0.0, 0.0, 1.0);
        let truth = Homography::from_matrix(matrix).unwrap();
        let far = Point2::new(415.0, 179.0);
        let off = |map: &Homography| {
            map.project(far).map_or(f64::INFINITY, |at| nalgebra::distance(&at, &truth.project(far).unwrap()))
        };
        let (mut plain, mut steady) = (0.0, 0.0);
        for seed in 0..20 {
            let mut random = SplitMix64::new(seed);
            let inliers = Vec::from_iter((0..14).map(|index| {
                let product = Point2::new(30.0 + random.unit() * 180.0, 40.0 + random.unit() * 70.0);
                let exact = truth.project(product).unwrap();
                let frame = Point2::new(exact.x + 0.7 * random.normal(), exact.y + 0.7 * random.normal());
                Correspondence { product, frame, distance: index }
            }));
            let homography = Homography::fit(&inliers, 0.0).unwrap();
            plain += off(&homography) / 20.0;
            steady += off(&damped(Consensus { homography, inliers }, 416, 180).homography) / 20.0;
        }
        assert!(
            steady < 0.9 * plain,
            "the far corner is off by {steady:.1} pixels, {plain:.1} without damping"
        );
    }

    #[test]
    fn three_correspondences_are_not_enough() {
        let (_, pairs) = scene(3, 0);
        assert!(consensus(&pairs, 400, 300, SplitMix64::new(1)).is_none());
    }
}
