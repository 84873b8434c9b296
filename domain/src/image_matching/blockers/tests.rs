use event_schemas::job::Phase;
use event_schemas::worker::{WorkKind, WorkerEnd};

use crate::image_matching;
use crate::job;
use crate::scenario::{World, at, error, lease};
use crate::worker;

/// A running job with one request that worker `w` has held under lease 1 since second 0.
fn held() -> World {
    let mut world = World::matching(1, 100);
    world.claim("r", "w", 1);
    world
}

fn expire(n: u128) -> image_matching::Action {
    image_matching::Action::ExpireLease { lease_id: lease(n) }
}

#[test]
fn job_in_progress_has_no_blockers() {
    assert_eq!(held().blockers(), [""; 0]);
}

#[test]
fn job_without_events_for_five_minutes_is_stalled() {
    let mut world = held();
    world.wait(10.0).progress("r", Some(1), 10);
    world.wait(299.9);
    assert_eq!(world.blockers(), [""; 0]);
    assert!(world.summary().eta.is_some());
    world.wait(0.1);
    assert_eq!(world.blockers(), ["stalled"]);
    assert_eq!(world.summary().blocker_details[0].since, at(10.0));
    assert_eq!(world.summary().eta, None);
    world.progress("r", Some(1), 11);
    assert_eq!(world.blockers(), [""; 0]);
    assert!(world.summary().eta.is_some());
}

#[test]
fn job_that_is_not_running_does_not_stall() {
    let mut world = World::new();
    world.wait(1000.0);
    assert_eq!(world.blockers(), [""; 0]);
}

#[test]
fn no_consumers_if_no_worker_ever_registered() {
    let mut world = World::matching(1, 100);
    assert_eq!(world.blockers(), ["no_consumers"]);
    assert_eq!(world.summary().blocker_details[0].since, at(0.0));
    world.worker("w", worker::Action::Register { kinds: vec![WorkKind::VideoAnalysis], version: None });
    assert_eq!(world.blockers(), ["no_consumers"], "it cannot do this kind");
    world.worker("w", worker::Action::Register { kinds: vec![WorkKind::MatchRequest], version: None });
    assert_eq!(world.blockers(), [""; 0]);
}

#[test]
fn no_consumers_from_last_loss_to_first_return() {
    let mut world = World::matching(1, 100);
    world.worker("w", worker::Action::Register { kinds: vec![WorkKind::MatchRequest], version: None });
    world.wait(10.0).worker("w", worker::Action::Lose { last_seen_at: at(0.0) });
    assert_eq!(world.blockers(), ["no_consumers"]);
    assert_eq!(world.summary().blocker_details[0].since, at(10.0));
    world.worker("w", worker::Action::Seen);
    assert_eq!(world.blockers(), [""; 0]);
}

#[test]
fn no_consumers_since_the_last_loss() {
    let mut world = World::matching(1, 100);
    for worker in ["w", "x"] {
        world.worker(worker, worker::Action::Register { kinds: vec![WorkKind::MatchRequest], version: None });
    }
    world.wait(10.0).lose("w");
    world.wait(10.0).lose("x");
    assert_eq!(world.summary().blocker_details[0].since, at(20.0));
}

#[test]
fn registering_other_kinds_is_not_a_return() {
    let mut world = held();
    world.worker("x", worker::Action::Register { kinds: vec![WorkKind::MatchRequest], version: None });
    // The copy of the end reached the job, but the worker itself is still present.
    let end = WorkerEnd::OutOfMemory;
    world.act(image_matching::Action::EndWorker { worker_id: "w".parse().unwrap(), end });
    let kinds = vec![WorkKind::MatchRequest, WorkKind::VideoAnalysis];
    world.worker("w", worker::Action::Register { kinds, version: None });
    assert_eq!(world.blockers(), ["worker_oom"]);
}

#[test]
fn no_blocker_while_leased_or_without_waiting_work() {
    let mut world = held();
    world.worker("w", worker::Action::Lose { last_seen_at: at(0.0) });
    assert_eq!(world.blockers(), [""; 0], "nothing waits");
    world.issue("s", 0);
    assert_eq!(world.blockers(), [""; 0], "a worker holds a lease");
    world.act(expire(1));
    assert_eq!(world.blockers(), ["no_consumers", "worker_lost"]);
}

