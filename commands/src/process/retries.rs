//! When a job is tried again, takes up the match requests in it that had failed for good.

use domain::matching::Action;

use crate::{Commands, cause};

const NAME: &str = "retries";

/// Runs until the server shuts down.
pub(crate) async fn run(commands: Commands) {
    if !commands.0.board.ready().await {
        return;
    }
    let mut moved = commands.0.board.position();
    loop {
        moved.mark_unchanged();
        let mut all_settled = true;
        for retry in commands.0.board.unretried() {
            let cause = cause::of_process(NAME, &retry.tenant, retry.origin, "");
            let outcome = commands.act_on_matching(retry.job_id, &cause, Action::RetryParked).await;
            all_settled &= commands.settled(NAME, outcome).await;
        }
        if all_settled {
            commands.something_to_do(&mut moved, None).await;
        }
    }
}
