//! SIGKILL at any moment, under load.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::answers::{answers, exported};
use crate::support::figures::Figures;
use crate::support::job::{assert_adds_up, events, phase, running, summary};
use crate::support::load::{Dice, Load, Outcome, traces};
use crate::support::server::Server;
use crate::support::{setting, until};

pub(super) const CALLERS: usize = 6;
/// Candidates a request: a caller's progress ends there.
pub(super) const FRAMES: usize = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_in_the_log_once_however_often_the_server_is_killed() {
    let (kills, seed) = (setting("MATCHBOOK_TEST_KILLS", 4), setting("MATCHBOOK_TEST_SEED", 7));
    let mut server = Server::start(&["--segment-bytes=200000"]).await;
    let job = running(&server, CALLERS, FRAMES).await;
    let load = Load::start(&server, &job, CALLERS, FRAMES, seed);
    let mut dice = Dice(seed);
    let mut recoveries = Vec::new();
    for _ in 0..kills {
        let enough = load.acknowledged() + 1 + dice.below(60);
        until("commands are acknowledged", async || load.acknowledged() >= enough).await;
        tokio::time::sleep(Duration::from_micros(dice.below(30_000))).await;
        server.kill();
        let start = Instant::now();
        server.restart().await;
        recoveries.push(start.elapsed());
    }
    let (acknowledged, resent) = (load.acknowledged(), load.resent());
    let outcomes = load.finish().await;
    phase(&server, &job, "completed").await;

    let log = exported(&server);
    assert_sound(&log, server.has_gaps());
    assert_once(&outcomes, &log);
    assert_answers_add_up(&server, &job).await;
    assert_a_clean_rebuild_answers_the_same(&server, &job).await;
    eprintln!("kills {kills}, seed {seed}, sent again {resent}, events {}", log.len());
    Figures { fault: "kill -9 under load".to_owned(), times: kills, acknowledged, recoveries }.print();
}

/// Revisions have no gap, nor have positions on a log of our own; time does not go back, and no event is there twice.
pub(crate) fn assert_sound(log: &[Value], has_gaps: bool) {
    let mut position = 0;
    let mut revisions: BTreeMap<&str, u64> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    let mut recorded_at = "";
    for event in log {
        let at = event["position"].as_u64().unwrap();
        assert!(if has_gaps { at > position } else { at == position + 1 }, "{at} after {position}");
        position = at;
        let next = revisions.entry(event["stream"].as_str().unwrap()).or_insert(0);
        assert_eq!(event["revision"], *next, "{event}");
        *next += 1;
        assert!(ids.insert(event["id"].as_str().unwrap()), "twice: {event}");
        let at = event["recorded_at"].as_str().unwrap();
        assert!(at >= recorded_at, "{at} after {recorded_at}");
        recorded_at = at;
    }
}

/// Each acknowledged command is there once, each of unknown outcome at most once, and nothing that nobody asked for.
pub(crate) fn assert_once(outcomes: &BTreeMap<String, Outcome>, log: &[Value]) {
    let mut seen = traces(log);
    // The job that the callers work on was there before them.
    seen.remove("job a job");
    for (trace, outcome) in outcomes {
        let times = seen.remove(trace).unwrap_or(0);
        match outcome {
            Outcome::Acknowledged => assert_eq!(times, 1, "{trace}"),
            Outcome::Unknown => assert!(times <= 1, "{trace}: {times}"),
        }
    }
    assert!(seen.is_empty(), "nobody asked for {seen:?}");
}

pub(crate) async fn assert_answers_add_up(server: &Server, job: &str) {
    let said = summary(server, job, "").await;
    assert_eq!(said, summary(server, job, "?force_refresh=true").await);
    assert_adds_up(&said, &events(server, job).await);
    let metrics = server.get("/metrics").await.text;
    let repairs = metrics.lines().find(|line| line.starts_with("matching_summary_repairs_total"));
    assert!(repairs.is_none_or(|line| line.ends_with(" 0")), "{repairs:?}");
}

pub(crate) async fn assert_a_clean_rebuild_answers_the_same(server: &Server, job: &str) {
    let before = answers(server, job).await;
    for name in [
        "challenges",
        "jobs",
        "match_records",
        "matches",
        "matching_summary",
        "players",
        "queues",
        "retries",
        "workers",
    ] {
        let rebuilt = server.cli(&["projections", "rebuild", name]);
        assert!(rebuilt.status.success(), "{rebuilt:?}");
    }
    assert_eq!(answers(server, job).await, before);
}
