//! Parses MP4 files and decodes their H.264 frames.

use openh264::decoder::{DecodeOptions, DecodedYUV, Decoder, Flush};
use openh264::formats::YUVSource;
use re_mp4::{Mp4, StsdBoxContent, TrackKind};

use crate::motion::{COLUMNS, Grid, ROWS};

/// The longest supported video.
const SECONDS_MAX: f64 = 3.0 * 3600.0;

const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// Why a video cannot be analysed. The server classifies errors by these messages.
#[derive(Debug, thiserror::Error)]
pub enum VideoError {
    #[error("invalid data found: the file is not an MP4 file, or is damaged ({0})")]
    NotMp4(String),
    #[error("the file does not contain any stream of images")]
    NoPictures,
    #[error("unsupported codec {0}: this worker decodes H.264 only")]
    Codec(String),
    #[error("the video is too long: {seconds:.0} s, of at most {SECONDS_MAX} s")]
    TooLong { seconds: f64 },
    #[error("corrupt media: frame {frame} cannot be decoded ({reason})")]
    Damaged { frame: usize, reason: String },
}

/// A video that can be decoded.
#[derive(Debug)]
pub struct Video {
    bytes: Vec<u8>,
    /// The parameter sets for the decoder.
    parameters: Vec<u8>,
    /// The number of bytes of a length prefix.
    length_bytes: usize,
    frames: Vec<EncodedFrame>,
    pub width: u16,
    pub height: u16,
    pub seconds: f64,
}

#[derive(Debug)]
struct EncodedFrame {
    range: std::ops::Range<usize>,
    shown_at: f64,
}

/// A decoded frame, reduced for the analysis.
#[derive(Debug)]
pub struct Frame {
    pub shown_at: f64,
    pub grid: Grid,
}

impl Video {
    /// Parses a file without decoding it.
    ///
    /// # Errors
    /// [`VideoError`] if it has no supported video.
    pub fn open(bytes: Vec<u8>) -> Result<Self, VideoError> {
        let mp4 = Mp4::read_bytes(&bytes).map_err(|error| VideoError::NotMp4(error.to_string()))?;
        let pictures = mp4.tracks().values().find(|track| track.kind == Some(TrackKind::Video));
        let track = pictures.ok_or(VideoError::NoPictures)?;
        let StsdBoxContent::Avc1(codec) = &track.trak(&mp4).mdia.minf.stbl.stsd.contents else {
            return Err(VideoError::Codec(track.codec_string(&mp4).unwrap_or_else(|| "unknown".to_owned())));
        };
        let seconds = |units: i64| units.max(0) as f64 / track.timescale.max(1) as f64;
        let length = seconds(i64::try_from(track.duration).unwrap_or(i64::MAX));
        if length > SECONDS_MAX {
            return Err(VideoError::TooLong { seconds: length });
        }
        let sets = codec.avcc.sequence_parameter_sets.iter().chain(&codec.avcc.picture_parameter_sets);
        let parameters = sets.flat_map(|set| START_CODE.iter().chain(&set.bytes).copied()).collect();
        let frames: Vec<EncodedFrame> = track
            .samples
            .iter()
            .map(|sample| EncodedFrame {
                range: sample.byte_range(),
                shown_at: seconds(sample.composition_timestamp),
            })
            .collect();
        Ok(Self {
            parameters,
            length_bytes: usize::from(codec.avcc.length_size_minus_one & 3) + 1,
            frames,
            width: track.width,
            height: track.height,
            seconds: length,
            bytes,
        })
    }

    /// The number of frames.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Decodes all frames, in presentation order. `done` is called with the number of decoded frames, and returns whether to
    /// continue.
    ///
    /// # Errors
    /// [`VideoError::Damaged`] at the first frame that cannot be decoded.
    pub fn decode(&self, mut done: impl FnMut(usize) -> bool) -> Result<Vec<Frame>, VideoError> {
        let damaged =
            |frame: usize, error: &openh264::Error| VideoError::Damaged { frame, reason: error.to_string() };
        let mut decoder = Decoder::new().map_err(|error| damaged(0, &error))?;
        // Parameter sets alone produce no image.
        let _ = decoder.decode(&self.parameters).map_err(|error| damaged(0, &error))?;
        // The decoder returns frames in presentation order, independent of the stored order.
        let mut shown: Vec<f64> = self.frames.iter().map(|frame| frame.shown_at).collect();
        shown.sort_by(f64::total_cmp);
        let mut decoded: Vec<Grid> = Vec::with_capacity(self.frames.len());
        let options = || DecodeOptions::new().flush_after_decode(Flush::NoFlush);
        for (index, encoded) in self.frames.iter().enumerate() {
            let stream = self
                .with_start_codes(encoded.range.clone())
                .ok_or_else(|| VideoError::Damaged { frame: index, reason: "it is truncated".to_owned() })?;
            if let Some(picture) =
                decoder.decode_with_options(&stream, options()).map_err(|error| damaged(index, &error))?
            {
                decoded.push(grid(&picture));
            }
            if !done(index + 1) {
                return Ok(Vec::new());
            }
        }
        for picture in decoder.flush_remaining().map_err(|error| damaged(self.frames.len(), &error))? {
            decoded.push(grid(&picture));
        }
        Ok(shown.into_iter().zip(decoded).map(|(shown_at, grid)| Frame { shown_at, grid }).collect())
    }

