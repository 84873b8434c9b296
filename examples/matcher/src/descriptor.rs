//! The descriptor of a keypoint: 256 brightness comparisons inside its patch, rotated by the keypoint's angle (rBRIEF).

use std::sync::LazyLock;

use image::GrayImage;

use crate::keypoint::{Keypoint, PATCH_RADIUS};
use crate::splitmix::SplitMix64;

/// The number of bits of a descriptor.
pub const BITS: u32 = 256;
/// The seed of the pattern. Changing it changes every descriptor.
const PATTERN_SEED: u64 = 0x6d61_7463_6862_6f6f;

/// 256 bits; similar descriptors differ in few of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor([u64; 4]);

impl Descriptor {
    /// The descriptor of a keypoint. `level` must be the blurred image of its level: single pixels are too noisy to compare.
    pub fn of(level: &GrayImage, keypoint: &Keypoint) -> Self {
        let (sin, cos) = keypoint.angle.sin_cos();
        let value = |(u, v): (f32, f32)| {
            let across = (u * cos - v * sin).round() as i32;
            let down = (u * sin + v * cos).round() as i32;
            level.get_pixel(keypoint.x.wrapping_add_signed(across), keypoint.y.wrapping_add_signed(down)).0[0]
        };
        let mut words = [0_u64; 4];
        for (bit, &(first, second)) in PATTERN.iter().enumerate() {
            words[bit / 64] |= u64::from(value(first) < value(second)) << (bit % 64);
        }
        Self(words)
    }

    /// The Hamming distance: the number of different bits.
    pub fn distance(&self, other: &Self) -> u32 {
        self.0.iter().zip(&other.0).map(|(a, b)| (a ^ b).count_ones()).sum()
    }
}

impl From<[u64; 4]> for Descriptor {
    fn from(words: [u64; 4]) -> Self {
        Self(words)
    }
}

type Offset = (f32, f32);

/// Pairs of offsets, normally distributed around the keypoint, which the authors of BRIEF found best. Every point is
/// inside the round patch, so that no rotation moves it outside.
static PATTERN: LazyLock<Vec<(Offset, Offset)>> = LazyLock::new(|| {
    let mut random = SplitMix64::new(PATTERN_SEED);
    let radius = PATCH_RADIUS as f32;
    let mut offset = || loop {
        let (u, v) = ((random.normal() * 31.0 / 5.0) as f32, (random.normal() * 31.0 / 5.0) as f32);
        if u.hypot(v) <= radius {
            return (u, v);
        }
    };
    let mut pairs = Vec::with_capacity(BITS as usize);
    while pairs.len() < BITS as usize {
        let (first, second) = (offset(), offset());
        // Close points have nearly the same brightness after the blur: such a bit would be noise.
        if (first.0 - second.0).hypot(first.1 - second.1) >= 4.0 {
            pairs.push((first, second));
        }
    }
    pairs
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keypoint::keypoints;
    use image::Luma;

    #[test]
    fn pattern_is_inside_the_patch() {
        let radius = PATCH_RADIUS as f32;
        assert_eq!(PATTERN.len(), BITS as usize);
        assert!(PATTERN.iter().all(|(a, b)| a.0.hypot(a.1) <= radius && b.0.hypot(b.1) <= radius));
    }

    #[test]
    fn quarter_rotation_changes_few_bits() {
        let mut random = SplitMix64::new(5);
        let noise = GrayImage::from_fn(80, 80, |_, _| Luma([random.below(256) as u8]));
        let picture = imageproc::filter::gaussian_blur_f32(&noise, 2.5);
        let turned = image::imageops::rotate90(&picture);
        let (upright, other) = (keypoints(&picture, 10), keypoints(&turned, 10));
        let keypoint = upright[0];
        // A pixel (x, y) of an image rotated clockwise is at (height - 1 - y, x).
        let (x, y) = (79 - keypoint.y, keypoint.x);
        let same = other.iter().find(|k| k.x.abs_diff(x) <= 1 && k.y.abs_diff(y) <= 1).unwrap();
        let near = Descriptor::of(&picture, &keypoint).distance(&Descriptor::of(&turned, same));
        let far = Descriptor::of(&picture, &keypoint).distance(&Descriptor::of(&picture, &upright[1]));
        assert!(near < 30 && far > 80, "turned differs in {near} bits, another keypoint in {far}");
    }
}
