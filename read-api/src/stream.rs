//! Live streams: of a matching job, of an analysis, of a queue entry, of queue statistics, and of a user's list of products.
//!
//! Start reading at [`engine`], which serves the clients of one object together; `topics` has the objects. An update's
//! id is a log position: a client that reconnects with this id has received everything up to it.

mod change_notifier;
mod engine;
mod socket;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use event_schemas::envelope::Event;
use event_schemas::ids::Position;
use event_schemas::job::{JobEvent, Phase, RetryState};
use serde::Serialize;
use web::sse::{StreamResponse, Update};

use crate::ReadApi;
use engine::Follower;

pub(crate) use change_notifier::ChangeNotifier;
pub(crate) use engine::Topics;
pub(crate) use socket::Socket;
pub(crate) use topics::analysis::{AnalysisFollower, AnalysisUpdate};
pub(crate) use topics::entry::{QueueEntryFollower, QueueEntryUpdate};
pub(crate) use topics::matching::{MatchingFollower, MatchingUpdate};
pub(crate) use topics::queues::QueueSummaryFollower;
pub(crate) use topics::recommendations::RecommendationFollower;
pub(crate) use topics::summary_cache::HistoricalSummaryCache;

/// The interval at which changes without an event are checked, such as a job that stalls.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

impl ReadApi {
    /// The response with the stream that a follower was opened for; without one, the client has received the end.
    pub(crate) fn stream<F: Follower>(self: &Arc<Self>, follower: Option<F>) -> StreamResponse<F::Data> {
        match follower {
            Some(follower) => StreamResponse::Open(self.topics.open(follower, &self.shutdown)),
            None => StreamResponse::Ended,
        }
    }
}

/// The kind of a job's state change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChangeKind {
    Progress,
    Retrying,
    Completed,
    Failed,
    Cancelled,
}

impl ChangeKind {
    fn of(event: &Event) -> Option<Self> {
        let Event::Job(event) = event else { return None };
        match event {
            JobEvent::JobPhaseChanged(changed) if changed.from == Phase::Failed => Some(Self::Retrying),
            JobEvent::JobRetryScheduled(_) => Some(Self::Retrying),
            JobEvent::JobCreated(_) | JobEvent::JobPhaseChanged(_) => Some(Self::Progress),
            JobEvent::JobCompleted(_) => Some(Self::Completed),
            // The retry follows immediately and is sent instead.
            JobEvent::JobFailed(failed) if failed.retry_state == Some(RetryState::InProgress) => None,
            JobEvent::JobFailed(_) => Some(Self::Failed),
            JobEvent::JobCancelled(_) => Some(Self::Cancelled),
            JobEvent::JobProgressReported(_)
            | JobEvent::JobClaimed(_)
            | JobEvent::JobLeaseExpired(_)
            | JobEvent::JobQuarantined(_)
            | JobEvent::JobResultExpired(_) => None,
        }
    }

    /// The kind for a job that has ended; none for one that has not.
    fn terminal(phase: Phase) -> Option<Self> {
        match phase {
            Phase::Completed => Some(Self::Completed),
            Phase::Failed => Some(Self::Failed),
            Phase::Cancelled => Some(Self::Cancelled),
            _ => None,
        }
    }

    fn update(self, id: Position, data: &impl Serialize) -> Update {
        match self {
            Self::Progress => Update::state("progress", Some(id), data),
            Self::Retrying => Update::state("retrying", Some(id), data),
            Self::Completed => Update::last("completed", Some(id), data),
            Self::Failed => Update::last("failed", Some(id), data),
            Self::Cancelled => Update::last("cancelled", Some(id), data),
        }
    }

    fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}
