use event_schemas::job::{
    JobCancelled, JobClaimed, JobCompleted, JobEvent, JobFailed, JobKind, JobPhaseChanged,
    JobProgressReported, JobRetryScheduled, PhasePrior, RetryReason,
};
use proptest::prelude::*;

use super::*;
use crate::image_matching::eta::Basis;
use crate::scenario::{at, created, error, id, lease};

const STALLED_AFTER: Duration = Duration::from_secs(300);

/// An analysis, built event by event.
struct Analysis {
    history: History,
    latest: LastActivity,
}

impl Analysis {
    fn new() -> Self {
        let url = "https://www.twitch.tv/videos/2039".to_owned();
        let source = JobSource::Video { video_id: id("2039"), url, options: JsonText::default() };
        let created =
            event_schemas::job::JobCreated { source: Some(source), ..created(JobKind::VideoAnalysis) };
        let history = History::new(&created, id("default"), at(0.0));
        Self { history, latest: LastActivity { occurred_at: at(0.0), ..LastActivity::default() } }
    }

    fn at(mut self, seconds: f64, event: impl Into<JobEvent>) -> Self {
        self.history.apply(&event.into(), at(seconds), at(seconds));
        self.latest.occurred_at = at(seconds);
        self
    }

    fn claimed(self, seconds: f64) -> Self {
        let claimed = JobClaimed { lease_id: lease(1), worker_id: id("w"), attempt: 1, lease_until: at(1e6) };
        self.at(seconds, claimed)
    }

    fn enters(self, seconds: f64, to: Phase, eta_priors: &[PhasePrior]) -> Self {
        let from = self.history.phase;
        self.at(seconds, JobPhaseChanged { from, to, reason: None, eta_priors: eta_priors.to_vec() })
    }

    fn reports(self, seconds: f64, stage: Phase, fraction: f64) -> Self {
        let (items_done, items_total) = (Some(1), Some(4));
        self.at(
            seconds,
            JobProgressReported {
                lease_id: lease(1),
                stage,
                fraction,
                items_done,
                items_total,
                checkpoint: None,
                items: None,
            },
        )
    }

    fn fails(self, seconds: f64, due: f64) -> Self {
        let retry_state = Some(RetryState::InProgress);
        let failed = JobFailed { attempt: 1, lease_id: None, error: error("read timed out"), retry_state };
        let reason = Some(RetryReason::Backoff);
        self.at(seconds, failed).at(seconds, JobRetryScheduled { attempt: 2, due_at: at(due), reason })
    }

    fn shown(&self, now: f64) -> AnalysisView {
        view(&self.history, &self.latest, at(now), STALLED_AFTER)
    }

    fn seconds_left(&self, now: f64) -> Option<u64> {
        self.shown(now).current.eta.map(|eta| eta.seconds)
    }
}

/// The durations of the stages in earlier jobs.
fn priors(seconds: f64) -> Vec<PhasePrior> {
    use Phase::{Analyzing, Downloading, FetchingChat, FindingHighlights, Transcribing};
    [Downloading, FetchingChat, Transcribing, Analyzing, FindingHighlights]
        .map(|phase| PhasePrior { phase, log_seconds_per_unit: seconds.ln(), variance: 0.1, samples: 8 })
        .to_vec()
}

#[test]
fn progress_is_the_stage_start_plus_its_completed_share() {
    for (stage, fraction, percentage) in [
        (Phase::Downloading, 0.0, 0.0),
        (Phase::Downloading, 0.25, 7.5),
        (Phase::Downloading, 1.0, 30.0),
        (Phase::FetchingChat, 0.5, 32.5),
        (Phase::Transcribing, 0.25, 42.5),
        (Phase::Analyzing, 0.25, 71.25),
        (Phase::FindingHighlights, 0.0, 90.0),
        (Phase::FindingHighlights, 1.0, 95.0),
    ] {
        let analysis = Analysis::new().claimed(1.0).enters(2.0, stage, &[]).reports(3.0, stage, fraction);
        assert_eq!(analysis.shown(3.0).current.progress_percentage, percentage, "{stage} {fraction}");
    }
    assert_eq!(Analysis::new().shown(0.0).current.progress_percentage, 0.0);
    let completed = JobCompleted { from: Phase::Downloading, lease_id: None, result: None };
    assert_eq!(Analysis::new().at(1.0, completed).shown(1.0).current.progress_percentage, 100.0);
}

