//! What each command does to a job that was created.

use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{LeaseId, WorkerId};
use event_schemas::job::{
    JobCancelled, JobClaimed, JobCompleted, JobEvent, JobFailed, JobLeaseExpired, JobPhaseChanged,
    JobProgressReported, Phase, PhasePrior,
};
use event_schemas::time::Timestamp;

use super::{Action, Life, Progress, Refusal, failure, pipeline};

/// The events that carry out `action` on a job that was created.
pub(super) fn decide(action: &Action, life: &Life) -> Result<Vec<JobEvent>, Refusal> {
    match action {
        Action::Create(_) => Err(Refusal::Exists),
        Action::ChangePhase { to, reason, eta_priors } => {
            change_phase(life, *to, reason.as_deref(), eta_priors)
        }
        Action::ReportProgress { report, eta_priors } => report_progress(life, report, eta_priors),
        Action::Claim { lease_id, worker_id, lease_until } => claim(life, *lease_id, worker_id, *lease_until),
        Action::ExpireLease { lease_id } => Ok(match &life.lease {
            Some(lease) if lease.id == *lease_id => {
                vec![JobLeaseExpired { lease_id: lease.id, worker_id: lease.worker_id.clone() }.into()]
            }
            _ => Vec::new(),
        }),
        Action::Complete { lease_id, result } => complete(life, *lease_id, result.as_ref()),
        Action::Fail { lease_id, error } => fail(life, *lease_id, error),
        Action::Retry { eta_priors } => match life.phase {
            Phase::Failed => Ok(vec![phase_changed(life, Phase::Queued, None, eta_priors)]),
            // The same retry, arriving again.
            Phase::Queued if life.attempt > 1 => Ok(Vec::new()),
            phase => Err(Refusal::NotFailed(phase)),
        },
        Action::Cancel { reason } => change_phase(life, Phase::Cancelled, reason.as_deref(), &[]),
    }
}

fn change_phase(
    life: &Life,
    to: Phase,
    reason: Option<&str>,
    eta_priors: &[PhasePrior],
) -> Result<Vec<JobEvent>, Refusal> {
    let from = life.phase;
    if from == to {
        return Ok(Vec::new());
    }
    if from == Phase::Failed && to == Phase::Queued {
        return Ok(vec![phase_changed(life, to, reason, eta_priors)]);
    }
    life.open()?;
    Ok(vec![match to {
        Phase::Completed => JobCompleted { from, lease_id: None, result: None }.into(),
        Phase::Cancelled => JobCancelled { from, reason: reason.map(str::to_owned) }.into(),
        Phase::Failed => {
            let message = reason.unwrap_or("no reason was given");
            let error = failure::classify(message, None, life.job_id(), life.attempt);
            JobFailed { attempt: life.attempt, lease_id: None, error }.into()
        }
        to if pipeline::rank(life.kind(), to) > pipeline::rank(life.kind(), from) => {
            phase_changed(life, to, reason, eta_priors)
        }
        to => return Err(Refusal::Backwards { kind: life.kind(), from, to }),
    }])
}

fn phase_changed(life: &Life, to: Phase, reason: Option<&str>, eta_priors: &[PhasePrior]) -> JobEvent {
    JobPhaseChanged {
        from: life.phase,
        to,
        reason: reason.map(str::to_owned),
        eta_priors: eta_priors.to_vec(),
    }
    .into()
}

fn report_progress(
    life: &Life,
    report: &JobProgressReported,
    eta_priors: &[PhasePrior],
) -> Result<Vec<JobEvent>, Refusal> {
    life.open()?;
    life.under(report.lease_id)?;
    let no_such_phase = Refusal::NoSuchPhase { kind: life.kind(), phase: report.stage };
    if report.stage == Phase::Queued || pipeline::is_end(report.stage) {
        return Err(no_such_phase);
    }
    let reported = pipeline::rank(life.kind(), report.stage).ok_or(no_such_phase)?;
    if !(0.0..=1.0).contains(&report.fraction) {
        return Err(Refusal::Fraction);
    }
    if let (Some(done), Some(total)) = (report.items_done, report.items_total)
        && done > total
    {
        return Err(Refusal::TooManyItems { done, total });
    }
    let present = pipeline::rank(life.kind(), life.phase).unwrap_or(0);
    // A late report of a stage that is over, or of less than is known, says nothing new.
    if reported < present {
        return Ok(Vec::new());
    }
    if reported == present {
        return Ok(if says_more(life.progress.as_ref(), report) {
            vec![report.clone().into()]
        } else {
            Vec::new()
        });
    }
    Ok(vec![phase_changed(life, report.stage, None, eta_priors), report.clone().into()])
}

fn says_more(known: Option<&Progress>, report: &JobProgressReported) -> bool {
    known.filter(|known| known.stage == report.stage).is_none_or(|known| {
        report.fraction > known.fraction
            || report.items_done > known.items_done
            || report.items_total > known.items_total
    })
}

fn claim(
    life: &Life,
    lease_id: LeaseId,
    worker_id: &WorkerId,
    lease_until: Timestamp,
) -> Result<Vec<JobEvent>, Refusal> {
    if !pipeline::is_claimed_whole(life.kind()) {
        return Err(Refusal::ClaimedInParts(life.kind()));
    }
    life.open()?;
    match &life.lease {
        Some(lease) if lease.id == lease_id && lease.worker_id == *worker_id => Ok(Vec::new()),
        Some(_) => Err(Refusal::Held),
        None => Ok(vec![
            JobClaimed { lease_id, worker_id: worker_id.clone(), attempt: life.attempt, lease_until }.into(),
        ]),
    }
}

fn complete(
    life: &Life,
    lease_id: Option<LeaseId>,
    result: Option<&serde_json::Value>,
) -> Result<Vec<JobEvent>, Refusal> {
    let same_result = result.is_none() || result == life.result.as_ref();
    if life.ended_by(Phase::Completed, lease_id) && same_result {
        return Ok(Vec::new());
    }
    life.open()?;
    life.may_report(lease_id)?;
    Ok(vec![JobCompleted { from: life.phase, lease_id, result: result.cloned() }.into()])
}

fn fail(life: &Life, lease_id: Option<LeaseId>, error: &ClassifiedError) -> Result<Vec<JobEvent>, Refusal> {
    if life.ended_by(Phase::Failed, lease_id) {
        return Ok(Vec::new());
    }
    life.open()?;
    life.may_report(lease_id)?;
    Ok(vec![JobFailed { attempt: life.attempt, lease_id, error: error.clone() }.into()])
}
