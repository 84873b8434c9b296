use event_schemas::job::JobKind;
use event_schemas::stream::StreamId;
use event_schemas::worker::WorkerEnd;

use super::*;
use crate::image_matching::{self, shard};
use crate::job::view::view;
use crate::job::{self, timeline::timeline};
use crate::scenario::{JOB, World, at, created, error, found, id, lease, totals};

#[test]
fn no_summary_before_creation() {
    let answer = summarise(&JobFold::default(), &Presence::default(), at(0.0), &Thresholds::default(), None);
    assert_eq!(answer, Err(NoSummary::NoJob));
}

#[test]
fn status_follows_the_phase() {
    for (phase, status) in [
        (Phase::Queued, Status::Pending),
        (Phase::Collecting, Status::Pending),
        (Phase::Extracting, Status::Pending),
        (Phase::Matching, Status::Running),
        (Phase::Evidence, Status::Completed),
        (Phase::Completed, Status::Completed),
        (Phase::Failed, Status::Failed),
        (Phase::Cancelled, Status::Cancelled),
    ] {
        let mut world = World::new();
        world.enter(phase);
        assert_eq!((world.summary().phase, world.summary().status), (phase, status));
    }
}

#[test]
fn times_are_those_of_the_corresponding_events() {
    let mut world = World::new();
    world.wait(10.0).enter(Phase::Collecting);
    assert_eq!((world.summary().created_at, world.summary().started_at), (at(0.0), None));
    world.wait(10.0).enter(Phase::Matching);
    assert_eq!((world.summary().started_at, world.summary().completed_at), (Some(at(20.0)), None));
    world.wait(10.0).enter(Phase::Evidence);
    assert_eq!(world.summary().completed_at, Some(at(30.0)));
    world.wait(10.0).enter(Phase::Completed);
    let summary = world.summary();
    assert_eq!((summary.created_at, summary.started_at), (at(0.0), Some(at(20.0))));
    assert_eq!((summary.completed_at, summary.last_event_at), (Some(at(30.0)), at(40.0)));
}

#[test]
fn completion_without_evidence_ends_matching() {
    let mut world = World::new();
    world.wait(10.0).enter(Phase::Completed);
    assert_eq!((world.summary().started_at, world.summary().completed_at), (None, Some(at(10.0))));
}

#[test]
fn cancellation_during_matching_ends_matching() {
    let mut world = World::new();
    world.enter(Phase::Matching);
    world.wait(10.0).enter(Phase::Cancelled);
    assert_eq!(world.summary().completed_at, Some(at(10.0)));

    let mut never_matched = World::new();
    never_matched.enter(Phase::Collecting);
    never_matched.wait(10.0).enter(Phase::Cancelled);
    assert_eq!(never_matched.summary().completed_at, None);
}

#[test]
fn failed_job_has_no_completion_time() {
    let mut world = World::new();
    world.enter(Phase::Evidence);
    world.enter(Phase::Failed);
    assert_eq!(world.summary().completed_at, None);
}

#[test]
fn retried_job_keeps_its_matches_and_restarts_matching() {
    let mut world = World::matching(2, 50);
    world.wait(10.0).progress("r", None, 40);
    world.report(&[found("a", 0.5)]);
    world.wait(10.0).enter(Phase::Failed);
    world.job(job::Action::Retry { eta_priors: Vec::new() });
    assert_eq!((world.summary().attempt, world.summary().status), (2, Status::Pending));
    world.wait(10.0).enter(Phase::Matching);
    let summary = world.summary();
    assert_eq!(summary.started_at, Some(at(30.0)));
    assert_eq!((summary.candidates_processed, summary.matches_found), (40, 1));
    assert_eq!(summary.eta, None, "no progress since the retry");
}

#[test]
fn last_event_time_is_the_latest_occurrence() {
    let mut world = World::matching(1, 100);
    let late = world.now;
    world.wait(10.0).progress("r", None, 1);
    let mut late_match = found("a", 0.5);
    late_match.evidence_path = Some("a.png".to_owned());
    let stream = StreamId::image_match(JOB, &late_match.match_id);
    world.try_matches(&stream, shard::Action::Report(vec![(late_match, late)])).unwrap();
    assert_eq!(world.summary().last_event_at, at(10.0));
}

