//! What a job's matching comes to, counted request by request.
//!
//! Totals of a request are taken as their maximum, so the sums do not depend on the order or the number of reports.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{LeaseId, Position, RequestId, VideoId, WorkerId};
use event_schemas::matching::{Frames, MatchRequestClaimed, MatchingEvent, Totals, VideoFramesRegistered};
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkerEnd;
use serde::{Deserialize, Serialize};

use super::state::greatest;

/// How many of the latest failures of requests are kept to be shown.
const FAILURES_MAX: usize = 20;

/// A job's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub product_images: u64,
    pub video_frames: u64,
    /// The sum over the requests.
    pub requested_candidates: u64,
    pub candidates_processed: u64,
    pub vector_pass_done: u64,
    pub ransac_checked: u64,
    pub requests: u64,
    pub requests_completed: u64,
    /// How often a worker said that it could not do a request.
    pub requests_failed: u64,
    pub matches_found: u64,
    pub matches_with_evidence: u64,
}

impl Counters {
    /// Every image against every frame.
    pub fn candidates_total(&self) -> u64 {
        self.product_images.saturating_mul(self.video_frames)
    }

    /// Requests issued and not yet completed. None are left, and nothing breaks, where a foreign hand has written that one
    /// was completed twice.
    pub fn queue_depth(&self) -> u64 {
        self.requests.saturating_sub(self.requests_completed)
    }
}

/// The counts, and of every request what they and the blockers need.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    pub counters: Counters,
    /// How many frames each video has; a later count takes the place of an earlier one.
    videos: BTreeMap<VideoId, u64>,
    requests: BTreeMap<RequestId, Tracked>,
    /// Requests that any worker may take, by when the log accepted the event that made them wait.
    waiting: BTreeSet<(Timestamp, RequestId)>,
    /// How the last holder of a request was lost, until somebody takes the request up again.
    pub(crate) lost: BTreeMap<RequestId, Loss>,
    /// Leases in force.
    pub(crate) leases: BTreeMap<LeaseId, RequestId>,
    /// The latest last.
    pub failures: VecDeque<RequestFailure>,
}

/// A request that a worker could not do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestFailure {
    pub request_id: RequestId,
    pub attempt: u32,
    pub at: Timestamp,
    pub error: ClassifiedError,
    /// Whether it was taken up again by itself.
    pub claimable: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Tracked {
    totals: Totals,
    turn: Turn,
    /// When its present holder took it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claimed_at: Option<Timestamp>,
    /// When its present holder, or whoever reports without a lease, last reported on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reported_at: Option<Timestamp>,
}

/// Whose turn it is with a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Turn {
    /// Any worker's.
    Waiting {
        since: Timestamp,
    },
    Held {
        lease_id: LeaseId,
        worker_id: WorkerId,
    },
    /// Nobody's, until the job is retried.
    Parked,
    Completed,
}

/// The loss of a worker with a lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Loss {
    pub(crate) worker_id: WorkerId,
    pub(crate) end: WorkerEnd,
    /// When the log accepted it, and where.
    pub(crate) since: Timestamp,
    pub(crate) position: Position,
}

/// Candidates that were not reported as processed before.
pub(crate) struct Gain<'a> {
    pub(crate) units: u64,
    pub(crate) worker: Option<&'a WorkerId>,
    pub(crate) reported: Option<Timestamp>,
    pub(crate) claimed: Option<Timestamp>,
}

/// When and where an event happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) occurred_at: Timestamp,
    pub(crate) recorded_at: Timestamp,
    pub(crate) position: Position,
}

