//! Keypoint detection: FAST corners of one pyramid level, ranked by Harris' measure, with orientation.

use image::GrayImage;
use imageproc::corners::{Corner, corners_fast9};
use imageproc::suppress::local_maxima;

/// The radius of the patch for orientation and descriptor, in pixels of the level.
pub const PATCH_RADIUS: i32 = 15;
/// The smallest distance of a keypoint to an edge, so that its rotated patch, with the radius of the blur, is inside the
/// level.
pub const BORDER: u32 = 18;
/// The least difference in grey levels between a rim pixel and the centre. Low, because shade and haze reduce contrast;
/// the ranking selects the strongest corners anyway.
const FAST_THRESHOLD: u8 = 7;
/// Half the side of the window for Harris' measure.
const HARRIS_RADIUS: i32 = 3;
/// The usual constant of Harris' measure, which penalises edges.
const HARRIS_K: f32 = 0.04;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Keypoint {
    /// The position in pixels of its level.
    pub x: u32,
    pub y: u32,
    /// The direction of the patch's intensity centroid in radians, which rotates with the image.
    pub angle: f32,
    pub strength: f32,
}

/// The `count_max` strongest local maxima, strongest first. O(pixels) for the corner test and O(corners) for the rest.
pub fn keypoints(level: &GrayImage, count_max: usize) -> Vec<Keypoint> {
    let (width, height) = level.dimensions();
    let inside = |corner: &Corner| {
        (BORDER..width.saturating_sub(BORDER)).contains(&corner.x)
            && (BORDER..height.saturating_sub(BORDER)).contains(&corner.y)
    };
    let ranked: Vec<Corner> = corners_fast9(level, FAST_THRESHOLD)
        .into_iter()
        .filter(inside)
        .map(|corner| Corner { score: harris(level, corner.x, corner.y), ..corner })
        .filter(|corner| corner.score > 0.0)
        .collect();
    let mut best = local_maxima(&ranked, 2);
    // Ties are broken by position, so that the selection is deterministic.
    best.sort_by(|a, b| b.score.total_cmp(&a.score).then((a.y, a.x).cmp(&(b.y, b.x))));
    best.truncate(count_max);
    best.into_iter()
        .map(|corner| Keypoint {
            x: corner.x,
            y: corner.y,
            angle: orientation(level, corner.x, corner.y),
            strength: corner.score,
        })
        .collect()
}

/// Harris' measure over a 7×7 window, from Sobel gradients.
fn harris(level: &GrayImage, x: u32, y: u32) -> f32 {
    let at = |dx: i32, dy: i32| {
        f32::from(level.get_pixel(x.wrapping_add_signed(dx), y.wrapping_add_signed(dy)).0[0])
    };
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for v in -HARRIS_RADIUS..=HARRIS_RADIUS {
        for u in -HARRIS_RADIUS..=HARRIS_RADIUS {
            let across = (at(u + 1, v - 1) + 2.0 * at(u + 1, v) + at(u + 1, v + 1))
                - (at(u - 1, v - 1) + 2.0 * at(u - 1, v) + at(u - 1, v + 1));
            let down = (at(u - 1, v + 1) + 2.0 * at(u, v + 1) + at(u + 1, v + 1))
                - (at(u - 1, v - 1) + 2.0 * at(u, v - 1) + at(u + 1, v - 1));
            xx += across * across;
            yy += down * down;
            xy += across * down;
        }
    }
    xx * yy - xy * xy - HARRIS_K * (xx + yy) * (xx + yy)
}

/// The direction from the centre of a round patch to its intensity centroid (Rosin).
fn orientation(level: &GrayImage, x: u32, y: u32) -> f32 {
    let (mut across, mut down) = (0_i32, 0_i32);
    for v in -PATCH_RADIUS..=PATCH_RADIUS {
        for u in -PATCH_RADIUS..=PATCH_RADIUS {
            if u * u + v * v <= PATCH_RADIUS * PATCH_RADIUS {
                let value =
                    i32::from(level.get_pixel(x.wrapping_add_signed(u), y.wrapping_add_signed(v)).0[0]);
                across += u * value;
                down += v * value;
            }
        }
    }
    (down as f32).atan2(across as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Luma;

    fn bright_square() -> GrayImage {
        let inside = |v: u32| (40..80).contains(&v);
        GrayImage::from_fn(120, 120, |x, y| Luma([if inside(x) && inside(y) { 200 } else { 50 }]))
    }

    #[test]
    fn corners_of_a_square_are_found() {
        let found = keypoints(&bright_square(), 4);
        assert_eq!(found.len(), 4);
        for (x, y) in [(40, 40), (79, 40), (40, 79), (79, 79)] {
            assert!(
                found.iter().any(|k| k.x.abs_diff(x) <= 2 && k.y.abs_diff(y) <= 2),
                "no keypoint near {x},{y} in {found:?}"
            );
        }
    }

    #[test]
    fn orientation_points_towards_the_bright_side() {
        let found = keypoints(&bright_square(), 4);
        let top_left = found.iter().find(|k| k.x < 60 && k.y < 60).unwrap();
        assert!((top_left.angle - std::f32::consts::FRAC_PI_4).abs() < 0.2, "{top_left:?}");
    }

    #[test]
    fn flat_image_has_no_keypoint() {
        assert!(keypoints(&GrayImage::from_pixel(100, 100, Luma([90])), 10).is_empty());
    }

    #[test]
    fn image_smaller_than_the_border_has_no_keypoint() {
        assert!(keypoints(&GrayImage::new(20, 20), 10).is_empty());
    }
}
