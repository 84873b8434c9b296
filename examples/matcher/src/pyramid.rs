//! An image pyramid, so that products are found at other sizes than in their own image.

use image::GrayImage;
use image::imageops::{FilterType, resize};

/// The factor between the sides of two consecutive levels.
pub const STEP: f64 = 1.2;
/// Eight levels span a factor of 3.6 in size.
pub const LEVELS_MAX: usize = 8;

#[derive(Debug)]
pub struct Level {
    pub picture: GrayImage,
    /// The pixels of the full image per pixel of this level, in both directions; they differ slightly by rounding.
    pub scale_x: f64,
    pub scale_y: f64,
}

/// The levels from the full image downwards, as long as both sides have at least `side_min` pixels.
pub fn pyramid(picture: &GrayImage, side_min: u32) -> Vec<Level> {
    let (width, height) = picture.dimensions();
    let mut levels = Vec::with_capacity(LEVELS_MAX);
    for index in 0..LEVELS_MAX {
        let shrink = STEP.powi(index as i32);
        let (w, h) =
            ((f64::from(width) / shrink).round() as u32, (f64::from(height) / shrink).round() as u32);
        if w.min(h) < side_min {
            break;
        }
        // The triangle filter scales with the reduction, which prevents aliasing.
        let picture = if index == 0 { picture.clone() } else { resize(picture, w, h, FilterType::Triangle) };
        let (scale_x, scale_y) = (f64::from(width) / f64::from(w), f64::from(height) / f64::from(h));
        levels.push(Level { picture, scale_x, scale_y });
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_shrink_by_the_step_down_to_the_minimum() {
        let levels = pyramid(&GrayImage::new(240, 120), 60);
        let sizes: Vec<_> = levels.iter().map(|level| level.picture.dimensions()).collect();
        assert_eq!(sizes, [(240, 120), (200, 100), (167, 83), (139, 69)]);
        assert!((levels[1].scale_x - 1.2).abs() < 1e-9);
    }

    #[test]
    fn image_below_the_minimum_has_no_level() {
        assert!(pyramid(&GrayImage::new(240, 12), 60).is_empty());
    }
}
