//! Power cuts and failing disk calls under the real program, on a file system that loses unsynced data.
//!
//! The tests need `/dev/fuse` and the right to mount. Without these they print a warning and test nothing, or fail if
//! `MATCHBOOK_TEST_FUSE=1` is set.

use std::io::Write;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use super::kills::{
    CALLERS, FRAMES, assert_log_is_consistent, assert_rebuild_gives_same_answers, assert_recorded_once,
    assert_summary_is_exact,
};
use crate::support::fault_report::FaultReport;
use crate::support::job::{running_job, set_phase};
use crate::support::load::{Load, SeededRng};
use crate::support::lossy::{Call, Failure, Mount, PlannedFailure};
use crate::support::server::{Response, Server};
use crate::support::server_state::exported_events;
use crate::support::{setting, wait_until};

/// A new file system, if this machine allows us to mount one.
fn mounted(seed: u64) -> Option<Mount> {
    match Mount::new(seed) {
        Ok(mount) => Some(mount),
        Err(reason) => {
            // Written directly, because the test harness hides the captured output of passing tests.
            let warning = format!(
                "NOT TESTED, 0 power cuts: this machine does not mount the test file system: {reason}\n"
            );
            std::io::stderr().write_all(warning.as_bytes()).unwrap();
            assert!(setting("MATCHBOOK_TEST_FUSE", 0) == 0, "{reason}");
            None
        }
    }
}

async fn start(mount: &Mount, arguments: &[&str]) -> Server {
    Server::start_with_data(mount.path().join("data"), tempfile::tempdir().unwrap(), arguments).await
}

/// Creates a job with its name as the idempotency key, so that a repeated call creates no second job.
async fn create(server: &Server, name: &str) -> Response {
    let body = json!({ "name": name, "metadata": { "text": "x".repeat(2_000) } }).to_string();
    server.send(Method::POST, "/jobs", &[("Idempotency-Key", name)], Some(body)).await
}

