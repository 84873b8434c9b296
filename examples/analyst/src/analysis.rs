//! Processes one analysis.
//!
//! Reported progress is real: the bytes read for the download, and the frames decoded for the analysis. Stages without a
//! service are skipped and listed in the result; a job that requires them fails as unsupported.

use std::path::{Path, PathBuf};
use std::time::Duration;

use matchbook_worker::client::CallError;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::task::JoinError;

use crate::api::{Api, Item, Progress, Source};
use crate::fault::{FailureReport, Fault, FaultRequest, Stage};
use crate::motion;
use crate::video::{Frame, Video, VideoError};

/// The size of the chunks in which a file is read.
const CHUNK_BYTES: usize = 128 * 1024;
/// The interval of progress reports.
const REPORT_EVERY: Duration = Duration::from_millis(200);
const HIGHLIGHTS: usize = 5;
const HIGHLIGHTS_MAX: u64 = 100;

/// The settings of an analysis.
#[derive(Clone, Debug)]
pub struct WorkContext {
    /// The folder in which the video with the number 2039 is `2039.mp4`.
    pub media: PathBuf,
    /// A pause after each frame and each chunk, for demonstrations.
    pub pace: Duration,
    /// Whether a job's options may request a fault.
    pub faults: bool,
}

/// Why an analysis failed.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    #[error("unsupported video: this worker cannot download {0}; put {0}.mp4 into its media folder")]
    NotHere(String),
    #[error("unsupported media: the job needs {0}, and this worker has no service for that")]
    NoService(String),
    #[error("invalid url: the job has no video")]
    NoVideo,
    #[error("cannot read the video: {0}")]
    Read(#[from] std::io::Error),
    #[error(transparent)]
    Video(#[from] VideoError),
    #[error("the analysis failed: {0}")]
    Broken(#[from] JoinError),
    #[error("injected fault: {0:?}")]
    Fault(Fault),
    #[error(transparent)]
    Refused(#[from] CallError),
}

impl AnalysisError {
    /// The report of an injected fault.
    pub fn report(&self) -> Option<FailureReport> {
        match self {
            Self::Fault(fault) => fault.report(),
            _ => None,
        }
    }
}

/// Processes the job and returns its result, which is not completed at the server yet.
///
/// # Errors
/// [`AnalysisError`].
pub async fn analyse(api: &Api, context: &WorkContext, item: &Item) -> Result<Value, AnalysisError> {
    let source = item.source.as_ref().ok_or(AnalysisError::NoVideo)?;
    let request = FaultRequest::of(&source.options).filter(|_| context.faults);
    let check_fault = |stage| match request.filter(|request| request.applies_to(item.attempt, stage)) {
        Some(request) => Err(AnalysisError::Fault(request.fault)),
        None => Ok(()),
    };
    check_required_parts(&source.options)?;
    enter(api, item, Stage::Downloading).await?;
    check_fault(Stage::Downloading)?;
    let bytes = read(api, context, item, source).await?;
    if request.is_some_and(|request| request.fault.stage() == Stage::Transcribing) {
        enter(api, item, Stage::Transcribing).await?;
        check_fault(Stage::Transcribing)?;
    }
    enter(api, item, Stage::Analyzing).await?;
    check_fault(Stage::Analyzing)?;
    let (video, frames) = decode(api, context, item, bytes).await?;
    enter(api, item, Stage::FindingHighlights).await?;
    check_fault(Stage::FindingHighlights)?;
    let max = source.options.get("highlights_max").and_then(Value::as_u64);
    let max = max.map_or(HIGHLIGHTS, |max| max.min(HIGHLIGHTS_MAX) as usize);
    let frame_count = frames.len();
    // Heartbeats share this thread, so it does not compute.
    let found = tokio::task::spawn_blocking(move || find(&frames, max)).await?;
    let done = Progress { fraction: 1.0, ..stage_start(Stage::FindingHighlights) };
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
            {"what": "loudness", "why": "this worker decodes images only, so highlights are based on motion and scene cuts"},
            {"what": "transcript", "why": "no speech-to-text service is connected to this worker"},
        ],
    }))
}

