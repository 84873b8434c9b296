//! Decoding of images that come from elsewhere, within limits: a small file can claim to be an enormous image.

use std::io::Cursor;

use image::error::{ImageError, LimitErrorKind};
use image::{DynamicImage, ImageFormat, ImageReader, Limits};

/// The largest file, in bytes.
pub const BYTES_MAX: usize = 20 * 1024 * 1024;
/// The longest side, in pixels.
pub const SIDE_MAX: u32 = 16_384;
/// The most pixels.
pub const PIXELS_MAX: u64 = 40_000_000;
/// The most memory of a decoder, in bytes.
const MEMORY_MAX: u64 = 512 * 1024 * 1024;

/// Why an image has no pixels.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    #[error("the file is empty")]
    Empty,
    #[error("the file has {0} bytes, and at most {BYTES_MAX} are read")]
    LargeFile(usize),
    #[error("it is an SVG drawing; convert it to PNG")]
    Svg,
    #[error("it is neither a PNG nor a JPEG image")]
    Format,
    #[error(
        "it claims {width} × {height} pixels, and at most {PIXELS_MAX} with sides of up to {SIDE_MAX} are decoded"
    )]
    Large { width: u32, height: u32 },
    #[error("decoding needs more than {} MiB", MEMORY_MAX / 1024 / 1024)]
    Memory,
    #[error("it is truncated")]
    Truncated,
    #[error("it cannot be decoded: {0}")]
    Damaged(String),
    #[error("the decoder failed")]
    Panicked,
}

/// The pixels of an image file.
///
/// # Errors
/// [`PictureError`] for a file that is no image, damaged, or too large.
pub fn decode(bytes: &[u8]) -> Result<DynamicImage, PictureError> {
    if bytes.is_empty() {
        return Err(PictureError::Empty);
    }
    if bytes.len() > BYTES_MAX {
        return Err(PictureError::LargeFile(bytes.len()));
    }
    // The size is read from the head of the file, before any pixel is decoded.
    let (width, height) = reader(bytes)?.into_dimensions().map_err(damaged)?;
    let is_large = u64::from(width) * u64::from(height) > PIXELS_MAX || width.max(height) > SIDE_MAX;
    if is_large {
        return Err(PictureError::Large { width, height });
    }
    if width == 0 || height == 0 {
        return Err(PictureError::Damaged("it has no pixels".to_owned()));
    }
    let mut reader = reader(bytes)?;
    if reader.format() == Some(ImageFormat::Jpeg) && !has_end_of_jpeg(bytes) {
        return Err(PictureError::Truncated);
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(MEMORY_MAX);
    reader.limits(limits);
    reader.decode().map_err(damaged)
}

fn reader(bytes: &[u8]) -> Result<ImageReader<Cursor<&[u8]>>, PictureError> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let reader = reader.map_err(|error| PictureError::Damaged(error.to_string()))?;
    if reader.format().is_none() {
        let head = String::from_utf8_lossy(&bytes[..bytes.len().min(1_024)]).to_lowercase();
        return Err(if head.contains("<svg") { PictureError::Svg } else { PictureError::Format });
    }
    Ok(reader)
}

/// Whether a JPEG file has its end. The decoder paints the missing part of a truncated one gray.
fn has_end_of_jpeg(bytes: &[u8]) -> bool {
    // The segments of the head have a length; a thumbnail in one of them has an end of its own.
    let mut place = 2;
    while let Some([0xff, marker, high, low]) = bytes.get(place..place + 4) {
        if *marker == 0xda {
            return bytes[place..].windows(2).any(|pair| pair == [0xff, 0xd9]);
        }
        // A marker may be preceded by more bytes of 0xff.
        place += if *marker == 0xff { 1 } else { 2 + usize::from(u16::from_be_bytes([*high, *low])) };
    }
    false
}

fn damaged(error: ImageError) -> PictureError {
    match error {
        ImageError::Limits(limit) if limit.kind() == LimitErrorKind::InsufficientMemory => {
            PictureError::Memory
        }
        ImageError::Unsupported(_) => PictureError::Format,
        other => PictureError::Damaged(other.to_string().chars().take(200).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let image = DynamicImage::new_rgb8(width, height);
        image.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
        bytes
    }

    /// The same file with another size in its head.
    fn claiming(mut png: Vec<u8>, width: u32, height: u32) -> Vec<u8> {
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        let crc = png[12..29].iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
            })
        });
        png[29..33].copy_from_slice(&(!crc).to_be_bytes());
        png
    }

    fn reason(bytes: &[u8]) -> String {
        decode(bytes).unwrap_err().to_string()
    }

    #[test]
    fn images_are_decoded() {
        assert_eq!(decode(&png(3, 2)).unwrap().to_rgb8().dimensions(), (3, 2));
        let mut jpeg = Vec::new();
        DynamicImage::new_rgb8(5, 4).write_to(&mut Cursor::new(&mut jpeg), ImageFormat::Jpeg).unwrap();
        assert_eq!(decode(&jpeg).unwrap().to_rgb8().dimensions(), (5, 4));
        assert!(reason(&jpeg[..jpeg.len() / 4]).contains("cannot be decoded"));
        assert_eq!(reason(&jpeg[..jpeg.len() - 3]), "it is truncated");
    }

    #[test]
    fn hostile_images_are_refused_with_a_reason() {
        let large = |side: u32| reason(&claiming(png(3, 2), side, side));
        assert!(large(65_535).contains("65535 × 65535"), "{}", large(65_535));
        assert!(large(7_000).contains("7000 × 7000"), "{}", large(7_000));
        assert!(
            reason(&claiming(png(3, 2), 0, 0)).contains("decode"),
            "{}",
            reason(&claiming(png(3, 2), 0, 0))
        );
        let whole = png(300, 200);
        assert!(reason(&whole[..whole.len() / 2]).contains("cannot be decoded"));
        assert!(reason(&claiming(png(3, 2), 5_000, 5_000)).contains("cannot be decoded"));
        assert!(reason(b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>").contains("SVG"));
        assert!(reason(b"<html>").contains("neither"));
        assert!(reason(b"GIF89a").contains("neither"));
        assert_eq!(reason(b""), "the file is empty");
        assert!(reason(&vec![0; BYTES_MAX + 1]).contains("at most"));
    }
}