#[test]
fn candidates_are_images_times_frames() {
    let mut world = World::matching(3, 7);
    world.register(3, 7);
    world.register(4, 5);
    let summary = world.summary();
    assert_eq!((summary.candidates_total, summary.candidates_unprocessed), (28, 28));
    assert_eq!(summary.vector_pass_total, 21);
    world.act(image_matching::Action::Report {
        request_id: id("r"),
        lease_id: None,
        totals: totals(20, 10, 3),
        completed: false,
    });
    let summary = world.summary();
    assert_eq!((summary.candidates_processed, summary.candidates_unprocessed), (20, 8));
    assert_eq!((summary.vector_pass_done, summary.ransac_checked), (10, 3));
}

#[test]
fn queue_depth_counts_open_requests() {
    let mut world = World::matching(1, 100);
    world.issue("s", 1);
    world.claim("s", "w", 1);
    assert_eq!(world.summary().queue_depth, 2);
    world.complete("s", Some(1), 1);
    assert_eq!(world.summary().queue_depth, 1);
    world.complete("r", None, 50);
    let summary = world.summary();
    assert_eq!((summary.queue_depth, summary.candidates_unprocessed), (0, 49));
}

#[test]
fn matches_count_once_and_scores_have_two_decimals() {
    let mut world = World::matching(1, 100);
    assert_eq!((world.summary().avg_score, world.summary().p90_score), (None, None));
    let mut with_evidence = found("a", 0.1);
    with_evidence.evidence_path = Some("a.png".to_owned());
    world.report(&[with_evidence.clone(), found("b", 0.245), with_evidence]);
    for path in ["b.png", "b.png", "c.png"] {
        let action = shard::Action::AttachEvidence {
            match_id: id("b"),
            evidence_path: path.to_owned(),
            at: world.now,
        };
        world.try_matches(&StreamId::image_match(JOB, &id("b")), action).unwrap();
    }
    let summary = world.summary();
    assert_eq!((summary.matches_found, summary.matches_with_evidence), (2, 2));
    assert_eq!((summary.avg_score, summary.p90_score), (Some(0.17), Some(0.23)));
}

#[test]
fn half_done_in_60_seconds_leaves_60_seconds() {
    let mut world = World::matching(1, 100);
    for n in 1..=6 {
        world.wait(10.0).progress("r", None, if n == 6 { 50 } else { n * 8 });
    }
    let mut steady = World::matching(1, 120);
    for n in 1..=60 {
        steady.wait(1.0).progress("r", None, n);
    }
    let summary = steady.summary();
    assert_eq!(summary.eta_seconds, Some(60));
    let eta = summary.eta.unwrap();
    assert!(eta.low < 60 && 60 < eta.high && eta.samples == 60);
    assert!((55..=65).contains(&world.summary().eta_seconds.unwrap()));
}

#[test]
fn eta_leaves_out_the_wait_for_the_first_worker() {
    let mut world = World::matching(1, 120);
    world.wait(600.0).claim("r", "w", 1);
    for n in 1..=12 {
        world.wait(5.0).progress("r", Some(1), n * 5);
    }
    assert_eq!(world.summary().eta_seconds, Some(60));
}

#[test]
fn eta_grows_while_all_leases_are_held_by_dead_workers() {
    let mut world = World::matching(1, 120);
    world.claim("r", "w", 1);
    for n in 1..=12 {
        world.wait(5.0).progress("r", Some(1), n * 5);
    }
    let eta = |world: &World| world.summary().eta.unwrap();
    let said = eta(&world);
    assert_eq!(said.seconds, 60);
    assert_eq!(eta(world.wait(10.0)), said, "the usual silence");
    let silent = eta(world.wait(35.0));
    assert!(silent.seconds > 60 && silent.high > said.high, "{silent:?}");
    world.act(image_matching::Action::ExpireLease { lease_id: lease(1) });
    assert_eq!(eta(&world), silent);
    world.claim("r", "x", 2);
    let later = eta(world.wait(120.0));
    assert!(later.seconds > silent.seconds + 10 && later.high > silent.high, "{later:?}");
    assert_eq!(world.wait(300.0).summary().eta, None, "stalled");
}

