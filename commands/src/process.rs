//! What happens by itself: leases run out, silent workers count as lost, a retried job's requests are taken up again.
//!
//! Each process looks at the work board, waits for the next instant that matters, and acts through commands only. Their
//! ids are derived from the events that caused them, so that acting twice, as after a crash, appends once. None acts
//! before the board has caught up, and none trusts its own memory of having acted: it goes on once the board shows it.

pub mod expiry;
pub mod leases;
pub mod matchmaker;
pub mod presence;
pub mod reconciler;
pub mod retries;

use std::time::Duration;

use domain::{job, matching};
use event_schemas::envelope::Cause;
use event_schemas::ids::{JobId, Position};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use tokio::sync::watch;

use crate::Commands;
use crate::execute::{ExecuteError, LoadError};

/// How long a process waits before it tries again what the log would not take.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Why a process did not get through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error("the state of the job cannot be read: {0}")]
    Job(#[from] LoadError),
    #[error(transparent)]
    OnJob(#[from] ExecuteError<job::Refusal>),
    #[error(transparent)]
    OnMatching(#[from] ExecuteError<matching::Refusal>),
    #[error(transparent)]
    OnWorker(#[from] ExecuteError<domain::worker::Refusal>),
}

impl Commands {
    /// Carries out what a process decided about a job's matching.
    async fn act_on_matching(
        &self,
        job: JobId,
        cause: &Cause,
        action: matching::Action,
    ) -> Result<Position, ProcessError> {
        let standing = self.0.jobs.look(&StreamId::job(job), |folded| folded.state.standing()).await?;
        let command = matching::Command { job: standing, at: self.0.clock.now(), action };
        Ok(self.0.matchings.execute(&StreamId::matching(job), cause, command).await?.position)
    }

    /// Carries out what a process decided about a job as a whole.
    async fn act_on_job(
        &self,
        job: JobId,
        cause: &Cause,
        action: job::Action,
    ) -> Result<Position, ProcessError> {
        let command = job::Command { at: self.0.clock.now(), action };
        Ok(self.0.jobs.execute(&StreamId::job(job), cause, command).await?.position)
    }

    /// Waits until the board shows what was recorded. False if the log did not take it, and it is to be tried again; then
    /// some time has passed.
    async fn settled(&self, process: &'static str, outcome: Result<Position, ProcessError>) -> bool {
        match outcome {
            Ok(position) if self.0.board.reached(position).await => return true,
            // The board stands still, and says why itself.
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(process, %error, "a process could not record what happened and tries again");
            }
        }
        self.0.clock.sleep(AGAIN_AFTER).await;
        false
    }

    /// Waits until the board moves on from where it was last looked at, or the instant comes.
    async fn something_to_do(&self, moved: &mut watch::Receiver<Position>, at: Option<Timestamp>) {
        let at = async {
            match at {
                Some(at) => self.0.clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // Its sender is in the board, so this ends when the board moves only.
            _ = moved.changed() => {}
            () = at => {}
        }
    }
}
