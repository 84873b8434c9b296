use event_schemas::envelope::Event;
use event_schemas::image_match::{
    JobWorkerLost, MatchProgressReported, MatchRequestClaimed, MatchRequestCompleted, MatchRequestFailed,
    MatchRequestLeaseExpired, MatchRequestRetried, ProductImagesRegistered, VideoFrame,
    VideoFramesRegistered,
};
use proptest::prelude::*;

use super::*;
use crate::decider::{RefusedItem, decide_all};
use crate::scenario::{at, decided, error, id, image, lease, request, totals};

fn command(action: Action) -> Command {
    Command { job: JobAvailability::Open, at: at(0.0), action }
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "the calls read better without borrows")]
fn check(given: &[ImageMatchEvent], action: Action, then: Result<Vec<ImageMatchEvent>, Refusal>) {
    assert_eq!(decided::<ImageMatchingDecider>(given, &command(action)), then);
}

fn state(given: &[ImageMatchEvent]) -> State {
    given.iter().fold(State::default(), |state, event| ImageMatchingDecider::evolve(state, event, at(0.0)))
}

fn images(names: &[&str]) -> Vec<ProductImage> {
    names.iter().map(|name| image(name)).collect()
}

fn register_images(product: &str, names: &[&str]) -> Action {
    Action::RegisterImages { product_id: id(product), images: images(names) }
}

fn has_images(product: &str, names: &[&str]) -> ImageMatchEvent {
    ProductImagesRegistered { product_id: id(product), images: images(names) }.into()
}

fn listed(names: &[&str]) -> Frames {
    Frames::Listed(names.iter().map(|name| VideoFrame { frame_id: id(name), timestamp_ms: None }).collect())
}

fn register_frames(frames: Frames) -> Action {
    Action::RegisterFrames { video_id: id("v"), frames }
}

fn has_frames(frames: Frames) -> ImageMatchEvent {
    VideoFramesRegistered { video_id: id("v"), frames }.into()
}

#[test]
fn candidates_that_cannot_be_counted_exactly_are_refused() {
    let counted = |count| register_frames(Frames::Counted(count));
    let has_counted = |count| has_frames(Frames::Counted(count));
    let too_many = |field| Err(Refusal::TooManyCandidates { field });
    check(&[], counted(CANDIDATES_MAX), Ok(vec![has_counted(CANDIDATES_MAX)]));
    check(&[], counted(CANDIDATES_MAX + 1), too_many("frame_count"));
    let two_images = has_images("p", &["a", "b"]);
    check(std::slice::from_ref(&two_images), counted(CANDIDATES_MAX), too_many("frame_count"));
    let half = CANDIDATES_MAX / 2;
    let given = [two_images, has_counted(half - 1), has_counted(half)];
    check(&given, register_images("q", &["c"]), too_many("images"));
    let given: [ImageMatchEvent; 2] = [request("r", CANDIDATES_MAX - 1).into(), has_counted(1)];
    check(&given, Action::Request(request("s", 2)), too_many("candidates"));
    let batch = ["s", "t"].map(|name| command(Action::Request(request(name, 1))));
    let refused = RefusedItem { index: 1, refusal: Refusal::TooManyCandidates { field: "candidates" } };
    assert_eq!(decide_all::<ImageMatchingDecider>(&batch, &state(&given)), Err(vec![refused]));
}

