use event_schemas::envelope::Event;
use event_schemas::matching::{
    JobWorkerLost, MatchProgressReported, MatchRequestClaimed, MatchRequestCompleted, MatchRequestFailed,
    MatchRequestLeaseExpired, MatchRequestRetried, ProductImagesRegistered, VideoFrame,
    VideoFramesRegistered,
};
use proptest::prelude::*;

use super::*;
use crate::decider::{RefusedItem, decide_all};
use crate::scenario::{at, decided, error, id, image, lease, request, totals};

fn command(action: Action) -> Command {
    Command { job: Standing::Open, at: at(0.0), action }
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "the calls read better without borrows")]
fn check(given: &[MatchingEvent], action: Action, then: Result<Vec<MatchingEvent>, Refusal>) {
    assert_eq!(decided::<Matching>(given, &command(action)), then);
}

fn state(given: &[MatchingEvent]) -> State {
    given.iter().fold(State::default(), |state, event| Matching::evolve(state, event, at(0.0)))
}

fn images(names: &[&str]) -> Vec<ProductImage> {
    names.iter().map(|name| image(name)).collect()
}

fn register_images(product: &str, names: &[&str]) -> Action {
    Action::RegisterImages { product_id: id(product), images: images(names) }
}

fn has_images(product: &str, names: &[&str]) -> MatchingEvent {
    ProductImagesRegistered { product_id: id(product), images: images(names) }.into()
}

fn listed(names: &[&str]) -> Frames {
    Frames::Listed(names.iter().map(|name| VideoFrame { frame_id: id(name), timestamp_ms: None }).collect())
}

fn register_frames(frames: Frames) -> Action {
    Action::RegisterFrames { video_id: id("v"), frames }
}

fn has_frames(frames: Frames) -> MatchingEvent {
    VideoFramesRegistered { video_id: id("v"), frames }.into()
}

fn requested() -> MatchingEvent {
    request("r", 100).into()
}

fn claim(request_id: &str, n: u128, worker: &str) -> Action {
    Action::Claim {
        request_id: id(request_id),
        lease_id: lease(n),
        worker_id: id(worker),
        lease_until: at(45.0),
    }
}

fn claimed_as(n: u128, attempt: u32) -> MatchingEvent {
    MatchRequestClaimed {
        request_id: id("r"),
        lease_id: lease(n),
        worker_id: id("w"),
        attempt,
        lease_until: at(45.0),
    }
    .into()
}

fn claimed(n: u128) -> MatchingEvent {
    claimed_as(n, 1)
}

fn expired(n: u128) -> MatchingEvent {
    MatchRequestLeaseExpired { request_id: id("r"), lease_id: lease(n), worker_id: id("w") }.into()
}

fn report(n: Option<u128>, totals: Totals) -> Action {
    Action::Report { request_id: id("r"), lease_id: n.map(lease), totals, completed: false }
}

fn complete(n: Option<u128>, totals: Totals) -> Action {
    Action::Report { request_id: id("r"), lease_id: n.map(lease), totals, completed: true }
}

fn reported(n: Option<u128>, totals: Totals) -> MatchingEvent {
    MatchProgressReported { request_id: id("r"), lease_id: n.map(lease), totals }.into()
}

fn completed(n: Option<u128>, totals: Totals) -> MatchingEvent {
    MatchRequestCompleted { request_id: id("r"), lease_id: n.map(lease), totals }.into()
}

fn failed(n: u128, attempt: u32, message: &str, claimable: bool) -> MatchingEvent {
    MatchRequestFailed { request_id: id("r"), lease_id: lease(n), attempt, error: error(message), claimable }
        .into()
}

fn fail(n: u128, message: &str) -> Action {
    Action::Fail { lease_id: lease(n), error: error(message) }
}

#[test]
fn only_images_that_the_product_does_not_have_are_registered() {
    check(&[], register_images("p", &["a", "b", "a"]), Ok(vec![has_images("p", &["a", "b"])]));
    let given = [has_images("p", &["a"])];
    check(&given, register_images("p", &["a", "b"]), Ok(vec![has_images("p", &["b"])]));
    check(&given, register_images("p", &["a"]), Ok(vec![]));
    check(&given, register_images("q", &["a"]), Ok(vec![has_images("q", &["a"])]));
}

