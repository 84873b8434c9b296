//! The effects of a caller's command in other streams. A process would record them soon after; here they are recorded
//! before the response, so that its position covers them.

use std::time::Duration;

use domain::worker;
use event_schemas::envelope::Cause;
use event_schemas::ids::{CommandId, JobId, Position, WorkerId};
use web::problem::Problem;

use super::Jobs;
use super::processes::{ProcessError, retry, worker_timeout};
use crate::engine::execute::Executed;
use crate::engine::problem::{Step, after_step, from_execute_error, from_load_error};

/// The retry delay of a command whose effects could not be recorded yet.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The number of rounds in which effects are looked for: one usually has all of them.
const ROUNDS_MAX: usize = 16;

/// The reason in the exit of a worker that has registered again.
const REGISTERED_AGAIN: &str = "it registered again without having reported its exit";

impl Jobs {
    /// The position that covers the exit of a worker and the ends of its leases.
    ///
    /// # Errors
    /// If an effect could not be recorded, which then follows.
    pub(crate) async fn position_after_exit(
        &self,
        cause: &Cause,
        worker_id: &WorkerId,
        executed: Executed,
    ) -> Result<Position, Problem> {
        self.settled(cause, "exit", executed, || async {
            let orphans = self.board.orphaned_leases().into_iter();
            let mut any = false;
            for orphans in
                orphans.filter(|orphans| orphans.tenant == cause.tenant && orphans.worker_id == *worker_id)
            {
                worker_timeout::end_leases(self, &orphans).await.map_err(from_process_error)?;
                any = true;
            }
            Ok(any)
        })
        .await
    }

    /// The position that covers the retry of a job and of its parked requests.
    ///
    /// # Errors
    /// As [`Self::position_after_exit`].
    pub(crate) async fn position_after_retry(
        &self,
        cause: &Cause,
        job: JobId,
        executed: Executed,
    ) -> Result<Position, Problem> {
        self.settled(cause, "retry", executed, || async {
            let retry = self.board.pending_retries().into_iter().find(|retry| retry.job_id == job);
            let Some(retry) = retry else { return Ok(false) };
            retry::resume_parked(self, &retry).await.map_err(from_process_error)?;
            Ok(true)
        })
        .await
    }

    /// Ends the leases that a worker still has when it registers again: its earlier process has ended. Returns the
    /// position of its exit, if there was one.
    ///
    /// # Errors
    /// As [`Self::position_after_exit`].
    pub(crate) async fn end_earlier_process(
        &self,
        cause: &Cause,
        worker_id: &WorkerId,
    ) -> Result<Option<Position>, Problem> {
        if !self.board.is_present_with_leases(&cause.tenant, worker_id) {
            return Ok(None);
        }
        let reason = Some(REGISTERED_AGAIN.to_owned());
        let action = worker::Action::Exit { exit_code: None, signal: None, reason };
        let cause =
            Cause { command_id: CommandId(self.engine.ids.next()), idempotency: None, ..cause.clone() };
        let exited = self.execute_worker(worker_id, &cause, action).await.map_err(from_execute_error)?;
        self.position_after_exit(&cause, worker_id, exited).await.map(Some)
    }

    /// Records effects until there are none left. `record` returns whether there were any; the process may be faster.
    /// `command` is the name of the step that is recorded already.
    pub(crate) async fn settled<Recording>(
        &self,
        cause: &Cause,
        command: &'static str,
        executed: Executed,
        record: impl Fn() -> Recording,
    ) -> Result<Position, Problem>
    where
        Recording: Future<Output = Result<bool, Problem>>,
    {
        // A command that changed nothing under a key has a recorded answer.
        if executed.events == 0 && cause.idempotency.is_some() {
            return Ok(executed.position);
        }
        let recorded = Step { name: command, position: executed.position };
        let earlier = self.engine.earlier_answer(cause).await;
        if let Some(answer) = earlier.map_err(|problem| after_step(recorded, "answer", problem))? {
            return Ok(answer.position);
        }
        for _ in 0..ROUNDS_MAX {
            // A stopped board has no effects, and says so elsewhere.
            if self.wait_for_board().await.is_err() {
                return Ok(executed.position);
            }
            let covered = *self.board.position().borrow();
            if !record().await.map_err(|error| after_step(recorded, "effects", not_yet(error)))? {
                let answer = self.engine.record_answer(cause, None).await;
                let answer = answer.map_err(|problem| after_step(recorded, "answer", problem))?;
                return Ok(answer.map_or(covered.max(executed.position), |answer| answer.position));
            }
        }
        let changing = Problem::unavailable("the leases of the worker or job kept changing", RETRY_DELAY);
        Err(after_step(recorded, "effects", changing))
    }
}

fn from_process_error(error: ProcessError) -> Problem {
    tracing::warn!(%error, "the effects of a command could not be recorded yet");
    match error {
        ProcessError::Job(error) => from_load_error(error),
        ProcessError::OnJob(error) => from_execute_error(error),
        ProcessError::OnMatching(error) => from_execute_error(error),
        ProcessError::OnWorker(error) => from_execute_error(error),
    }
}

/// The problem of an effect that could not be recorded yet.
fn not_yet(problem: Problem) -> Problem {
    // A refusal of an effect is a race with its process.
    if problem.status().is_server_error() {
        problem
    } else {
        Problem::unavailable(problem.detail, RETRY_DELAY)
    }
}
