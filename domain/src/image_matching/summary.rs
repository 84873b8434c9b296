//! The summary of a matching job: one fold and one function of it, for every caller and every point in time.
//!
//! Live responses, rebuilds, forced refreshes, time travel and audits all fold the job's streams, merged by
//! position, into a [`JobFold`], and call [`summarise`]. So they cannot disagree.

use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, Position};
use event_schemas::image_match::ImageMatchEvent;
use event_schemas::job::{JobEvent, Phase};
use event_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::blockers::{self, Blocker, Thresholds};
use super::counters::{EventTimes, MatchingCounters};
use super::eta::{Eta, RateEstimator, RateSample};
use super::percentile::{AmbiguousPercentile, Percentile, Scores};
use crate::job::history::{History, LastActivity, Status};
use crate::job::view;
use crate::worker::presence::Presence;

/// The version of [`JobFold`]'s stored form. A fold stored with another version is not read, but rebuilt.
pub const FORMAT: u32 = 8;

/// The fold of all events of a job. Equal folds are stored as equal bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobFold {
    #[serde(deserialize_with = "this_format")]
    format: u32,
    /// None before the job's creation.
    pub history: Option<History>,
    pub latest: LastActivity,
    /// The position of the latest event in the job's own stream, which holds its phases, attempts and end.
    pub state_changed: Option<Position>,
    pub matching: MatchingCounters,
    pub scores: Scores,
    /// The rate in the latest period of the matching phase.
    rate: Option<RateEstimator>,
}

impl Default for JobFold {
    fn default() -> Self {
        Self {
            format: FORMAT,
            history: None,
            latest: LastActivity::default(),
            state_changed: None,
            matching: MatchingCounters::default(),
            scores: Scores::default(),
            rate: None,
        }
    }
}

fn this_format<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let format = u32::deserialize(deserializer)?;
    if format == FORMAT {
        Ok(format)
    } else {
        Err(serde::de::Error::custom(format_args!(
            "the fold is stored in format {format}, not {FORMAT}; rebuild it"
        )))
    }
}

impl JobFold {
    /// Applies the next event of the job's streams, merged by position. Events of other categories, and
    /// events before the creation, are ignored; the caller passes the events of one job only.
    pub fn apply(&mut self, envelope: &Envelope) {
        let at = envelope.metadata.occurred_at;
        match (&envelope.event, &mut self.history) {
            (Event::Job(JobEvent::JobCreated(created)), None) => {
                self.history = Some(History::new(created, envelope.metadata.tenant.clone(), at));
            }
            (Event::Job(event), Some(history)) => {
                history.apply(event, at, envelope.recorded_at);
                if let JobEvent::JobPhaseChanged(changed) = event
                    && changed.to == Phase::Matching
                {
                    self.rate = Some(RateEstimator::new(at));
                }
            }
            (Event::ImageMatch(event), Some(_)) => self.count(event, envelope),
            _ => return,
        }
        if matches!(envelope.event, Event::Job(_)) {
            self.state_changed = Some(envelope.position);
        }
        self.latest.observe(envelope);
    }

    fn count(&mut self, event: &ImageMatchEvent, envelope: &Envelope) {
        let at = envelope.metadata.occurred_at;
        if let (ImageMatchEvent::MatchRequestClaimed(claimed), Some(history)) = (event, &mut self.history) {
            history.part_claimed(&claimed.worker_id);
        }
        if let ImageMatchEvent::MatchFound(found) = event {
            self.scores.insert(found.score);
        }
        let times =
            EventTimes { occurred_at: at, recorded_at: envelope.recorded_at, position: envelope.position };
        if let (ImageMatchEvent::MatchRequestClaimed(_), Some(rate)) = (event, &mut self.rate) {
            rate.begin(at);
        }
        let before = self.matching.counters.candidates_processed;
        self.matching.apply(event, times);
        let units = self.matching.counters.candidates_processed - before;
        if units > 0
            && let Some(rate) = &mut self.rate
        {
            rate.add(RateSample { occurred_at: at, recorded_at: envelope.recorded_at, units });
        }
    }
}

/// The statistics and blockers of a matching job, at a point in time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "MatchingSummary")]
pub struct Summary {
    pub job_id: JobId,
    pub phase: Phase,
    /// From 1; incremented by each retry.
    pub attempt: u32,
    pub status: Status,
    /// The progress of the whole job over its stages, from 0 to 100.
    pub progress_percentage: f64,
    pub created_at: Timestamp,
    /// When matching started most recently; null before.
    pub started_at: Option<Timestamp>,
    /// When matching ended; null before, and after a failure.
    pub completed_at: Option<Timestamp>,
    /// The latest instant of any event of the job.
    pub last_event_at: Timestamp,
    /// Product images × video frames registered for the job.
    pub candidates_total: u64,
    /// The candidates that workers reported as processed.
    pub candidates_processed: u64,
    pub candidates_unprocessed: u64,
    /// The sum of the match requests' candidates.
    pub vector_pass_total: u64,
    pub vector_pass_done: u64,
    /// The candidates that workers have verified geometrically.
    pub ransac_checked: u64,
    pub matches_found: u64,
    pub matches_with_evidence: u64,
    /// Exact, rounded to two decimals; null without matches.
    pub avg_score: Option<f64>,
    /// Exact, by linear interpolation, rounded to two decimals; null without matches.
    pub p90_score: Option<f64>,
    /// Match requests issued and not yet completed.
    pub queue_depth: u64,
    /// Null unless running with progress, and while stalled.
    pub eta_seconds: Option<u64>,
    pub eta: Option<Eta>,
    /// Each as `code: sentence`.
    pub blockers: Vec<String>,
    pub blocker_details: Vec<Blocker>,
    /// The log position that the response reflects.
    pub position: Position,
    /// The requested instant, if there was one.
    pub as_of: Option<Timestamp>,
}