fn find(frames: &[Frame], max: usize) -> motion::Findings {
    let at: Vec<f64> = frames.iter().map(|frame| frame.shown_at).collect();
    let moved = frames.windows(2).map(|pair| motion::difference(&pair[0].grid, &pair[1].grid));
    let differences: Vec<f64> = std::iter::once(0.0).take(frames.len()).chain(moved).collect();
    motion::find(&differences, &at, max)
}

/// Checks the required parts of a job: `{"require": ["transcript"]}`.
fn check_required_parts(options: &Value) -> Result<(), AnalysisError> {
    let required = options.get("require").and_then(Value::as_array).into_iter().flatten();
    match required.filter_map(Value::as_str).find(|part| !matches!(*part, "highlights" | "scene_cuts")) {
        Some(part) => Err(AnalysisError::NoService(part.to_owned())),
        None => Ok(()),
    }
}

fn stage_start(stage: Stage) -> Progress {
    Progress { stage, fraction: 0.0, items_done: None, items_total: None }
}

async fn enter(api: &Api, item: &Item, stage: Stage) -> Result<(), CallError> {
    api.progress(&item.lease_id, stage_start(stage)).await
}

/// Reads the video from the media folder, in place of a download.
async fn read(
    api: &Api,
    context: &WorkContext,
    item: &Item,
    source: &Source,
) -> Result<Vec<u8>, AnalysisError> {
    let path = file(&context.media, &source.video_id)?;
    let mut file = tokio::fs::File::open(&path).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => AnalysisError::NotHere(source.video_id.clone()),
        _ => AnalysisError::Read(error),
    })?;
    let total = file.metadata().await?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    let mut reported_at = tokio::time::Instant::now();
    loop {
        let mut chunk = (&mut file).take(CHUNK_BYTES as u64);
        if chunk.read_to_end(&mut bytes).await? == 0 {
            break;
        }
        tokio::time::sleep(context.pace).await;
        if reported_at.elapsed() >= REPORT_EVERY {
            reported_at = tokio::time::Instant::now();
            report(api, item, Stage::Downloading, bytes.len() as u64, total).await?;
        }
    }
    report(api, item, Stage::Downloading, bytes.len() as u64, total).await?;
    Ok(bytes)
}

/// The file of a video. An id consists of digits, so that it cannot name a file outside the folder.
fn file(media: &Path, video_id: &str) -> Result<PathBuf, AnalysisError> {
    if video_id.is_empty() || !video_id.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(AnalysisError::NoVideo);
    }
    Ok(media.join(format!("{video_id}.mp4")))
}

async fn report(api: &Api, item: &Item, stage: Stage, done: u64, total: u64) -> Result<(), CallError> {
    let fraction = if total == 0 { 0.0 } else { (done as f64 / total as f64).min(1.0) };
    let progress = Progress { stage, fraction, items_done: Some(done.min(total)), items_total: Some(total) };
    api.progress(&item.lease_id, progress).await
}

/// Decodes on a separate thread, and reports the progress.
async fn decode(
    api: &Api,
    context: &WorkContext,
    item: &Item,
    bytes: Vec<u8>,
) -> Result<(Video, Vec<Frame>), AnalysisError> {
    let video = tokio::task::spawn_blocking(move || Video::open(bytes)).await??;
    let total = video.len() as u64;
    let (sender, mut progress) = watch::channel(0_u64);
    let pace = context.pace;
    let decoding = tokio::task::spawn_blocking(move || {
        let frames = video.decode(|done| {
            std::thread::sleep(pace);
            // Fails if the job was abandoned.
            sender.send(done as u64).is_ok()
        });
        frames.map(|frames| (video, frames))
    });
    while progress.changed().await.is_ok() {
        let done = *progress.borrow_and_update();
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
    fn video_id_consists_of_digits() {
        let media = Path::new("media");
        assert_eq!(file(media, "2039").unwrap(), Path::new("media/2039.mp4"));
        for wrong in ["", "../2039", "20/39", "a"] {
            assert!(file(media, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn job_that_requires_a_missing_service_is_unsupported() {
        assert!(check_required_parts(&json!({"require": ["highlights"]})).is_ok());
        assert!(check_required_parts(&json!({})).is_ok());
        let refused = check_required_parts(&json!({"require": ["highlights", "transcript"]})).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "unsupported media: the job needs transcript, and this worker has no service for that"
        );
    }
}
