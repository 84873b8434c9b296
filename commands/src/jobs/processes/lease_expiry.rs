//! Expires leases without heartbeats.

use std::sync::Arc;

use event_schemas::ids::LeaseId;
use event_schemas::worker::WorkerEnd;

use super::{ProcessError, RETRY_DELAY, act_on_matching, process_cause, wait_for_change};
use crate::jobs::Jobs;
use crate::jobs::scheduler::{Lease, Work};

const NAME: &str = "leases";

/// Runs until the server shuts down.
pub(crate) async fn run(jobs: Arc<Jobs>) {
    if !jobs.board.ready().await {
        return;
    }
    let mut position = jobs.board.position();
    loop {
        position.mark_unchanged();
        for (lease_id, lease) in jobs.board.take_expired() {
            tracing::info!(%lease_id, worker_id = %lease.worker_id, job_id = %lease.work.job_id(), "a lease expired");
            if let Err(error) = expire(&jobs, lease_id, &lease).await {
                tracing::warn!(%lease_id, %error, "the end of a lease could not be recorded; retrying");
                jobs.board.reschedule_expiry(lease_id, jobs.engine.now().after(RETRY_DELAY));
            }
        }
        let next = jobs.board.next_deadline();
        wait_for_change(&jobs, &mut position, next).await;
    }
}

async fn expire(jobs: &Jobs, lease_id: LeaseId, lease: &Lease) -> Result<(), ProcessError> {
    let cause = process_cause(NAME, &lease.tenant, lease.origin, "");
    let job = lease.work.job_id();
    match lease.work {
        Work::Job(_) => {
            let action = domain::job::Action::ExpireLease { lease_id, end: WorkerEnd::Lost };
            jobs.execute_job(job, &cause, action).await?;
        }
        Work::Request(..) => {
            let action = domain::image_matching::Action::ExpireLease { lease_id };
            act_on_matching(jobs, job, &cause, action).await?;
        }
    }
    metrics::counter!("matchbook_leases_expired_total").increment(1);
    Ok(())
}
