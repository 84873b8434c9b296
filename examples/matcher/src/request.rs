//! Processes one match request: compares every image of the product with every frame of the video, in a fixed order, so that
//! another worker can resume after a crash.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use uuid::Uuid;

use crate::api::{Api, CallError};
use crate::evidence::{self, EvidenceError};
use crate::media::{Folder, Media, MediaError};
use crate::verdict::verdict;
use crate::wire::{Frame, Image, Item, Match, MatchId, Progress, Totals};

/// Progress is reported after this many candidates, or after `REPORT_EVERY`, whichever is first.
const CANDIDATES_PER_REPORT: u64 = 8;
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// The outcome of a completed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestOutcome {
    pub totals: Totals,
    /// The matches found in this attempt, and the number that were new to the server.
    pub found: u64,
    pub accepted: u64,
    /// The candidates compared in this attempt.
    pub compared: u64,
}

/// Why a request was not completed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error(transparent)]
    Media(#[from] MediaError),
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    #[error("the request has no {0}; register them with the job before requesting matches")]
    Empty(&'static str),
    #[error("comparing {image} with {frame} panicked; the worker's log has the message")]
    Panicked { image: String, frame: String },
    /// The lease belongs to another worker, or expired while the server was unreachable.
    #[error("the lease is lost")]
    LeaseLost,
    #[error("the job accepts no more matches")]
    JobEnded,
    #[error(transparent)]
    Call(CallError),
}

/// The folders of a worker, and its pace.
#[derive(Debug, Clone)]
pub struct WorkContext {
    pub media: Arc<Media>,
    pub evidence: PathBuf,
    /// A pause after each candidate, for demonstrations.
    pub pace: Duration,
}

/// Processes a request, starting after the candidates that earlier attempts have processed.
pub async fn process(api: &Api, context: &WorkContext, item: &Item) -> Result<RequestOutcome, RequestError> {
    let candidates = candidates(item)?;
    if item.candidates != candidates.len() as u64 {
        tracing::warn!(
            request = item.request_id.0,
            announced = item.candidates,
            actual = candidates.len(),
            "the request announced a different number of candidates than it has"
        );
    }
    let mut report = Report::new(api, item);
    let done = usize::try_from(item.totals.candidates_processed).unwrap_or(usize::MAX);
    for (image, frame) in candidates.into_iter().skip(done) {
        let result = compare_in_background(context, item, image, frame).await?;
        report.add(result);
        if report.is_due() {
            report.send(false).await?;
        }
        if !context.pace.is_zero() {
            tokio::time::sleep(context.pace).await;
        }
    }
    report.send(true).await?;
    Ok(report.finished)
}

/// All pairs, sorted by ids: the server may list them in any order, and resuming needs a fixed one.
fn candidates(item: &Item) -> Result<Vec<(Image, Frame)>, RequestError> {
    if item.images.is_empty() {
        return Err(RequestError::Empty("product images"));
    }
    if item.frames.is_empty() {
        return Err(RequestError::Empty("video frames"));
    }
    let (mut images, mut frames) = (item.images.clone(), item.frames.clone());
    images.sort_by(|a, b| a.img_id.cmp(&b.img_id));
    frames.sort_by(|a, b| a.frame_id.cmp(&b.frame_id));
    let pairs =
        images.iter().flat_map(|image| frames.iter().map(move |frame| (image.clone(), frame.clone())));
    Ok(pairs.collect())
}

/// The result of one candidate.
#[derive(Debug)]
struct CandidateResult {
    ransac_checked: bool,
    found: Option<Match>,
}

async fn compare_in_background(
    context: &WorkContext,
    item: &Item,
    image: Image,
    frame: Frame,
) -> Result<CandidateResult, RequestError> {
    let names = (image.img_id.0.clone(), frame.frame_id.0.clone());
    let (media, evidence, item) = (Arc::clone(&context.media), context.evidence.clone(), item.clone());
    // Not on the async thread, so that heartbeats continue.
    tokio::task::spawn_blocking(move || compare(&media, &evidence, &item, &image, &frame))
        .await
        .map_err(|_| RequestError::Panicked { image: names.0, frame: names.1 })?
}

fn compare(
    media: &Media,
    evidence: &Path,
    item: &Item,
    image: &Image,
    frame: &Frame,
) -> Result<CandidateResult, RequestError> {
    let product_path = media.find(Folder::Products, &image.img_id.0, image.url.as_deref())?;
    let frame_path = media.find(Folder::Frames, &frame.frame_id.0, None)?;
    let (product, scene) = (media.features(&product_path)?, media.features(&frame_path)?);
    let verdict = verdict(&product, &scene, &[&image.img_id.0, &frame.frame_id.0]);
    let Some(found) = verdict.found else {
        return Ok(CandidateResult { ransac_checked: verdict.ransac_checked, found: None });
    };
    let match_id = MatchId::of(&image.img_id, &item.video_id, &frame.frame_id);
    let path = evidence::evidence_path(item.job_id, &match_id.0);
    let (product, scene) = (crate::media::load(&product_path)?, crate::media::load(&frame_path)?);
    evidence::write(&evidence.join(&path), &product.to_rgb8(), &scene.to_rgb8(), &found)?;
    let found = Match {
        match_id,
        product_id: item.product_id.clone(),
        video_id: item.video_id.clone(),
        img_id: image.img_id.clone(),
        frame_id: frame.frame_id.clone(),
        score: found.score,
        evidence_path: path.to_string_lossy().into_owned(),
    };
    Ok(CandidateResult { ransac_checked: verdict.ransac_checked, found: Some(found) })
}

/// The results that are not yet reported to the server.
struct Report<'a> {
    api: &'a Api,
    item: &'a Item,
    job: Uuid,
    unreported: Vec<Match>,
    candidates_unreported: u64,
    last_sent: Instant,
    finished: RequestOutcome,
}