#[test]
fn only_frames_that_the_video_does_not_have_are_registered() {
    check(&[], register_frames(listed(&["1", "2", "1"])), Ok(vec![has_frames(listed(&["1", "2"]))]));
    let given = [has_frames(listed(&["1"]))];
    check(&given, register_frames(listed(&["1", "2"])), Ok(vec![has_frames(listed(&["2"]))]));
    check(&given, register_frames(listed(&["1"])), Ok(vec![]));
}

#[test]
fn a_count_of_frames_is_the_number_so_far_and_only_a_higher_one_counts() {
    let given = [has_frames(Frames::Counted(10))];
    check(&[], register_frames(Frames::Counted(10)), Ok(vec![has_frames(Frames::Counted(10))]));
    check(&[], register_frames(Frames::Counted(0)), Ok(vec![]));
    check(&given, register_frames(Frames::Counted(10)), Ok(vec![]));
    check(&given, register_frames(Frames::Counted(9)), Ok(vec![]));
    check(&given, register_frames(Frames::Counted(11)), Ok(vec![has_frames(Frames::Counted(11))]));
    assert_eq!(state(&given).frame_count(&id("v")), 10);
}

#[test]
fn the_frames_of_a_video_are_either_named_or_counted() {
    let refusal = Refusal::FramesListed(id("v"));
    assert_eq!(refusal.kind(), RefusalKind::Conflict);
    check(&[has_frames(listed(&["1"]))], register_frames(Frames::Counted(9)), Err(refusal));
    let given = [has_frames(Frames::Counted(9))];
    check(&given, register_frames(listed(&["1"])), Err(Refusal::FramesCounted(id("v"))));
}

