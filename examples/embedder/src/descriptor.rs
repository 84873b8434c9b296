//! The vector of an image: where its edges run, and a little of its colours.
//!
//! Two pictures of one thing differ in size, margin, light and drawing. So the empty border is cut off, the rest is scaled to a
//! small square, and the directions of edges are counted per cell (a histogram of oriented gradients). Square roots keep the few
//! strongest edges from deciding alone. The colours are those of a coarse grid, and count little: alone they find much less.

use image::imageops::{self, FilterType};
use image::{DynamicImage, GrayImage, Rgb, RgbImage, Rgba, RgbaImage};
use imageproc::hog::{HogOptions, hog};

/// The side of the square, in pixels.
const SIDE: u32 = 64;
/// The empty border of the square, so that edges at the border of the thing count as edges.
const MARGIN: u32 = 4;
const CELL: u32 = 8;
const ORIENTATIONS: usize = 12;
/// The colours are those of this many rows and columns.
const COLOUR_GRID: u32 = 4;
/// The weight of the colours against that of the edges, 1.
const COLOUR_WEIGHT: f32 = 0.25;
/// Up to this difference in a channel, a pixel is of the background.
const BACKGROUND_TOLERANCE: u8 = 16;

const CELLS: usize = (SIDE / CELL) as usize;
const EDGES: usize = CELLS * CELLS * ORIENTATIONS;
const COLOURS: usize = (COLOUR_GRID * COLOUR_GRID * 3) as usize;

/// The length of a vector.
pub const DIMENSION: usize = EDGES + COLOURS;

/// The name of the model: another descriptor gets another one.
pub const MODEL: &str = "hog-816";

/// The vector of an image, of length 1; none if the image is of one colour.
pub fn describe(image: &DynamicImage) -> Option<Vec<f32>> {
    let square = square(&image.to_rgba8())?;
    let gray: GrayImage = imageops::grayscale(&square);
    let options = HogOptions {
        orientations: ORIENTATIONS,
        signed: false,
        cell_side: CELL as usize,
        // One block of all cells, so that strong edges of one cell stay stronger than weak ones of another.
        block_side: CELLS,
        block_stride: CELLS,
    };
    // The options fit the square.
    let edges: Vec<f32> = hog(&gray, options).ok()?.into_iter().map(f32::sqrt).collect();
    let mut vector = normalised(edges)?;
    vector
        .extend(normalised(colours(&square)).unwrap_or(vec![0.0; COLOURS]).iter().map(|c| c * COLOUR_WEIGHT));
    normalised(vector)
}

fn normalised(mut vector: Vec<f32>) -> Option<Vec<f32>> {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length < 1e-6 {
        return None;
    }
    vector.iter_mut().for_each(|value| *value /= length);
    Some(vector)
}

/// The mean colours of the cells of a coarse grid as darkness, red against green, and yellow against blue. White is 0.
fn colours(square: &RgbImage) -> Vec<f32> {
    let mut sums = vec![0.0; COLOURS];
    let cell = SIDE / COLOUR_GRID;
    for (x, y, Rgb([red, green, blue])) in square.enumerate_pixels() {
        let [red, green, blue] = [*red, *green, *blue].map(|value| f32::from(value) / 255.0);
        let place = ((y / cell * COLOUR_GRID + x / cell) * 3) as usize;
        sums[place] += (1.0 - (red + green + blue) / 3.0) * 0.5;
        sums[place + 1] += red - green;
        sums[place + 2] += (red + green) / 2.0 - blue;
    }
    sums
}

