//! The matching of a job's product images against video frames: registrations, match requests and their
//! progress.
//!
//! Invariants: a product image and a video frame are registered once. A request never changes, has at most
//! one lease in force, and is completed once. Its totals never fall, so that a repeated, late or redone
//! report never counts twice. Commands are refused once the job has ended.

pub mod blockers;
pub mod counters;
mod decide;
pub mod eta;
mod excerpt;
pub mod percentile;
pub mod shard;
mod state;
pub mod summary;

use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{LeaseId, ProductId, RequestId, VideoId, WorkerId};
use event_schemas::image_match::{Frames, ImageMatchEvent, MatchRequested, ProductImage, Totals};
use event_schemas::job::Phase;
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkerEnd;
use serde::Serialize;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};
use crate::job::JobAvailability;

pub use state::{Request, State, Work};

/// The number of failures after which a request waits until its job is retried. A lost worker is not a
/// failure of the request.
pub const ATTEMPTS_MAX: u32 = 3;

/// The maximum number of attempts of a request that fails with an unknown error: one retry.
const UNKNOWN_ATTEMPTS_MAX: u32 = 2;

/// The maximum size of a list in one event, in bytes of JSON. A longer registration becomes several events,
/// so that an append can be split between them.
pub const LIST_BYTES_MAX: usize = 256 * 1024;

/// The most candidates of a job, registered or requested: the largest whole number that every JSON parser reads
/// exactly.
pub const CANDIDATES_MAX: u64 = (1 << 53) - 1;

/// A command to a job's matching, and the time at which it happened as reported by the caller.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// The availability of the job, read from its own stream.
    pub job: JobAvailability,
    pub at: Timestamp,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Additional images of the product; images that are already registered are ignored.
    RegisterImages {
        product_id: ProductId,
        images: Vec<ProductImage>,
    },
    /// Listed frames are added to the previous ones; a count replaces a lower one.
    RegisterFrames {
        video_id: VideoId,
        frames: Frames,
    },
    Request(MatchRequested),
    Claim {
        request_id: RequestId,
        lease_id: LeaseId,
        worker_id: WorkerId,
        lease_until: Timestamp,
    },
    ExpireLease {
        lease_id: LeaseId,
    },
    /// The totals so far, and whether the request is completed.
    Report {
        request_id: RequestId,
        lease_id: Option<LeaseId>,
        totals: Totals,
        completed: bool,
    },
    Fail {
        lease_id: LeaseId,
        error: ClassifiedError,
    },
    /// A worker ended; the leases that it holds here end with it.
    EndWorker {
        worker_id: WorkerId,
        end: WorkerEnd,
    },
    /// The job is retried, and so are its permanently failed requests.
    RetryParked,
}

/// The reason why a command to a job's matching is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such job; create it first")]
    NoJob,
    #[error(
        "the job has ended as {0} and accepts no more changes; retry a failed job, or create another one"
    )]
    JobEnded(Phase),
    #[error("the job has no match request {0}; issue it first")]
    NoRequest(RequestId),
    #[error("the request {0} exists with different content; choose another request_id")]
    RequestExists(RequestId),
    #[error(
        "the frames of video {0} were listed before, so they cannot be counted; list the additional frames"
    )]
    FramesListed(VideoId),
    #[error("the frames of video {0} were only counted before, so they cannot be listed; send the new count")]
    FramesCounted(VideoId),
    #[error(
        "the request {0} cannot be claimed: it is claimed, completed, or waits for its job to be retried"
    )]
    NotClaimable(RequestId),
    #[error("the lease is not in force on this request; claim work again")]
    LeaseLost,
    #[error("the lease is in force on another request; every claim needs a new lease id")]
    LeaseReused,
    #[error("the request {0} is completed and accepts no more progress")]
    Completed(RequestId),
    #[error(
        "with these {field} the job would have more than {CANDIDATES_MAX} candidates, which cannot be counted exactly; split it into several jobs"
    )]
    TooManyCandidates { field: &'static str },
    #[error("{field} is {reported}, but the request has only {candidates} candidates")]
    TooMany { field: TotalsField, reported: u64, candidates: u64 },
}

/// A field of [`Totals`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TotalsField {
    CandidatesProcessed,
    VectorPassDone,
    RansacChecked,
}

impl std::fmt::Display for TotalsField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::CandidatesProcessed => "candidates_processed",
            Self::VectorPassDone => "vector_pass_done",
            Self::RansacChecked => "ransac_checked",
        })
    }
}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NoJob | Self::NoRequest(_) => RefusalKind::NotFound,
            Self::LeaseLost => RefusalKind::LeaseLost,
            Self::JobEnded(_)
            | Self::RequestExists(_)
            | Self::FramesListed(_)
            | Self::FramesCounted(_)
            | Self::NotClaimable(_)
            | Self::Completed(_) => RefusalKind::Conflict,
            Self::LeaseReused | Self::TooMany { .. } | Self::TooManyCandidates { .. } => RefusalKind::Invalid,
        }
    }
}

/// Decides for the streams `matching-<job>`.
#[derive(Debug)]
pub enum ImageMatchingDecider {}

impl Decider for ImageMatchingDecider {
    type State = State;
    type Command = Command;
    type Event = ImageMatchEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<ImageMatchEvent>>, Refusal> {
        let events = match (&command.action, command.job) {
            (_, JobAvailability::Missing) => return Err(Refusal::NoJob),
            // The leases of a job that cannot continue need no end. A failed job may be retried, so its
            // leases end as usual.
            (
                Action::ExpireLease { .. } | Action::EndWorker { .. },
                JobAvailability::Ended(Phase::Completed | Phase::Cancelled),
            ) => Vec::new(),
            (Action::ExpireLease { lease_id }, _) => decide::expire_lease(*lease_id, state),
            (Action::EndWorker { worker_id, end }, _) => decide::end_worker(worker_id, *end, state),
            (_, JobAvailability::Ended(phase)) => return Err(Refusal::JobEnded(phase)),
            (action, JobAvailability::Open) => decide::decide(action, state)?,
        };
        Ok(events.into_iter().map(|event| Occurred { at: command.at, event }).collect())
    }

    fn evolve(state: State, event: &ImageMatchEvent, _occurred_at: Timestamp) -> State {
        state::evolve(state, event)
    }

    fn excerpt(commands: &[Command], state: &State) -> State {
        excerpt::excerpt(commands, state)
    }
}

#[cfg(test)]
mod tests;