impl Tally {
    /// Counts one event, and tells each gain of processed candidates to `gained`.
    pub(crate) fn apply(&mut self, event: &MatchingEvent, moment: Moment, gained: impl FnOnce(Gain<'_>)) {
        match event {
            MatchingEvent::ProductImagesRegistered(registered) => {
                self.counters.product_images += registered.images.len() as u64;
            }
            MatchingEvent::VideoFramesRegistered(registered) => self.register_frames(registered),
            MatchingEvent::MatchRequested(requested) => {
                self.counters.requests += 1;
                add(&mut self.counters.requested_candidates, requested.candidates);
                let request = Tracked {
                    totals: Totals::default(),
                    turn: Turn::Waiting { since: moment.recorded_at },
                    claimed_at: None,
                    reported_at: None,
                };
                self.requests.insert(requested.request_id.clone(), request);
                self.waiting.insert((moment.recorded_at, requested.request_id.clone()));
            }
            MatchingEvent::MatchRequestClaimed(claimed) => self.claim(claimed, moment),
            MatchingEvent::MatchRequestLeaseExpired(expired) => self.lose(
                expired.lease_id,
                Loss {
                    worker_id: expired.worker_id.clone(),
                    end: WorkerEnd::Lost,
                    since: moment.recorded_at,
                    position: moment.position,
                },
            ),
            MatchingEvent::JobWorkerLost(lost) => {
                for lease_id in &lost.lease_ids {
                    let loss = Loss {
                        worker_id: lost.worker_id.clone(),
                        end: lost.end,
                        since: moment.recorded_at,
                        position: moment.position,
                    };
                    self.lose(*lease_id, loss);
                }
            }
            MatchingEvent::MatchRequestFailed(failed) => {
                let turn =
                    if failed.claimable { Turn::Waiting { since: moment.recorded_at } } else { Turn::Parked };
                self.pass_turn(&failed.request_id, turn);
                self.counters.requests_failed += 1;
                if self.failures.len() == FAILURES_MAX {
                    self.failures.pop_front();
                }
                self.failures.push_back(RequestFailure {
                    request_id: failed.request_id.clone(),
                    attempt: failed.attempt,
                    at: moment.occurred_at,
                    error: failed.error.clone(),
                    claimable: failed.claimable,
                });
            }
            MatchingEvent::MatchProgressReported(reported) => {
                self.count(&reported.request_id, reported.totals, moment, gained);
            }
            MatchingEvent::MatchRequestCompleted(completed) => {
                self.count(&completed.request_id, completed.totals, moment, gained);
                self.complete(&completed.request_id);
            }
            MatchingEvent::MatchRequestRetried(retried) => {
                self.pass_turn(&retried.request_id, Turn::Waiting { since: moment.recorded_at });
            }
            MatchingEvent::MatchFound(found) => {
                self.counters.matches_found += 1;
                self.counters.matches_with_evidence += u64::from(found.evidence_path.is_some());
            }
            MatchingEvent::MatchEvidenceAttached(attached) => {
                self.counters.matches_with_evidence += u64::from(!attached.replaces);
            }
        }
    }

    /// When the request that has waited longest began to wait.
    pub(crate) fn waiting_since(&self) -> Option<Timestamp> {
        self.waiting.first().map(|(since, _)| *since)
    }

    fn register_frames(&mut self, registered: &VideoFramesRegistered) {
        let known = self.videos.entry(registered.video_id.clone()).or_default();
        let now = match &registered.frames {
            Frames::Listed(frames) => known.saturating_add(frames.len() as u64),
            Frames::Counted(count) => *count,
        };
        self.counters.video_frames = (self.counters.video_frames - *known).saturating_add(now);
        *known = now;
    }

    fn claim(&mut self, claimed: &MatchRequestClaimed, moment: Moment) {
        let turn = Turn::Held { lease_id: claimed.lease_id, worker_id: claimed.worker_id.clone() };
        self.pass_turn(&claimed.request_id, turn);
        self.leases.insert(claimed.lease_id, claimed.request_id.clone());
        self.lost.remove(&claimed.request_id);
        if let Some(request) = self.requests.get_mut(&claimed.request_id) {
            request.claimed_at = Some(moment.occurred_at);
        }
    }

    fn lose(&mut self, lease_id: LeaseId, loss: Loss) {
        let Some(request_id) = self.leases.get(&lease_id).cloned() else { return };
        self.pass_turn(&request_id, Turn::Waiting { since: loss.since });
        self.lost.insert(request_id, loss);
    }

    fn complete(&mut self, request_id: &RequestId) {
        if self.requests.get(request_id).is_none_or(|request| request.turn == Turn::Completed) {
            return;
        }
        self.pass_turn(request_id, Turn::Completed);
        self.lost.remove(request_id);
        self.counters.requests_completed += 1;
    }

    fn pass_turn(&mut self, request_id: &RequestId, turn: Turn) {
        let Some(request) = self.requests.get_mut(request_id) else { return };
        match &request.turn {
            Turn::Held { lease_id, .. } => {
                self.leases.remove(lease_id);
            }
            Turn::Waiting { since } => {
                self.waiting.remove(&(*since, request_id.clone()));
            }
            Turn::Parked | Turn::Completed => {}
        }
        if let Turn::Waiting { since } = &turn {
            self.waiting.insert((*since, request_id.clone()));
        }
        request.turn = turn;
        request.claimed_at = None;
        request.reported_at = None;
    }

    fn count(
        &mut self,
        request_id: &RequestId,
        reported: Totals,
        moment: Moment,
        gained: impl FnOnce(Gain<'_>),
    ) {
        let Some(request) = self.requests.get_mut(request_id) else { return };
        let before = request.totals;
        let now = greatest(before, reported);
        request.totals = now;
        let units = now.candidates_processed - before.candidates_processed;
        add(&mut self.counters.candidates_processed, units);
        add(&mut self.counters.vector_pass_done, now.vector_pass_done - before.vector_pass_done);
        add(&mut self.counters.ransac_checked, now.ransac_checked - before.ransac_checked);
        if units == 0 {
            return;
        }
        let worker = match &request.turn {
            Turn::Held { worker_id, .. } => Some(worker_id),
            Turn::Waiting { .. } | Turn::Parked | Turn::Completed => None,
        };
        gained(Gain { units, worker, reported: request.reported_at, claimed: request.claimed_at });
        request.reported_at = Some(request.reported_at.unwrap_or(moment.occurred_at).max(moment.occurred_at));
    }
}

/// Callers say what is counted here, so a sum may have no end; it stays at the most.
fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
}
