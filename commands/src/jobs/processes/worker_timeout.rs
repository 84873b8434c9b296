//! Marks silent workers as lost, and ends the leases of gone workers.

use std::sync::Arc;

use domain::{image_matching, job, worker};
use event_schemas::ids::Position;

use super::{ProcessError, act_on_matching, process_cause, wait_applied, wait_for_change};
use crate::jobs::Jobs;
use crate::jobs::scheduler::{OrphanedLeases, TimedOutWorker, Work};

/// Stored as the actor of events, and part of command ids: it must not change.
const NAME: &str = "presence";

/// Runs until the server shuts down.
pub(crate) async fn run(jobs: Arc<Jobs>) {
    if !jobs.board.ready().await {
        return;
    }
    let mut position = jobs.board.position();
    loop {
        position.mark_unchanged();
        let mut all_applied = true;
        for worker in jobs.board.timed_out_workers() {
            let outcome = mark_lost(&jobs, &worker).await;
            all_applied &= wait_applied(&jobs, NAME, outcome).await;
        }
        for orphans in jobs.board.orphaned_leases() {
            let outcome = end_leases(&jobs, &orphans).await;
            all_applied &= wait_applied(&jobs, NAME, outcome).await;
        }
        if all_applied {
            let next = jobs.board.next_worker_timeout();
            wait_for_change(&jobs, &mut position, next).await;
        }
    }
}

async fn mark_lost(jobs: &Jobs, timed_out: &TimedOutWorker) -> Result<Position, ProcessError> {
    tracing::info!(worker_id = %timed_out.worker_id, last_seen_at = %timed_out.last_seen_at, "a worker is lost");
    let cause = process_cause(NAME, &timed_out.tenant, timed_out.origin, "");
    let action = worker::Action::Lose { last_seen_at: timed_out.last_seen_at };
    Ok(jobs.execute_worker(&timed_out.worker_id, &cause, action).await?.position)
}

/// Ends the leases of a gone worker on one job. A matching job records the worker's end in one event; the lease on a
/// whole job expires.
pub(crate) async fn end_leases(jobs: &Jobs, orphans: &OrphanedLeases) -> Result<Position, ProcessError> {
    // A claim that was in progress when its worker ended leaves a lease that is found later; each such lease is ended
    // by a command of its own.
    let about = orphans.leases.iter().map(|(id, _)| *id).min().map(|id| id.to_string()).unwrap_or_default();
    let cause = process_cause(NAME, &orphans.tenant, orphans.gone.origin, &about);
    let mut position = Position::START;
    let on_job = orphans.leases.iter().find(|(_, work)| matches!(work, Work::Job(_)));
    if let Some((lease_id, _)) = on_job {
        let action = job::Action::ExpireLease { lease_id: *lease_id, end: orphans.gone.end };
        position = jobs.execute_job(orphans.job_id, &cause, action).await?.position;
    }
    if orphans.leases.iter().any(|(_, work)| matches!(work, Work::Request(..))) {
        let action =
            image_matching::Action::EndWorker { worker_id: orphans.worker_id.clone(), end: orphans.gone.end };
        let ended = act_on_matching(jobs, orphans.job_id, &cause, action).await?;
        position = position.max(ended);
    }
    Ok(position)
}
