//! One picture at falling sizes, so that a product shown smaller or larger than in its own picture is still met.

use image::GrayImage;
use image::imageops::{FilterType, resize};

/// Each level's sides are this much shorter than those of the level before.
pub const STEP: f64 = 1.2;
/// Eight levels span a factor of 3.6 in size.
pub const LEVELS_MAX: usize = 8;

#[derive(Debug)]
pub struct Level {
    pub picture: GrayImage,
    /// Pixels of the full picture per pixel of this level, across and down; rounding makes them differ a little.
    pub scale_x: f64,
    pub scale_y: f64,
}

/// Levels from the full picture downwards, as long as both sides keep at least `side_min` pixels.
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
        // The triangle filter widens with the reduction, so nothing aliases into false corners.
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
    fn levels_shrink_by_the_step_and_stop_before_they_are_too_small() {
        let levels = pyramid(&GrayImage::new(240, 120), 60);
        let sizes: Vec<_> = levels.iter().map(|level| level.picture.dimensions()).collect();
        assert_eq!(sizes, [(240, 120), (200, 100), (167, 83), (139, 69)]);
        assert!((levels[1].scale_x - 1.2).abs() < 1e-9);
    }

    #[test]
    fn a_picture_under_the_least_side_has_no_level() {
        assert!(pyramid(&GrayImage::new(240, 12), 60).is_empty());
    }
}