#[test]
fn eta_adds_up_the_rates_of_two_workers() {
    let mut world = World::new();
    world.enter(Phase::Matching);
    world.register(2, 60);
    for (request, worker, n) in [("a", "x", 1), ("b", "y", 2)] {
        world.issue(request, 60);
        world.claim(request, worker, n);
    }
    for n in 1..=3_u32 {
        world.wait(10.0).progress("a", Some(1), u64::from(n) * 10);
        world.progress("b", Some(2), u64::from(n) * 10);
    }
    assert_eq!(world.summary().eta_seconds, Some(30));
}

#[test]
fn eta_uses_the_larger_of_registered_and_requested() {
    let mut more_registered = World::matching(1, 100);
    more_registered.register(1, 200);
    more_registered.wait(60.0).progress("r", None, 50);
    assert_eq!(more_registered.summary().eta_seconds, Some(180));
    let mut more_requested = World::matching(1, 100);
    more_requested.issue("s", 50);
    more_requested.wait(60.0).progress("r", None, 50);
    assert_eq!(more_requested.summary().eta_seconds, Some(120));
}

#[test]
fn no_eta_unless_the_job_runs_with_progress() {
    let mut world = World::matching(1, 100);
    world.wait(10.0);
    assert_eq!(world.summary().eta, None);
    world.progress("r", None, 10);
    assert!(world.summary().eta.is_some());
    world.enter(Phase::Evidence);
    assert_eq!(world.summary().eta, None);
}

#[test]
fn ambiguous_percentile_is_resolved_by_the_scores() {
    let mut fold = World::matching(1, 100).fold();
    let scores: Vec<f64> = (0..30_000).map(|n| 0.834_996 + f64::from(n) * 3e-10).collect();
    for score in &scores {
        fold.scores.insert(event_schemas::ids::Score::new(*score).unwrap());
    }
    let ask = |scores: Option<&[f64]>| {
        summarise(&fold, &Presence::default(), at(0.0), &Thresholds::default(), scores)
    };
    assert!(matches!(ask(None), Err(NoSummary::AmbiguousPercentile(_))));
    assert_eq!(ask(Some(&scores)).unwrap().p90_score, Some(0.84));
    assert!(matches!(ask(Some(&scores[1..])), Err(NoSummary::AmbiguousPercentile(_))));
}

