//! The counters of a job's matching, tracked per request.
//!
//! The totals of a request are merged by their maximum, so the sums do not depend on the order or the number
//! of reports.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{LeaseId, Position, RequestId, VideoId, WorkerId};
use event_schemas::image_match::{
    Frames, ImageMatchEvent, MatchRequestClaimed, Totals, VideoFramesRegistered,
};
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkerEnd;
use serde::{Deserialize, Serialize};

use super::state::greatest;

/// The number of latest request failures that are kept for display.
const FAILURES_MAX: usize = 20;

/// The public counters of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub product_images: u64,
    pub video_frames: u64,
    /// The sum over all requests.
    pub requested_candidates: u64,
    pub candidates_processed: u64,
    pub vector_pass_done: u64,
    pub ransac_checked: u64,
    pub requests: u64,
    pub requests_completed: u64,
    /// The number of failures of requests reported by workers.
    pub requests_failed: u64,
    pub matches_found: u64,
    pub matches_with_evidence: u64,
}

impl Counters {
    /// The number of images times the number of frames.
    pub fn candidates_total(&self) -> u64 {
        self.product_images.saturating_mul(self.video_frames)
    }

    /// The requests issued and not yet completed. It saturates at 0 if an external write to the log completed
    /// a request twice.
    pub fn queue_depth(&self) -> u64 {
        self.requests.saturating_sub(self.requests_completed)
    }
}

/// The counters, and the state of each request that they and the blockers need.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MatchingCounters {
    pub counters: Counters,
    /// The number of frames of each video; a later count replaces an earlier one.
    videos: BTreeMap<VideoId, u64>,
    requests: BTreeMap<RequestId, TrackedRequest>,
    /// Claimable requests, by the time at which the log accepted the event since which they wait.
    waiting: BTreeSet<(Timestamp, RequestId)>,
    /// How the last holder of a request was lost, until the request is claimed again.
    pub(crate) lost: BTreeMap<RequestId, LostLease>,
    /// Why each parked request failed.
    #[serde(default)]
    pub(crate) parked: BTreeMap<RequestId, ParkedRequest>,
    /// Leases in force.
    pub(crate) leases: BTreeMap<LeaseId, RequestId>,
    /// The latest failure is last.
    pub failures: VecDeque<RequestFailure>,
}

/// A failure of a request, reported by a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestFailure {
    pub request_id: RequestId,
    pub attempt: u32,
    pub at: Timestamp,
    pub error: ClassifiedError,
    /// Whether the request could be claimed again automatically.
    pub claimable: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct TrackedRequest {
    totals: Totals,
    state: RequestState,
}

/// The state of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RequestState {
    /// Waiting for any worker.
    Waiting {
        since: Timestamp,
    },
    Held {
        lease_id: LeaseId,
        worker_id: WorkerId,
    },
    /// Waiting until the job is retried.
    Parked,
    Completed,
}

/// A request that waits until its job is retried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ParkedRequest {
    /// The time at which the log accepted its failure.
    pub(crate) since: Timestamp,
    pub(crate) position: Position,
    pub(crate) user_message: String,
}

/// A lease that ended with its worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LostLease {
    pub(crate) worker_id: WorkerId,
    pub(crate) end: WorkerEnd,
    /// The time at which the log accepted its end, and its position.
    pub(crate) since: Timestamp,
    pub(crate) position: Position,
}

/// The times and the position of an event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventTimes {
    pub(crate) occurred_at: Timestamp,
    pub(crate) recorded_at: Timestamp,
    pub(crate) position: Position,
}

