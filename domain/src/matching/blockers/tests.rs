use event_schemas::job::Phase;
use event_schemas::worker::{WorkKind, WorkerEnd};

use crate::job;
use crate::matching;
use crate::scenario::{World, at, error, lease};
use crate::worker;

/// A running job with one request that worker `w` holds under lease 1 since second 0.
fn held() -> World {
    let mut world = World::matching(1, 100);
    world.claim("r", "w", 1);
    world
}

fn expire(n: u128) -> matching::Action {
    matching::Action::ExpireLease { lease_id: lease(n) }
}

#[test]
fn a_job_that_is_worked_on_has_no_blockers() {
    assert_eq!(held().blockers(), [""; 0]);
}

#[test]
fn a_running_job_without_an_event_for_five_minutes_is_stalled_and_says_no_eta() {
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
fn a_job_that_is_not_running_does_not_stall() {
    let mut world = World::new();
    world.wait(1000.0);
    assert_eq!(world.blockers(), [""; 0]);
}

#[test]
fn work_that_waits_where_no_worker_ever_was_has_no_consumers() {
    let mut world = World::matching(1, 100);
    assert_eq!(world.blockers(), ["no_consumers"]);
    assert_eq!(world.summary().blocker_details[0].since, at(0.0));
    world.worker("w", worker::Action::Register { kinds: vec![WorkKind::VideoAnalysis], version: None });
    assert_eq!(world.blockers(), ["no_consumers"], "it cannot do this");
    world.worker("w", worker::Action::Register { kinds: vec![WorkKind::MatchRequest], version: None });
    assert_eq!(world.blockers(), [""; 0]);
}

#[test]
fn consumers_are_gone_when_the_last_is_lost_and_back_when_one_returns() {
    let mut world = World::matching(1, 100);
    world.worker("w", worker::Action::Register { kinds: vec![WorkKind::MatchRequest], version: None });
    world.wait(10.0).worker("w", worker::Action::Lose { last_seen_at: at(0.0) });
    assert_eq!(world.blockers(), ["no_consumers"]);
    assert_eq!(world.summary().blocker_details[0].since, at(10.0));
    world.worker("w", worker::Action::Seen);
    assert_eq!(world.blockers(), [""; 0]);
}

#[test]
fn consumers_are_gone_since_the_last_of_them_left() {
    let mut world = World::matching(1, 100);
    for worker in ["w", "x"] {
        world.worker(worker, worker::Action::Register { kinds: vec![WorkKind::MatchRequest], version: None });
    }
    world.wait(10.0).lose("w");
    world.wait(10.0).lose("x");
    assert_eq!(world.summary().blocker_details[0].since, at(20.0));
}

#[test]
fn a_worker_that_only_says_what_else_it_can_do_has_not_returned() {
    let mut world = held();
    world.worker("x", worker::Action::Register { kinds: vec![WorkKind::MatchRequest], version: None });
    // The copy of the end reached the job, but the worker itself was never gone.
    let end = WorkerEnd::OutOfMemory;
    world.act(matching::Action::EndWorker { worker_id: "w".parse().unwrap(), end });
    let kinds = vec![WorkKind::MatchRequest, WorkKind::VideoAnalysis];
    world.worker("w", worker::Action::Register { kinds, version: None });
    assert_eq!(world.blockers(), ["worker_oom"]);
}

#[test]
fn a_worker_with_a_lease_here_is_a_consumer_and_without_waiting_work_nobody_is_missed() {
    let mut world = held();
    world.worker("w", worker::Action::Lose { last_seen_at: at(0.0) });
    assert_eq!(world.blockers(), [""; 0], "nothing waits");
    world.issue("s", 0);
    assert_eq!(world.blockers(), [""; 0], "somebody holds a lease");
    world.act(expire(1));
    assert_eq!(world.blockers(), ["no_consumers", "worker_lost"]);
}

#[test]
fn a_lease_that_ran_out_shows_as_a_lost_worker_until_the_request_is_claimed_again() {
    let mut world = held();
    world.wait(45.0).act(expire(1));
    let summary = world.summary();
    assert_eq!(world.blockers(), ["worker_lost"]);
    assert_eq!(summary.blocker_details[0].worker_id, Some("w".parse().unwrap()));
    assert_eq!(summary.blocker_details[0].since, at(45.0));
    assert_eq!(
        summary.blockers,
        ["worker_lost: The worker w was lost, and nobody has taken up its work yet."]
    );
    world.issue("other", 1);
    world.claim("r", "x", 2);
    assert_eq!(world.blockers(), [""; 0]);
}

#[test]
fn a_worker_whose_heartbeats_stopped_shows_as_lost_even_if_it_returns_without_taking_up_its_work() {
    let mut world = held();
    world.lose("w");
    assert_eq!(world.blockers(), ["no_consumers", "worker_lost"]);
    world.worker("w", worker::Action::Seen);
    assert_eq!(world.blockers(), ["worker_lost"]);
}

#[test]
fn a_lost_worker_is_forgotten_when_its_request_is_completed_by_whomever() {
    let mut world = held();
    world.wait(45.0).act(expire(1));
    world.issue("other", 1);
    world.complete("r", None, 100);
    assert_eq!(world.blockers(), [""; 0]);
}

#[test]
fn a_worker_that_ran_out_of_memory_or_crashed_shows_until_its_work_is_taken_up() {
    for (exit_code, code) in [(137, "worker_oom"), (1, "worker_crashed")] {
        let mut world = held();
        world.exit("w", exit_code);
        assert_eq!(world.blockers(), ["no_consumers", code]);
        world.claim("r", "x", 2);
        assert_eq!(world.blockers(), [""; 0]);
    }
}

#[test]
fn a_worker_that_returns_is_no_longer_out_of_memory() {
    let mut world = held();
    world.exit("w", 137);
    world.worker("w", worker::Action::Seen);
    assert_eq!(world.blockers(), [""; 0]);
}

#[test]
fn a_worker_that_was_stopped_in_order_blocks_nothing() {
    let mut world = held();
    world.worker("x", worker::Action::Register { kinds: vec![WorkKind::MatchRequest], version: None });
    world.exit("w", 0);
    assert_eq!(world.blockers(), [""; 0]);
}

#[test]
fn each_lost_worker_shows_once_since_its_first_loss() {
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
fn the_queue_lags_when_the_oldest_waiting_request_is_older_than_60_seconds() {
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
fn a_failed_job_shows_its_error_and_nothing_else_until_it_is_retried() {
    let mut world = held();
    world.act(expire(1));
    world.wait(500.0).job(job::Action::Fail {
        lease_id: None,
        error: error("No space left on device"),
        left_alone_until: None,
    });
    let summary = world.summary();
    assert_eq!(summary.blockers, ["failed: The worker ran out of disk space."]);
    assert_eq!(summary.blocker_details[0].since, at(500.0));
    world.job(job::Action::Retry { eta_priors: Vec::new() });
    assert!(!world.blockers().contains(&"failed"));
}

#[test]
fn a_job_that_has_ended_has_no_blockers() {
    for phase in [Phase::Completed, Phase::Cancelled] {
        let mut world = held();
        world.act(expire(1));
        world.enter(phase);
        world.wait(1000.0);
        assert_eq!(world.blockers(), [""; 0]);
    }
}
