//! SIGKILL at random moments, under load.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use projections::Name;
use serde_json::Value;

use crate::support::fault_report::FaultReport;
use crate::support::job::{assert_summary_matches_events, events, running_job, set_phase, summary};
use crate::support::load::{Load, Outcome, SeededRng, count_effects};
use crate::support::server::Server;
use crate::support::server_state::{exported_events, read_model_responses, rebuild};
use crate::support::{setting, wait_until};

pub(super) const CALLERS: usize = 6;
/// The candidates per match request, which limit a caller's progress reports.
pub(super) const FRAMES: usize = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_commands_survive_kills_exactly_once() {
    let (kills, seed) = (setting("MATCHBOOK_TEST_KILLS", 4), setting("MATCHBOOK_TEST_SEED", 7));
    let mut server = Server::start(&["--segment-bytes=200000"]).await;
    let job = running_job(&server, CALLERS, FRAMES).await;
    let load = Load::start(&server, &job, CALLERS, FRAMES, seed);
    let mut rng = SeededRng(seed);
    let mut recoveries = Vec::new();
    for _ in 0..kills {
        let enough = load.acknowledged() + 1 + rng.below(60);
        wait_until("commands are acknowledged", async || load.acknowledged() >= enough).await;
        tokio::time::sleep(Duration::from_micros(rng.below(30_000))).await;
        server.kill();
        let start = Instant::now();
        server.restart().await;
        recoveries.push(start.elapsed());
    }
    let (acknowledged, resent) = (load.acknowledged(), load.resent());
    let outcomes = load.finish().await;
    set_phase(&server, &job, "completed").await;

    let log = exported_events(&server);
    assert_log_is_consistent(&log, server.has_gaps());
    assert_recorded_once(&outcomes, &log);
    assert_summary_is_exact(&server, &job).await;
    assert_rebuild_gives_same_answers(&server, &job).await;
    eprintln!("kills {kills}, seed {seed}, resent {resent}, events {}", log.len());
    FaultReport { fault: "kill -9 under load".to_owned(), count: kills, acknowledged, recoveries }.print();
}

/// Asserts that revisions have no gaps (nor positions, unless `has_gaps`), that `recorded_at` never decreases, and that
/// event ids are unique.
pub(crate) fn assert_log_is_consistent(log: &[Value], has_gaps: bool) {
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

/// Asserts that each acknowledged command was recorded once, each one of unknown outcome at most once, and nothing else.
pub(crate) fn assert_recorded_once(outcomes: &BTreeMap<String, Outcome>, log: &[Value]) {
    let mut counts = count_effects(log);
    // This job was created before the load started.
    counts.remove("job a job");
    for (effect, outcome) in outcomes {
        let times = counts.remove(effect).unwrap_or(0);
        match outcome {
            Outcome::Acknowledged => assert_eq!(times, 1, "{effect}"),
            Outcome::Unknown => assert!(times <= 1, "{effect}: {times}"),
        }
    }
    assert!(counts.is_empty(), "no caller requested {counts:?}");
}

pub(crate) async fn assert_summary_is_exact(server: &Server, job: &str) {
    let shown = summary(server, job, "").await;
    assert_eq!(shown, summary(server, job, "?force_refresh=true").await);
    assert_summary_matches_events(&shown, &events(server, job).await);
    let metrics = server.get("/metrics").await.text;
    let repairs = metrics.lines().find(|line| line.starts_with("matchbook_matching_summary_repairs_total"));
    assert!(repairs.is_none_or(|line| line.ends_with(" 0")), "{repairs:?}");
}

pub(crate) async fn assert_rebuild_gives_same_answers(server: &Server, job: &str) {
    let before = read_model_responses(server, job).await;
    for name in Name::NAMES {
        rebuild(server, name).await;
    }
    assert_eq!(read_model_responses(server, job).await, before);
}