proptest! {
    #[test]
    fn progress_never_decreases_within_an_attempt(
        reports in prop::collection::vec((1_usize..6, 0.0_f64..=1.0), 1..40),
    ) {
        let mut state = crate::job::State::default();
        let mut analysis = Analysis::new();
        let act = |state: &mut crate::job::State, action| {
            use crate::decider::Decider;
            let command = crate::job::Command { at: at(1.0), action };
            let events = crate::job::JobDecider::decide(&command, state).unwrap();
            for new in &events {
                *state = crate::job::JobDecider::evolve(std::mem::take(state), &new.event, new.at);
            }
            events.into_iter().map(|new| new.event).collect::<Vec<_>>()
        };
        act(&mut state, crate::job::Action::Create(analysis.history.created.clone()));
        let claim = crate::job::Action::Claim { lease_id: lease(1), worker_id: id("w"), lease_until: at(1e6) };
        act(&mut state, claim);
        let mut before = 0.0;
        for (stage, fraction) in reports {
            let stage = pipeline::stages(JobKind::VideoAnalysis)[stage].phase;
            let report =
                JobProgressReported { lease_id: lease(1), stage, fraction, items_done: None, items_total: None, checkpoint: None, items: None };
            let action = crate::job::Action::ReportProgress { report, eta_priors: Vec::new() };
            for event in act(&mut state, action) {
                analysis = analysis.at(1.0, event);
                let shown = analysis.shown(1.0).current.progress_percentage;
                prop_assert!(shown >= before, "{before} → {shown}");
                before = shown;
            }
        }
    }
}

#[test]
fn job_id_is_derived_from_tenant_video_and_number() {
    let name = |tenant: &str, video: &str, number| job_id(&id(tenant), &id(video), number);
    assert_eq!(name("a", "1", 0), name("a", "1", 0));
    let all =
        [name("a", "1", 0), name("a", "1", 1), name("a", "2", 0), name("b", "1", 0), name("a1", "1", 0)];
    assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
    // These ids must never change: the log contains jobs under them.
    assert_eq!(name("default", "2039", 0).to_string(), "787fb8b6-8cd0-5b3c-a989-ea5ff43ada48");
}

#[test]
fn stages_are_done_in_progress_or_skipped() {
    let analysis = Analysis::new()
        .claimed(1.0)
        .enters(2.0, Phase::Downloading, &[])
        .enters(12.0, Phase::Transcribing, &[])
        .reports(14.0, Phase::Transcribing, 0.25);
    let stages = analysis.shown(15.0).stages;
    let told: Vec<_> = stages.iter().map(|stage| (stage.phase, stage.fraction, stage.started_at)).collect();
    assert_eq!(
        told,
        [
            (Phase::Downloading, 1.0, Some(at(2.0))),
            (Phase::FetchingChat, 1.0, None),
            (Phase::Transcribing, 0.25, Some(at(12.0))),
            (Phase::Analyzing, 0.0, None),
            (Phase::FindingHighlights, 0.0, None),
        ]
    );
    assert_eq!((stages[0].ended_at, stages[2].ended_at), (Some(at(12.0)), None));
    assert_eq!((stages[2].items_done, stages[2].items_total), (Some(1), Some(4)));
}

