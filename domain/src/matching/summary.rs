//! The summary of a matching job: one fold and one function of it, whoever asks and for whichever instant.
//!
//! Live answers, rebuilds, a forced refresh, the past, and an audit all fold the job's streams, merged by position, into
//! a [`JobFold`], and ask [`summarise`]. So they cannot disagree.

use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, Position};
use event_schemas::job::{JobEvent, Phase};
use event_schemas::matching::MatchingEvent;
use event_schemas::time::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use super::blockers::{self, Blocker, Thresholds};
use super::eta::{Eta, Pace, Step};
use super::percentile::{Percentile, Scores, Undecided};
use super::tally::{Moment, Tally};
use crate::job::history::{History, Latest, Status};
use crate::worker::presence::Presence;

/// The version of [`JobFold`]'s stored form. A fold stored with another one is not read, but made anew.
pub const FORMAT: u32 = 4;

/// All that a job's events come to. Equal folds are stored as equal bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobFold {
    #[serde(deserialize_with = "this_format")]
    format: u32,
    /// None before the job's creation.
    pub history: Option<History>,
    pub latest: Latest,
    /// The position of the latest event in the job's own stream: its phases, attempts and end.
    pub state_changed: Option<Position>,
    pub tally: Tally,
    pub scores: Scores,
    /// Of the latest stay in the matching phase.
    pace: Option<Pace>,
}

impl Default for JobFold {
    fn default() -> Self {
        Self {
            format: FORMAT,
            history: None,
            latest: Latest::default(),
            state_changed: None,
            tally: Tally::default(),
            scores: Scores::default(),
            pace: None,
        }
    }
}

fn this_format<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let format = u32::deserialize(deserializer)?;
    if format == FORMAT {
        Ok(format)
    } else {
        Err(serde::de::Error::custom(format_args!(
            "the fold is stored in format {format}, not {FORMAT}; fold it anew"
        )))
    }
}

impl JobFold {
    /// Takes in the next event of the job's streams, which come merged by position. What is of no job, or comes before
    /// the creation, says nothing here; the caller hands over the events of one job only.
    pub fn apply(&mut self, envelope: &Envelope) {
        let at = envelope.metadata.occurred_at;
        match (&envelope.event, &mut self.history) {
            (Event::Job(JobEvent::JobCreated(created)), None) => {
                self.history = Some(History::begin(created, envelope.metadata.tenant.clone(), at));
            }
            (Event::Job(event), Some(history)) => {
                history.apply(event, at, envelope.recorded_at);
                if let JobEvent::JobPhaseChanged(changed) = event
                    && changed.to == Phase::Matching
                {
                    self.pace = Some(Pace::new(at));
                }
            }
            (Event::Matching(event), Some(_)) => self.count(event, envelope),
            _ => return,
        }
        if matches!(envelope.event, Event::Job(_)) {
            self.state_changed = Some(envelope.position);
        }
        self.latest.see(envelope);
    }

    fn count(&mut self, event: &MatchingEvent, envelope: &Envelope) {
        let at = envelope.metadata.occurred_at;
        if let MatchingEvent::MatchFound(found) = event {
            self.scores.insert(found.score);
        }
        let moment =
            Moment { occurred_at: at, recorded_at: envelope.recorded_at, position: envelope.position };
        let pace = &mut self.pace;
        self.tally.apply(event, moment, |gain| {
            if let Some(pace) = pace {
                pace.add(Step {
                    at,
                    units: gain.units,
                    worker: gain.worker,
                    reported: gain.reported,
                    claimed: gain.claimed,
                });
            }
        });
    }
}

/// The summary of a matching job at an instant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub job_id: JobId,
    pub phase: Phase,
    pub attempt: u32,
    pub status: Status,
    pub created_at: Timestamp,
    /// When matching last began.
    pub started_at: Option<Timestamp>,
    /// When matching ended; none after a failure.
    pub completed_at: Option<Timestamp>,
    /// The greatest instant that an event of the job says it happened at.
    pub last_event_at: Timestamp,
    pub candidates_total: u64,
    pub candidates_processed: u64,
    pub candidates_unprocessed: u64,
    pub vector_pass_total: u64,
    pub vector_pass_done: u64,
    pub ransac_checked: u64,
    pub matches_found: u64,
    pub matches_with_evidence: u64,
    /// Rounded to two decimals.
    pub avg_score: Option<f64>,
    /// Rounded to two decimals.
    pub p90_score: Option<f64>,
    pub queue_depth: u64,
    pub eta_seconds: Option<u64>,
    pub eta: Option<Eta>,
    /// `code: sentence`, one for each of the details.
    pub blockers: Vec<String>,
    pub blocker_details: Vec<Blocker>,
}

/// Why there is no summary.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoSummary {
    #[error("there is no such job")]
    NoJob,
    /// Summarise again with the scores in the range that this names.
    #[error("the 90th percentile lies between {} and {}; the scores in that range decide it", .0.from, .0.to)]
    Undecided(Undecided),
}

/// What the job's events say at `instant`, which is the present one, or that of the position at which the fold stands.
///
/// `scores` settles a 90th percentile that the counters leave open: try without, and if the answer is
/// [`NoSummary::Undecided`], again with the scores in the range that it names, at the fold's position.
///
/// Independent of the number of matches and of requests, but for those whose workers were lost.
///
/// # Errors
/// [`NoSummary::NoJob`] before the job's creation; [`NoSummary::Undecided`] as above, also if `scores` are not those that
/// are needed.
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
        Percentile::Undecided(undecided) => match scores.and_then(|scores| undecided.settle(scores)) {
            Some(p90) => Some(p90),
            None => return Err(NoSummary::Undecided(undecided)),
        },
    };
    let counters = &fold.tally.counters;
    let eta = eta(fold, history, instant, thresholds);
    let blocker_details =
        blockers::blockers(history, &fold.latest, &fold.tally, presence, instant, thresholds);
    Ok(Summary {
        job_id: history.job_id(),
        phase: history.phase,
        attempt: history.attempt,
        status: history.status(),
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
    })
}

/// None unless the job is running with progress, and not stalled. What is left is the rest of all candidates, or of those
/// that were requested, if they are more: some callers register frames only as they go.
fn eta(fold: &JobFold, history: &History, instant: Timestamp, thresholds: &Thresholds) -> Option<Eta> {
    if history.status() != Status::Running || blockers::is_stalled(history, &fold.latest, instant, thresholds)
    {
        return None;
    }
    let counters = &fold.tally.counters;
    let total = counters.candidates_total().max(counters.requested_candidates);
    fold.pace.as_ref()?.eta(total.saturating_sub(counters.candidates_processed))
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