/// A short form of the summary, for lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "MatchingSummaryPreview")]
pub struct SummaryPreview {
    pub avg_score: Option<f64>,
    pub p90_score: Option<f64>,
    pub queue_depth: u64,
    pub eta_seconds: Option<u64>,
    /// Each as `code: sentence`.
    pub blockers: Vec<String>,
}

impl From<Summary> for SummaryPreview {
    fn from(summary: Summary) -> Self {
        Self {
            avg_score: summary.avg_score,
            p90_score: summary.p90_score,
            queue_depth: summary.queue_depth,
            eta_seconds: summary.eta_seconds,
            blockers: summary.blockers,
        }
    }
}

/// The reason why there is no summary.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoSummary {
    #[error("there is no such job")]
    NoJob,
    /// Summarise again with the scores in this range.
    #[error("the 90th percentile lies between {} and {}; the scores in that range decide it", .0.from, .0.to)]
    AmbiguousPercentile(AmbiguousPercentile),
}

/// The summary at `instant`, which is the current time, or the time of the fold's position. It reflects the position of
/// the job's latest event; a caller whose fold contains everything up to a later one puts that in its place.
///
/// `scores` resolves a 90th percentile that the counts alone do not determine: call without it first, and if
/// the result is [`NoSummary::AmbiguousPercentile`], again with the scores in the range that it contains,
/// read at the fold's position.
///
/// The cost does not depend on the number of matches and requests, except requests whose workers were lost.
///
/// # Errors
/// [`NoSummary::NoJob`] before the job's creation; [`NoSummary::AmbiguousPercentile`] as above, also if
/// `scores` do not fit.
pub fn summarise(
    fold: &JobFold,
    presence: &Presence,
    instant: Timestamp,
    thresholds: &Thresholds,
    scores: Option<&[f64]>,
) -> Result<Summary, NoSummary> {
    let history = fold.history.as_ref().ok_or(NoSummary::NoJob)?;
    let p90_score = match fold.scores.p90() {
        Percentile::None => None,
        Percentile::Known(p90) => Some(p90),
        Percentile::Ambiguous(ambiguous) => match scores.and_then(|scores| ambiguous.resolve(scores)) {
            Some(p90) => Some(p90),
            None => return Err(NoSummary::AmbiguousPercentile(ambiguous)),
        },
    };
    let counters = &fold.matching.counters;
    let eta = eta(fold, history, instant, thresholds);
    let blocker_details =
        blockers::blockers(history, &fold.latest, &fold.matching, presence, instant, thresholds);
    Ok(Summary {
        job_id: history.job_id(),
        phase: history.phase,
        attempt: history.attempt,
        status: history.status(),
        progress_percentage: view::percentage(history, counters),
        created_at: history.created_at,
        started_at: history.matching_since,
        completed_at: history.matching_until,
        last_event_at: fold.latest.occurred_at,
        candidates_total: counters.candidates_total(),
        candidates_processed: counters.candidates_processed,
        candidates_unprocessed: counters.candidates_total().saturating_sub(counters.candidates_processed),
        vector_pass_total: counters.requested_candidates,
        vector_pass_done: counters.vector_pass_done,
        ransac_checked: counters.ransac_checked,
        matches_found: counters.matches_found,
        matches_with_evidence: counters.matches_with_evidence,
        avg_score: fold.scores.mean(),
        p90_score,
        queue_depth: counters.queue_depth(),
        eta_seconds: eta.map(|eta| eta.seconds),
        eta,
        blockers: blocker_details.iter().map(Blocker::line).collect(),
        blocker_details,
        position: fold.latest.position,
        as_of: None,
    })
}

/// None unless the job is running with progress, and not stalled. The remaining work is the rest of all
/// candidates, or of the requested ones if these are more, because some callers register frames
/// incrementally.
fn eta(fold: &JobFold, history: &History, instant: Timestamp, thresholds: &Thresholds) -> Option<Eta> {
    if history.status() != Status::Running || blockers::is_stalled(history, &fold.latest, instant, thresholds)
    {
        return None;
    }
    let counters = &fold.matching.counters;
    let total = counters.candidates_total().max(counters.requested_candidates);
    fold.rate.as_ref()?.eta(total.saturating_sub(counters.candidates_processed), instant)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
