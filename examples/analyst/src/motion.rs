//! Finds scene cuts and motion from the differences between consecutive frames.

use serde::Serialize;

/// Frames are compared as grids of brightness, so that noise of single pixels does not matter.
pub const COLUMNS: usize = 64;
pub const ROWS: usize = 36;

/// The least difference of a scene cut, of 255, …
const CUT_MIN: f64 = 18.0;
/// … and its least ratio to the typical difference nearby.
const CUT_TIMES: f64 = 4.0;
/// The number of frames on either side for the typical difference.
const AROUND: usize = 12;
/// The time over which motion is averaged.
const SMOOTH_SECONDS: f64 = 0.4;
/// The length of a highlight on either side of its peak.
const REACH_SECONDS: f64 = 0.6;

/// The brightness of a frame by cells.
pub type Grid = [u8; COLUMNS * ROWS];

/// The difference of two consecutive frames: the mean over all cells, from 0 to 255.
pub fn difference(before: &Grid, after: &Grid) -> f64 {
    let sum: u64 = before.iter().zip(after).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / before.len() as f64
}

/// The scene cuts and highlights of a video.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Findings {
    /// The starts of new scenes, in seconds.
    pub scene_cuts: Vec<f64>,
    /// Sorted by score, the best first.
    pub highlights: Vec<Highlight>,
}

/// An interesting part of a video.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Highlight {
    pub start_seconds: f64,
    pub end_seconds: f64,
    /// From 0 (average motion) to 1 (the most motion in the video).
    pub score: f64,
    pub reasons: Vec<Reason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    MotionPeak,
    SceneCut,
}

/// Finds scene cuts and peaks of motion. `differences` has one value per frame, 0 for the first; `at` has the times of the
/// frames in seconds.
pub fn find(differences: &[f64], at: &[f64], highlights_max: usize) -> Findings {
    let cuts: Vec<usize> = (1..differences.len()).filter(|frame| is_cut(differences, *frame)).collect();
    // A cut is not motion, and would dominate it.
    let mut motion = differences.to_vec();
    for cut in &cuts {
        motion[*cut] = typical(differences, *cut);
    }
    let smooth = smooth(&motion, at);
    let mean = smooth.iter().sum::<f64>() / smooth.len().max(1) as f64;
    let most = smooth.iter().copied().fold(0.0, f64::max);
    let mut peaks: Vec<usize> = (0..smooth.len()).filter(|frame| smooth[*frame] > mean).collect();
    peaks.sort_by(|a, b| smooth[*b].total_cmp(&smooth[*a]).then(a.cmp(b)));
    let end = at.last().copied().unwrap_or(0.0);
    let mut chosen: Vec<usize> = Vec::new();
    for peak in peaks {
        if chosen.len() >= highlights_max {
            break;
        }
        if chosen.iter().all(|other| (at[peak] - at[*other]).abs() >= 2.0 * REACH_SECONDS) {
            chosen.push(peak);
        }
    }
    let highlight = |peak: usize| {
        let (start, until) = ((at[peak] - REACH_SECONDS).max(0.0), (at[peak] + REACH_SECONDS).min(end));
        let has_cut = cuts.iter().any(|cut| (start..=until).contains(&at[*cut]));
        Highlight {
            start_seconds: round(start),
            end_seconds: round(until),
            score: round((smooth[peak] - mean) / (most - mean).max(f64::MIN_POSITIVE)),
            reasons: std::iter::once(Reason::MotionPeak).chain(has_cut.then_some(Reason::SceneCut)).collect(),
        }
    };
    Findings {
        scene_cuts: cuts.iter().map(|cut| round(at[*cut])).collect(),
        highlights: chosen.into_iter().map(highlight).collect(),
    }
}

fn is_cut(differences: &[f64], frame: usize) -> bool {
    differences[frame] >= CUT_MIN && differences[frame] >= CUT_TIMES * typical(differences, frame).max(1.0)
}

/// The median difference of the frames around this one.
fn typical(differences: &[f64], frame: usize) -> f64 {
    let (from, to) = (frame.saturating_sub(AROUND), (frame + AROUND + 1).min(differences.len()));
    let mut around: Vec<f64> =
        (from..to).filter(|other| *other != frame).map(|other| differences[other]).collect();
    around.sort_by(f64::total_cmp);
    around.get(around.len() / 2).copied().unwrap_or(0.0)
}

fn smooth(motion: &[f64], at: &[f64]) -> Vec<f64> {
    let mean_around = |frame: usize| {
        let near: Vec<f64> = (0..motion.len())
            .filter(|other| (at[*other] - at[frame]).abs() <= SMOOTH_SECONDS / 2.0)
            .map(|other| motion[other])
            .collect();
        near.iter().sum::<f64>() / near.len().max(1) as f64
    };
    (0..motion.len()).map(mean_around).collect()
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(count: usize) -> Vec<f64> {
        (0..count).map(|frame| frame as f64 / 25.0).collect()
    }

    #[test]
    fn difference_is_0_for_equal_frames_and_255_at_most() {
        let (black, white) = ([0; COLUMNS * ROWS], [255; COLUMNS * ROWS]);
        assert_eq!(difference(&black, &black), 0.0);
        assert_eq!(difference(&black, &white), 255.0);
    }

    #[test]
    fn sudden_change_is_a_cut_and_not_motion() {
        let mut differences = vec![2.0; 100];
        differences[0] = 0.0;
        differences[50] = 80.0;
        let found = find(&differences, &times(100), 5);
        assert_eq!(found.scene_cuts, [2.0]);
        assert!(found.highlights.iter().all(|highlight| highlight.score <= 1.0));
        let fast: Vec<f64> = (0..100).map(|_| 40.0).collect();
        assert_eq!(find(&fast, &times(100), 5).scene_cuts, [0.0; 0]);
    }

    #[test]
    fn highlights_are_sorted_by_motion_and_do_not_overlap() {
        let bump = |frame: usize, at: usize, height: f64| {
            height * (-((frame as f64 - at as f64) / 5.0).powi(2)).exp()
        };
        let differences: Vec<f64> =
            (0..250).map(|frame| 1.0 + bump(frame, 50, 10.0) + bump(frame, 150, 20.0)).collect();
        let found = find(&differences, &times(250), 2);
        let middles: Vec<f64> =
            found.highlights.iter().map(|found| (found.start_seconds + found.end_seconds) / 2.0).collect();
        assert_eq!(middles, [6.0, 2.0]);
        assert_eq!(found.highlights[0].score, 1.0);
        assert_eq!(found.highlights[0].reasons, [Reason::MotionPeak]);
    }

    #[test]
    fn video_without_motion_has_no_highlights() {
        assert_eq!(find(&[0.0; 50], &times(50), 5).highlights, []);
        assert_eq!(find(&[], &[], 5), Findings { scene_cuts: vec![], highlights: vec![] });
    }

    proptest! {
        #[test]
        fn highlights_respect_the_limit_and_the_video(
            differences in prop::collection::vec(0.0_f64..120.0, 1..300), max in 0_usize..8,
        ) {
            let at = times(differences.len());
            let found = find(&differences, &at, max);
            prop_assert!(found.highlights.len() <= max);
            for highlight in found.highlights {
                prop_assert!(highlight.start_seconds >= 0.0 && highlight.end_seconds <= at[at.len() - 1] + 1e-3);
                prop_assert!((0.0..=1.0).contains(&highlight.score));
            }
        }
    }
}
