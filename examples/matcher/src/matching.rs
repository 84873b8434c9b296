//! The vector pass: pairs features of a product image with similar features of a frame.

use nalgebra::Point2;

use crate::features::{Feature, Features};

/// The ratio test: the distance of the best candidate must be below this share of the second best, because ambiguous
/// features do not identify a position.
pub const RATIO_MAX: f64 = 0.8;
/// The largest distance of a correspondence in bits. Unrelated patches differ in about 128.
pub const DISTANCE_MAX: u32 = 80;

/// A point in the product image and the similar point in the frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Correspondence {
    pub product: Point2<f64>,
    pub frame: Point2<f64>,
    /// The Hamming distance of the two descriptors.
    pub distance: u32,
}

/// At most one correspondence for each feature, on both sides. O(product features × frame features).
pub fn correspondences(product: &Features, frame: &Features) -> Vec<Correspondence> {
    // For each frame feature, the nearest of the product features that selected it: only one can be correct.
    let mut chosen: Vec<Option<Correspondence>> = vec![None; frame.list.len()];
    for feature in &product.list {
        let Some((index, distance)) = nearest(feature, &frame.list) else { continue };
        let rival = &mut chosen[index];
        if rival.is_none_or(|held| distance < held.distance) {
            *rival = Some(Correspondence { product: feature.at, frame: frame.list[index].at, distance });
        }
    }
    chosen.into_iter().flatten().collect()
}

/// The nearest feature by Hamming distance, if it is below both limits.
fn nearest(feature: &Feature, among: &[Feature]) -> Option<(usize, u32)> {
    let (mut best, mut best_index, mut second) = (u32::MAX, 0, u32::MAX);
    for (index, other) in among.iter().enumerate() {
        let distance = feature.descriptor.distance(&other.descriptor);
        if distance < best {
            second = best;
            best = distance;
            best_index = index;
        } else if distance < second {
            second = distance;
        }
    }
    let is_unambiguous = second != u32::MAX && f64::from(best) < RATIO_MAX * f64::from(second);
    (best <= DISTANCE_MAX && is_unambiguous).then_some((best_index, best))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splitmix::SplitMix64;
    use image::imageops::{FilterType, resize};
    use image::{GrayImage, Luma};
    use imageproc::drawing::draw_filled_rect_mut;
    use imageproc::geometric_transformations::{Border, Interpolation, rotate_about_center};
    use imageproc::rect::Rect;

    /// Overlapping rectangles of random greys: an image with many distinct corners.
    fn texture(seed: u64) -> GrayImage {
        let mut random = SplitMix64::new(seed);
        let mut picture = GrayImage::from_pixel(300, 300, Luma([128]));
        for _ in 0..250 {
            let (x, y) = (random.below(290) as i32, random.below(290) as i32);
            let size = (8 + random.below(30) as u32, 8 + random.below(30) as u32);
            let grey = Luma([random.below(256) as u8]);
            draw_filled_rect_mut(&mut picture, Rect::at(x, y).of_size(size.0, size.1), grey);
        }
        imageproc::filter::gaussian_blur_f32(&picture, 0.8)
    }

    /// Asserts that nearly all correspondences from `texture` to `changed` follow the map `moved`.
    #[track_caller]
    fn check(changed: &GrayImage, moved: impl Fn(Point2<f64>) -> Point2<f64>) {
        let found = correspondences(&Features::of(&texture(1)), &Features::of(changed));
        let right =
            found.iter().filter(|pair| nalgebra::distance(&moved(pair.product), &pair.frame) < 4.0).count();
        assert!(found.len() >= 60 && right * 10 >= found.len() * 8, "{right} right of {}", found.len());
    }

    #[test]
    fn rotated_image_is_recognised() {
        for degrees in [20.0_f32, 90.0, 137.0] {
            let angle = degrees.to_radians();
            let border = Border::Constant(Luma([128]));
            let turned = rotate_about_center(&texture(1), angle, Interpolation::Bilinear, border);
            let (sin, cos) = f64::from(angle).sin_cos();
            check(&turned, |p| {
                let (x, y) = (p.x - 150.0, p.y - 150.0);
                Point2::new(x * cos - y * sin + 150.0, x * sin + y * cos + 150.0)
            });
        }
    }

    #[test]
    fn image_at_half_size_is_recognised() {
        let small = resize(&texture(1), 150, 150, FilterType::Triangle);
        check(&small, |p| Point2::new(p.x / 2.0, p.y / 2.0));
    }

    #[test]
    fn darker_image_is_recognised() {
        let mut dark = texture(1);
        dark.pixels_mut().for_each(|pixel| pixel.0[0] = (f32::from(pixel.0[0]) * 0.6) as u8);
        check(&dark, |p| p);
    }

    #[test]
    fn unrelated_images_have_few_correspondences() {
        let (one, other) = (Features::of(&texture(1)), Features::of(&texture(2)));
        let found = correspondences(&one, &other).len();
        assert!(found * 10 < one.list.len(), "{found} correspondences of {} features", one.list.len());
    }

    fn features(list: &[(f64, [u64; 4])]) -> Features {
        let list =
            list.iter().map(|&(x, words)| Feature { at: Point2::new(x, 0.0), descriptor: words.into() });
        Features { width: 100, height: 100, list: list.collect() }
    }

    #[test]
    fn frame_feature_goes_to_the_most_similar_product_feature() {
        let product = features(&[(1.0, [0b111, 0, 0, 0]), (2.0, [0b1, 0, 0, 0]), (3.0, [0b11, 0, 0, 0])]);
        let frame = features(&[(50.0, [0; 4]), (60.0, [u64::MAX; 4])]);
        let [only] = correspondences(&product, &frame)[..] else { panic!("one place, one correspondence") };
        assert_eq!((only.product.x, only.frame.x, only.distance), (2.0, 50.0, 1));
    }

    #[test]
    fn ambiguous_feature_is_not_a_correspondence() {
        let product = features(&[(1.0, [0; 4])]);
        let frame = features(&[(50.0, [0xff, 0, 0, 0]), (60.0, [0x1ff, 0, 0, 0])]);
        assert!(correspondences(&product, &frame).is_empty());
    }

    #[test]
    fn single_candidate_is_not_a_correspondence() {
        let one = features(&[(1.0, [0; 4])]);
        assert!(correspondences(&one, &one).is_empty());
    }
}