/// The thing that the image shows, in the middle of a white square; none if it shows nothing.
fn square(image: &RgbaImage) -> Option<RgbImage> {
    let (x, y, width, height) = thing(image)?;
    let longer = width.max(height).max(1);
    let inner = SIDE - 2 * MARGIN;
    let scaled = |side: u32| (u64::from(side) * u64::from(inner) / u64::from(longer)).max(1) as u32;
    let (scaled_width, scaled_height) = (scaled(width), scaled(height));
    let cut = imageops::crop_imm(image, x, y, width, height).to_image();
    let small = imageops::resize(&on_white(&cut), scaled_width, scaled_height, FilterType::Triangle);
    let mut square = RgbImage::from_pixel(SIDE, SIDE, Rgb([255; 3]));
    let place = |side: u32| i64::from((SIDE - side) / 2);
    imageops::replace(&mut square, &small, place(scaled_width), place(scaled_height));
    Some(square)
}

fn on_white(image: &RgbaImage) -> RgbImage {
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let Rgba([red, green, blue, alpha]) = *image.get_pixel(x, y);
        let mixed = |value: u8| {
            ((u32::from(value) * u32::from(alpha) + 255 * (255 - u32::from(alpha)) + 127) / 255) as u8
        };
        Rgb([red, green, blue].map(mixed))
    })
}

/// The box of what is not background: transparent pixels, or those of the colour that all four corners have. None if all is.
fn thing(image: &RgbaImage) -> Option<(u32, u32, u32, u32)> {
    let (width, height) = image.dimensions();
    let corners = [(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)];
    let first = *image.get_pixel(0, 0);
    let is_near = |one: Rgba<u8>, other: Rgba<u8>| {
        one.0.iter().zip(other.0).all(|(one, other)| one.abs_diff(other) <= BACKGROUND_TOLERANCE)
    };
    let is_transparent = |pixel: Rgba<u8>| pixel.0[3] <= BACKGROUND_TOLERANCE;
    let has_transparent = image.pixels().any(|pixel| is_transparent(*pixel));
    let has_colour = corners.iter().all(|(x, y)| is_near(*image.get_pixel(*x, *y), first));
    if !has_transparent && !has_colour {
        return Some((0, 0, width, height));
    }
    let is_background =
        |pixel: Rgba<u8>| if has_transparent { is_transparent(pixel) } else { is_near(pixel, first) };
    let (mut left, mut top, mut right, mut bottom) = (width, height, 0, 0);
    for (x, y, pixel) in image.enumerate_pixels() {
        if !is_background(*pixel) {
            (left, right) = (left.min(x), right.max(x + 1));
            (top, bottom) = (top.min(y), bottom.max(y + 1));
        }
    }
    (left < right).then(|| (left, top, right - left, bottom - top))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A black bar from (10, 30) to (70, 50), moved and scaled, on a background.
    fn bar(dx: u32, scale: u32, background: Rgba<u8>) -> DynamicImage {
        let image = RgbaImage::from_fn(100 * scale, 100 * scale, |x, y| {
            let is_bar = (10 + dx..70 + dx).contains(&(x / scale)) && (30..50).contains(&(y / scale));
            if is_bar { Rgba([0, 0, 0, 255]) } else { background }
        });
        DynamicImage::ImageRgba8(image)
    }

    fn similarity(one: &DynamicImage, other: &DynamicImage) -> f32 {
        let (one, other) = (describe(one).unwrap(), describe(other).unwrap());
        assert_eq!((one.len(), other.len()), (DIMENSION, DIMENSION));
        one.iter().zip(other).map(|(one, other)| one * other).sum()
    }

    #[test]
    fn place_size_and_background_of_a_thing_do_not_matter() {
        let white = Rgba([255; 4]);
        let plain = bar(0, 1, white);
        for same in [bar(15, 1, white), bar(0, 3, white), bar(5, 2, Rgba([0; 4]))] {
            assert!(similarity(&plain, &same) > 0.98, "{}", similarity(&plain, &same));
        }
        let upright = plain.rotate90();
        assert!(similarity(&plain, &upright) < 0.7, "{}", similarity(&plain, &upright));
    }

    #[test]
    fn image_of_one_colour_has_no_vector() {
        assert_eq!(describe(&DynamicImage::new_rgb8(40, 40)), None);
        assert_eq!(describe(&DynamicImage::new_rgba8(1, 1)), None);
    }
}
