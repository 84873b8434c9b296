//! Resumes the permanently failed match requests of a retried job.

use domain::image_matching::Action;

use crate::{Commands, command_context};

const NAME: &str = "retries";

/// Runs until the server shuts down.
pub(crate) async fn run(commands: Commands) {
    if !commands.0.board.ready().await {
        return;
    }
    let mut position = commands.0.board.position();
    loop {
        position.mark_unchanged();
        let mut all_applied = true;
        for retry in commands.0.board.pending_retries() {
            let cause = command_context::process_cause(NAME, &retry.tenant, retry.origin, "");
            let outcome = commands.act_on_matching(retry.job_id, &cause, Action::RetryParked).await;
            all_applied &= commands.wait_applied(NAME, outcome).await;
        }
        if all_applied {
            commands.wait_for_change(&mut position, None).await;
        }
    }
}
