//! Creates jobs, and reads how they were created.

use domain::job::Action;
use event_log::EventLog;
use event_schemas::envelope::{Cause, Envelope, Event, Metadata, Recorded};
use event_schemas::ids::{EventId, JobId, Position, Revision};
use event_schemas::job::{JobCreated, JobEvent, Phase};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use uuid::Uuid;
use web::problem::Problem;

use super::Jobs;
use crate::engine::execute::ExecuteError;
use crate::engine::idempotency::KeyStatus;
use crate::engine::problem::{Step, after_step, from_execute_error, from_load_error};

/// The first event of a job.
pub(crate) struct Creation {
    pub(crate) created: JobCreated,
    pub(crate) at: Timestamp,
    pub(crate) position: Position,
    pub(crate) metadata: Metadata,
    pub(crate) event_id: EventId,
}

/// A job, as it was created or as it was at a later moment.
#[derive(Clone, Debug)]
pub(crate) struct JobSnapshot {
    pub(crate) created: JobCreated,
    pub(crate) phase: Phase,
    /// From 0 to 100.
    pub(crate) progress_percentage: f64,
    pub(crate) attempt: u32,
    pub(crate) created_at: Timestamp,
    pub(crate) position: Position,
}

impl Jobs {
    /// Creates a job: with this id, or with one that follows from the command's key. A repeated command gets the job as it
    /// was created then.
    ///
    /// # Errors
    /// 409 if another job has the id; 422 for a key that was used for another command.
    pub(crate) async fn create(
        &self,
        cause: &Cause,
        id: Option<JobId>,
        created: impl FnOnce(JobId) -> JobCreated,
    ) -> Result<JobSnapshot, Problem> {
        // The same key may come with two ids, which have separate streams.
        let _guard = match cause.idempotency {
            Some(idempotency) => {
                let guard = self.engine.key_locks.acquire(idempotency.key).await;
                self.check_creation_key(cause).await?;
                Some(guard)
            }
            None => None,
        };
        let job_id = id.unwrap_or_else(|| self.new_job_id(cause));
        match self.execute_job(job_id, cause, Action::Create(created(job_id))).await {
            Ok(executed) => {
                let created = Step { name: "creation", position: executed.position };
                self.as_created(job_id).await.map_err(|problem| after_step(created, "answer", problem))
            }
            Err(ExecuteError::OtherTenant) => {
                Err(Problem::conflict(domain::job::Refusal::Exists.to_string()))
            }
            Err(error) => Err(from_execute_error(error)),
        }
    }

    /// The id of a job that the command creates; the same for a repeated command.
    pub(crate) fn new_job_id(&self, cause: &Cause) -> JobId {
        match cause.idempotency {
            Some(idempotency) => JobId(Uuid::new_v5(&idempotency.key, b"job")),
            None => JobId(self.engine.ids.next()),
        }
    }

    /// Refuses a key with which another job was created.
    async fn check_creation_key(&self, cause: &Cause) -> Result<(), Problem> {
        let Some(idempotency) = cause.idempotency else { return Ok(()) };
        self.wait_for_board().await?;
        match self.board.creation_key_status(idempotency) {
            KeyStatus::BodyMismatch => Err(Problem::idempotency_key_reused()),
            KeyStatus::Unused | KeyStatus::Completed(_) => Ok(()),
        }
    }

    /// The creation of a job, unaffected by later events, so that a repeated command gets its first result.
    pub(crate) async fn creation(&self, job: JobId) -> Result<Creation, Problem> {
        let first = self.engine.log.read_stream(&StreamId::job(job), Revision(0), 1).await;
        let first = first.map_err(|error| from_load_error(error.into()))?;
        let first = first.first().map(Recorded::decode).transpose();
        match first.map_err(|error| from_load_error(error.into()))? {
            Some(Envelope {
                event: Event::Job(JobEvent::JobCreated(created)),
                metadata,
                position,
                id: event_id,
                ..
            }) => Ok(Creation { created, at: metadata.occurred_at, position, metadata, event_id }),
            _ => Err(Problem::internal(&"the stream of a job does not start with its creation")),
        }
    }

    /// The job as it was created.
    pub(crate) async fn as_created(&self, job: JobId) -> Result<JobSnapshot, Problem> {
        let Creation { created, at, position, .. } = self.creation(job).await?;
        let (phase, progress_percentage, attempt) = (Phase::Queued, 0.0, 1);
        Ok(JobSnapshot { created, phase, progress_percentage, attempt, created_at: at, position })
    }
}
