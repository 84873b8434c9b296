//! Expires leases without heartbeats.

use event_schemas::ids::LeaseId;
use event_schemas::worker::WorkerEnd;

use super::{ProcessError, RETRY_DELAY};
use crate::work::{Lease, Work};
use crate::{Commands, command_context};

const NAME: &str = "leases";

/// Runs until the server shuts down.
pub(crate) async fn run(commands: Commands) {
    if !commands.0.board.ready().await {
        return;
    }
    let mut position = commands.0.board.position();
    loop {
        position.mark_unchanged();
        for (lease_id, lease) in commands.0.board.take_expired() {
            tracing::info!(%lease_id, worker_id = %lease.worker_id, job_id = %lease.work.job_id(), "a lease expired");
            if let Err(error) = expire(&commands, lease_id, &lease).await {
                tracing::warn!(%lease_id, %error, "the end of a lease could not be recorded; retrying");
                commands.0.board.reschedule_expiry(lease_id, commands.0.clock.now().after(RETRY_DELAY));
            }
        }
        let next = commands.0.board.next_deadline();
        commands.wait_for_change(&mut position, next).await;
    }
}

async fn expire(commands: &Commands, lease_id: LeaseId, lease: &Lease) -> Result<(), ProcessError> {
    let cause = command_context::process_cause(NAME, &lease.tenant, lease.origin, "");
    let job = lease.work.job_id();
    match lease.work {
        Work::Job(_) => {
            let action = domain::job::Action::ExpireLease { lease_id, end: WorkerEnd::Lost };
            commands.act_on_job(job, &cause, action).await?;
        }
        Work::Request(..) => {
            let action = domain::image_matching::Action::ExpireLease { lease_id };
            commands.act_on_matching(job, &cause, action).await?;
        }
    }
    metrics::counter!("matchbook_leases_expired_total").increment(1);
    Ok(())
}
