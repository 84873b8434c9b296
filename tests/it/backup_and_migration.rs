//! Backup and restore, export and import, and migration of the log, by the real program.

mod backup;
mod export_import;
mod migration;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::job::{running_job, set_phase};
use crate::support::load::SeededRng;
use crate::support::server::Server;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs a command of the program that needs no server.
fn matchbook(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_matchbook"));
    command
        .args(arguments)
        // Tests share the disk with other programs.
        .env("MATCHBOOK_RESERVE_BYTES", "1000000")
        .env("MATCHBOOK_SEGMENT_BYTES", "8000000")
        .stdin(Stdio::null());
    command
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The exit code of a command that failed, and the last line of its error output.
#[track_caller]
fn failed(output: &Output) -> (Option<i32>, String) {
    assert!(!output.status.success(), "{output:?}");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned(),
    )
}

/// Starts the command and kills it at a random moment, `times` times.
fn kill_repeatedly(mut command: impl FnMut() -> Command, times: u64, micros_max: u64, rng: &mut SeededRng) {
    for _ in 0..times {
        let mut child = command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(rng.below(micros_max)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// A server with one completed job of `matches` matches, and the id of the job.
async fn server_with_matches(matches: usize, arguments: &[&str]) -> (Server, String) {
    let server = Server::start(arguments).await;
    let job = running_job(&server, 4, 100).await;
    for batch in (0..matches).collect::<Vec<_>>().chunks(200) {
        let found: Vec<Value> = batch
            .iter()
            .map(|n| {
                json!({ "match_id": format!("m-{n}"), "product_id": format!("p{}", n % 4), "video_id": "v",
                        "img_id": format!("p{}-1", n % 4), "frame_id": format!("f{}", n % 100), "score": (n % 97) as f64 / 97.0 })
            })
            .collect();
        server.post(&format!("/jobs/{job}/matches"), &found.into()).await.expect(200);
    }
    set_phase(&server, &job, "completed").await;
    (server, job)
}
