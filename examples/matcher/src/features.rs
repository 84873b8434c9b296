//! The features of one picture: keypoints over all levels of its pyramid, each with its descriptor.

use image::GrayImage;
use imageproc::filter::gaussian_blur_f32;
use nalgebra::Point2;

use crate::descriptor::Descriptor;
use crate::keypoint::{BORDER, keypoints};
use crate::pyramid::{LEVELS_MAX, STEP, pyramid};

/// At most so many features a picture, shared out over the levels by their area.
pub const FEATURES_MAX: usize = 1_500;
const BLUR_SIGMA: f32 = 2.0;

#[derive(Debug, Clone, Copy)]
pub struct Feature {
    /// Position in pixels of the full picture.
    pub at: Point2<f64>,
    pub descriptor: Descriptor,
}

#[derive(Debug)]
pub struct Features {
    pub width: u32,
    pub height: u32,
    pub list: Vec<Feature>,
}

impl Features {
    pub fn of(picture: &GrayImage) -> Self {
        let (width, height) = picture.dimensions();
        let mut list = Vec::new();
        for (index, level) in pyramid(picture, 2 * BORDER + 1).iter().enumerate() {
            let found = keypoints(&level.picture, share(index));
            if found.is_empty() {
                continue;
            }
            let blurred = gaussian_blur_f32(&level.picture, BLUR_SIGMA);
            list.extend(found.iter().map(|keypoint| Feature {
                // Pixel centres are at halves, which a change of size keeps; corners of pixels are not.
                at: Point2::new(
                    (f64::from(keypoint.x) + 0.5) * level.scale_x - 0.5,
                    (f64::from(keypoint.y) + 0.5) * level.scale_y - 0.5,
                ),
                descriptor: Descriptor::of(&blurred, keypoint),
            }));
        }
        Self { width, height, list }
    }
}

/// How many of `FEATURES_MAX` a level may have: falling as its sides do, so that small levels still have a say.
fn share(index: usize) -> usize {
    let all: f64 = (0..LEVELS_MAX).map(|level| STEP.powi(-(level as i32))).sum();
    (FEATURES_MAX as f64 * STEP.powi(-(index as i32)) / all).round() as usize
}
