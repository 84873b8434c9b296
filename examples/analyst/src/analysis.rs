//! One analysis, from its claim to its end.
//!
//! What is reported as done was done: of the download the bytes read, of the analysis the frames decoded. Stages for which
//! this worker has no service are skipped and named in the result; a job that cannot do without them fails as unsupported.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::task::JoinError;

use crate::api::{Api, Item, Progress, Refused, Source};
use crate::fault::{Fault, Stage, Trouble, Wish};
use crate::motion;
use crate::video::{Frame, Video, VideoError};

/// How much of a file is read between two reports.
const CHUNK_BYTES: usize = 128 * 1024;
/// Between two reports of progress.
const REPORT_EVERY: Duration = Duration::from_millis(200);
const HIGHLIGHTS: usize = 5;
const HIGHLIGHTS_MAX: u64 = 100;

/// What an analysis works with.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The folder in which the video with the number 2039 is `2039.mp4`.
    pub media: PathBuf,
    /// A pause after each frame and each chunk, to watch a job go.
    pub pace: Duration,
    /// Whether a job's options may ask for a fault.
    pub faults: bool,
}

/// Why an analysis came to no result.
#[derive(Debug, thiserror::Error)]
pub enum Unfinished {
    #[error("unsupported video: this worker cannot download {0}; put {0}.mp4 into its media folder")]
    NotHere(String),
    #[error("unsupported media: the job needs {0}, and this worker has no service for that")]
    NoService(String),
    #[error("invalid url: the job names no video")]
    NoVideo,
    #[error("cannot read the video: {0}")]
    Read(#[from] std::io::Error),
    #[error(transparent)]
    Video(#[from] VideoError),
    #[error("the analysis broke off: {0}")]
    Broken(#[from] JoinError),
    #[error("a fault was asked for: {0:?}")]
    Fault(Fault),
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl Unfinished {
    /// What to report of a fault that was asked for.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Fault(fault) => fault.trouble(),
            _ => None,
        }
    }
}

/// Does the whole job; answers its result, which has not been handed in.
///
/// # Errors
/// [`Unfinished`].
pub async fn analyse(api: &Api, bench: &Bench, item: &Item) -> Result<Value, Unfinished> {
    let source = item.source.as_ref().ok_or(Unfinished::NoVideo)?;
    let wish = Wish::of(&source.options).filter(|_| bench.faults);
    let strikes = |stage| match wish.filter(|wish| wish.strikes(item.attempt, stage)) {
        Some(wish) => Err(Unfinished::Fault(wish.fault)),
        None => Ok(()),
    };
    needs_only_what_is_here(&source.options)?;
    enter(api, item, Stage::Downloading).await?;
    strikes(Stage::Downloading)?;
    let bytes = read(api, bench, item, source).await?;
    if wish.is_some_and(|wish| wish.fault.stage() == Stage::Transcribing) {
        enter(api, item, Stage::Transcribing).await?;
        strikes(Stage::Transcribing)?;
    }
    enter(api, item, Stage::Analyzing).await?;
    strikes(Stage::Analyzing)?;
    let (video, frames) = decode(api, bench, item, bytes).await?;
    enter(api, item, Stage::FindingHighlights).await?;
    strikes(Stage::FindingHighlights)?;
    let max = source.options.get("highlights_max").and_then(Value::as_u64);
    let max = max.map_or(HIGHLIGHTS, |max| max.min(HIGHLIGHTS_MAX) as usize);
    let frame_count = frames.len();
    // On a thread of its own: heartbeats share this one.
    let found = tokio::task::spawn_blocking(move || find(&frames, max)).await?;
    let done = Progress { fraction: 1.0, ..begun(Stage::FindingHighlights) };
    api.progress(&item.lease_id, done).await?;
    Ok(json!({
        "duration_seconds": video.seconds,
        "frames": frame_count,
        "width": video.width,
        "height": video.height,
        "scene_cuts": found.scene_cuts,
        "highlights": found.highlights,
        "unsupported": [
            {"what": "chat", "why": "no service for chat messages is connected to this worker"},
            {"what": "loudness", "why": "this worker decodes pictures only, so highlights rest on motion and scene cuts"},
            {"what": "transcript", "why": "no speech-to-text service is connected to this worker"},
        ],
    }))
}

fn find(frames: &[Frame], max: usize) -> motion::Found {
    let at: Vec<f64> = frames.iter().map(|frame| frame.shown_at).collect();
    let moved = frames.windows(2).map(|pair| motion::difference(&pair[0].grid, &pair[1].grid));
    let differences: Vec<f64> = std::iter::once(0.0).take(frames.len()).chain(moved).collect();
    motion::find(&differences, &at, max)
}

/// A job may say that it is of no use without some part: `{"require": ["transcript"]}`.
fn needs_only_what_is_here(options: &Value) -> Result<(), Unfinished> {
    let required = options.get("require").and_then(Value::as_array).into_iter().flatten();
    match required.filter_map(Value::as_str).find(|part| !matches!(*part, "highlights" | "scene_cuts")) {
        Some(part) => Err(Unfinished::NoService(part.to_owned())),
        None => Ok(()),
    }
}

fn begun(stage: Stage) -> Progress {
    Progress { stage, fraction: 0.0, items_done: None, items_total: None }
}

async fn enter(api: &Api, item: &Item, stage: Stage) -> Result<(), Refused> {
    api.progress(&item.lease_id, begun(stage)).await
}

/// Reads the video from the media folder, which stands for a download.
async fn read(api: &Api, bench: &Bench, item: &Item, source: &Source) -> Result<Vec<u8>, Unfinished> {
    let path = file(&bench.media, &source.video_id)?;
    let mut file = tokio::fs::File::open(&path).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Unfinished::NotHere(source.video_id.clone()),
        _ => Unfinished::Read(error),
    })?;
    let total = file.metadata().await?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    let mut told = tokio::time::Instant::now();
    loop {
        let mut chunk = (&mut file).take(CHUNK_BYTES as u64);
        if chunk.read_to_end(&mut bytes).await? == 0 {
            break;
        }
        tokio::time::sleep(bench.pace).await;
        if told.elapsed() >= REPORT_EVERY {
            told = tokio::time::Instant::now();
            report(api, item, Stage::Downloading, bytes.len() as u64, total).await?;
        }
    }
    report(api, item, Stage::Downloading, bytes.len() as u64, total).await?;
    Ok(bytes)
}

