//! Background processes: leases expire, silent workers are marked as lost, and the requests of a retried job are
//! resumed.
//!
//! Each process reads the work board, waits for the next deadline, and acts only through commands. Command ids are
//! derived from the causing events, so that a repetition, as after a crash, appends once. No process acts before the
//! board has caught up, and each continues only once the board has applied its change.

pub mod expiry;
pub mod leases;
pub mod matchmaker;
pub mod reconciler;
pub mod retries;
pub mod worker_timeout;

use std::time::Duration;

use domain::{image_matching, job};
use event_schemas::envelope::Cause;
use event_schemas::ids::{JobId, Position};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use tokio::sync::watch;

use crate::Commands;
use crate::execute::{ExecuteError, LoadError};

/// The delay before a process retries a failed command.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The reason why a command of a process failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error("the state of the job cannot be read: {0}")]
    Job(#[from] LoadError),
    #[error(transparent)]
    OnJob(#[from] ExecuteError<job::Refusal>),
    #[error(transparent)]
    OnMatching(#[from] ExecuteError<image_matching::Refusal>),
    #[error(transparent)]
    OnWorker(#[from] ExecuteError<domain::worker::Refusal>),
}

impl Commands {
    /// Executes a command of a process on a job's matching.
    async fn act_on_matching(
        &self,
        job: JobId,
        cause: &Cause,
        action: image_matching::Action,
    ) -> Result<Position, ProcessError> {
        let availability =
            self.0.jobs.query(&StreamId::job(job), |folded| folded.state.availability()).await?;
        let command = image_matching::Command { job: availability, at: self.0.clock.now(), action };
        Ok(self.0.image_matchings.execute(&StreamId::image_matching(job), cause, command).await?.position)
    }

    /// Executes a command of a process on a job.
    async fn act_on_job(
        &self,
        job: JobId,
        cause: &Cause,
        action: job::Action,
    ) -> Result<Position, ProcessError> {
        let command = job::Command { at: self.0.clock.now(), action };
        Ok(self.0.jobs.execute(&StreamId::job(job), cause, command).await?.position)
    }

    /// Waits until the board has applied the recorded change. Returns false, after a delay, if the command failed and
    /// must be retried.
    async fn wait_applied(&self, process: &'static str, outcome: Result<Position, ProcessError>) -> bool {
        match outcome {
            Ok(position) if self.0.board.wait_for_position(position).await => return true,
            // The board has stopped, and has logged the reason.
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(process, %error, "a command of a background process failed; retrying");
            }
        }
        self.0.clock.sleep(RETRY_DELAY).await;
        false
    }

    /// Waits until the board's position changes, or until the instant.
    async fn wait_for_change(&self, position: &mut watch::Receiver<Position>, at: Option<Timestamp>) {
        let at = async {
            match at {
                Some(at) => self.0.clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // The board owns the sender, so this ends only when the position changes.
            _ = position.changed() => {}
            () = at => {}
        }
    }
}
