//! Properties of every possible course of a job: random histories, consistent or not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use event_schemas::image_match::{Frames, MatchFound, ProductImage, Totals};
use event_schemas::stream::StreamId;
use event_schemas::worker::WorkKind;
use proptest::prelude::*;

use super::*;
use crate::image_matching::{self, shard};
use crate::scenario::{JOB, World, at, error, fold, found, id, lease, summary, totals};
use crate::{job, worker};

/// A random command to a job, consistent or not.
#[derive(Clone, Debug)]
enum Input {
    Wait(u32),
    Job(job::Action),
    Matching(image_matching::Action),
    Found(Vec<(MatchFound, u32)>),
    Evidence(String, String),
    Worker(u8, worker::Action),
}

fn requests() -> impl Strategy<Value = String> {
    (0..4_u8).prop_map(|n| format!("r{n}"))
}

fn steps() -> impl Strategy<Value = Vec<Input>> {
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
        4 => (1..40_u32).prop_map(Input::Wait),
        1 => phases.prop_map(|to| Input::Job(job::Action::ChangePhase { to, reason: None, eta_priors: vec![] })),
        1 => (0..3_u8, 0..4_u8).prop_map(|(product, images)| Input::Matching(image_matching::Action::RegisterImages {
            product_id: id(&format!("p{product}")),
            images: (0..images).map(|n| ProductImage { img_id: id(&format!("i{n}")), url: None }).collect(),
        })),
        1 => (0..3_u8, 0..20_u64).prop_map(|(video, count)| Input::Matching(image_matching::Action::RegisterFrames {
            video_id: id(&format!("v{video}")),
            frames: Frames::Counted(count),
        })),
        3 => requests().prop_map(|r| Input::Matching(image_matching::Action::Request(crate::scenario::request(&r, 30)))),
        4 => (requests(), 1..8_u128, 0..3_u8).prop_map(|(r, n, worker)| {
            Input::Matching(image_matching::Action::Claim {
                request_id: id(&r),
                lease_id: lease(n),
                worker_id: id(&format!("w{worker}")),
                lease_until: at(45.0),
            })
        }),
        1 => leases().prop_map(|lease_id| Input::Matching(image_matching::Action::ExpireLease { lease_id })),
        8 => reported.prop_map(|(r, n, processed, vector, ransac, completed)| {
            Input::Matching(image_matching::Action::Report {
                request_id: id(&r),
                lease_id: n.map(lease),
                totals: totals(processed, vector, ransac),
                completed: completed && processed > 20,
            })
        }),
        1 => leases().prop_map(|lease_id| Input::Matching(image_matching::Action::Fail {
            lease_id,
            error: error("video not found"),
        })),
        1 => (0..3_u8).prop_map(|worker| Input::Matching(image_matching::Action::EndWorker {
            worker_id: id(&format!("w{worker}")),
            end: event_schemas::worker::WorkerEnd::OutOfMemory,
        })),
        1 => Just(Input::Matching(image_matching::Action::RetryParked)),
        4 => prop::collection::vec((0..40_u8, 0.0..=1.0, 0..60_u32), 1..10).prop_map(|matches| Input::Found(
            matches.into_iter().map(|(n, score, ago)| (found(&format!("m{n}"), score), ago)).collect()
        )),
        2 => (0..40_u8, 0..2_u8).prop_map(|(n, path)| Input::Evidence(format!("m{n}"), format!("{path}.png"))),
        1 => (0..3_u8).prop_map(|worker| Input::Worker(worker, worker::Action::Register {
            kinds: vec![WorkKind::MatchRequest],
            version: None,
        })),
    ];
    prop::collection::vec(step, 1..80)
}

/// Executes the step twice: the second time nothing may be recorded, whether it was accepted or refused.
fn execute_twice(world: &mut World, step: &Input) -> Result<(), TestCaseError> {
    let _ = take(world, step);
    let again = take(world, step).unwrap_or(0);
    prop_assert_eq!(again, 0, "{:?}", step);
    Ok(())
}

fn take(world: &mut World, step: &Input) -> Option<usize> {
    match step {
        Input::Wait(_) => Some(0),
        Input::Job(action) => world.try_job(action.clone()).ok(),
        Input::Matching(action) => world.try_act(action.clone()).ok(),
        Input::Found(matches) => matches
            .iter()
            .map(|(found, ago)| {
                let at = world.now.before(Duration::from_secs(u64::from(*ago)));
                let stream = StreamId::image_match(JOB, &found.match_id);
                world.try_matches(&stream, shard::Action::Report(vec![(found.clone(), at)])).ok()
            })
            .sum(),
        Input::Evidence(match_id, path) => {
            let action = shard::Action::AttachEvidence {
                match_id: id(match_id),
                evidence_path: path.clone(),
                at: world.now,
            };
            world.try_matches(&StreamId::image_match(JOB, &id(match_id)), action).ok()
        }
        Input::Worker(worker, action) => {
            let before = world.log.len();
            world.worker(&format!("w{worker}"), action.clone());
            Some(world.log.len() - before)
        }
    }
}

