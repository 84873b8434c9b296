//! What a matching job has to compare, who works on it, and how far that is.
//!
//! Invariants: an image of a product and a frame of a video are registered once; a request says one thing for ever, has
//! at most one lease in force, and is completed once; its totals never fall, so that a report that is repeated, late or
//! redone never counts twice; nothing is taken once the job has ended.

pub mod blockers;
mod decide;
pub mod eta;
mod excerpt;
pub mod found;
pub mod percentile;
mod state;
pub mod summary;
pub mod tally;

use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{LeaseId, ProductId, RequestId, VideoId, WorkerId};
use event_schemas::job::Phase;
use event_schemas::matching::{Frames, MatchRequested, MatchingEvent, ProductImage, Totals};
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkerEnd;
use serde::Serialize;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};
use crate::job::Standing;

pub use state::{Request, State, Work};

/// How often a request may fail before it waits for its job to be retried. A lost worker is no failure of the request.
pub const ATTEMPTS_MAX: u32 = 3;

/// How many times a request may fail with an error that nobody knows: once more is worth a try.
const UNKNOWN_ATTEMPTS_MAX: u32 = 2;

/// The largest list in one event, in bytes of JSON. A longer registration becomes several events, so that an append can
/// be split between them.
pub const LIST_BYTES_MAX: usize = 256 * 1024;

/// What someone wants of a job's matching, and when they say that it happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// How the job stands, looked up in its own stream.
    pub job: Standing,
    pub at: Timestamp,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Images on top of those that the product has; those that it has already are passed over.
    RegisterImages {
        product_id: ProductId,
        images: Vec<ProductImage>,
    },
    /// Listed frames come on top of those before; a count replaces a smaller one.
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
    /// Totals so far, and whether that is all.
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
    /// A worker is gone; the leases that it holds here end.
    EndWorker {
        worker_id: WorkerId,
        end: WorkerEnd,
    },
    /// The job is tried again, so what had failed for good is, too.
    RetryParked,
}

/// Why a command to a job's matching is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such job; create it first")]
    NoJob,
    #[error("the job has ended as {0} and takes nothing more; retry a failed job, or create another one")]
    JobEnded(Phase),
    #[error("the job has no match request {0}; issue it first")]
    NoRequest(RequestId),
    #[error("the request {0} exists and says something else; choose another request_id")]
    RequestExists(RequestId),
    #[error(
        "the frames of video {0} were named one by one before, so they cannot be counted; name the further ones"
    )]
    FramesListed(VideoId),
    #[error("the frames of video {0} were only counted before, so they cannot be named; send the new count")]
    FramesCounted(VideoId),
    #[error(
        "the request {0} cannot be claimed: it is claimed, completed, or waits for its job to be retried"
    )]
    NotClaimable(RequestId),
    #[error("the lease is not the one in force on this request; claim work again")]
    LeaseLost,
    #[error("the lease is in force on another request; every claim takes a new lease id")]
    LeaseReused,
    #[error("the request {0} is completed and counts nothing more")]
    Completed(RequestId),
    #[error("{field} is {reported}, but the request has only {candidates} candidates")]
    TooMany { field: TotalsField, reported: u64, candidates: u64 },
}

/// One of the numbers of [`Totals`].
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
            Self::LeaseReused | Self::TooMany { .. } => RefusalKind::Invalid,
        }
    }
}

/// Decides for the streams `matching-<job>`.
#[derive(Debug)]
pub enum Matching {}

impl Decider for Matching {
    type State = State;
    type Command = Command;
    type Event = MatchingEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<MatchingEvent>>, Refusal> {
        let events = match (&command.action, command.job) {
            (_, Standing::Missing) => return Err(Refusal::NoJob),
            // A job that can never go on needs nobody to end its leases; a failed one may be retried, and then does.
            (
                Action::ExpireLease { .. } | Action::EndWorker { .. },
                Standing::Ended(Phase::Completed | Phase::Cancelled),
            ) => Vec::new(),
            (Action::ExpireLease { lease_id }, _) => decide::expire_lease(*lease_id, state),
            (Action::EndWorker { worker_id, end }, _) => decide::end_worker(worker_id, *end, state),
            (_, Standing::Ended(phase)) => return Err(Refusal::JobEnded(phase)),
            (action, Standing::Open) => decide::decide(action, state)?,
        };
        Ok(events.into_iter().map(|event| Occurred { at: command.at, event }).collect())
    }

    fn evolve(state: State, event: &MatchingEvent, _occurred_at: Timestamp) -> State {
        state::evolve(state, event)
    }

    fn excerpt(commands: &[Command], state: &State) -> State {
        excerpt::excerpt(commands, state)
    }
}

#[cfg(test)]
mod tests;
