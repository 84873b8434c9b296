use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use event_schemas::job::JobKind;
use event_schemas::matching::{Frames, MatchFound, ProductImage, Totals};
use event_schemas::stream::StreamId;
use event_schemas::worker::WorkKind;
use proptest::prelude::*;

use super::*;
use crate::job::view::view;
use crate::job::{self, timeline::timeline};
use crate::matching::{self, found};
use crate::scenario::{JOB, World, at, created, error, fold, found, id, lease, summary, totals};
use crate::worker;

#[test]
fn before_its_creation_a_job_has_no_summary() {
    let answer = summarise(&JobFold::default(), &Presence::default(), at(0.0), &Thresholds::default(), None);
    assert_eq!(answer, Err(NoSummary::NoJob));
}

#[test]
fn the_status_follows_the_phase() {
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
fn the_times_are_those_of_the_events_that_mean_them() {
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
fn a_job_that_skips_evidence_ends_its_matching_when_it_completes() {
    let mut world = World::new();
    world.wait(10.0).enter(Phase::Completed);
    assert_eq!((world.summary().started_at, world.summary().completed_at), (None, Some(at(10.0))));
}

#[test]
fn after_a_failure_nothing_was_completed() {
    let mut world = World::new();
    world.enter(Phase::Evidence);
    world.enter(Phase::Failed);
    assert_eq!(world.summary().completed_at, None);
}

#[test]
fn a_retried_job_keeps_what_it_found_and_starts_at_its_latest_entry_into_matching() {
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
    assert_eq!(summary.eta, None, "nothing was done since");
}

#[test]
fn the_last_event_is_the_one_that_happened_last_not_the_one_that_came_last() {
    let mut world = World::matching(1, 100);
    let late = world.now;
    world.wait(10.0).progress("r", None, 1);
    let mut late_match = found("a", 0.5);
    late_match.evidence_path = Some("a.png".to_owned());
    let stream = StreamId::matches(JOB, &late_match.match_id);
    world.try_matches(&stream, found::Action::Report(vec![(late_match, late)])).unwrap();
    assert_eq!(world.summary().last_event_at, at(10.0));
}

#[test]
fn candidates_are_images_times_frames_and_what_was_processed_is_counted() {
    let mut world = World::matching(3, 7);
    world.register(3, 7);
    world.register(4, 5);
    let summary = world.summary();
    assert_eq!((summary.candidates_total, summary.candidates_unprocessed), (28, 28));
    assert_eq!(summary.vector_pass_total, 21);
    world.act(matching::Action::Report {
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
fn the_queue_holds_every_request_that_was_issued_and_not_completed() {
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
fn matches_and_evidence_are_counted_once_and_scores_are_rounded_to_two_decimals() {
    let mut world = World::matching(1, 100);
    assert_eq!((world.summary().avg_score, world.summary().p90_score), (None, None));
    let mut with_evidence = found("a", 0.1);
    with_evidence.evidence_path = Some("a.png".to_owned());
    world.report(&[with_evidence.clone(), found("b", 0.245), with_evidence]);
    for path in ["b.png", "b.png", "c.png"] {
        let action = found::Action::AttachEvidence {
            match_id: id("b"),
            evidence_path: path.to_owned(),
            at: world.now,
        };
        world.try_matches(&StreamId::matches(JOB, &id("b")), action).unwrap();
    }
    let summary = world.summary();
    assert_eq!((summary.matches_found, summary.matches_with_evidence), (2, 2));
    assert_eq!((summary.avg_score, summary.p90_score), (Some(0.17), Some(0.23)));
}

#[test]
fn a_job_that_has_done_half_its_work_in_60_seconds_says_60() {
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
fn the_eta_does_not_depend_on_when_it_is_asked_for() {
    let mut world = World::matching(1, 100);
    world.wait(60.0).progress("r", None, 50);
    let eta = world.summary().eta;
    world.wait(200.0);
    assert_eq!(world.summary().eta, eta);
    assert_eq!(eta.unwrap().seconds, 60);
}

#[test]
fn two_workers_that_share_the_work_add_up_in_the_eta() {
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
fn there_is_no_eta_unless_the_job_runs_with_progress() {
    let mut world = World::matching(1, 100);
    world.wait(10.0);
    assert_eq!(world.summary().eta, None);
    world.progress("r", None, 10);
    assert!(world.summary().eta.is_some());
    world.enter(Phase::Evidence);
    assert_eq!(world.summary().eta, None);
}

#[test]
fn a_percentile_that_the_counters_leave_open_is_settled_by_the_scores() {
    let mut fold = World::matching(1, 100).fold();
    let scores: Vec<f64> = (0..30_000).map(|n| 0.834_996 + f64::from(n) * 3e-10).collect();
    for score in &scores {
        fold.scores.insert(event_schemas::ids::Score::new(*score).unwrap());
    }
    let ask = |scores: Option<&[f64]>| {
        summarise(&fold, &Presence::default(), at(0.0), &Thresholds::default(), scores)
    };
    assert!(matches!(ask(None), Err(NoSummary::Undecided(_))));
    assert_eq!(ask(Some(&scores)).unwrap().p90_score, Some(0.84));
    assert!(matches!(ask(Some(&scores[1..])), Err(NoSummary::Undecided(_))));
}

#[test]
fn the_summary_is_written_with_the_names_of_the_api() {
    let mut world = World::matching(2, 50);
    world.wait(60.0).progress("r", None, 50);
    world.report(&[found("a", 0.5), found("b", 0.75)]);
    insta::assert_json_snapshot!(world.summary(), @r#"
    {
      "job_id": "00000000-0000-0000-0000-00000000000b",
      "phase": "matching",
      "attempt": 1,
      "status": "running",
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
        "low": 17,
        "high": 217,
        "basis": "rate",
        "samples": 1
      },
      "blockers": [
        "no_consumers: Work waits, but no worker is there to take it."
      ],
      "blocker_details": [
        {
          "code": "no_consumers",
          "message": "Work waits, but no worker is there to take it.",
          "since": "1970-01-01T00:00:00.000000Z"
        }
      ]
    }
    "#);
}

#[test]
fn a_fold_that_was_stored_in_another_format_is_not_read() {
    let text = serde_json::to_string(&World::new().fold()).unwrap();
    assert!(serde_json::from_str::<JobFold>(&text).is_ok());
    let other = text.replacen("\"format\":1", "\"format\":2", 1);
    assert!(serde_json::from_str::<JobFold>(&other).unwrap_err().to_string().contains("fold it anew"));
}

#[test]
fn the_view_tells_the_attempts_apart_and_queue_time_from_run_time() {
    let mut world = World::empty();
    world.job(job::Action::Create(created(JobKind::VideoAnalysis)));
    let claim = |n, worker: &str| job::Action::Claim {
        lease_id: lease(n),
        worker_id: id(worker),
        lease_until: at(1000.0),
    };
    world.wait(5.0).job(claim(1, "a"));
    world.wait(10.0).job(job::Action::ExpireLease { lease_id: lease(1) });
    world.job(claim(2, "b"));
    world.wait(10.0).job(job::Action::Fail { lease_id: Some(lease(2)), error: error("?") });
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
fn the_timeline_has_every_phase_with_its_times_and_every_error() {
    let mut world = World::new();
    world.wait(5.0).enter(Phase::Matching);
    world.register(1, 100);
    world.issue("r", 100);
    world.claim("r", "w", 1);
    world.wait(5.0).act(matching::Action::Fail { lease_id: lease(1), error: error("video not found") });
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

/// Something that may be asked of a job, sensible or not.
#[derive(Clone, Debug)]
enum Step {
    Wait(u32),
    Job(job::Action),
    Matching(matching::Action),
    Found(Vec<(MatchFound, u32)>),
    Evidence(String, String),
    Worker(u8, worker::Action),
}

fn requests() -> impl Strategy<Value = String> {
    (0..4_u8).prop_map(|n| format!("r{n}"))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let phases = prop::sample::select(vec![
        Phase::Collecting,
        Phase::Matching,
        Phase::Matching,
        Phase::Evidence,
        Phase::Failed,
        Phase::Queued,
    ]);
    let leases = || (1..8_u128).prop_map(lease);
    let reported =
        (requests(), prop::option::of(1..8_u128), 0..=30_u64, 0..=30_u64, 0..=30_u64, any::<bool>());
    let step = prop_oneof![
        4 => (1..40_u32).prop_map(Step::Wait),
        1 => phases.prop_map(|to| Step::Job(job::Action::ChangePhase { to, reason: None, eta_priors: vec![] })),
        1 => (0..3_u8, 0..4_u8).prop_map(|(product, images)| Step::Matching(matching::Action::RegisterImages {
            product_id: id(&format!("p{product}")),
            images: (0..images).map(|n| ProductImage { img_id: id(&format!("i{n}")), url: None }).collect(),
        })),
        1 => (0..3_u8, 0..20_u64).prop_map(|(video, count)| Step::Matching(matching::Action::RegisterFrames {
            video_id: id(&format!("v{video}")),
            frames: Frames::Counted(count),
        })),
        3 => requests().prop_map(|r| Step::Matching(matching::Action::Request(crate::scenario::request(&r, 30)))),
        4 => (requests(), 1..8_u128, 0..3_u8).prop_map(|(r, n, worker)| {
            Step::Matching(matching::Action::Claim {
                request_id: id(&r),
                lease_id: lease(n),
                worker_id: id(&format!("w{worker}")),
                lease_until: at(45.0),
            })
        }),
        1 => leases().prop_map(|lease_id| Step::Matching(matching::Action::ExpireLease { lease_id })),
        8 => reported.prop_map(|(r, n, processed, vector, ransac, completed)| {
            Step::Matching(matching::Action::Report {
                request_id: id(&r),
                lease_id: n.map(lease),
                totals: totals(processed, vector, ransac),
                completed: completed && processed > 20,
            })
        }),
        1 => leases().prop_map(|lease_id| Step::Matching(matching::Action::Fail {
            lease_id,
            error: error("video not found"),
        })),
        1 => (0..3_u8).prop_map(|worker| Step::Matching(matching::Action::EndWorker {
            worker_id: id(&format!("w{worker}")),
            end: event_schemas::worker::WorkerEnd::OutOfMemory,
        })),
        1 => Just(Step::Matching(matching::Action::RetryParked)),
        4 => prop::collection::vec((0..40_u8, 0.0..=1.0, 0..60_u32), 1..10).prop_map(|matches| Step::Found(
            matches.into_iter().map(|(n, score, ago)| (found(&format!("m{n}"), score), ago)).collect()
        )),
        2 => (0..40_u8, 0..2_u8).prop_map(|(n, path)| Step::Evidence(format!("m{n}"), format!("{path}.png"))),
        1 => (0..3_u8).prop_map(|worker| Step::Worker(worker, worker::Action::Register {
            kinds: vec![WorkKind::MatchRequest],
            version: None,
        })),
    ];
    prop::collection::vec(step, 1..80)
}

/// Takes the step twice: the second time nothing may be recorded, whether it was carried out or refused.
fn take_twice(world: &mut World, step: &Step) -> Result<(), TestCaseError> {
    let _ = take(world, step);
    let again = take(world, step).unwrap_or(0);
    prop_assert_eq!(again, 0, "{:?}", step);
    Ok(())
}

fn take(world: &mut World, step: &Step) -> Option<usize> {
    match step {
        Step::Wait(_) => Some(0),
        Step::Job(action) => world.try_job(action.clone()).ok(),
        Step::Matching(action) => world.try_act(action.clone()).ok(),
        Step::Found(matches) => matches
            .iter()
            .map(|(found, ago)| {
                let at = world.now.before(Duration::from_secs(u64::from(*ago)));
                let stream = StreamId::matches(JOB, &found.match_id);
                world.try_matches(&stream, found::Action::Report(vec![(found.clone(), at)])).ok()
            })
            .sum(),
        Step::Evidence(match_id, path) => {
            let action = found::Action::AttachEvidence {
                match_id: id(match_id),
                evidence_path: path.clone(),
                at: world.now,
            };
            world.try_matches(&StreamId::matches(JOB, &id(match_id)), action).ok()
        }
        Step::Worker(worker, action) => {
            let before = world.log.len();
            world.worker(&format!("w{worker}"), action.clone());
            Some(world.log.len() - before)
        }
    }
}

fn played(steps: &[Step]) -> Result<World, TestCaseError> {
    let mut world = World::new();
    world.worker("w0", worker::Action::Register { kinds: vec![WorkKind::MatchRequest], version: None });
    for step in steps {
        if let Step::Wait(seconds) = step {
            world.wait(f64::from(*seconds));
        } else {
            take_twice(&mut world, step)?;
        }
    }
    Ok(world)
}

/// The counts of the summary by plain arithmetic over the events, sharing no code with the fold.
fn by_hand(log: &[Envelope]) -> [u64; 9] {
    let mut images = BTreeSet::new();
    let mut frames = BTreeMap::new();
    let mut requests = BTreeMap::new();
    let mut completed = BTreeSet::new();
    let mut matches = BTreeMap::new();
    for envelope in log {
        match &envelope.event {
            Event::Matching(MatchingEvent::ProductImagesRegistered(e)) => {
                images.extend(e.images.iter().map(|image| (e.product_id.clone(), image.img_id.clone())));
            }
            Event::Matching(MatchingEvent::VideoFramesRegistered(e)) => {
                let Frames::Counted(count) = e.frames else { continue };
                frames.insert(e.video_id.clone(), count);
            }
            Event::Matching(MatchingEvent::MatchRequested(e)) => {
                requests.insert(e.request_id.clone(), (e.candidates, Totals::default()));
            }
            Event::Matching(MatchingEvent::MatchProgressReported(e)) => {
                requests.get_mut(&e.request_id).unwrap().1 = e.totals;
            }
            Event::Matching(MatchingEvent::MatchRequestCompleted(e)) => {
                requests.get_mut(&e.request_id).unwrap().1 = e.totals;
                completed.insert(e.request_id.clone());
            }
            Event::Matching(MatchingEvent::MatchFound(e)) => {
                matches.insert(e.match_id.clone(), e.evidence_path.clone());
            }
            Event::Matching(MatchingEvent::MatchEvidenceAttached(e)) => {
                matches.insert(e.match_id.clone(), Some(e.evidence_path.clone()));
            }
            _ => {}
        }
    }
    let total: u64 = images.len() as u64 * frames.values().sum::<u64>();
    let sum = |part: fn(&Totals) -> u64| requests.values().map(|(_, totals)| part(totals)).sum::<u64>();
    let processed = sum(|totals| totals.candidates_processed);
    [
        total,
        processed,
        total.saturating_sub(processed),
        requests.values().map(|(candidates, _)| candidates).sum(),
        sum(|totals| totals.vector_pass_done),
        sum(|totals| totals.ransac_checked),
        matches.len() as u64,
        matches.values().flatten().count() as u64,
        (requests.len() - completed.len()) as u64,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_command_records_anything_when_it_is_sent_again(steps in steps()) {
        played(&steps)?;
    }

    #[test]
    fn the_counts_equal_plain_arithmetic_over_the_events(steps in steps()) {
        let world = played(&steps)?;
        let s = world.summary();
        let counts = [
            s.candidates_total, s.candidates_processed, s.candidates_unprocessed, s.vector_pass_total,
            s.vector_pass_done, s.ransac_checked, s.matches_found, s.matches_with_evidence, s.queue_depth,
        ];
        prop_assert_eq!(counts, by_hand(&world.log));
    }

    #[test]
    fn a_fold_that_was_stored_on_the_way_comes_to_the_same_bytes(steps in steps(), cut in any::<prop::sample::Index>()) {
        let log = played(&steps)?.log;
        let (before, after) = log.split_at(cut.index(log.len()));
        let stored = serde_json::to_vec(&fold(before)).unwrap();
        let mut resumed: JobFold = serde_json::from_slice(&stored).unwrap();
        after.iter().for_each(|envelope| resumed.apply(envelope));
        prop_assert_eq!(serde_json::to_vec(&resumed).unwrap(), serde_json::to_vec(&fold(&log)).unwrap());
    }

    #[test]
    fn the_past_is_what_the_summary_then_said(steps in steps(), cut in any::<prop::sample::Index>()) {
        let mut world = World::new();
        let mut said = vec![(world.log.len(), world.now, world.summary())];
        for step in &steps {
            if let Step::Wait(seconds) = step {
                world.wait(f64::from(*seconds));
            } else {
                let _ = take(&mut world, step);
            }
            said.push((world.log.len(), world.now, world.summary()));
        }
        let (events, instant, then) = &said[cut.index(said.len())];
        prop_assert_eq!(&summary(&world.log[..*events], *instant), then);
    }

    /// The read side's counts and the write side's state agree on what waits and who holds what.
    #[test]
    fn what_waits_and_is_held_is_the_same_on_both_sides(steps in steps()) {
        let world = played(&steps)?;
        let tally = world.fold().tally;
        prop_assert_eq!(tally.leases.len(), world.matching.leases().count());
        prop_assert_eq!(tally.waiting_since().is_some(), world.matching.waiting().next().is_some());
        let attempt = world.job.life().map(|life| life.attempt);
        prop_assert_eq!(world.fold().history.map(|history| history.attempt), attempt);
    }
}