fn requested() -> ImageMatchEvent {
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

fn claimed_as(n: u128, attempt: u32) -> ImageMatchEvent {
    MatchRequestClaimed {
        request_id: id("r"),
        lease_id: lease(n),
        worker_id: id("w"),
        attempt,
        lease_until: at(45.0),
    }
    .into()
}

fn claimed(n: u128) -> ImageMatchEvent {
    claimed_as(n, 1)
}

fn expired(n: u128) -> ImageMatchEvent {
    MatchRequestLeaseExpired { request_id: id("r"), lease_id: lease(n), worker_id: id("w") }.into()
}

fn report(n: Option<u128>, totals: Totals) -> Action {
    Action::Report { request_id: id("r"), lease_id: n.map(lease), totals, completed: false }
}

fn complete(n: Option<u128>, totals: Totals) -> Action {
    Action::Report { request_id: id("r"), lease_id: n.map(lease), totals, completed: true }
}

fn reported(n: Option<u128>, totals: Totals) -> ImageMatchEvent {
    MatchProgressReported { request_id: id("r"), lease_id: n.map(lease), totals }.into()
}

fn completed(n: Option<u128>, totals: Totals) -> ImageMatchEvent {
    MatchRequestCompleted { request_id: id("r"), lease_id: n.map(lease), totals }.into()
}

fn failed(n: u128, attempt: u32, message: &str, claimable: bool) -> ImageMatchEvent {
    MatchRequestFailed { request_id: id("r"), lease_id: lease(n), attempt, error: error(message), claimable }
        .into()
}

fn fail(n: u128, message: &str) -> Action {
    Action::Fail { lease_id: lease(n), error: error(message) }
}

#[test]
fn known_images_are_not_registered_again() {
    check(&[], register_images("p", &["a", "b", "a"]), Ok(vec![has_images("p", &["a", "b"])]));
    let given = [has_images("p", &["a"])];
    check(&given, register_images("p", &["a", "b"]), Ok(vec![has_images("p", &["b"])]));
    check(&given, register_images("p", &["a"]), Ok(vec![]));
    check(&given, register_images("q", &["a"]), Ok(vec![has_images("q", &["a"])]));
}

#[test]
fn known_frames_are_not_registered_again() {
    check(&[], register_frames(listed(&["1", "2", "1"])), Ok(vec![has_frames(listed(&["1", "2"]))]));
    let given = [has_frames(listed(&["1"]))];
    check(&given, register_frames(listed(&["1", "2"])), Ok(vec![has_frames(listed(&["2"]))]));
    check(&given, register_frames(listed(&["1"])), Ok(vec![]));
}

#[test]
fn only_a_higher_frame_count_is_recorded() {
    let given = [has_frames(Frames::Counted(10))];
    check(&[], register_frames(Frames::Counted(10)), Ok(vec![has_frames(Frames::Counted(10))]));
    check(&[], register_frames(Frames::Counted(0)), Ok(vec![]));
    check(&given, register_frames(Frames::Counted(10)), Ok(vec![]));
    check(&given, register_frames(Frames::Counted(9)), Ok(vec![]));
    check(&given, register_frames(Frames::Counted(11)), Ok(vec![has_frames(Frames::Counted(11))]));
    assert_eq!(state(&given).frame_count(&id("v")), 10);
}

#[test]
fn frames_are_either_listed_or_counted() {
    let refusal = Refusal::FramesListed(id("v"));
    assert_eq!(refusal.kind(), RefusalKind::Conflict);
    check(&[has_frames(listed(&["1"]))], register_frames(Frames::Counted(9)), Err(refusal));
    let given = [has_frames(Frames::Counted(9))];
    check(&given, register_frames(listed(&["1"])), Err(Refusal::FramesCounted(id("v"))));
}

#[test]
fn long_registration_is_split_into_events_that_fit() {
    let names: Vec<String> = (0..10_000).map(|n| format!("{n:0>100}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let events = decided::<ImageMatchingDecider>(&[], &command(register_images("p", &names))).unwrap();
    assert!(events.len() > 1);
    assert!(events.iter().all(|event| event.encode().len() < LIST_BYTES_MAX + 1024));
    assert_eq!(state(&events).images(&id("p")), images(&names));
    let frames = decided::<ImageMatchingDecider>(&[], &command(register_frames(listed(&names)))).unwrap();
    assert!(frames.len() > 1);
    assert_eq!(state(&frames).frames(&id("v")).len(), names.len());
}

#[test]
fn request_with_different_content_is_refused() {
    check(&[], Action::Request(request("r", 100)), Ok(vec![requested()]));
    check(&[requested()], Action::Request(request("r", 100)), Ok(vec![]));
    let refusal = Refusal::RequestExists(id("r"));
    assert_eq!(refusal.kind(), RefusalKind::Conflict);
    check(&[requested()], Action::Request(request("r", 99)), Err(refusal));
}

#[test]
fn request_has_one_lease_at_a_time() {
    check(&[requested()], claim("r", 1, "w"), Ok(vec![claimed(1)]));
    check(&[requested(), claimed(1)], claim("r", 1, "w"), Ok(vec![]));
    check(&[requested(), claimed(1)], claim("r", 2, "w"), Err(Refusal::NotClaimable(id("r"))));
    check(&[requested(), claimed(1)], claim("r", 1, "x"), Err(Refusal::NotClaimable(id("r"))));
    check(&[], claim("r", 1, "w"), Err(Refusal::NoRequest(id("r"))));
    let given = [requested(), request("s", 1).into(), claimed(1)];
    check(&given, claim("s", 1, "w"), Err(Refusal::LeaseReused));
}

#[test]
fn lost_lease_keeps_the_position_in_the_queue() {
    let (r, s, t) = (requested(), request("s", 1).into(), request("t", 1).into());
    let given = [s, r, t, claimed(1), expired(1)];
    let state = state(&given);
    let waiting: Vec<&str> = state.waiting().map(|(id, _)| id.as_str()).collect();
    assert_eq!(waiting, ["s", "r", "t"]);
}

#[test]
fn expired_lease_makes_the_request_claimable() {
    let expire = |n| Action::ExpireLease { lease_id: lease(n) };
    check(&[requested(), claimed(1)], expire(1), Ok(vec![expired(1)]));
    check(&[requested(), claimed(1)], expire(2), Ok(vec![]));
    check(&[requested(), claimed(1), expired(1)], expire(1), Ok(vec![]));
    // A lost lease uses no attempt.
    check(&[requested(), claimed(1), expired(1)], claim("r", 2, "w"), Ok(vec![claimed_as(2, 1)]));
}

#[test]
fn report_without_the_lease_in_force_is_refused() {
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
fn report_without_lease_is_accepted_while_unclaimed() {
    check(&[requested()], report(None, totals(10, 0, 0)), Ok(vec![reported(None, totals(10, 0, 0))]));
    check(&[requested()], complete(None, totals(9, 9, 9)), Ok(vec![completed(None, totals(9, 9, 9))]));
}

#[test]
fn repeated_or_late_report_never_counts_twice() {
    let given = [requested(), claimed(1), reported(Some(1), totals(50, 40, 3))];
    check(&given, report(Some(1), totals(50, 40, 3)), Ok(vec![]));
    check(&given, report(Some(1), totals(20, 10, 0)), Ok(vec![]));
    let mixed = report(Some(1), totals(20, 45, 3));
    check(&given, mixed, Ok(vec![reported(Some(1), totals(50, 45, 3))]));
}

#[test]
fn redone_work_counts_only_beyond_earlier_reports() {
    let given = [requested(), claimed(1), reported(Some(1), totals(50, 40, 3)), expired(1), claimed(2)];
    check(&given, report(Some(2), totals(30, 30, 1)), Ok(vec![]));
    check(&given, report(Some(2), totals(60, 60, 4)), Ok(vec![reported(Some(2), totals(60, 60, 4))]));
}

#[test]
fn more_than_the_candidates_is_refused() {
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
fn request_is_completed_once() {
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
fn failed_request_is_claimable_for_three_attempts() {
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
fn non_retryable_failure_parks_the_request_at_once() {
    let given = [requested(), claimed(1)];
    check(&given, fail(1, "video not found"), Ok(vec![failed(1, 1, "video not found", false)]));
}

#[test]
fn unknown_failure_is_retried_once() {
    check(&[requested(), claimed(1)], fail(1, "?"), Ok(vec![failed(1, 1, "?", true)]));
    let given = [requested(), claimed(1), failed(1, 1, "?", true), claimed_as(2, 2)];
    check(&given, fail(2, "?"), Ok(vec![failed(2, 2, "?", false)]));
}

#[test]
fn repeated_failure_report_records_nothing() {
    let given = [requested(), claimed(1), failed(1, 1, "connection reset", true)];
    check(&given, fail(1, "connection reset"), Ok(vec![]));
    check(&given, fail(9, "connection reset"), Err(Refusal::LeaseLost));
}

#[test]
fn ended_worker_releases_all_its_requests() {
    let s: ImageMatchEvent = request("s", 1).into();
    let s_claimed = MatchRequestClaimed {
        request_id: id("s"),
        lease_id: lease(2),
        worker_id: id("other"),
        attempt: 1,
        lease_until: at(45.0),
    };
    let given = [requested(), s, claimed(1), s_claimed.into()];
    let end = |worker| Action::EndWorker { worker_id: id(worker), end: WorkerEnd::OutOfMemory };
    let lost: ImageMatchEvent =
        JobWorkerLost { worker_id: id("w"), end: WorkerEnd::OutOfMemory, lease_ids: vec![lease(1)] }.into();
    check(&given, end("w"), Ok(vec![lost.clone()]));
    check(&given, end("stranger"), Ok(vec![]));
    let given: Vec<_> = given.into_iter().chain([lost]).collect();
    check(&given, end("w"), Ok(vec![]));
    assert_eq!(state(&given).waiting().count(), 1);
    assert_eq!(state(&given).leases().count(), 1);
}

#[test]
fn many_leases_of_a_lost_worker_are_split_into_events() {
    let held = 30_000;
    let given: Vec<ImageMatchEvent> = (0..held)
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
    let events = decided::<ImageMatchingDecider>(&given, &command(end)).unwrap();
    let largest = events.iter().map(|event| Event::ImageMatch(event.clone()).encode().len()).max();
    assert!(largest < Some(500_000), "{largest:?}");
    let after: Vec<_> = given.into_iter().chain(events).collect();
    assert_eq!(state(&after).waiting().count(), usize::try_from(held).unwrap());
}

#[test]
fn job_retry_makes_parked_requests_claimable_again() {
    let parked = [requested(), claimed(1), failed(1, 1, "video not found", false)];
    let retried: ImageMatchEvent = MatchRequestRetried { request_id: id("r") }.into();
    assert!(state(&parked).has_parked());
    check(&parked, Action::RetryParked, Ok(vec![retried.clone()]));
    let given: Vec<_> = parked.into_iter().chain([retried]).collect();
    check(&given, Action::RetryParked, Ok(vec![]));
    check(&given, claim("r", 2, "w"), Ok(vec![claimed_as(2, 1)]));
}

#[test]
fn commands_to_an_ended_job_are_refused() {
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
            let command = Command { job: JobAvailability::Ended(phase), at: at(0.0), action };
            assert_eq!(decided::<ImageMatchingDecider>(&given, &command), Err(Refusal::JobEnded(phase)));
        }
    }
    let command = Command { job: JobAvailability::Missing, at: at(0.0), action: Action::RetryParked };
    assert_eq!(decided::<ImageMatchingDecider>(&given, &command), Err(Refusal::NoJob));
    assert_eq!(Refusal::NoJob.kind(), RefusalKind::NotFound);
}

#[test]
fn leases_expire_for_failed_but_not_for_finished_jobs() {
    let given = [requested(), claimed(1)];
    let expire = |phase| Command {
        job: JobAvailability::Ended(phase),
        at: at(0.0),
        action: Action::ExpireLease { lease_id: lease(1) },
    };
    assert_eq!(decided::<ImageMatchingDecider>(&given, &expire(Phase::Failed)), Ok(vec![expired(1)]));
    assert_eq!(decided::<ImageMatchingDecider>(&given, &expire(Phase::Completed)), Ok(vec![]));
    assert_eq!(decided::<ImageMatchingDecider>(&given, &expire(Phase::Cancelled)), Ok(vec![]));
}

#[test]
fn batch_is_decided_in_order() {
    let commands =
        [Action::Request(request("r", 100)), Action::Request(request("r", 100)), claim("r", 1, "w")]
            .map(command);
    let batch = decide_all::<ImageMatchingDecider>(&commands, &State::default()).unwrap();
    assert_eq!(batch.event_counts, [1, 0, 1]);
    assert_eq!(batch.events.len(), 2);
}

#[test]
fn batch_with_refusals_names_all_and_records_nothing() {
    let commands =
        [report(None, totals(101, 0, 0)), report(None, totals(5, 5, 0)), claim("s", 1, "w")].map(command);
    let refused = decide_all::<ImageMatchingDecider>(&commands, &state(&[requested()])).unwrap_err();
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
    fn totals_do_not_depend_on_order_or_number_of_reports(
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
                let events = ImageMatchingDecider::decide(&command, &state).unwrap();
                events.iter().fold(state, |state, new| ImageMatchingDecider::evolve(state, &new.event, new.at))
            });
            last.request(&id("r")).unwrap().totals
        };
        prop_assert_eq!(outcome(&reports), outcome(&shuffled));
    }
}
