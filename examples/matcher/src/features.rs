//! The features of an image: keypoints on all levels of its pyramid, with their descriptors.

use image::GrayImage;
use imageproc::filter::gaussian_blur_f32;
use nalgebra::Point2;

use crate::descriptor::Descriptor;
use crate::keypoint::{BORDER, keypoints};
use crate::pyramid::{LEVELS_MAX, STEP, pyramid};

/// The most features of an image, distributed over its levels.
pub const FEATURES_MAX: usize = 1_500;
const BLUR_SIGMA: f32 = 2.0;

#[derive(Debug, Clone, Copy)]
pub struct Feature {
    /// The position in pixels of the full image.
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
                // Scaling maps pixel centres, which are at half coordinates.
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

/// The most features of a level: proportional to its sides, so that small levels still count.
fn share(index: usize) -> usize {
    let all: f64 = (0..LEVELS_MAX).map(|level| STEP.powi(-(level as i32))).sum();
    (FEATURES_MAX as f64 * STEP.powi(-(index as i32)) / all).round() as usize
}
