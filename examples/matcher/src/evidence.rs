//! The evidence image: product image and frame side by side, a line for each inlier, and the product's outline in the
//! frame, so that a match can be checked by eye.

use std::fs;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{overlay, replace};
use image::{Rgb, RgbImage};
use imageproc::drawing::{
    draw_antialiased_line_segment_mut, draw_antialiased_polygon_mut, draw_filled_circle_mut,
};
use imageproc::pixelops::interpolate;
use imageproc::point::Point;
use nalgebra::Point2;
use uuid::Uuid;

use crate::verdict::Detection;

const JPEG_QUALITY: u8 = 88;
/// The margin around and between the two images.
const MARGIN: u32 = 16;
const BACKGROUND: Rgb<u8> = Rgb([24, 26, 31]);
const OUTLINE: Rgb<u8> = Rgb([255, 255, 255]);
const OUTLINE_SHADOW: Rgb<u8> = Rgb([0, 0, 0]);
/// Lines are slightly transparent.
const LINE_WEIGHT: f32 = 0.85;
/// File systems allow names of 255 bytes; the rest is for the extension.
const FILE_NAME_MAX: usize = 200;

#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    #[error("cannot write evidence to {path}: {source}; set --evidence to a writable folder")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("cannot encode the evidence image {path}: {source}")]
    Encode { path: PathBuf, source: image::ImageError },
}

/// The path in the evidence folder: `<job>/<match id, escaped>.jpg`.
pub fn evidence_path(job: Uuid, match_id: &str) -> PathBuf {
    Path::new(&job.to_string()).join(format!("{}.jpg", file_name(match_id)))
}

/// Letters, digits, `-`, `_` and `.` are kept; any other byte becomes `=` and two hex digits, so that names are unique and
/// stay in their folder. A name that is too long for a file system ends in a hash instead.
fn file_name(match_id: &str) -> String {
    let mut name = String::with_capacity(match_id.len());
    for byte in match_id.bytes() {
        // A leading dot would hide the file, or name a parent folder.
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if plain || (byte == b'.' && !name.is_empty()) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("={byte:02X}"));
        }
    }
    if name.len() > FILE_NAME_MAX {
        name.truncate(FILE_NAME_MAX - 33);
        let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, match_id.as_bytes());
        name = format!("{name}={}", hash.simple());
    }
    name
}

