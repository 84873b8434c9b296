//! Notices that a worker is gone, and ends what it left behind.

use domain::{job, matching, worker};
use event_schemas::ids::Position;
use event_schemas::stream::StreamId;

use super::ProcessError;
use crate::work::{Orphans, Overdue, Work};
use crate::{Commands, cause};

const NAME: &str = "presence";

/// Runs until the server shuts down.
pub(crate) async fn run(commands: Commands) {
    if !commands.0.board.ready().await {
        return;
    }
    let mut moved = commands.0.board.position();
    loop {
        moved.mark_unchanged();
        let mut all_settled = true;
        for overdue in commands.0.board.overdue() {
            let outcome = lose(&commands, &overdue).await;
            all_settled &= commands.settled(NAME, outcome).await;
        }
        for orphans in commands.0.board.orphans() {
            let outcome = end_leases(&commands, &orphans).await;
            all_settled &= commands.settled(NAME, outcome).await;
        }
        if all_settled {
            let next = commands.0.board.next_silence();
            commands.something_to_do(&mut moved, next).await;
        }
    }
}

async fn lose(commands: &Commands, overdue: &Overdue) -> Result<Position, ProcessError> {
    tracing::info!(worker_id = %overdue.worker_id, last_seen_at = %overdue.last_seen_at, "a worker is lost");
    let cause = cause::of_process(NAME, &overdue.tenant, overdue.origin, "");
    let command = worker::Command {
        worker_id: overdue.worker_id.clone(),
        at: commands.0.clock.now(),
        action: worker::Action::Lose { last_seen_at: overdue.last_seen_at },
    };
    let stream = StreamId::worker(&overdue.tenant, &overdue.worker_id);
    Ok(commands.0.workers.execute(&stream, &cause, command).await?.position)
}

/// A matching job is told of its worker's end in one event; the lease on a whole job simply ends.
async fn end_leases(commands: &Commands, orphans: &Orphans) -> Result<Position, ProcessError> {
    // A claim that was under way when its worker ended leaves a lease that is found later; each such find is one command.
    let about = orphans.leases.iter().map(|(id, _)| *id).min().map(|id| id.to_string()).unwrap_or_default();
    let cause = cause::of_process(NAME, &orphans.tenant, orphans.gone.origin, &about);
    let mut position = Position::START;
    let on_job = orphans.leases.iter().find(|(_, work)| matches!(work, Work::Job(_)));
    if let Some((lease_id, _)) = on_job {
        let action = job::Action::ExpireLease { lease_id: *lease_id, end: orphans.gone.end };
        position = commands.act_on_job(orphans.job_id, &cause, action).await?;
    }
    if orphans.leases.iter().any(|(_, work)| matches!(work, Work::Request(..))) {
        let action =
            matching::Action::EndWorker { worker_id: orphans.worker_id.clone(), end: orphans.gone.end };
        let ended = commands.act_on_matching(orphans.job_id, &cause, action).await?;
        position = position.max(ended);
    }
    Ok(position)
}
