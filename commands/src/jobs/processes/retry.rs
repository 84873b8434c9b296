//! Resumes the permanently failed match requests of a retried job.

use std::sync::Arc;

use domain::image_matching::Action;
use event_schemas::ids::Position;

use super::{ProcessError, act_on_matching, process_cause, wait_applied, wait_for_change};
use crate::jobs::Jobs;
use crate::jobs::scheduler::JobRetry;

const NAME: &str = "retries";

/// Runs until the server shuts down.
pub(crate) async fn run(jobs: Arc<Jobs>) {
    if !jobs.board.ready().await {
        return;
    }
    let mut position = jobs.board.position();
    loop {
        position.mark_unchanged();
        let mut all_applied = true;
        for retry in jobs.board.pending_retries() {
            let outcome = resume_parked(&jobs, &retry).await;
            all_applied &= wait_applied(&jobs, NAME, outcome).await;
        }
        if all_applied {
            wait_for_change(&jobs, &mut position, None).await;
        }
    }
}

/// Resumes the requests of one retried job.
pub(crate) async fn resume_parked(jobs: &Jobs, retry: &JobRetry) -> Result<Position, ProcessError> {
    let cause = process_cause(NAME, &retry.tenant, retry.origin, "");
    act_on_matching(jobs, retry.job_id, &cause, Action::RetryParked).await
}