/// A video's number is digits, so that no name leads out of the folder.
fn file(media: &Path, video_id: &str) -> Result<PathBuf, Unfinished> {
    if video_id.is_empty() || !video_id.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Unfinished::NoVideo);
    }
    Ok(media.join(format!("{video_id}.mp4")))
}

async fn report(api: &Api, item: &Item, stage: Stage, done: u64, total: u64) -> Result<(), Refused> {
    let fraction = if total == 0 { 0.0 } else { (done as f64 / total as f64).min(1.0) };
    let progress = Progress { stage, fraction, items_done: Some(done.min(total)), items_total: Some(total) };
    api.progress(&item.lease_id, progress).await
}

/// Decodes on a thread of its own, and reports from here how far it is.
async fn decode(
    api: &Api,
    bench: &Bench,
    item: &Item,
    bytes: Vec<u8>,
) -> Result<(Video, Vec<Frame>), Unfinished> {
    let video = tokio::task::spawn_blocking(move || Video::open(bytes)).await??;
    let total = video.len() as u64;
    let (far, mut seen) = watch::channel(0_u64);
    let pace = bench.pace;
    let decoding = tokio::task::spawn_blocking(move || {
        let frames = video.decode(|done| {
            std::thread::sleep(pace);
            // Nobody listens any more when the job was given up.
            far.send(done as u64).is_ok()
        });
        frames.map(|frames| (video, frames))
    });
    while seen.changed().await.is_ok() {
        let done = *seen.borrow_and_update();
        report(api, item, Stage::Analyzing, done, total).await?;
        tokio::time::sleep(REPORT_EVERY).await;
    }
    let decoded = decoding.await??;
    report(api, item, Stage::Analyzing, total, total).await?;
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_video_is_named_by_digits_only() {
        let media = Path::new("media");
        assert_eq!(file(media, "2039").unwrap(), Path::new("media/2039.mp4"));
        for wrong in ["", "../2039", "20/39", "a"] {
            assert!(file(media, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_job_that_needs_what_no_service_is_there_for_is_unsupported() {
        assert!(needs_only_what_is_here(&json!({"require": ["highlights"]})).is_ok());
        assert!(needs_only_what_is_here(&json!({})).is_ok());
        let refused = needs_only_what_is_here(&json!({"require": ["highlights", "transcript"]})).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "unsupported media: the job needs transcript, and this worker has no service for that"
        );
    }
}