/// The names of the jobs in the log, in order.
fn jobs(server: &Server) -> Vec<String> {
    let created = exported_events(server).into_iter().filter(|event| event["type"] == "JobCreated");
    created.map(|event| event["data"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_commands_survive_power_cuts_exactly_once() {
    let (cuts, seed) = (setting("MATCHBOOK_TEST_POWER_CUTS", 6), setting("MATCHBOOK_TEST_SEED", 7));
    let Some(mut mount) = mounted(seed) else { return };
    let mut server = start(&mount, &["--segment-bytes=200000"]).await;
    let job = running_job(&server, CALLERS, FRAMES).await;
    let load = Load::start(&server, &job, CALLERS, FRAMES, seed);
    let mut rng = SeededRng(seed);
    let mut recoveries = Vec::new();
    for cut in 0..cuts {
        // Most cuts happen under load, some while the server is still starting.
        let enough = load.acknowledged() + if cut % 8 == 7 { 0 } else { 1 + rng.below(60) };
        wait_until("commands are acknowledged", async || load.acknowledged() >= enough).await;
        tokio::time::sleep(Duration::from_micros(rng.below(30_000))).await;
        mount.cut_power();
        server.kill();
        mount.power_on();
        let start = Instant::now();
        if cut % 8 == 6 {
            server.spawn_under(&[]);
            tokio::time::sleep(Duration::from_micros(rng.below(400_000))).await;
            mount.cut_power();
            server.kill();
            mount.power_on();
        }
        server.restart().await;
        recoveries.push(start.elapsed());
    }
    let (acknowledged, resent) = (load.acknowledged(), load.resent());
    let outcomes = load.finish().await;
    set_phase(&server, &job, "completed").await;

    let log = exported_events(&server);
    assert_log_is_consistent(&log, false);
    assert_recorded_once(&outcomes, &log);
    assert_summary_is_exact(&server, &job).await;
    assert_rebuild_gives_same_answers(&server, &job).await;
    eprintln!("seed {seed}, resent {resent}, events {}", log.len());
    let count = cuts + (cuts + 1) / 8;
    FaultReport { fault: "power cut under load".to_owned(), count, acknowledged, recoveries }.print();
}

/// Cuts the power, kills the server if it still runs, and restarts it.
async fn power_cycle(server: &mut Server, mount: &mut Mount, report: &mut FaultReport) {
    mount.cut_power();
    server.kill();
    mount.power_on();
    let start = Instant::now();
    server.restart().await;
    report.count += 1;
    report.recoveries.push(start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn first_command_in_a_new_folder_survives_a_power_cut() {
    let seed = setting("MATCHBOOK_TEST_SEED", 7);
    let mut report = FaultReport::new("power cut after the first command");
    for round in 0..setting("MATCHBOOK_TEST_FIRST_CUTS", 3) {
        let Some(mut mount) = mounted(seed + round) else { return };
        let mut server = start(&mount, &[]).await;
        create(&server, "first").await.expect(201);
        power_cycle(&mut server, &mut mount, &mut report).await;
        report.acknowledged += 1;
        assert_eq!(jobs(&server), ["first"], "seed {}", seed + round);
    }
    report.print();
}

/// Sends commands one by one until one fails: the acknowledged ones, and the response to the failed one.
async fn until_refused(server: &Server) -> (Vec<String>, Response) {
    let mut acknowledged = Vec::new();
    loop {
        let name = format!("job-{:03}", acknowledged.len());
        let response = create(server, &name).await;
        if response.status != 201 {
            return (acknowledged, response);
        }
        acknowledged.push(name);
        assert!(acknowledged.len() < 200, "the planned failure never occurred");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_disk_call_is_final_and_keeps_acknowledged_events() {
    let (mut report, mut recorded) = (FaultReport::new("EIO that drops unsynced data, then a power cut"), 0);
    let faults = setting("MATCHBOOK_TEST_CALLS", 2);
    for (n, call) in (1..=faults).flat_map(|n| [(n, Call::Sync), (n, Call::Write)]) {
        let Some(mut mount) = mounted(n) else { return };
        let mut server = start(&mount, &["--segment-bytes=60000"]).await;
        mount.plan(PlannedFailure { call, suffix: ".segment", nth: n, failure: Failure::Io });
        let (acknowledged, response) = until_refused(&server).await;
        assert_eq!(response.problem(503)["code"], "OUTCOME_UNKNOWN");
        assert_eq!(server.wait_for_exit(), Some(74), "{}", server.log());
        assert_eq!(mount.failures_injected(), 1);
        // The unsynced data of the dead process in the caches is lost as well.
        power_cycle(&mut server, &mut mount, &mut report).await;
        let mut actual = jobs(&server);
        recorded += actual.len() - acknowledged.len();
        report.acknowledged += acknowledged.len() as u64;
        actual.truncate(acknowledged.len());
        assert_eq!(actual, acknowledged, "{call:?} {n}");
    }
    eprintln!("{recorded} commands of unknown outcome were recorded");
    report.print();
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_file_system_ends_the_server_and_the_next_start() {
    let mut report = FaultReport::new("the file system turns read-only (EROFS)");
    for n in 1..=setting("MATCHBOOK_TEST_CALLS", 2) {
        let Some(mut mount) = mounted(n) else { return };
        let mut server = start(&mount, &[]).await;
        create(&server, "job-before").await.expect(201);
        mount.plan(PlannedFailure {
            call: Call::Write,
            suffix: ".segment",
            nth: n,
            failure: Failure::ReadOnly,
        });
        let (acknowledged, response) = until_refused(&server).await;
        assert_eq!(response.problem(503)["code"], "OUTCOME_UNKNOWN");
        assert_eq!(server.wait_for_exit(), Some(74), "{}", server.log());
        let log = server.log();
        let last = log.lines().last().unwrap();
        assert!(
            last.contains("Read-only file system") && last.contains("acknowledged events are safe"),
            "{last}"
        );

        let (code, message) = server.start_refused();
        assert_eq!(code, Some(74), "{message}");
        assert!(
            message.contains("Read-only file system") && message.contains("may read and write the folder"),
            "{message}"
        );

        power_cycle(&mut server, &mut mount, &mut report).await;
        let mut actual = jobs(&server);
        actual.truncate(acknowledged.len() + 1);
        assert_eq!(actual[0], "job-before");
        assert_eq!(actual[1..], acknowledged);
        report.acknowledged += actual.len() as u64;
    }
    report.print();
}

#[tokio::test(flavor = "multi_thread")]
async fn write_without_space_keeps_acknowledged_events() {
    let calls = setting("MATCHBOOK_TEST_CALLS", 2);
    let (mut report, mut ended) = (FaultReport::new("a write finds no space (ENOSPC), then a power cut"), 0);
    for (n, suffix) in (1..=calls).flat_map(|n| [(n, ".segment"), (n, "next.tmp")]) {
        let Some(mut mount) = mounted(n) else { return };
        let mut server = start(&mount, &["--segment-bytes=60000"]).await;
        mount.plan(PlannedFailure { call: Call::Write, suffix, nth: n, failure: Failure::NoSpace });
        let (mut acknowledged, mut attempts_after_failure) = (Vec::new(), 0);
        while attempts_after_failure < 30 {
            let name = format!("job-{:03}", acknowledged.len());
            let response = create(&server, &name).await;
            attempts_after_failure += mount.failures_injected();
            match response.status.as_u16() {
                201 => acknowledged.push(name),
                // The next attempt finds space again, or the failed write was only a preallocation.
                507 => {}
                _ => {
                    assert_eq!(response.problem(503)["code"], "OUTCOME_UNKNOWN");
                    assert_eq!(server.wait_for_exit(), Some(74), "{}", server.log());
                    ended += 1;
                    break;
                }
            }
        }
        power_cycle(&mut server, &mut mount, &mut report).await;
        let mut actual = jobs(&server);
        actual.truncate(acknowledged.len());
        assert_eq!(actual, acknowledged, "{suffix} {n}");
        report.acknowledged += acknowledged.len() as u64;
    }
    eprintln!("ended the server: {ended}");
    report.print();
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_vault_sync_refuses_new_users_until_restart() {
    for call in [Call::Sync, Call::Write] {
        let Some(mut mount) = mounted(1) else { return };
        let mut server = start(&mount, &[]).await;
        mount.plan(PlannedFailure { call, suffix: "vault.sqlite", nth: 1, failure: Failure::Io });
        for _ in 0..3 {
            // The fault hits the first command; the disk works again for the others.
            create(&server, "a job").await.problem(503);
        }
        assert_eq!(mount.failures_injected(), 1);
        assert!(jobs(&server).is_empty());
        power_cycle(&mut server, &mut mount, &mut FaultReport::new("")).await;
        create(&server, "a job").await.expect(201);
        assert_eq!(jobs(&server), ["a job"]);
    }
}
