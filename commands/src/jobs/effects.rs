//! The effects of a caller's command in other streams. A process would record them soon after; here they are recorded
//! before the response, so that its position covers them.

use domain::worker;
use event_schemas::envelope::Cause;
use event_schemas::ids::{CommandId, JobId, Position, WorkerId};
use web::problem::Problem;

use super::Jobs;
use super::processes::{ProcessError, retry, worker_timeout};
use crate::engine::execute::Executed;
use crate::engine::problem::from_execute_error;

/// The number of rounds in which effects are looked for: one usually has all of them.
const ROUNDS_MAX: usize = 16;

/// The reason in the exit of a worker that has registered again.
const REGISTERED_AGAIN: &str = "it registered again without having reported its exit";

impl Jobs {
    /// The position that covers the exit of a worker and the ends of its leases.
    ///
    /// # Errors
    /// 503 if an effect could not be recorded; the process will.
    pub(crate) async fn position_after_exit(
        &self,
        cause: &Cause,
        worker_id: &WorkerId,
        executed: Executed,
    ) -> Result<Position, Problem> {
        self.settled(cause, executed, || async {
            let orphans = self.board.orphaned_leases().into_iter();
            let mut any = false;
            for orphans in
                orphans.filter(|orphans| orphans.tenant == cause.tenant && orphans.worker_id == *worker_id)
            {
                worker_timeout::end_leases(self, &orphans).await?;
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
        self.settled(cause, executed, || async {
            let retry = self.board.pending_retries().into_iter().find(|retry| retry.job_id == job);
            let Some(retry) = retry else { return Ok(false) };
            retry::resume_parked(self, &retry).await?;
            Ok(true)
        })
        .await
    }

    /// Ends the leases that a worker still has when it registers again: its earlier process has ended.
    ///
    /// # Errors
    /// As [`Self::position_after_exit`].
    pub(crate) async fn end_earlier_process(
        &self,
        cause: &Cause,
        worker_id: &WorkerId,
    ) -> Result<(), Problem> {
        if !self.board.is_present_with_leases(&cause.tenant, worker_id) {
            return Ok(());
        }
        let reason = Some(REGISTERED_AGAIN.to_owned());
        let action = worker::Action::Exit { exit_code: None, signal: None, reason };
        let cause =
            Cause { command_id: CommandId(self.engine.ids.next()), idempotency: None, ..cause.clone() };
        let exited = self.execute_worker(worker_id, &cause, action).await.map_err(from_execute_error)?;
        self.position_after_exit(&cause, worker_id, exited).await?;
        Ok(())
    }

    /// Records effects until there are none left. `record` returns whether there were any; the process may be faster.
    async fn settled<Recording>(
        &self,
        cause: &Cause,
        executed: Executed,
        record: impl Fn() -> Recording,
    ) -> Result<Position, Problem>
    where
        Recording: Future<Output = Result<bool, ProcessError>>,
    {
        // A command that changed nothing under a key has a recorded answer.
        if executed.events == 0 && cause.idempotency.is_some() {
            return Ok(executed.position);
        }
        if let Some(answer) = self.engine.earlier_answer(cause).await? {
            return Ok(answer.position);
        }
        for _ in 0..ROUNDS_MAX {
            // A stopped board has no effects, and says so elsewhere.
            if self.wait_for_board().await.is_err() {
                return Ok(executed.position);
            }
            let covered = *self.board.position().borrow();
            if !record().await.map_err(unavailable)? {
                let answer = self.engine.record_answer(cause, None).await?;
                return Ok(answer.map_or(covered.max(executed.position), |answer| answer.position));
            }
        }
        Err(unavailable("they kept changing"))
    }
}

fn unavailable(error: impl std::fmt::Display) -> Problem {
    tracing::warn!(%error, "the effects of a command could not be recorded yet");
    let detail =
        "the command is recorded, and its effects on other jobs follow; send it again for their position";
    Problem::unavailable(detail, std::time::Duration::from_secs(1))
}