/// Draws and writes the image atomically: a worker that is killed during the write leaves no partial file under the final
/// name.
pub fn write(
    path: &Path,
    product: &RgbImage,
    frame: &RgbImage,
    found: &Detection,
) -> Result<(), EvidenceError> {
    let failed = |source| EvidenceError::Write { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
        .encode_image(&draw(product, frame, found))
        .map_err(|source| EvidenceError::Encode { path: path.to_owned(), source })?;
    // The process id separates the files of workers that process the same request.
    let unfinished = path.with_extension(format!("{}.part", std::process::id()));
    fs::write(&unfinished, bytes).map_err(failed)?;
    fs::rename(&unfinished, path).map_err(failed)
}

/// Draws the image.
pub fn draw(product: &RgbImage, frame: &RgbImage, found: &Detection) -> RgbImage {
    let inner_height = product.height().max(frame.height());
    let width = product.width() + frame.width() + 3 * MARGIN;
    let mut canvas = RgbImage::from_pixel(width, inner_height + 2 * MARGIN, BACKGROUND);
    let product_at = (MARGIN, MARGIN + (inner_height - product.height()) / 2);
    let frame_at = (2 * MARGIN + product.width(), MARGIN + (inner_height - frame.height()) / 2);
    replace(&mut canvas, product, i64::from(product_at.0), i64::from(product_at.1));
    replace(&mut canvas, frame, i64::from(frame_at.0), i64::from(frame_at.1));

    draw_outline(&mut canvas, frame, frame_at, product, found);
    for (index, pair) in found.inliers.iter().enumerate() {
        let colour = distinct_colour(index);
        let (from, to) = (placed(pair.product, product_at), placed(pair.frame, frame_at));
        // Dots mark the exact points; their dark rims separate them where they are dense.
        draw_antialiased_line_segment_mut(&mut canvas, from, to, colour, |line, under, weight| {
            interpolate(line, under, weight * LINE_WEIGHT)
        });
        for centre in [from, to] {
            draw_filled_circle_mut(&mut canvas, centre, 3, OUTLINE_SHADOW);
            draw_filled_circle_mut(&mut canvas, centre, 2, colour);
        }
    }
    canvas
}

/// Draws the outline onto a copy of the frame, so that a product that extends beyond the frame is clipped at its edge.
fn draw_outline(
    canvas: &mut RgbImage,
    frame: &RgbImage,
    frame_at: (u32, u32),
    product: &RgbImage,
    found: &Detection,
) {
    let Some(corners) = found.homography.outline(product.width(), product.height()) else { return };
    let mut outlined = frame.clone();
    for (half_width, colour) in [(2.5, OUTLINE_SHADOW), (1.5, OUTLINE)] {
        for index in 0..4 {
            draw_thick_line(&mut outlined, corners[index], corners[(index + 1) % 4], half_width, colour);
        }
    }
    overlay(canvas, &outlined, i64::from(frame_at.0), i64::from(frame_at.1));
}

fn draw_thick_line(
    picture: &mut RgbImage,
    from: Point2<f64>,
    to: Point2<f64>,
    half_width: f64,
    colour: Rgb<u8>,
) {
    let along = to - from;
    if along.norm() < 1.0 {
        return;
    }
    let along = along.normalize() * half_width;
    let aside = nalgebra::Vector2::new(-along.y, along.x);
    // Extending both ends by the half width closes the corners.
    let quad = [from - along + aside, to + along + aside, to + along - aside, from - along - aside];
    let mut quad = quad.map(|p| Point::new(p.x.round() as i32, p.y.round() as i32)).to_vec();
    quad.dedup();
    // The last point of a polygon must differ from the first.
    if quad.len() >= 3 && quad.first() != quad.last() {
        draw_antialiased_polygon_mut(picture, &quad, colour, interpolate);
    }
}

fn placed(point: Point2<f64>, at: (u32, u32)) -> (i32, i32) {
    (point.x.round() as i32 + at.0 as i32, point.y.round() as i32 + at.1 as i32)
}

/// Hues at multiples of the golden angle, so that neighbours in the list always have very different hues.
fn distinct_colour(index: usize) -> Rgb<u8> {
    let hue = (index as f32 * 137.508) % 360.0 / 60.0;
    let (high, low) = (255.0, 70.0);
    let fading = low + (high - low) * (1.0 - (hue % 2.0 - 1.0).abs());
    let (r, g, b) = match hue as u32 {
        0 => (high, fading, low),
        1 => (fading, high, low),
        2 => (low, high, fading),
        3 => (low, fading, high),
        4 => (fading, low, high),
        _ => (high, low, fading),
    };
    Rgb([r as u8, g as u8, b as u8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn file_name_stays_in_its_folder() {
        assert_eq!(file_name("hedge-1:clip:f000"), "hedge-1=3Aclip=3Af000");
        assert_eq!(file_name("../../etc/passwd"), "=2E.=2F..=2Fetc=2Fpasswd");
        assert_ne!(file_name("a:b"), file_name("a=3Ab"));
    }

    #[test]
    fn long_ids_have_distinct_file_names() {
        let (one, other) = (format!("{}x", "ü".repeat(120)), format!("{}y", "ü".repeat(120)));
        assert!(file_name(&one).len() <= FILE_NAME_MAX);
        assert_ne!(file_name(&one), file_name(&other));
    }

    #[test]
    fn lines_have_distinct_colours() {
        let colours: HashSet<_> = (0..60).map(|index| distinct_colour(index).0).collect();
        assert_eq!(colours.len(), 60);
    }
}
