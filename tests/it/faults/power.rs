//! Power cuts and failing calls of the disk under the real program, on a file system that forgets what was not synced.
//!
//! It needs `/dev/fuse` and the right to mount. Where a machine does not allow that, the tests say so and hold nothing;
//! `MATCHBOOK_TEST_FUSE=1` makes them fail there.

use std::io::Write;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use super::kills::{
    CALLERS, FRAMES, assert_a_clean_rebuild_answers_the_same, assert_answers_add_up, assert_once,
    assert_sound,
};
use crate::support::answers::exported;
use crate::support::figures::Figures;
use crate::support::job::{phase, running};
use crate::support::load::{Dice, Load};
use crate::support::lossy::{Call, Failure, Mount, Planned};
use crate::support::server::{Answer, Server};
use crate::support::{setting, until};

/// A new file system, if this machine lets us mount one.
fn mounted(seed: u64) -> Option<Mount> {
    match Mount::new(seed) {
        Ok(mount) => Some(mount),
        Err(reason) => {
            // Past the harness, which keeps what a test that passes prints to itself.
            let said =
                format!("NOT TESTED, 0 power cuts: this machine mounts no file system of ours: {reason}\n");
            std::io::stderr().write_all(said.as_bytes()).unwrap();
            assert!(setting("MATCHBOOK_TEST_FUSE", 0) == 0, "{reason}");
            None
        }
    }
}

async fn start(mount: &Mount, arguments: &[&str]) -> Server {
    Server::start_over(mount.path().join("data"), tempfile::tempdir().unwrap(), arguments).await
}

/// Asks for a job of this name, in its own name, so that asking again is asking for the same.
async fn create(server: &Server, name: &str) -> Answer {
    let body = json!({ "name": name, "metadata": { "text": "x".repeat(2_000) } }).to_string();
    server.send(Method::POST, "/jobs", &[("Idempotency-Key", name)], Some(body)).await
}