impl<'a> Report<'a> {
    fn new(api: &'a Api, item: &'a Item) -> Self {
        let finished = RequestOutcome { totals: item.totals, found: 0, accepted: 0, compared: 0 };
        Self {
            api,
            item,
            job: item.job_id,
            unreported: Vec::new(),
            candidates_unreported: 0,
            last_sent: Instant::now(),
            finished,
        }
    }

    fn add(&mut self, result: CandidateResult) {
        let totals = &mut self.finished.totals;
        totals.candidates_processed += 1;
        totals.vector_pass_done += 1;
        totals.ransac_checked += u64::from(result.ransac_checked);
        self.finished.compared += 1;
        self.finished.found += u64::from(result.found.is_some());
        self.candidates_unreported += 1;
        self.unreported.extend(result.found);
    }

    fn is_due(&self) -> bool {
        self.candidates_unreported >= CANDIDATES_PER_REPORT || self.last_sent.elapsed() >= REPORT_EVERY
    }

    /// Matches are sent first: a worker that resumes from the reported progress would otherwise skip a match that was not
    /// reported.
    async fn send(&mut self, completed: bool) -> Result<(), RequestError> {
        if !self.unreported.is_empty() {
            let reported = self.api.report_matches(self.job, &self.unreported).await.map_err(|error| {
                match error.status() {
                    Some(StatusCode::CONFLICT) => RequestError::JobEnded,
                    _ => RequestError::Call(error),
                }
            })?;
            tracing::debug!(
                accepted = reported.accepted,
                duplicates = reported.duplicates,
                "matches reported"
            );
            self.finished.accepted += reported.accepted;
            self.unreported.clear();
        }
        let progress = Progress {
            request_id: &self.item.request_id,
            lease_id: &self.item.lease_id,
            totals: self.finished.totals,
            completed,
        };
        self.api.report_progress(self.job, &progress).await.map_err(|error| match error.status() {
            Some(StatusCode::CONFLICT | StatusCode::NOT_FOUND) => RequestError::LeaseLost,
            _ => RequestError::Call(error),
        })?;
        self.candidates_unreported = 0;
        self.last_sent = Instant::now();
        Ok(())
    }
}
