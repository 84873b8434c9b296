//! What keeps a matching job from going on, and since when.
//!
//! Every blocker is a function of recorded events and of the instant asked for, so the past's blockers can be asked for,
//! too, and a blocker goes away by itself when its cause does.

use std::collections::BTreeMap;
use std::time::Duration;

use event_schemas::ids::WorkerId;
use event_schemas::job::Phase;
use event_schemas::time::Timestamp;
use event_schemas::worker::{WorkKind, WorkerEnd};
use serde::{Deserialize, Serialize};

use super::tally::Tally;
use crate::job::history::{History, Latest, Status};
use crate::job::pipeline;
use crate::worker::presence::Presence;

/// From when on waiting is a trouble.
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

/// The kinds of blockers, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockerCode {
    Failed,
    Stalled,
    NoConsumers,
    WorkerOom,
    WorkerCrashed,
    WorkerLost,
    QueueLag,
}

impl BlockerCode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Stalled => "stalled",
            Self::NoConsumers => "no_consumers",
            Self::WorkerOom => "worker_oom",
            Self::WorkerCrashed => "worker_crashed",
            Self::WorkerLost => "worker_lost",
            Self::QueueLag => "queue_lag",
        }
    }
}

/// Something that keeps a job from going on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    pub code: BlockerCode,
    /// A sentence for whoever waits for the job.
    pub message: String,
    /// When the log accepted the event that it began with.
    pub since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<WorkerId>,
}

impl Blocker {
    /// `code: sentence`.
    pub fn line(&self) -> String {
        format!("{}: {}", self.code.as_str(), self.message)
    }
}

/// The blockers of a job at an instant, sorted by code and worker. O(lost requests).
pub(crate) fn blockers(
    history: &History,
    latest: &Latest,
    tally: &Tally,
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
                0 => "Nothing has been heard of this job for some seconds.".to_owned(),
                1 => "Nothing has been heard of this job for a minute.".to_owned(),
                minutes => format!("Nothing has been heard of this job for {minutes} minutes."),
            },
            since: latest.recorded_at,
            worker_id: None,
        });
    }
    if let Some(waiting_since) = tally.waiting_since() {
        if tally.leases.is_empty() && !presence.has(WorkKind::MatchRequest) {
            let gone_since = presence.without_since(WorkKind::MatchRequest);
            blockers.push(Blocker {
                code: BlockerCode::NoConsumers,
                message: "Work waits, but no worker is there to take it.".to_owned(),
                since: gone_since.map_or(waiting_since, |gone| gone.max(waiting_since)),
                worker_id: None,
            });
        }
        blockers.extend(losses(tally, presence));
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
    blockers
}

/// Whether the job should be going on, but has not been heard of.
pub(crate) fn is_stalled(
    history: &History,
    latest: &Latest,
    instant: Timestamp,
    thresholds: &Thresholds,
) -> bool {
    history.status() == Status::Running && instant.since(latest.recorded_at) >= thresholds.stalled_after
}

/// Workers that were lost with work that nobody has taken up since, one blocker for each worker and way of ending.
fn losses(tally: &Tally, presence: &Presence) -> Vec<Blocker> {
    let mut first: BTreeMap<(BlockerCode, &WorkerId), Timestamp> = BTreeMap::new();
    for loss in tally.lost.values() {
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
                message: format!("The worker {worker_id} {what}, and nobody has taken up its work yet."),
                since,
                worker_id: Some(worker_id.clone()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