fn played(steps: &[Input]) -> Result<World, TestCaseError> {
    let mut world = World::new();
    world.worker("w0", worker::Action::Register { kinds: vec![WorkKind::MatchRequest], version: None });
    for step in steps {
        if let Input::Wait(seconds) = step {
            world.wait(f64::from(*seconds));
        } else {
            execute_twice(&mut world, step)?;
        }
    }
    Ok(world)
}

/// The counters of the summary by plain arithmetic over the events, sharing no code with the fold.
fn by_hand(log: &[Envelope]) -> [u64; 9] {
    let mut images = BTreeSet::new();
    let mut frames = BTreeMap::new();
    let mut requests = BTreeMap::new();
    let mut completed = BTreeSet::new();
    let mut matches = BTreeMap::new();
    for envelope in log {
        match &envelope.event {
            Event::ImageMatch(ImageMatchEvent::ProductImagesRegistered(e)) => {
                images.extend(e.images.iter().map(|image| (e.product_id.clone(), image.img_id.clone())));
            }
            Event::ImageMatch(ImageMatchEvent::VideoFramesRegistered(e)) => {
                let Frames::Counted(count) = e.frames else { continue };
                frames.insert(e.video_id.clone(), count);
            }
            Event::ImageMatch(ImageMatchEvent::MatchRequested(e)) => {
                requests.insert(e.request_id.clone(), (e.candidates, Totals::default()));
            }
            Event::ImageMatch(ImageMatchEvent::MatchProgressReported(e)) => {
                requests.get_mut(&e.request_id).unwrap().1 = e.totals;
            }
            Event::ImageMatch(ImageMatchEvent::MatchRequestCompleted(e)) => {
                requests.get_mut(&e.request_id).unwrap().1 = e.totals;
                completed.insert(e.request_id.clone());
            }
            Event::ImageMatch(ImageMatchEvent::MatchFound(e)) => {
                matches.insert(e.match_id.clone(), e.evidence_path.clone());
            }
            Event::ImageMatch(ImageMatchEvent::MatchEvidenceAttached(e)) => {
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
    fn repeated_commands_record_nothing(steps in steps()) {
        played(&steps)?;
    }

    #[test]
    fn counters_equal_plain_arithmetic_over_the_events(steps in steps()) {
        let world = played(&steps)?;
        let s = world.summary();
        let counts = [
            s.candidates_total, s.candidates_processed, s.candidates_unprocessed, s.vector_pass_total,
            s.vector_pass_done, s.ransac_checked, s.matches_found, s.matches_with_evidence, s.queue_depth,
        ];
        prop_assert_eq!(counts, by_hand(&world.log));
    }

    #[test]
    fn fold_resumed_from_storage_gives_the_same_bytes(steps in steps(), cut in any::<prop::sample::Index>()) {
        let log = played(&steps)?.log;
        let (before, after) = log.split_at(cut.index(log.len()));
        let stored = serde_json::to_vec(&fold(before)).unwrap();
        let mut resumed: JobFold = serde_json::from_slice(&stored).unwrap();
        after.iter().for_each(|envelope| resumed.apply(envelope));
        prop_assert_eq!(serde_json::to_vec(&resumed).unwrap(), serde_json::to_vec(&fold(&log)).unwrap());
    }

    #[test]
    fn time_travel_equals_the_summary_at_that_time(steps in steps(), cut in any::<prop::sample::Index>()) {
        let mut world = World::new();
        let mut said = vec![(world.log.len(), world.now, world.summary())];
        for step in &steps {
            if let Input::Wait(seconds) = step {
                world.wait(f64::from(*seconds));
            } else {
                let _ = take(&mut world, step);
            }
            said.push((world.log.len(), world.now, world.summary()));
        }
        let (events, instant, then) = &said[cut.index(said.len())];
        prop_assert_eq!(&summary(&world.log[..*events], *instant), then);
    }

    /// The counters of the read side and the state of the write side agree on waiting requests and leases.
    #[test]
    fn waiting_and_leased_requests_agree_on_both_sides(steps in steps()) {
        let world = played(&steps)?;
        let matching = world.fold().matching;
        prop_assert_eq!(matching.leases.len(), world.matching.leases().count());
        prop_assert_eq!(matching.waiting_since().is_some(), world.matching.waiting().next().is_some());
        let attempt = world.job.details().map(|job| job.attempt);
        prop_assert_eq!(world.fold().history.map(|history| history.attempt), attempt);
    }
}