#[test]
fn expired_lease_shows_worker_lost_until_claimed_again() {
    let mut world = held();
    world.wait(45.0).act(expire(1));
    let summary = world.summary();
    assert_eq!(world.blockers(), ["worker_lost"]);
    assert_eq!(summary.blocker_details[0].worker_id, Some("w".parse().unwrap()));
    assert_eq!(summary.blocker_details[0].since, at(45.0));
    assert_eq!(
        summary.blockers,
        ["worker_lost: The worker w was lost, and its work has not been claimed again yet."]
    );
    world.issue("other", 1);
    world.claim("r", "x", 2);
    assert_eq!(world.blockers(), [""; 0]);
}

#[test]
fn lost_worker_is_shown_until_its_work_is_claimed() {
    let mut world = held();
    world.lose("w");
    assert_eq!(world.blockers(), ["no_consumers", "worker_lost"]);
    world.worker("w", worker::Action::Seen);
    assert_eq!(world.blockers(), ["worker_lost"]);
}

#[test]
fn lost_worker_is_cleared_when_its_request_is_completed() {
    let mut world = held();
    world.wait(45.0).act(expire(1));
    world.issue("other", 1);
    world.complete("r", None, 100);
    assert_eq!(world.blockers(), [""; 0]);
}

#[test]
fn crashed_worker_is_shown_until_its_work_is_claimed() {
    for (exit_code, code) in [(137, "worker_oom"), (1, "worker_crashed")] {
        let mut world = held();
        world.exit("w", exit_code);
        assert_eq!(world.blockers(), ["no_consumers", code]);
        world.claim("r", "x", 2);
        assert_eq!(world.blockers(), [""; 0]);
    }
}

#[test]
fn returned_worker_clears_out_of_memory() {
    let mut world = held();
    world.exit("w", 137);
    world.worker("w", worker::Action::Seen);
    assert_eq!(world.blockers(), [""; 0]);
}

#[test]
fn stopped_worker_is_no_blocker() {
    let mut world = held();
    world.worker("x", worker::Action::Register { kinds: vec![WorkKind::MatchRequest], version: None });
    world.exit("w", 0);
    assert_eq!(world.blockers(), [""; 0]);
}

#[test]
fn each_lost_worker_is_shown_once_since_its_first_loss() {
    let mut world = held();
    for (request, n) in [("s", 2), ("t", 3)] {
        world.issue(request, 1);
        world.claim(request, if n == 2 { "w" } else { "x" }, n);
    }
    // The request that sorts first is lost last.
    world.wait(1.0).act(expire(2));
    world.wait(1.0).act(expire(1));
    world.act(expire(3));
    let details = world.summary().blocker_details;
    let seen: Vec<_> =
        details.iter().map(|blocker| (blocker.worker_id.as_ref().unwrap().as_str(), blocker.since)).collect();
    assert_eq!(seen, [("w", at(1.0)), ("x", at(2.0))]);
}

#[test]
fn queue_lags_if_a_request_waits_over_60_seconds() {
    let mut world = held();
    world.issue("s", 1);
    world.wait(60.0);
    assert_eq!(world.blockers(), [""; 0]);
    world.wait(0.001);
    assert_eq!(world.blockers(), ["queue_lag"]);
    assert_eq!(world.summary().blocker_details[0].since, at(0.0));
    world.claim("s", "w", 2);
    assert_eq!(world.blockers(), [""; 0]);
}

#[test]
fn failed_job_shows_only_its_error_until_retried() {
    let mut world = held();
    world.act(expire(1));
    world.wait(500.0).job(job::Action::Fail {
        lease_id: None,
        error: error("No space left on device"),
        circuit_open_until: None,
    });
    let summary = world.summary();
    assert_eq!(summary.blockers, ["failed: The worker ran out of disk space."]);
    assert_eq!(summary.blocker_details[0].since, at(500.0));
    world.job(job::Action::Retry { eta_priors: Vec::new() });
    assert!(!world.blockers().contains(&"failed"));
}

#[test]
fn ended_job_has_no_blockers() {
    for phase in [Phase::Completed, Phase::Cancelled] {
        let mut world = held();
        world.act(expire(1));
        world.enter(phase);
        world.wait(1000.0);
        assert_eq!(world.blockers(), [""; 0]);
    }
}

#[test]
fn parked_requests_block_with_their_error_until_retried() {
    let mut world = held();
    world.act(image_matching::Action::Fail { lease_id: lease(1), error: error("invalid URL") });
    assert_eq!(world.blockers(), ["requests_parked"]);
    let blocker = world.summary().blocker_details[0].clone();
    assert!(blocker.message.ends_with(&error("invalid URL").user_message), "{}", blocker.message);
    assert_eq!((blocker.since, world.summary().queue_depth), (at(0.0), 1));
    world.act(image_matching::Action::RetryParked);
    assert_eq!(world.blockers(), [""; 0]);
}