#[test]
fn retry_resets_the_stages_and_shows_the_previous_error() {
    let analysis = Analysis::new().claimed(1.0).enters(2.0, Phase::Transcribing, &[]).fails(10.0, 40.0);
    let shown = analysis.shown(20.0);
    assert!(shown.stages.iter().all(|stage| stage.fraction == 0.0 && stage.started_at.is_none()));
    assert_eq!(
        (shown.current.status, shown.current.attempt, shown.current.progress_percentage),
        (Status::Pending, 2, 0.0)
    );
    assert_eq!(shown.current.retry_state, Some(RetryState::InProgress));
    let retry = RetryView { attempt: 2, due_at: at(40.0), reason: Some(RetryReason::Backoff) };
    assert_eq!(shown.current.retry, Some(retry));
    assert_eq!(shown.current.error.unwrap().message.as_deref(), Some("read timed out"));
    let begun = analysis.claimed(41.0).shown(42.0);
    assert_eq!((begun.current.retry, begun.current.error), (None, None));
    assert_eq!(begun.attempts[0].error.as_ref().unwrap().message.as_deref(), Some("read timed out"));
    assert_eq!((begun.attempts[0].run_seconds, begun.attempts[1].queue_seconds), (9.0, 1.0));
}

#[test]
fn analysis_cancelled_during_a_backoff_is_not_retried() {
    let analysis = Analysis::new().claimed(1.0).enters(2.0, Phase::Transcribing, &[]).fails(10.0, 40.0);
    let cancelled = analysis.at(20.0, JobCancelled { from: Phase::Queued, reason: None }).shown(21.0).current;
    assert_eq!((cancelled.retry_state, cancelled.retry, cancelled.parked), (None, None, None));
}

#[test]
fn no_eta_without_any_information() {
    assert_eq!(Analysis::new().seconds_left(10.0), None);
    let begun = Analysis::new().claimed(1.0).enters(2.0, Phase::Downloading, &[]);
    assert_eq!(begun.seconds_left(10.0), None);
}

#[test]
fn eta_uses_stage_durations_of_earlier_jobs() {
    let analysis = Analysis::new().claimed(1.0).enters(2.0, Phase::Downloading, &priors(60.0));
    let eta = analysis.shown(2.0).current.eta.unwrap();
    assert_eq!((eta.seconds, eta.basis, eta.samples), (300, Basis::StageHistory, 8));
    assert!(eta.low < 300 && eta.high > 300);
    let later = analysis.enters(62.0, Phase::FetchingChat, &priors(60.0));
    assert_eq!(later.seconds_left(92.0), Some(210));
}

#[test]
fn eta_uses_the_speed_of_a_half_done_stage() {
    let analysis = Analysis::new().claimed(1.0).enters(2.0, Phase::FindingHighlights, &[]).reports(
        62.0,
        Phase::FindingHighlights,
        0.5,
    );
    let eta = analysis.shown(62.0).current.eta.unwrap();
    assert_eq!((eta.seconds, eta.basis), (60, Basis::Rate));
}

#[test]
fn eta_of_a_pending_retry_counts_from_its_due_time() {
    let analysis =
        Analysis::new().claimed(1.0).enters(2.0, Phase::Downloading, &priors(60.0)).fails(10.0, 40.0);
    assert_eq!(analysis.seconds_left(20.0), Some(320));
    assert_eq!(analysis.seconds_left(39.0), Some(301));
    assert_eq!(analysis.seconds_left(90.0), Some(300));
}

#[test]
fn no_eta_for_stalled_or_ended_jobs() {
    let analysis = Analysis::new().claimed(1.0).enters(2.0, Phase::Downloading, &priors(600.0));
    assert!(analysis.seconds_left(301.9).is_some());
    assert_eq!(analysis.seconds_left(302.0), None);
    let ended = analysis.at(303.0, JobCompleted { from: Phase::Downloading, lease_id: None, result: None });
    assert_eq!(ended.seconds_left(303.0), None);
}