/// The names of the jobs that the log holds, in their order.
fn jobs(server: &Server) -> Vec<String> {
    let created = exported(server).into_iter().filter(|event| event["type"] == "JobCreated");
    created.map(|event| event["data"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_in_the_log_once_however_often_the_power_fails() {
    let (cuts, seed) = (setting("MATCHBOOK_TEST_POWER_CUTS", 6), setting("MATCHBOOK_TEST_SEED", 7));
    let Some(mut mount) = mounted(seed) else { return };
    let mut server = start(&mount, &["--segment-bytes=200000"]).await;
    let job = running(&server, CALLERS, FRAMES).await;
    let load = Load::start(&server, &job, CALLERS, FRAMES, seed);
    let mut dice = Dice(seed);
    let mut recoveries = Vec::new();
    for cut in 0..cuts {
        // Most come under load, some while the server is still starting.
        let enough = load.acknowledged() + if cut % 8 == 7 { 0 } else { 1 + dice.below(60) };
        until("commands are acknowledged", async || load.acknowledged() >= enough).await;
        tokio::time::sleep(Duration::from_micros(dice.below(30_000))).await;
        mount.cut_power();
        server.kill();
        mount.power_on();
        let start = Instant::now();
        if cut % 8 == 6 {
            server.spawn_under(&[]);
            tokio::time::sleep(Duration::from_micros(dice.below(400_000))).await;
            mount.cut_power();
            server.kill();
            mount.power_on();
        }
        server.restart().await;
        recoveries.push(start.elapsed());
    }
    let (acknowledged, resent) = (load.acknowledged(), load.resent());
    let outcomes = load.finish().await;
    phase(&server, &job, "completed").await;

    let log = exported(&server);
    assert_sound(&log, false);
    assert_once(&outcomes, &log);
    assert_answers_add_up(&server, &job).await;
    assert_a_clean_rebuild_answers_the_same(&server, &job).await;
    eprintln!("seed {seed}, sent again {resent}, events {}", log.len());
    let times = cuts + (cuts + 1) / 8;
    Figures { fault: "power cut under load".to_owned(), times, acknowledged, recoveries }.print();
}

/// Cuts the power under a server that has ended or is killed now, and starts it again.
async fn after_a_power_cut(server: &mut Server, mount: &mut Mount, figures: &mut Figures) {
    mount.cut_power();
    server.kill();
    mount.power_on();
    let start = Instant::now();
    server.restart().await;
    figures.times += 1;
    figures.recoveries.push(start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_command_of_a_new_folder_is_there_after_a_power_cut() {
    let seed = setting("MATCHBOOK_TEST_SEED", 7);
    let mut figures = Figures::new("power cut behind the first command");
    for round in 0..setting("MATCHBOOK_TEST_FIRST_CUTS", 3) {
        let Some(mut mount) = mounted(seed + round) else { return };
        let mut server = start(&mount, &[]).await;
        create(&server, "first").await.expect(201);
        after_a_power_cut(&mut server, &mut mount, &mut figures).await;
        figures.acknowledged += 1;
        assert_eq!(jobs(&server), ["first"], "seed {}", seed + round);
    }
    figures.print();
}

/// A call that fails while commands come one by one: what was acknowledged, and the answer that was none.
async fn until_refused(server: &Server) -> (Vec<String>, Answer) {
    let mut acknowledged = Vec::new();
    loop {
        let name = format!("job-{:03}", acknowledged.len());
        let answer = create(server, &name).await;
        if answer.status != 201 {
            return (acknowledged, answer);
        }
        acknowledged.push(name);
        assert!(acknowledged.len() < 200, "the call never came");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_and_loses_what_it_had_is_final_and_loses_nothing_acknowledged() {
    let (mut figures, mut happened) = (Figures::new("EIO that loses what it had, then a power cut"), 0);
    let faults = setting("MATCHBOOK_TEST_CALLS", 2);
    for (n, call) in (1..=faults).flat_map(|n| [(n, Call::Sync), (n, Call::Write)]) {
        let Some(mut mount) = mounted(n) else { return };
        let mut server = start(&mount, &["--segment-bytes=60000"]).await;
        mount.plan(Planned { call, suffix: ".segment", nth: n, failure: Failure::Io });
        let (acknowledged, answer) = until_refused(&server).await;
        assert_eq!(answer.problem(503)["code"], "OUTCOME_UNKNOWN");
        assert_eq!(server.ended(), Some(74), "{}", server.log());
        assert_eq!(mount.met(), 1);
        // Whatever the process that died had in the caches is gone as well.
        after_a_power_cut(&mut server, &mut mount, &mut figures).await;
        let mut there = jobs(&server);
        happened += there.len() - acknowledged.len();
        figures.acknowledged += acknowledged.len() as u64;
        there.truncate(acknowledged.len());
        assert_eq!(there, acknowledged, "{call:?} {n}");
    }
    eprintln!("of the unknown, {happened} had happened");
    figures.print();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_turns_read_only_ends_the_server_and_refuses_the_next_with_a_reason() {
    let mut figures = Figures::new("the file system turns read-only (EROFS)");
    for n in 1..=setting("MATCHBOOK_TEST_CALLS", 2) {
        let Some(mut mount) = mounted(n) else { return };
        let mut server = start(&mount, &[]).await;
        create(&server, "job-before").await.expect(201);
        mount.plan(Planned { call: Call::Write, suffix: ".segment", nth: n, failure: Failure::ReadOnly });
        let (acknowledged, answer) = until_refused(&server).await;
        assert_eq!(answer.problem(503)["code"], "OUTCOME_UNKNOWN");
        assert_eq!(server.ended(), Some(74), "{}", server.log());
        let log = server.log();
        let last = log.lines().last().unwrap();
        assert!(
            last.contains("Read-only file system") && last.contains("what was acknowledged is safe"),
            "{last}"
        );

        let (code, said) = server.refused();
        assert_eq!(code, Some(74), "{said}");
        assert!(
            said.contains("Read-only file system") && said.contains("may read and write the folder"),
            "{said}"
        );

        after_a_power_cut(&mut server, &mut mount, &mut figures).await;
        let mut there = jobs(&server);
        there.truncate(acknowledged.len() + 1);
        assert_eq!(there[0], "job-before");
        assert_eq!(there[1..], acknowledged);
        figures.acknowledged += there.len() as u64;
    }
    figures.print();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_finds_no_room_passes_or_is_final_and_loses_nothing_acknowledged() {
    let calls = setting("MATCHBOOK_TEST_CALLS", 2);
    let (mut figures, mut ended) = (Figures::new("a write finds no room (ENOSPC), then a power cut"), 0);
    for (n, suffix) in (1..=calls).flat_map(|n| [(n, ".segment"), (n, "room.tmp")]) {
        let Some(mut mount) = mounted(n) else { return };
        let mut server = start(&mount, &["--segment-bytes=60000"]).await;
        mount.plan(Planned { call: Call::Write, suffix, nth: n, failure: Failure::NoSpace });
        let (mut acknowledged, mut behind) = (Vec::new(), 0);
        while behind < 30 {
            let name = format!("job-{:03}", acknowledged.len());
            let answer = create(&server, &name).await;
            behind += mount.met();
            match answer.status.as_u16() {
                201 => acknowledged.push(name),
                // There is room again at the next try, or the room was for events on their way.
                507 => {}
                _ => {
                    assert_eq!(answer.problem(503)["code"], "OUTCOME_UNKNOWN");
                    assert_eq!(server.ended(), Some(74), "{}", server.log());
                    ended += 1;
                    break;
                }
            }
        }
        after_a_power_cut(&mut server, &mut mount, &mut figures).await;
        let mut there = jobs(&server);
        there.truncate(acknowledged.len());
        assert_eq!(there, acknowledged, "{suffix} {n}");
        figures.acknowledged += acknowledged.len() as u64;
    }
    eprintln!("ended the server: {ended}");
    figures.print();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_of_the_vault_names_nobody_until_the_next_start() {
    for call in [Call::Sync, Call::Write] {
        let Some(mut mount) = mounted(1) else { return };
        let mut server = start(&mount, &[]).await;
        mount.plan(Planned { call, suffix: "vault.sqlite", nth: 1, failure: Failure::Io });
        for _ in 0..3 {
            // The first one meets the fault; on the others the disk would work again.
            create(&server, "a job").await.problem(503);
        }
        assert_eq!(mount.met(), 1);
        assert!(jobs(&server).is_empty());
        after_a_power_cut(&mut server, &mut mount, &mut Figures::new("")).await;
        create(&server, "a job").await.expect(201);
        assert_eq!(jobs(&server), ["a job"]);
    }
}
