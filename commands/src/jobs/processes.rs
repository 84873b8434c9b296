//! Background processes: leases expire, silent workers are marked as lost, and the requests of a retried job are
//! resumed.
//!
//! Each process reads the work board, waits for the next deadline, and acts only through commands. Command ids are
//! derived from the causing events, so that a repetition, as after a crash, appends once. No process acts before the
//! board has caught up, and each continues only once the board has applied its change.

pub(crate) mod lease_expiry;
pub(crate) mod retry;
pub(crate) mod worker_timeout;

use std::time::Duration;

use domain::{image_matching, job, worker};
use event_schemas::envelope::{Actor, Cause};
use event_schemas::ids::{CommandId, JobId, Position, Tenant};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

use super::Jobs;
use super::scheduler::Origin;
use crate::engine::execute::{ExecuteError, LoadError};

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
    OnWorker(#[from] ExecuteError<worker::Refusal>),
}

/// The cause of a process's reaction to an event. The same event and the same `about` give the same command id, so that
/// a repeated reaction appends once.
pub(crate) fn process_cause(process: &'static str, tenant: &Tenant, origin: Origin, about: &str) -> Cause {
    let name = [process, about].join("/");
    Cause {
        command_id: CommandId(Uuid::new_v5(&origin.event_id.0, name.as_bytes())),
        correlation_id: origin.correlation_id,
        event_id: Some(origin.event_id),
        tenant: tenant.clone(),
        actor: Actor::System(process.parse().expect("a process name is a short text")),
        subject: None,
        idempotency: None,
        traceparent: None,
    }
}

/// Executes a command of a process on a job's matching.
async fn act_on_matching(
    jobs: &Jobs,
    job: JobId,
    cause: &Cause,
    action: image_matching::Action,
) -> Result<Position, ProcessError> {
    let availability = jobs.jobs.query(&StreamId::job(job), |folded| folded.state.availability()).await?;
    Ok(jobs.execute_matching(job, availability, cause, action).await?.position)
}

/// Waits until the board has applied the recorded change. Returns false, after a delay, if the command failed and must
/// be retried.
async fn wait_applied(jobs: &Jobs, process: &'static str, outcome: Result<Position, ProcessError>) -> bool {
    match outcome {
        Ok(position) if jobs.board.wait_for_position(position).await => return true,
        // The board has stopped, and has logged the reason.
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(process, %error, "a command of a background process failed; retrying");
        }
    }
    jobs.engine.clock.sleep(RETRY_DELAY).await;
    false
}

/// Waits until the board's position changes, or until the instant.
async fn wait_for_change(jobs: &Jobs, position: &mut watch::Receiver<Position>, at: Option<Timestamp>) {
    let at = async {
        match at {
            Some(at) => jobs.engine.clock.sleep_until(at).await,
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
