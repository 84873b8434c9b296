//! Geometric verification: the homography that most correspondences agree on, by random sample consensus.

use crate::homography::Homography;
use crate::matching::Correspondence;
use crate::splitmix::SplitMix64;

/// A correspondence agrees with a map that takes it this near, in frame pixels.
pub const INLIER_ERROR_MAX: f64 = 4.0;
const SAMPLES_MAX: usize = 5_000;
/// Sampling ends once a better map would have been met with this probability.
const CONFIDENCE: f64 = 0.999;
const REFINEMENTS_MAX: usize = 10;

/// A map and the correspondences that agree with it.
#[derive(Debug, Clone)]
pub struct Consensus {
    pub homography: Homography,
    pub inliers: Vec<Correspondence>,
}

/// The plausible map with the most inliers, refined on them; none without one. The same input and seed
/// give the same answer. `width` and `height` are the product image's.
pub fn consensus(
    pairs: &[Correspondence], width: u32, height: u32, mut random: SplitMix64,
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
        // Refining each new best at once, not only the last, reaches the full consensus in far fewer samples.
        let found = refined(homography, pairs, width, height);
        samples = samples.min(samples_needed(found.inliers.len(), pairs.len()));
        best = Some(found);
    }
    best
}

/// Fits the map to its inliers for as long as that gains inliers.
fn refined(homography: Homography, pairs: &[Correspondence], width: u32, height: u32) -> Consensus {
    let mut best = Consensus { homography, inliers: inliers(&homography, pairs) };
    for _ in 0..REFINEMENTS_MAX {
        let Some(fitted) = Homography::fit(&best.inliers) else { break };
        let agreeing = inliers(&fitted, pairs);
        if agreeing.len() < best.inliers.len() || !fitted.is_plausible(width, height) {
            break;
        }
        let settled = agreeing.len() == best.inliers.len();
        best = Consensus { homography: fitted, inliers: agreeing };
        if settled {
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
