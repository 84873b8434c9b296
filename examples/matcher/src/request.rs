//! One match request from claim to completion: every image of the product against every frame of the video, in an
//! order that every worker keeps, so that one can go on where another died.

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

/// A report goes out after so many candidates, or after `REPORT_EVERY`, whichever comes first.
const CANDIDATES_PER_REPORT: u64 = 8;
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What became of a request that was worked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    pub totals: Totals,
    /// Matches found in this attempt, and how many of them the server had not known.
    pub found: u64,
    pub accepted: u64,
    /// Candidates compared in this attempt.
    pub compared: u64,
}

/// Why a request was not worked through.
#[derive(Debug, thiserror::Error)]
pub enum Unfinished {
    #[error(transparent)]
    Media(#[from] MediaError),
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    #[error("the request names no {0}; register them with the job before asking for matches")]
    Empty(&'static str),
    #[error("comparing {image} with {frame} panicked; the worker's log has the message")]
    Panicked { image: String, frame: String },
    /// The lease went to someone else, or ran out while the server was away.
    #[error("the lease is lost")]
    LeaseLost,
    #[error("the job takes no more matches")]
    JobEnded,
    #[error(transparent)]
    Call(CallError),
}

/// Where a worker reads and writes, and how fast it goes.
#[derive(Debug, Clone)]
pub struct Bench {
    pub media: Arc<Media>,
    pub evidence: PathBuf,
    /// A pause after each candidate, for demonstrations.
    pub pace: Duration,
}

/// Works a request through, from where its totals say that earlier attempts stopped.
pub async fn process(api: &Api, bench: &Bench, item: &Item) -> Result<Finished, Unfinished> {
    let candidates = candidates(item)?;
    if item.candidates != candidates.len() as u64 {
        tracing::warn!(
            request = item.request_id.0,
            announced = item.candidates,
            given = candidates.len(),
            "the request announced another number of candidates than it has"
        );
    }
    let mut report = Report::new(api, item);
    let done = usize::try_from(item.totals.candidates_processed).unwrap_or(usize::MAX);
    for (image, frame) in candidates.into_iter().skip(done) {
        let compared = compare_elsewhere(bench, item, image, frame).await?;
        report.add(compared);
        if report.is_due() {
            report.send(false).await?;
        }
        if !bench.pace.is_zero() {
            tokio::time::sleep(bench.pace).await;
        }
    }
    report.send(true).await?;
    Ok(report.finished)
}

/// All pairs, by ids: the order of the lists is the server's affair, and resuming rests on one order.
fn candidates(item: &Item) -> Result<Vec<(Image, Frame)>, Unfinished> {
    if item.images.is_empty() {
        return Err(Unfinished::Empty("product images"));
    }
    if item.frames.is_empty() {
        return Err(Unfinished::Empty("video frames"));
    }
    let (mut images, mut frames) = (item.images.clone(), item.frames.clone());
    images.sort_by(|a, b| a.img_id.cmp(&b.img_id));
    frames.sort_by(|a, b| a.frame_id.cmp(&b.frame_id));
    let pairs =
        images.iter().flat_map(|image| frames.iter().map(move |frame| (image.clone(), frame.clone())));
    Ok(pairs.collect())
}

/// What one candidate gave.
#[derive(Debug)]
struct Compared {
    ransac_checked: bool,
    found: Option<Match>,
}

async fn compare_elsewhere(
    bench: &Bench,
    item: &Item,
    image: Image,
    frame: Frame,
) -> Result<Compared, Unfinished> {
    let names = (image.img_id.0.clone(), frame.frame_id.0.clone());
    let (media, evidence, item) = (Arc::clone(&bench.media), bench.evidence.clone(), item.clone());
    // Off the async thread, so that heartbeats go on.
    tokio::task::spawn_blocking(move || compare(&media, &evidence, &item, &image, &frame))
        .await
        .map_err(|_| Unfinished::Panicked { image: names.0, frame: names.1 })?
}

fn compare(
    media: &Media,
    evidence: &Path,
    item: &Item,
    image: &Image,
    frame: &Frame,
) -> Result<Compared, Unfinished> {
    let product_path = media.find(Folder::Products, &image.img_id.0, image.url.as_deref())?;
    let frame_path = media.find(Folder::Frames, &frame.frame_id.0, None)?;
    let (product, scene) = (media.features(&product_path)?, media.features(&frame_path)?);
    let verdict = verdict(&product, &scene, &[&image.img_id.0, &frame.frame_id.0]);
    let Some(found) = verdict.found else {
        return Ok(Compared { ransac_checked: verdict.ransac_checked, found: None });
    };
    let match_id = MatchId::of(&image.img_id, &item.video_id, &frame.frame_id);
    let path = evidence::evidence_path(evidence, item.job_id, &match_id.0);
    let (product, scene) = (crate::media::load(&product_path)?, crate::media::load(&frame_path)?);
    evidence::write(&path, &product.to_rgb8(), &scene.to_rgb8(), &found)?;
    let found = Match {
        match_id,
        product_id: item.product_id.clone(),
        video_id: item.video_id.clone(),
        img_id: image.img_id.clone(),
        frame_id: frame.frame_id.clone(),
        score: found.score,
        evidence_path: path.to_string_lossy().into_owned(),
    };
    Ok(Compared { ransac_checked: verdict.ransac_checked, found: Some(found) })
}

/// What is known and not yet told to the server.
struct Report<'a> {
    api: &'a Api,
    item: &'a Item,
    job: Uuid,
    unreported: Vec<Match>,
    candidates_unreported: u64,
    last_sent: Instant,
    finished: Finished,
}

impl<'a> Report<'a> {
    fn new(api: &'a Api, item: &'a Item) -> Self {
        let finished = Finished { totals: item.totals, found: 0, accepted: 0, compared: 0 };
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

    fn add(&mut self, compared: Compared) {
        let totals = &mut self.finished.totals;
        totals.candidates_processed += 1;
        totals.vector_pass_done += 1;
        totals.ransac_checked += u64::from(compared.ransac_checked);
        self.finished.compared += 1;
        self.finished.found += u64::from(compared.found.is_some());
        self.candidates_unreported += 1;
        self.unreported.extend(compared.found);
    }

    fn is_due(&self) -> bool {
        self.candidates_unreported >= CANDIDATES_PER_REPORT || self.last_sent.elapsed() >= REPORT_EVERY
    }

    /// Matches first: progress that counts a candidate promises that its match is recorded, or a worker that goes
    /// on from there would leave it out for ever.
    async fn send(&mut self, completed: bool) -> Result<(), Unfinished> {
        if !self.unreported.is_empty() {
            let taken =
                self.api.report_matches(self.job, &self.unreported).await.map_err(|error| {
                    match error.status() {
                        Some(StatusCode::CONFLICT) => Unfinished::JobEnded,
                        _ => Unfinished::Call(error),
                    }
                })?;
            tracing::debug!(accepted = taken.accepted, duplicates = taken.duplicates, "matches reported");
            self.finished.accepted += taken.accepted;
            self.unreported.clear();
        }
        let progress = Progress {
            request_id: &self.item.request_id,
            lease_id: &self.item.lease_id,
            totals: self.finished.totals,
            completed,
        };
        self.api.report_progress(self.job, &progress).await.map_err(|error| match error.status() {
            Some(StatusCode::CONFLICT | StatusCode::NOT_FOUND) => Unfinished::LeaseLost,
            _ => Unfinished::Call(error),
        })?;
        self.candidates_unreported = 0;
        self.last_sent = Instant::now();
        Ok(())
    }
}