#[test]
fn a_long_registration_becomes_several_events_that_each_fit_an_append() {
    let names: Vec<String> = (0..10_000).map(|n| format!("{n:0>100}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let events = decided::<Matching>(&[], &command(register_images("p", &names))).unwrap();
    assert!(events.len() > 1);
    assert!(events.iter().all(|event| event.encode().len() < LIST_BYTES_MAX + 1024));
    assert_eq!(state(&events).images(&id("p")), images(&names));
    let frames = decided::<Matching>(&[], &command(register_frames(listed(&names)))).unwrap();
    assert!(frames.len() > 1);
    assert_eq!(state(&frames).frames(&id("v")).len(), names.len());
}

#[test]
fn a_request_says_one_thing_for_ever() {
    check(&[], Action::Request(request("r", 100)), Ok(vec![requested()]));
    check(&[requested()], Action::Request(request("r", 100)), Ok(vec![]));
    let refusal = Refusal::RequestExists(id("r"));
    assert_eq!(refusal.kind(), RefusalKind::Conflict);
    check(&[requested()], Action::Request(request("r", 99)), Err(refusal));
}

#[test]
fn a_request_has_one_lease_at_a_time() {
    check(&[requested()], claim("r", 1, "w"), Ok(vec![claimed(1)]));
    check(&[requested(), claimed(1)], claim("r", 1, "w"), Ok(vec![]));
    check(&[requested(), claimed(1)], claim("r", 2, "w"), Err(Refusal::NotClaimable(id("r"))));
    check(&[requested(), claimed(1)], claim("r", 1, "x"), Err(Refusal::NotClaimable(id("r"))));
    check(&[], claim("r", 1, "w"), Err(Refusal::NoRequest(id("r"))));
    let given = [requested(), request("s", 1).into(), claimed(1)];
    check(&given, claim("s", 1, "w"), Err(Refusal::LeaseReused));
}

#[test]
fn whoever_waited_longest_comes_first_even_after_a_lost_lease() {
    let (r, s, t) = (requested(), request("s", 1).into(), request("t", 1).into());
    let given = [s, r, t, claimed(1), expired(1)];
    let state = state(&given);
    let waiting: Vec<&str> = state.waiting().map(|(id, _)| id.as_str()).collect();
    assert_eq!(waiting, ["s", "r", "t"]);
}

#[test]
fn a_lease_that_runs_out_leaves_an_event_and_makes_the_request_claimable() {
    let expire = |n| Action::ExpireLease { lease_id: lease(n) };
    check(&[requested(), claimed(1)], expire(1), Ok(vec![expired(1)]));
    check(&[requested(), claimed(1)], expire(2), Ok(vec![]));
    check(&[requested(), claimed(1), expired(1)], expire(1), Ok(vec![]));
    // A lost lease uses no attempt.
    check(&[requested(), claimed(1), expired(1)], claim("r", 2, "w"), Ok(vec![claimed_as(2, 1)]));
}

#[test]
fn a_report_under_a_lost_lease_is_refused_and_so_is_one_past_the_holder() {
    let lost = [requested(), claimed(1), expired(1)];
    let held = [requested(), claimed(1), expired(1), claimed(2)];
    assert_eq!(Refusal::LeaseLost.kind(), RefusalKind::LeaseLost);
    check(&lost, report(Some(1), totals(10, 0, 0)), Err(Refusal::LeaseLost));
    check(&held, report(Some(1), totals(10, 0, 0)), Err(Refusal::LeaseLost));
    check(&held, report(None, totals(10, 0, 0)), Err(Refusal::LeaseLost));
    check(&held, complete(Some(1), totals(10, 0, 0)), Err(Refusal::LeaseLost));
    check(&held, fail(1, "x"), Err(Refusal::LeaseLost));
    check(&held, report(Some(2), totals(10, 0, 0)), Ok(vec![reported(Some(2), totals(10, 0, 0))]));
}

#[test]
fn without_a_lease_a_report_is_taken_while_nobody_holds_the_request() {
    check(&[requested()], report(None, totals(10, 0, 0)), Ok(vec![reported(None, totals(10, 0, 0))]));
    check(&[requested()], complete(None, totals(9, 9, 9)), Ok(vec![completed(None, totals(9, 9, 9))]));
}

#[test]
fn a_repeated_or_late_report_never_counts_twice() {
    let given = [requested(), claimed(1), reported(Some(1), totals(50, 40, 3))];
    check(&given, report(Some(1), totals(50, 40, 3)), Ok(vec![]));
    check(&given, report(Some(1), totals(20, 10, 0)), Ok(vec![]));
    let mixed = report(Some(1), totals(20, 45, 3));
    check(&given, mixed, Ok(vec![reported(Some(1), totals(50, 45, 3))]));
}

#[test]
fn what_a_lost_worker_had_reported_is_kept_and_redone_work_counts_only_beyond_it() {
    let given = [requested(), claimed(1), reported(Some(1), totals(50, 40, 3)), expired(1), claimed(2)];
    check(&given, report(Some(2), totals(30, 30, 1)), Ok(vec![]));
    check(&given, report(Some(2), totals(60, 60, 4)), Ok(vec![reported(Some(2), totals(60, 60, 4))]));
}

#[test]
fn more_than_the_requests_candidates_is_refused() {
    for (field, totals) in [
        (TotalsField::CandidatesProcessed, totals(101, 0, 0)),
        (TotalsField::VectorPassDone, totals(0, 101, 0)),
        (TotalsField::RansacChecked, totals(0, 0, 101)),
    ] {
        let refusal = Refusal::TooMany { field, reported: 101, candidates: 100 };
        assert_eq!(refusal.kind(), RefusalKind::Invalid);
        check(&[requested()], report(None, totals), Err(refusal));
    }
}

#[test]
fn a_request_is_completed_once() {
    let given = [requested(), claimed(1), reported(Some(1), totals(50, 50, 5))];
    let done = completed(Some(1), totals(100, 100, 5));
    check(&given, complete(Some(1), totals(100, 100, 0)), Ok(vec![done.clone()]));
    let given = [requested(), claimed(1), done];
    check(&given, complete(Some(1), totals(100, 100, 5)), Ok(vec![]));
    check(&given, report(Some(1), totals(50, 50, 5)), Ok(vec![]));
    check(&given, report(Some(1), totals(100, 100, 6)), Err(Refusal::Completed(id("r"))));
    check(&given, complete(Some(2), totals(100, 100, 5)), Err(Refusal::LeaseLost));
    check(&given, claim("r", 2, "w"), Err(Refusal::NotClaimable(id("r"))));
    check(&given, fail(1, "oom"), Err(Refusal::LeaseLost));
}

#[test]
fn a_request_that_fails_is_claimable_again_until_three_attempts_are_used() {
    let network = "connection reset";
    let mut given = vec![requested()];
    for attempt in 1..=3_u32 {
        let n = u128::from(attempt);
        check(&given, claim("r", n, "w"), Ok(vec![claimed_as(n, attempt)]));
        given.push(claimed_as(n, attempt));
        let event = failed(n, attempt, network, attempt < 3);
        check(&given, fail(n, network), Ok(vec![event.clone()]));
        given.push(event);
    }
    check(&given, claim("r", 4, "w"), Err(Refusal::NotClaimable(id("r"))));
}

#[test]
fn a_failure_that_is_not_retryable_parks_the_request_at_once() {
    let given = [requested(), claimed(1)];
    check(&given, fail(1, "video not found"), Ok(vec![failed(1, 1, "video not found", false)]));
}

#[test]
fn an_unknown_failure_is_tried_once_more() {
    check(&[requested(), claimed(1)], fail(1, "?"), Ok(vec![failed(1, 1, "?", true)]));
    let given = [requested(), claimed(1), failed(1, 1, "?", true), claimed_as(2, 2)];
    check(&given, fail(2, "?"), Ok(vec![failed(2, 2, "?", false)]));
}

#[test]
fn a_failure_that_is_reported_again_records_nothing() {
    let given = [requested(), claimed(1), failed(1, 1, "connection reset", true)];
    check(&given, fail(1, "connection reset"), Ok(vec![]));
    check(&given, fail(9, "connection reset"), Err(Refusal::LeaseLost));
}

#[test]
fn a_worker_that_ends_gives_back_all_that_it_held_here() {
    let s: MatchingEvent = request("s", 1).into();
    let s_claimed = MatchRequestClaimed {
        request_id: id("s"),
        lease_id: lease(2),
        worker_id: id("other"),
        attempt: 1,
        lease_until: at(45.0),
    };
    let given = [requested(), s, claimed(1), s_claimed.into()];
    let end = |worker| Action::EndWorker { worker_id: id(worker), end: WorkerEnd::OutOfMemory };
    let lost: MatchingEvent =
        JobWorkerLost { worker_id: id("w"), end: WorkerEnd::OutOfMemory, lease_ids: vec![lease(1)] }.into();
    check(&given, end("w"), Ok(vec![lost.clone()]));
    check(&given, end("stranger"), Ok(vec![]));
    let given: Vec<_> = given.into_iter().chain([lost]).collect();
    check(&given, end("w"), Ok(vec![]));
    assert_eq!(state(&given).waiting().count(), 1);
    assert_eq!(state(&given).leases().count(), 1);
}

#[test]
fn a_lost_worker_that_held_very_much_leaves_events_that_a_log_can_take() {
    let held = 30_000;
    let given: Vec<MatchingEvent> = (0..held)
        .flat_map(|n| {
            let claimed = MatchRequestClaimed {
                request_id: id(&format!("r{n}")),
                lease_id: lease(n),
                worker_id: id("w"),
                attempt: 1,
                lease_until: at(45.0),
            };
            [request(&format!("r{n}"), 1).into(), claimed.into()]
        })
        .collect();
    let end = Action::EndWorker { worker_id: id("w"), end: WorkerEnd::Crashed };
    let events = decided::<Matching>(&given, &command(end)).unwrap();
    let largest = events.iter().map(|event| Event::Matching(event.clone()).encode().len()).max();
    assert!(largest < Some(500_000), "{largest:?}");
    let after: Vec<_> = given.into_iter().chain(events).collect();
    assert_eq!(state(&after).waiting().count(), usize::try_from(held).unwrap());
}

#[test]
fn what_was_parked_waits_again_when_the_job_is_retried_with_all_its_attempts() {
    let parked = [requested(), claimed(1), failed(1, 1, "video not found", false)];
    let retried: MatchingEvent = MatchRequestRetried { request_id: id("r") }.into();
    assert!(state(&parked).has_parked());
    check(&parked, Action::RetryParked, Ok(vec![retried.clone()]));
    let given: Vec<_> = parked.into_iter().chain([retried]).collect();
    check(&given, Action::RetryParked, Ok(vec![]));
    check(&given, claim("r", 2, "w"), Ok(vec![claimed_as(2, 1)]));
}

#[test]
fn once_the_job_has_ended_nothing_is_taken() {
    let given = [requested(), claimed(1)];
    for phase in [Phase::Completed, Phase::Failed, Phase::Cancelled] {
        for action in [
            register_images("p", &["a"]),
            register_frames(Frames::Counted(1)),
            Action::Request(request("s", 1)),
            claim("r", 1, "w"),
            report(Some(1), totals(1, 0, 0)),
            fail(1, "x"),
            Action::RetryParked,
        ] {
            let command = Command { job: Standing::Ended(phase), at: at(0.0), action };
            assert_eq!(decided::<Matching>(&given, &command), Err(Refusal::JobEnded(phase)));
        }
    }
    let command = Command { job: Standing::Missing, at: at(0.0), action: Action::RetryParked };
    assert_eq!(decided::<Matching>(&given, &command), Err(Refusal::NoJob));
    assert_eq!(Refusal::NoJob.kind(), RefusalKind::NotFound);
}

#[test]
fn leases_of_a_failed_job_still_run_out_since_it_may_be_retried_but_not_those_of_a_finished_one() {
    let given = [requested(), claimed(1)];
    let expire = |phase| Command {
        job: Standing::Ended(phase),
        at: at(0.0),
        action: Action::ExpireLease { lease_id: lease(1) },
    };
    assert_eq!(decided::<Matching>(&given, &expire(Phase::Failed)), Ok(vec![expired(1)]));
    assert_eq!(decided::<Matching>(&given, &expire(Phase::Completed)), Ok(vec![]));
    assert_eq!(decided::<Matching>(&given, &expire(Phase::Cancelled)), Ok(vec![]));
}

#[test]
fn a_batch_is_decided_in_order_and_each_item_sees_those_before_it() {
    let commands =
        [Action::Request(request("r", 100)), Action::Request(request("r", 100)), claim("r", 1, "w")]
            .map(command);
    let batch = decide_all::<Matching>(&commands, &State::default()).unwrap();
    assert_eq!(batch.made, [1, 0, 1]);
    assert_eq!(batch.events.len(), 2);
}

#[test]
fn a_batch_with_refused_items_names_them_all_and_records_nothing() {
    let commands =
        [report(None, totals(101, 0, 0)), report(None, totals(5, 5, 0)), claim("s", 1, "w")].map(command);
    let refused = decide_all::<Matching>(&commands, &state(&[requested()])).unwrap_err();
    let too_many =
        Refusal::TooMany { field: TotalsField::CandidatesProcessed, reported: 101, candidates: 100 };
    assert_eq!(
        refused,
        [
            RefusedItem { index: 0, refusal: too_many },
            RefusedItem { index: 2, refusal: Refusal::NoRequest(id("s")) }
        ]
    );
}

proptest! {
    #[test]
    fn the_order_and_the_number_of_reports_never_change_the_totals(
        (reports, shuffled) in prop::collection::vec((0..=100_u64, 0..=100_u64, 0..=100_u64), 1..20)
            .prop_flat_map(|reports| {
                let twice = reports.iter().chain(&reports).copied().collect::<Vec<_>>();
                (Just(reports), Just(twice).prop_shuffle())
            }),
    ) {
        let outcome = |reports: &[(u64, u64, u64)]| {
            let first = state(&[requested()]);
            let last = reports.iter().fold(first, |state, (processed, vector, ransac)| {
                let command = command(report(None, totals(*processed, *vector, *ransac)));
                let events = Matching::decide(&command, &state).unwrap();
                events.iter().fold(state, |state, new| Matching::evolve(state, &new.event, new.at))
            });
            last.request(&id("r")).unwrap().totals
        };
        prop_assert_eq!(outcome(&reports), outcome(&shuffled));
    }
}
