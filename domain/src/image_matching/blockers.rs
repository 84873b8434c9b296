//! Blockers: the reasons why a matching job makes no progress, and since when.
//!
//! Every blocker is a function of recorded events and of a point in time, so that blockers can be computed
//! for the past too. A blocker disappears automatically when its cause does.

use std::collections::BTreeMap;
use std::time::Duration;

use event_schemas::ids::WorkerId;
use event_schemas::job::Phase;
use event_schemas::time::Timestamp;
use event_schemas::worker::{WorkKind, WorkerEnd};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::counters::MatchingCounters;
use crate::job::history::{History, LastActivity, Status};
use crate::job::pipeline;
use crate::worker::presence::Presence;

/// The durations after which waiting becomes a blocker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// A running job without any event for this long is stalled.
    pub stalled_after: Duration,
    /// A request that waits longer than this makes the queue lag.
    pub queue_lag_after: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { stalled_after: Duration::from_secs(5 * 60), queue_lag_after: Duration::from_secs(60) }
    }
}

/// The kind of a blocker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[derive(strum::Display, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum BlockerCode {
    Failed,
    Stalled,
    NoConsumers,
    WorkerOom,
    WorkerCrashed,
    WorkerLost,
    QueueLag,
    RequestsParked,
}

/// A reason why a job makes no progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Blocker {
    pub code: BlockerCode,
    /// A sentence for the user who waits for the job.
    pub message: String,
    /// The time at which the log accepted the event that caused it.
    pub since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<WorkerId>,
}

impl Blocker {
    /// `code: sentence`.
    pub fn line(&self) -> String {
        format!("{}: {}", self.code, self.message)
    }
}

/// The blockers of a job at a point in time, sorted by code and worker. O(lost requests).
pub(crate) fn blockers(
    history: &History,
    latest: &LastActivity,
    matching: &MatchingCounters,
    presence: &Presence,
    instant: Timestamp,
    thresholds: &Thresholds,
) -> Vec<Blocker> {
    if let (Phase::Failed, Some(failure)) = (history.phase, &history.failure) {
        return vec![Blocker {
            code: BlockerCode::Failed,
            message: failure.error.user_message.clone(),
            since: failure.recorded_at,
            worker_id: None,
        }];
    }
    if pipeline::is_end(history.phase) {
        return Vec::new();
    }
    let mut blockers = Vec::new();
    if is_stalled(history, latest, instant, thresholds) {
        blockers.push(Blocker {
            code: BlockerCode::Stalled,
            message: match instant.since(latest.recorded_at).as_secs() / 60 {
                0 => "The job has had no events for some seconds.".to_owned(),
                1 => "The job has had no events for a minute.".to_owned(),
                minutes => format!("The job has had no events for {minutes} minutes."),
            },
            since: latest.recorded_at,
            worker_id: None,
        });
    }
    if let Some(waiting_since) = matching.waiting_since() {
        if matching.leases.is_empty() && !presence.has(WorkKind::MatchRequest) {
            let gone_since = presence.without_since(WorkKind::MatchRequest);
            blockers.push(Blocker {
                code: BlockerCode::NoConsumers,
                message: "Work is waiting, but no worker is available.".to_owned(),
                since: gone_since.map_or(waiting_since, |gone| gone.max(waiting_since)),
                worker_id: None,
            });
        }
        blockers.extend(losses(matching, presence));
        if instant.since(waiting_since) > thresholds.queue_lag_after {
            blockers.push(Blocker {
                code: BlockerCode::QueueLag,
                message: format!(
                    "The oldest waiting request has waited for more than {} seconds.",
                    thresholds.queue_lag_after.as_secs()
                ),
                since: waiting_since,
                worker_id: None,
            });
        }
    }
    blockers.extend(parked(matching));
    blockers
}

/// The requests that failed permanently, as one blocker with the latest error.
fn parked(matching: &MatchingCounters) -> Option<Blocker> {
    let since = matching.parked.values().map(|parked| parked.since).min()?;
    let latest = matching.parked.values().max_by_key(|parked| parked.position)?;
    let requests = match matching.parked.len() {
        1 => "A match request has".to_owned(),
        count => format!("{count} match requests have"),
    };
    Some(Blocker {
        code: BlockerCode::RequestsParked,
        message: format!(
            "{requests} failed permanently and will be tried again when the job is retried. The latest error: {}",
            latest.user_message
        ),
        since,
        worker_id: None,
    })
}

/// Whether the job is running, but has had no event for too long.
pub(crate) fn is_stalled(
    history: &History,
    latest: &LastActivity,
    instant: Timestamp,
    thresholds: &Thresholds,
) -> bool {
    history.status() == Status::Running && instant.since(latest.recorded_at) >= thresholds.stalled_after
}

/// The workers that were lost with work that was not claimed again, one blocker per worker and kind of end.
fn losses(matching: &MatchingCounters, presence: &Presence) -> Vec<Blocker> {
    let mut first: BTreeMap<(BlockerCode, &WorkerId), Timestamp> = BTreeMap::new();
    for loss in matching.lost.values() {
        let code = match loss.end {
            WorkerEnd::Lost => BlockerCode::WorkerLost,
            WorkerEnd::OutOfMemory => BlockerCode::WorkerOom,
            WorkerEnd::Crashed => BlockerCode::WorkerCrashed,
            // It was asked to stop, and its work waits like any other.
            WorkerEnd::Stopped => continue,
        };
        let is_back =
            code != BlockerCode::WorkerLost && presence.has_returned_after(&loss.worker_id, loss.position);
        if !is_back {
            let since = first.entry((code, &loss.worker_id)).or_insert(loss.since);
            *since = loss.since.min(*since);
        }
    }
    first
        .into_iter()
        .map(|((code, worker_id), since)| {
            let what = match code {
                BlockerCode::WorkerOom => "ran out of memory",
                BlockerCode::WorkerCrashed => "crashed",
                _ => "was lost",
            };
            Blocker {
                code,
                message: format!(
                    "The worker {worker_id} {what}, and its work has not been claimed again yet."
                ),
                since,
                worker_id: Some(worker_id.clone()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
