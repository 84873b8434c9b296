use event_schemas::job::{
    JobClaimed, JobFailed, JobLeaseExpired, JobProgressReported, JobResultExpired, JobRetryScheduled,
};
use event_schemas::worker::WorkerEnd;
use serde_json::json;

use super::*;
use crate::job;
use crate::job::view::view;
use crate::scenario::{World, at, created, error, id, lease};

fn history(events: &[(f64, JobEvent)]) -> History {
    let mut history = History::new(&created(JobKind::VideoAnalysis), id("default"), at(0.0));
    for (seconds, event) in events {
        history.apply(event, at(*seconds), at(*seconds));
    }
    history
}

fn claimed(n: u128) -> JobEvent {
    JobClaimed { lease_id: lease(n), worker_id: id("w"), attempt: 1, lease_until: at(45.0) }.into()
}

fn failed() -> JobEvent {
    JobFailed { attempt: 1, lease_id: None, error: error("oom"), retry_state: None }.into()
}

fn progress(stage: Phase, fraction: f64) -> JobEvent {
    JobProgressReported {
        lease_id: lease(1),
        stage,
        fraction,
        items_done: Some(1),
        items_total: None,
        checkpoint: None,
        items: None,
    }
    .into()
}

#[test]
fn scheduled_retry_starts_the_named_attempt() {
    let scheduled = JobRetryScheduled { attempt: 2, due_at: at(30.0), reason: Some(RetryReason::Backoff) };
    let mut history = history(&[(1.0, claimed(1)), (10.0, failed()), (11.0, scheduled.into())]);
    assert_eq!((history.attempt, history.phase), (2, Phase::Queued));
    let waited_for = Retry { due_at: at(30.0), reason: Some(RetryReason::Backoff) };
    assert_eq!(history.pending_retry(), Some(waited_for));
    assert_eq!((history.failure.is_none(), history.ended_at()), (true, None));
    assert_eq!(history.attempts[0].ended_at, Some(at(10.0)));
    assert_eq!(history.attempts[1].queued_at, at(11.0));
    history.apply(&claimed(2), at(31.0), at(31.0));
    assert_eq!((history.pending_retry(), history.retry), (None, Some(waited_for)));
}

#[test]
fn retry_made_due_earlier_keeps_the_attempt() {
    let retry = |due, reason| JobRetryScheduled { attempt: 2, due_at: at(due), reason: Some(reason) }.into();
    let (backoff, asked) = (retry(60.0, RetryReason::Backoff), retry(20.0, RetryReason::Asked));
    let history = history(&[(1.0, claimed(1)), (10.0, failed()), (11.0, backoff), (20.0, asked)]);
    assert_eq!((history.attempts.len(), history.attempts[1].queued_at), (2, at(11.0)));
    assert_eq!(history.pending_retry(), Some(Retry { due_at: at(20.0), reason: Some(RetryReason::Asked) }));
    assert_eq!(history.spans.iter().filter(|span| span.attempt == 2).count(), 1);
    assert_eq!(history.attempts[1].queue_seconds(at(25.0)), 5.0, "the delay before does not count");
}

#[test]
fn queue_time_excludes_delays_and_run_time() {
    let scheduled = JobRetryScheduled { attempt: 2, due_at: at(30.0), reason: None };
    let lost = |n| JobLeaseExpired { lease_id: lease(n), worker_id: id("w"), end: Some(WorkerEnd::Lost) };
    let history = history(&[
        (1.0, claimed(1)),
        (10.0, failed()),
        (10.0, scheduled.into()),
        (34.0, claimed(2)),
        (40.0, lost(2).into()),
        (47.0, claimed(3)),
    ]);
    let times = |attempt: &Attempt| (attempt.queue_seconds(at(50.0)), attempt.run_seconds(at(50.0)));
    assert_eq!(times(&history.attempts[0]), (1.0, 9.0));
    assert_eq!(times(&history.attempts[1]), (4.0 + 7.0, 6.0 + 3.0));
    assert_eq!(history.attempts[1].holds.len(), 2);
}

#[test]
fn new_attempt_resets_the_progress() {
    let mut history = history(&[
        (1.0, claimed(1)),
        (2.0, progress(Phase::Downloading, 0.5)),
        (3.0, progress(Phase::Downloading, 0.4)),
    ]);
    assert_eq!(history.progress.map(|progress| progress.fraction), Some(0.5));
    history.apply(&failed(), at(4.0), at(4.0));
    let retry = JobRetryScheduled { attempt: 2, due_at: at(5.0), reason: None };
    history.apply(&retry.into(), at(4.0), at(4.0));
    assert_eq!(history.progress, None);
}

#[test]
fn result_is_kept_until_it_expires() {
    let mut world = World::empty();
    world.job(job::Action::Create(created(JobKind::VideoAnalysis)));
    world.job(job::Action::Complete { lease_id: None, result: Some(json!({"highlights": 3}).into()) });
    let mut history = world.fold().history.unwrap();
    assert_eq!(history.result, Some(json!({"highlights": 3}).into()));
    history.apply(&JobResultExpired {}.into(), at(1.0), at(1.0));
    assert_eq!(history.result, None);
}

#[test]
fn analysis_is_running_between_queue_and_end() {
    assert_eq!(Status::of(JobKind::VideoAnalysis, Phase::Queued), Status::Pending);
    assert_eq!(Status::of(JobKind::VideoAnalysis, Phase::Transcribing), Status::Running);
    assert_eq!(Status::of(JobKind::ModelTraining, Phase::Processing), Status::Running);
}

#[test]
fn failed_job_keeps_its_percentage() {
    let mut world = World::matching(1, 100);
    let shown = |world: &World| view(&world.fold(), world.now).unwrap().progress_percentage;
    assert_eq!(shown(&world), 15.0);
    world.progress("r", None, 50);
    assert_eq!(shown(&world), 55.0);
    world.enter(Phase::Failed);
    assert_eq!(shown(&world), 55.0);
    world.job(job::Action::Retry { eta_priors: Vec::new() });
    assert_eq!(shown(&world), 0.0);
    world.enter(Phase::Completed);
    assert_eq!(shown(&world), 100.0);
}
