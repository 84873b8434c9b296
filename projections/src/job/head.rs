//! What lists and a job's own page need of a job: its history and its counts, without what is known of each request and
//! each score. So a row is small, however large the job is.

use domain::job::history::{History, Latest};
use domain::job::view::{self, JobView};
use domain::matching::summary::JobFold;
use domain::matching::tally::Counters;
use event_schemas::envelope::Envelope;
use event_schemas::ids::{RequestId, VideoId};
use event_schemas::job::JobEvent;
use event_schemas::matching::{Frames, MatchingEvent, Totals};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) history: History,
    pub(super) latest: Latest,
    counters: Counters,
}

/// What is said of one part of a job again and again, so that only what is new is counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Video(VideoId),
    Request(RequestId),
}

/// What was said of a part so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Known {
    /// How many frames a video has.
    Frames(u64),
    /// How far a match request is.
    Totals(Totals),
}

impl Part {
    /// The part that the event speaks of; none if it need not be known what was said before.
    pub(super) fn of(event: &MatchingEvent) -> Option<Self> {
        match event {
            MatchingEvent::VideoFramesRegistered(event) => Some(Self::Video(event.video_id.clone())),
            MatchingEvent::MatchProgressReported(event) => Some(Self::Request(event.request_id.clone())),
            MatchingEvent::MatchRequestCompleted(event) => Some(Self::Request(event.request_id.clone())),
            _ => None,
        }
    }

    /// The name that it is stored under.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Video(id) => format!("video:{id}"),
            Self::Request(id) => format!("request:{id}"),
        }
    }

    /// Before anything was said.
    pub(super) fn unknown(&self) -> Known {
        match self {
            Self::Video(_) => Known::Frames(0),
            Self::Request(_) => Known::Totals(Totals::default()),
        }
    }
}

impl Head {
    /// The job that an event creates; none if it is another event.
    pub(super) fn begin(envelope: &Envelope, event: &JobEvent) -> Option<Self> {
        let JobEvent::JobCreated(created) = event else { return None };
        let tenant = envelope.metadata.tenant.clone();
        let history = History::begin(created, tenant, envelope.metadata.occurred_at);
        let mut head = Self { history, latest: Latest::default(), counters: Counters::default() };
        head.latest.see(envelope);
        Some(head)
    }

    pub(super) fn apply(&mut self, envelope: &Envelope, event: &JobEvent) {
        self.history.apply(event, envelope.metadata.occurred_at, envelope.recorded_at);
        self.latest.see(envelope);
    }

    /// Counts an event of the job's matching, given what was known of its [`Part`]; without one, anything will do.
    pub(super) fn count(&mut self, envelope: &Envelope, event: &MatchingEvent, known: &mut Known) {
        self.latest.see(envelope);
        let counters = &mut self.counters;
        match event {
            MatchingEvent::ProductImagesRegistered(event) => {
                counters.product_images += event.images.len() as u64;
            }
            MatchingEvent::VideoFramesRegistered(event) => frames(counters, known, &event.frames),
            MatchingEvent::MatchRequested(event) => {
                counters.requests += 1;
                counters.requested_candidates += event.candidates;
            }
            MatchingEvent::MatchProgressReported(event) => totals(counters, known, &event.totals),
            MatchingEvent::MatchRequestCompleted(event) => {
                totals(counters, known, &event.totals);
                counters.requests_completed += 1;
            }
            MatchingEvent::MatchRequestFailed(_) => counters.requests_failed += 1,
            MatchingEvent::MatchFound(event) => {
                counters.matches_found += 1;
                counters.matches_with_evidence += u64::from(event.evidence_path.is_some());
            }
            MatchingEvent::MatchEvidenceAttached(event) => {
                counters.matches_with_evidence += u64::from(!event.replaces);
            }
            MatchingEvent::MatchRequestClaimed(_)
            | MatchingEvent::MatchRequestLeaseExpired(_)
            | MatchingEvent::MatchRequestRetried(_)
            | MatchingEvent::JobWorkerLost(_) => {}
        }
    }

    /// The job as it is shown at `now`: what the domain makes of the whole fold, which looks at no more than this.
    pub(super) fn view(self, now: Timestamp) -> Option<JobView> {
        let mut fold = JobFold::default();
        fold.history = Some(self.history);
        fold.latest = self.latest;
        fold.tally.counters = self.counters;
        view::view(&fold, now)
    }
}

fn frames(counters: &mut Counters, known: &mut Known, frames: &Frames) {
    let Known::Frames(known) = known else { return };
    let now = match frames {
        Frames::Listed(frames) => *known + frames.len() as u64,
        Frames::Counted(count) => *count,
    };
    counters.video_frames = counters.video_frames + now - *known;
    *known = now;
}

/// Totals only grow: a late report of less says nothing.
fn totals(counters: &mut Counters, known: &mut Known, reported: &Totals) {
    let Known::Totals(known) = known else { return };
    raise(&mut known.candidates_processed, reported.candidates_processed, &mut counters.candidates_processed);
    raise(&mut known.vector_pass_done, reported.vector_pass_done, &mut counters.vector_pass_done);
    raise(&mut known.ransac_checked, reported.ransac_checked, &mut counters.ransac_checked);
}

fn raise(known: &mut u64, reported: u64, sum: &mut u64) {
    *sum += reported.saturating_sub(*known);
    *known = reported.max(*known);
}