#[test]
fn summary_has_the_member_names_of_the_api() {
    let mut world = World::matching(2, 50);
    world.wait(60.0).progress("r", None, 50);
    world.report(&[found("a", 0.5), found("b", 0.75)]);
    insta::assert_json_snapshot!(world.summary(), @r#"
    {
      "job_id": "00000000-0000-0000-0000-00000000000b",
      "phase": "matching",
      "attempt": 1,
      "status": "running",
      "progress_percentage": 55.0,
      "created_at": "1970-01-01T00:00:00.000000Z",
      "started_at": "1970-01-01T00:00:00.000000Z",
      "completed_at": null,
      "last_event_at": "1970-01-01T00:01:00.000000Z",
      "candidates_total": 100,
      "candidates_processed": 50,
      "candidates_unprocessed": 50,
      "vector_pass_total": 100,
      "vector_pass_done": 50,
      "ransac_checked": 0,
      "matches_found": 2,
      "matches_with_evidence": 0,
      "avg_score": 0.63,
      "p90_score": 0.73,
      "queue_depth": 1,
      "eta_seconds": 60,
      "eta": {
        "seconds": 60,
        "low": 24,
        "high": 150,
        "basis": "rate",
        "samples": 1
      },
      "blockers": [
        "no_consumers: Work is waiting, but no worker is available."
      ],
      "blocker_details": [
        {
          "code": "no_consumers",
          "message": "Work is waiting, but no worker is available.",
          "since": "1970-01-01T00:00:00.000000Z"
        }
      ],
      "position": 8,
      "as_of": null
    }
    "#);
}

#[test]
fn fold_of_another_format_is_rejected() {
    let text = serde_json::to_string(&World::new().fold()).unwrap();
    assert!(serde_json::from_str::<JobFold>(&text).is_ok());
    let other = text.replacen(&format!("\"format\":{FORMAT}"), &format!("\"format\":{}", FORMAT + 1), 1);
    assert!(serde_json::from_str::<JobFold>(&other).unwrap_err().to_string().contains("rebuild it"));
}

#[test]
fn view_separates_attempts_queue_time_and_run_time() {
    let mut world = World::empty();
    world.job(job::Action::Create(created(JobKind::VideoAnalysis)));
    let claim = |n, worker: &str| job::Action::Claim {
        lease_id: lease(n),
        worker_id: id(worker),
        lease_until: at(1000.0),
    };
    world.wait(5.0).job(claim(1, "a"));
    world.wait(10.0).job(job::Action::ExpireLease { lease_id: lease(1), end: WorkerEnd::Lost });
    world.job(claim(2, "b"));
    world.wait(10.0).job(job::Action::Fail {
        lease_id: Some(lease(2)),
        error: error("video not found"),
        circuit_open_until: None,
    });
    world.wait(100.0).job(job::Action::Retry { eta_priors: Vec::new() });
    world.wait(3.0).job(claim(3, "c"));
    world.wait(4.0);
    let view = view(&world.fold(), world.now).unwrap();
    assert_eq!((view.queue_seconds, view.run_seconds), (8.0, 24.0));
    assert_eq!((view.status, view.error), (Status::Pending, None));
    let [first, second] = view.attempts.as_slice() else { panic!("{:?}", view.attempts) };
    assert_eq!((first.started_at, first.ended_at), (Some(at(5.0)), Some(at(25.0))));
    assert_eq!(first.worker_ids.iter().map(|worker| worker.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(first.error.is_some());
    assert_eq!((second.attempt, second.started_at, second.ended_at), (2, Some(at(132.0 - 4.0)), None));
}

#[test]
fn timeline_has_all_phases_and_errors() {
    let mut world = World::new();
    world.wait(5.0).enter(Phase::Matching);
    world.register(1, 100);
    world.issue("r", 100);
    world.claim("r", "w", 1);
    world.wait(5.0).act(image_matching::Action::Fail { lease_id: lease(1), error: error("video not found") });
    world.wait(5.0).enter(Phase::Failed);
    world.wait(50.0).job(job::Action::Retry { eta_priors: Vec::new() });
    world.wait(2.0);
    let timeline = timeline(&world.fold(), world.now).unwrap();
    let stays: Vec<_> =
        timeline.phases.iter().map(|stay| (stay.phase, stay.attempt, stay.duration_seconds)).collect();
    assert_eq!(stays, [(Phase::Queued, 1, 5.0), (Phase::Matching, 1, 10.0), (Phase::Queued, 2, 2.0)]);
    assert_eq!(timeline.phases[2].ended_at, None);
    let errors: Vec<_> = timeline.errors.iter().map(|error| (error.at, error.request_id.is_some())).collect();
    assert_eq!(errors, [(at(10.0), true), (at(15.0), false)]);
    assert_eq!(timeline.attempts.len(), 2);
}

#[test]
fn sums_are_exact_up_to_the_most_candidates() {
    let most = image_matching::CANDIDATES_MAX;
    let mut world = World::matching(1, 1);
    let frames = event_schemas::image_match::Frames::Counted(most - 1);
    world.act(image_matching::Action::RegisterFrames { video_id: id("other"), frames });
    for (n, candidates) in [(0_u128, most - 2), (1, 1)] {
        let name = format!("r{n}");
        world.issue(&name, candidates);
        world.claim(&name, "w", n);
        world.progress(&name, Some(n), candidates);
    }
    let summary = world.summary();
    assert_eq!((summary.candidates_total, summary.candidates_unprocessed), (most, 1));
    assert_eq!((summary.vector_pass_total, summary.candidates_processed), (most, most - 1));
}