impl MatchingCounters {
    /// Counts one event.
    pub(crate) fn apply(&mut self, event: &ImageMatchEvent, times: EventTimes) {
        match event {
            ImageMatchEvent::ProductImagesRegistered(registered) => {
                self.counters.product_images += registered.images.len() as u64;
            }
            ImageMatchEvent::VideoFramesRegistered(registered) => self.register_frames(registered),
            ImageMatchEvent::MatchRequested(requested) => {
                self.counters.requests += 1;
                add(&mut self.counters.requested_candidates, requested.candidates);
                let state = RequestState::Waiting { since: times.recorded_at };
                let request = TrackedRequest { totals: Totals::default(), state };
                self.requests.insert(requested.request_id.clone(), request);
                self.waiting.insert((times.recorded_at, requested.request_id.clone()));
            }
            ImageMatchEvent::MatchRequestClaimed(claimed) => self.claim(claimed),
            ImageMatchEvent::MatchRequestLeaseExpired(expired) => self.lose(
                expired.lease_id,
                LostLease {
                    worker_id: expired.worker_id.clone(),
                    end: WorkerEnd::Lost,
                    since: times.recorded_at,
                    position: times.position,
                },
            ),
            ImageMatchEvent::JobWorkerLost(lost) => {
                for lease_id in &lost.lease_ids {
                    let lost_lease = LostLease {
                        worker_id: lost.worker_id.clone(),
                        end: lost.end,
                        since: times.recorded_at,
                        position: times.position,
                    };
                    self.lose(*lease_id, lost_lease);
                }
            }
            ImageMatchEvent::MatchRequestFailed(failed) => {
                let state = if failed.claimable {
                    RequestState::Waiting { since: times.recorded_at }
                } else {
                    RequestState::Parked
                };
                self.set_state(&failed.request_id, state);
                if !failed.claimable && self.requests.contains_key(&failed.request_id) {
                    let parked = ParkedRequest {
                        since: times.recorded_at,
                        position: times.position,
                        user_message: failed.error.user_message.clone(),
                    };
                    self.parked.insert(failed.request_id.clone(), parked);
                }
                self.counters.requests_failed += 1;
                if self.failures.len() == FAILURES_MAX {
                    self.failures.pop_front();
                }
                self.failures.push_back(RequestFailure {
                    request_id: failed.request_id.clone(),
                    attempt: failed.attempt,
                    at: times.occurred_at,
                    error: failed.error.clone(),
                    claimable: failed.claimable,
                });
            }
            ImageMatchEvent::MatchProgressReported(reported) => {
                self.count(&reported.request_id, reported.totals);
            }
            ImageMatchEvent::MatchRequestCompleted(completed) => {
                self.count(&completed.request_id, completed.totals);
                self.complete(&completed.request_id);
            }
            ImageMatchEvent::MatchRequestRetried(retried) => {
                self.set_state(&retried.request_id, RequestState::Waiting { since: times.recorded_at });
            }
            ImageMatchEvent::MatchFound(found) => {
                self.counters.matches_found += 1;
                self.counters.matches_with_evidence += u64::from(found.evidence_path.is_some());
            }
            ImageMatchEvent::MatchEvidenceAttached(attached) => {
                self.counters.matches_with_evidence += u64::from(!attached.replaces);
            }
        }
    }

    /// The time since which the longest waiting request waits.
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

    fn claim(&mut self, claimed: &MatchRequestClaimed) {
        let state = RequestState::Held { lease_id: claimed.lease_id, worker_id: claimed.worker_id.clone() };
        self.set_state(&claimed.request_id, state);
        self.leases.insert(claimed.lease_id, claimed.request_id.clone());
        self.lost.remove(&claimed.request_id);
    }

    fn lose(&mut self, lease_id: LeaseId, lost_lease: LostLease) {
        let Some(request_id) = self.leases.get(&lease_id).cloned() else { return };
        self.set_state(&request_id, RequestState::Waiting { since: lost_lease.since });
        self.lost.insert(request_id, lost_lease);
    }

    fn complete(&mut self, request_id: &RequestId) {
        if self.requests.get(request_id).is_none_or(|request| request.state == RequestState::Completed) {
            return;
        }
        self.set_state(request_id, RequestState::Completed);
        self.lost.remove(request_id);
        self.counters.requests_completed += 1;
    }

    fn set_state(&mut self, request_id: &RequestId, state: RequestState) {
        let Some(request) = self.requests.get_mut(request_id) else { return };
        match &request.state {
            RequestState::Held { lease_id, .. } => {
                self.leases.remove(lease_id);
            }
            RequestState::Waiting { since } => {
                self.waiting.remove(&(*since, request_id.clone()));
            }
            RequestState::Parked => {
                self.parked.remove(request_id);
            }
            RequestState::Completed => {}
        }
        if let RequestState::Waiting { since } = &state {
            self.waiting.insert((*since, request_id.clone()));
        }
        request.state = state;
    }

    fn count(&mut self, request_id: &RequestId, reported: Totals) {
        let Some(request) = self.requests.get_mut(request_id) else { return };
        let before = request.totals;
        let now = greatest(before, reported);
        request.totals = now;
        add(&mut self.counters.candidates_processed, now.candidates_processed - before.candidates_processed);
        add(&mut self.counters.vector_pass_done, now.vector_pass_done - before.vector_pass_done);
        add(&mut self.counters.ransac_checked, now.ransac_checked - before.ransac_checked);
    }
}

/// Callers choose the numbers that are counted here, so sums saturate.
fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
}
