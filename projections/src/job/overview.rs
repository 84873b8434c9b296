//! The overview of a job for lists and its page: history and counters, without the details of each request and each
//! score. So a row stays small, however large the job is.

use std::mem::take;

use domain::image_matching::counters::Counters;
use domain::image_matching::summary::JobFold;
use domain::job::history::{History, LastActivity};
use domain::job::view::{self, JobView};
use event_schemas::envelope::{Actor, Envelope};
use event_schemas::ids::{ProductId, RequestId, VideoId};
use event_schemas::image_match::{Frames, ImageMatchEvent, Totals};
use event_schemas::job::{JobEvent, JobSource};
use event_schemas::json_text::JsonText;
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobOverview {
    pub(super) history: History,
    pub(super) latest: LastActivity,
    pub(super) created_by: Actor,
    counters: Counters,
}

/// The data of callers and workers, which can be large. Lists and updates of the counters do without it, so it has rows of
/// its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobTexts {
    pub(super) metadata: JsonText,
    pub(super) options: JsonText,
    #[serde(default)]
    pub(super) product_ids: Vec<ProductId>,
    pub(super) result: Option<JsonText>,
}

/// A part of a job on which cumulative reports arrive, so that only the increase is counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum JobPart {
    Video(VideoId),
    Request(RequestId),
}

/// The last report on a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LastReport {
    /// The number of frames of a video.
    Frames(u64),
    /// The progress of a match request.
    Totals(Totals),
}

impl JobPart {
    /// The part that the event reports on; none if the event can be counted without the previous report.
    pub(super) fn of(event: &ImageMatchEvent) -> Option<Self> {
        match event {
            ImageMatchEvent::VideoFramesRegistered(event) => Some(Self::Video(event.video_id.clone())),
            ImageMatchEvent::MatchProgressReported(event) => Some(Self::Request(event.request_id.clone())),
            ImageMatchEvent::MatchRequestCompleted(event) => Some(Self::Request(event.request_id.clone())),
            _ => None,
        }
    }

    /// The key of its row.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Video(id) => format!("video:{id}"),
            Self::Request(id) => format!("request:{id}"),
        }
    }

    /// The value before the first report.
    pub(super) fn initial_report(&self) -> LastReport {
        match self {
            Self::Video(_) => LastReport::Frames(0),
            Self::Request(_) => LastReport::Totals(Totals::default()),
        }
    }
}

impl JobOverview {
    /// The overview of a new job; none if the event is not its creation.
    pub(super) fn create(envelope: &Envelope, event: &JobEvent) -> Option<Self> {
        let JobEvent::JobCreated(created) = event else { return None };
        let tenant = envelope.metadata.tenant.clone();
        let history = History::new(created, tenant, envelope.metadata.occurred_at);
        let (latest, counters) = (LastActivity::default(), Counters::default());
        let created_by = envelope.metadata.actor.clone();
        let mut overview = Self { history, latest, created_by, counters };
        overview.latest.observe(envelope);
        Some(overview)
    }

    pub(super) fn apply(&mut self, envelope: &Envelope, event: &JobEvent) {
        self.history.apply(event, envelope.metadata.occurred_at, envelope.recorded_at);
        self.latest.observe(envelope);
    }

    /// Moves the texts out of the overview.
    pub(super) fn split(&mut self) -> JobTexts {
        let history = &mut self.history;
        let product_ids = match &mut history.created.source {
            Some(JobSource::Extraction { product_ids, .. }) => take(product_ids),
            _ => Vec::new(),
        };
        let options = match &mut history.created.source {
            Some(source) => take(source.options_mut()),
            None => JsonText::default(),
        };
        let (metadata, result) = (take(&mut history.created.metadata), history.result.take());
        JobTexts { metadata, options, product_ids, result }
    }

    /// Moves the texts back.
    pub(super) fn join(&mut self, texts: JobTexts) {
        let history = &mut self.history;
        if let Some(source) = &mut history.created.source {
            *source.options_mut() = texts.options;
        }
        if let Some(JobSource::Extraction { product_ids, .. }) = &mut history.created.source {
            *product_ids = texts.product_ids;
        }
        history.created.metadata = texts.metadata;
        history.result = texts.result;
    }

    /// Counts an event of the job's matching, given the last report on its [`JobPart`]. For an event without one, the
    /// report is not used.
    pub(super) fn count(
        &mut self,
        envelope: &Envelope,
        event: &ImageMatchEvent,
        last_report: &mut LastReport,
    ) {
        self.latest.observe(envelope);
        let counters = &mut self.counters;
        match event {
            ImageMatchEvent::ProductImagesRegistered(event) => {
                counters.product_images += event.images.len() as u64;
            }
            ImageMatchEvent::VideoFramesRegistered(event) => {
                count_frames(counters, last_report, &event.frames);
            }
            ImageMatchEvent::MatchRequested(event) => {
                counters.requests += 1;
                counters.requested_candidates += event.candidates;
            }
            ImageMatchEvent::MatchProgressReported(event) => {
                count_totals(counters, last_report, &event.totals);
            }
            ImageMatchEvent::MatchRequestCompleted(event) => {
                count_totals(counters, last_report, &event.totals);
                counters.requests_completed += 1;
            }
            ImageMatchEvent::MatchRequestFailed(_) => counters.requests_failed += 1,
            ImageMatchEvent::MatchFound(event) => {
                counters.matches_found += 1;
                counters.matches_with_evidence += u64::from(event.evidence_path.is_some());
            }
            ImageMatchEvent::MatchEvidenceAttached(event) => {
                counters.matches_with_evidence += u64::from(!event.replaces);
            }
            ImageMatchEvent::MatchRequestClaimed(event) => self.history.part_claimed(&event.worker_id),
            ImageMatchEvent::MatchRequestLeaseExpired(_)
            | ImageMatchEvent::MatchRequestRetried(_)
            | ImageMatchEvent::JobWorkerLost(_) => {}
        }
    }

    /// The job's view at `now`. The domain computes it from a whole fold, but uses only these parts of it.
    pub(super) fn view(self, now: Timestamp) -> Option<JobView> {
        let mut fold = JobFold::default();
        fold.history = Some(self.history);
        fold.latest = self.latest;
        fold.matching.counters = self.counters;
        view::view(&fold, now)
    }
}

fn count_frames(counters: &mut Counters, last_report: &mut LastReport, frames: &Frames) {
    let LastReport::Frames(known) = last_report else { return };
    let total = match frames {
        Frames::Listed(frames) => *known + frames.len() as u64,
        Frames::Counted(count) => *count,
    };
    counters.video_frames = counters.video_frames + total - *known;
    *known = total;
}

/// Totals only increase: a late report of smaller totals is ignored.
fn count_totals(counters: &mut Counters, last_report: &mut LastReport, reported: &Totals) {
    let LastReport::Totals(known) = last_report else { return };
    raise(&mut known.candidates_processed, reported.candidates_processed, &mut counters.candidates_processed);
    raise(&mut known.vector_pass_done, reported.vector_pass_done, &mut counters.vector_pass_done);
    raise(&mut known.ransac_checked, reported.ransac_checked, &mut counters.ransac_checked);
}

fn raise(known: &mut u64, reported: u64, sum: &mut u64) {
    *sum += reported.saturating_sub(*known);
    *known = reported.max(*known);
}
