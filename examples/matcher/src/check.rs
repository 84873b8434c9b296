//! Compares all product images with all frames of a folder, without a server, and prints the result as a table.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde::Serialize;

use crate::media::{Folder, Media, MediaError};
use crate::verdict::{Score, verdict};

#[derive(Debug, Serialize)]
pub struct Check {
    pub candidates: usize,
    pub ransac_checked: usize,
    pub matches: usize,
    pub milliseconds: u64,
    pub images: Vec<ImageCheck>,
}

#[derive(Debug, Serialize)]
pub struct ImageCheck {
    pub img_id: String,
    pub frames: usize,
    pub found: usize,
    pub ransac_checked: usize,
    pub inliers_min: usize,
    pub inliers_median: usize,
    pub inliers_max: usize,
    pub matches: Vec<FrameMatch>,
}

#[derive(Debug, Serialize)]
pub struct FrameMatch {
    pub frame_id: String,
    pub inliers: usize,
    pub correspondences: usize,
    pub score: Score,
    /// The product image's corners in the frame, in pixels, from the top left clockwise.
    pub outline: Option<[(f64, f64); 4]>,
}

/// Compares each of `images` with each of `frames` (ids), on all cores.
pub fn check(media: &Media, images: &[String], frames: &[String]) -> Result<Check, MediaError> {
    let started = Instant::now();
    let next = AtomicUsize::new(0);
    let checked = Mutex::new(Vec::with_capacity(images.len()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(image) = images.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = check_image(media, image, frames);
                    checked.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(result);
                }
            });
        }
    });
    let checked = checked.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut images = checked.into_iter().collect::<Result<Vec<_>, _>>()?;
    images.sort_by(|a, b| a.img_id.cmp(&b.img_id));
    Ok(Check {
        candidates: images.len() * frames.len(),
        ransac_checked: images.iter().map(|image| image.ransac_checked).sum(),
        matches: images.iter().map(|image| image.found).sum(),
        milliseconds: started.elapsed().as_millis() as u64,
        images,
    })
}

fn check_image(media: &Media, image: &str, frames: &[String]) -> Result<ImageCheck, MediaError> {
    let product = media.features(&media.find(Folder::Products, image, None)?)?;
    let (mut inliers, mut matches, mut ransac_checked) = (Vec::new(), Vec::new(), 0);
    for frame in frames {
        let scene = media.features(&media.find(Folder::Frames, frame, None)?)?;
        let verdict = verdict(&product, &scene, &[image, frame]);
        ransac_checked += usize::from(verdict.ransac_checked);
        inliers.push(verdict.inliers);
        matches.extend(verdict.found.map(|found| FrameMatch {
            frame_id: frame.clone(),
            inliers: verdict.inliers,
            correspondences: verdict.correspondences,
            score: found.score,
            outline: found.homography.outline(product.width, product.height).map(|corners| {
                let tenths = |v: f64| (v * 10.0).round() / 10.0;
                corners.map(|corner| (tenths(corner.x), tenths(corner.y)))
            }),
        }));
    }
    inliers.sort_unstable();
    let at = |index: usize| inliers.get(index).copied().unwrap_or(0);
    Ok(ImageCheck {
        img_id: image.to_owned(),
        frames: frames.len(),
        found: matches.len(),
        ransac_checked,
        inliers_min: at(0),
        inliers_median: at(inliers.len() / 2),
        inliers_max: at(inliers.len().saturating_sub(1)),
        matches,
    })
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<24} {:>9} {:>8}  {:>17}  {:>15}",
            "product image", "found in", "verified", "inliers (min/med/max)", "score (min-max)"
        )?;
        for image in &self.images {
            let found = format!("{}/{}", image.found, image.frames);
            let inliers = format!("{} / {} / {}", image.inliers_min, image.inliers_median, image.inliers_max);
            let scores: Vec<f64> = image.matches.iter().map(|found| found.score.get()).collect();
            let range =
                match (scores.iter().copied().reduce(f64::min), scores.iter().copied().reduce(f64::max)) {
                    (Some(low), Some(high)) => format!("{low:.2}-{high:.2}"),
                    _ => "-".to_owned(),
                };
            writeln!(
                f,
                "{:<24} {found:>9} {:>8}  {inliers:>21}  {range:>15}",
                image.img_id, image.ransac_checked
            )?;
        }
        write!(
            f,
            "{} candidates, {} verified, {} matches, {} ms",
            self.candidates, self.ransac_checked, self.matches, self.milliseconds
        )
    }
}
