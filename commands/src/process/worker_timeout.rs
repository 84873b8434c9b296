//! Marks silent workers as lost, and ends the leases of gone workers.

use domain::{image_matching, job, worker};
use event_schemas::ids::Position;
use event_schemas::stream::StreamId;

use super::ProcessError;
use crate::work::{OrphanedLeases, TimedOutWorker, Work};
use crate::{Commands, command_context};

/// Stored as the actor of events, and part of command ids: it must not change.
const NAME: &str = "presence";

/// Runs until the server shuts down.
pub(crate) async fn run(commands: Commands) {
    if !commands.0.board.ready().await {
        return;
    }
    let mut position = commands.0.board.position();
    loop {
        position.mark_unchanged();
        let mut all_applied = true;
        for worker in commands.0.board.timed_out_workers() {
            let outcome = mark_lost(&commands, &worker).await;
            all_applied &= commands.wait_applied(NAME, outcome).await;
        }
        for orphans in commands.0.board.orphaned_leases() {
            let outcome = end_leases(&commands, &orphans).await;
            all_applied &= commands.wait_applied(NAME, outcome).await;
        }
        if all_applied {
            let next = commands.0.board.next_worker_timeout();
            commands.wait_for_change(&mut position, next).await;
        }
    }
}

async fn mark_lost(commands: &Commands, timed_out: &TimedOutWorker) -> Result<Position, ProcessError> {
    tracing::info!(worker_id = %timed_out.worker_id, last_seen_at = %timed_out.last_seen_at, "a worker is lost");
    let cause = command_context::process_cause(NAME, &timed_out.tenant, timed_out.origin, "");
    let command = worker::Command {
        worker_id: timed_out.worker_id.clone(),
        at: commands.0.clock.now(),
        action: worker::Action::Lose { last_seen_at: timed_out.last_seen_at },
    };
    let stream = StreamId::worker(&timed_out.tenant, &timed_out.worker_id);
    Ok(commands.0.workers.execute(&stream, &cause, command).await?.position)
}

/// Ends the leases of a gone worker on one job. A matching job records the worker's end in one event; the lease on a
/// whole job expires.
async fn end_leases(commands: &Commands, orphans: &OrphanedLeases) -> Result<Position, ProcessError> {
    // A claim that was in progress when its worker ended leaves a lease that is found later; each such lease is ended
    // by a command of its own.
    let about = orphans.leases.iter().map(|(id, _)| *id).min().map(|id| id.to_string()).unwrap_or_default();
    let cause = command_context::process_cause(NAME, &orphans.tenant, orphans.gone.origin, &about);
    let mut position = Position::START;
    let on_job = orphans.leases.iter().find(|(_, work)| matches!(work, Work::Job(_)));
    if let Some((lease_id, _)) = on_job {
        let action = job::Action::ExpireLease { lease_id: *lease_id, end: orphans.gone.end };
        position = commands.act_on_job(orphans.job_id, &cause, action).await?;
    }
    if orphans.leases.iter().any(|(_, work)| matches!(work, Work::Request(..))) {
        let action =
            image_matching::Action::EndWorker { worker_id: orphans.worker_id.clone(), end: orphans.gone.end };
        let ended = commands.act_on_matching(orphans.job_id, &cause, action).await?;
        position = position.max(ended);
    }
    Ok(position)
}