    /// A stored frame in the format of the decoder. None if a length prefix exceeds the data.
    fn with_start_codes(&self, range: std::ops::Range<usize>) -> Option<Vec<u8>> {
        let mut rest = self.bytes.get(range)?;
        let mut stream = Vec::with_capacity(rest.len() + 16);
        while !rest.is_empty() {
            let (length, behind) = rest.split_at_checked(self.length_bytes)?;
            let length = length.iter().fold(0_usize, |length, byte| (length << 8) | usize::from(*byte));
            let (piece, next) = behind.split_at_checked(length)?;
            stream.extend(START_CODE);
            stream.extend(piece);
            rest = next;
        }
        Some(stream)
    }
}

/// The mean brightness of each cell of the image.
fn grid(picture: &DecodedYUV<'_>) -> Grid {
    let ((width, height), (stride, ..), luma) = (picture.dimensions(), picture.strides(), picture.y());
    let mut grid = [0; COLUMNS * ROWS];
    for (index, cell) in grid.iter_mut().enumerate() {
        let (column, row) = (index % COLUMNS, index / COLUMNS);
        let part =
            |n: usize, of: usize, size: usize| n * size / of..((n + 1) * size / of).max(n * size / of + 1);
        let (mut sum, mut count) = (0_u64, 0_u64);
        for y in part(row, ROWS, height) {
            let line = luma.get(y * stride..).unwrap_or_default();
            for x in part(column, COLUMNS, width) {
                sum += u64::from(line.get(x).copied().unwrap_or_default());
                count += 1;
            }
        }
        // The mean of bytes is a byte.
        *cell = u8::try_from(sum / count.max(1)).unwrap_or(u8::MAX);
    }
    grid
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::motion;

    fn clip() -> Vec<u8> {
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../data/analysis/2039.mp4")).unwrap()
    }

    #[test]
    fn all_frames_of_a_real_video_are_decoded_in_order() {
        let video = Video::open(clip()).unwrap();
        assert_eq!((video.width, video.height, video.len()), (1280, 720, 132));
        assert!((video.seconds - 5.28).abs() < 0.01);
        let mut calls = Vec::new();
        let frames = video
            .decode(|done| {
                calls.push(done);
                true
            })
            .unwrap();
        assert_eq!(calls, (1..=132).collect::<Vec<_>>());
        assert_eq!(frames.len(), 132);
        assert!(frames.is_sorted_by(|a, b| a.shown_at < b.shown_at));
        let moved: Vec<f64> =
            frames.windows(2).map(|pair| motion::difference(&pair[0].grid, &pair[1].grid)).collect();
        assert!(moved.iter().all(|moved| (0.0..40.0).contains(moved)), "{moved:?}");
        assert!(moved.iter().any(|moved| *moved > 0.5), "there is motion");
    }

    #[test]
    fn decoding_errors_have_recognised_messages() {
        let error_of = |bytes: Vec<u8>| match Video::open(bytes) {
            Ok(video) => video.decode(|_| true).map(|_| ()).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(error_of(b"no video at all".to_vec()).starts_with("invalid data found"));
        let mut cut = clip();
        cut.truncate(600_000);
        assert!(error_of(cut).contains("invalid data found"));
        let mut damaged = clip();
        for byte in &mut damaged[200_000..210_000] {
            *byte ^= 0x5a;
        }
        assert!(error_of(damaged).starts_with("corrupt media: frame"));
        let mut other = clip();
        let at = other.windows(4).position(|word| word == b"avc1").unwrap();
        other[at..at + 4].copy_from_slice(b"xxxx");
        let at = other.windows(4).rposition(|word| word == b"avc1").unwrap();
        other[at..at + 4].copy_from_slice(b"xxxx");
        assert!(error_of(other).contains("does not contain any stream"));
    }

    #[test]
    fn decoding_stops_when_the_callback_returns_false() {
        let mut last = 0;
        let frames = Video::open(clip()).unwrap().decode(|done| {
            last = done;
            done < 10
        });
        assert_eq!((frames.unwrap().len(), last), (0, 10));
    }
}
