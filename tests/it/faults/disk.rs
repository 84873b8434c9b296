//! A disk that fails, and one without room.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::figures::Figures;
use crate::support::server::{Answer, Server, signal};
use crate::support::{setting, until};

/// The words that make system calls on one file fail, as `strace` takes them. It traces from beside, so that the server
/// stays our child.
fn strace(file: &Path, injection: &str) -> Vec<String> {
    let found = Command::new("strace").arg("-V").output();
    assert!(found.is_ok(), "strace is missing: ./test installs it");
    let words = [
        "strace",
        "-D",
        "-I2",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-P",
        file.to_str().unwrap(),
        "-e",
        injection,
    ];
    words.map(str::to_owned).into()
}

/// Asks for a job of this name, in its own name, so that asking again is asking for the same.
async fn create(server: &Server, name: &str) -> Answer {
    let body = json!({ "name": name }).to_string();
    server.send(Method::POST, "/jobs", &[("Idempotency-Key", name)], Some(body)).await
}

async fn names(server: &Server) -> Vec<String> {
    let jobs = server.get("/jobs?limit=500").await.expect(200);
    let items = jobs["items"].as_array().unwrap();
    let mut names: Vec<String> = items.iter().map(|job| job["name"].as_str().unwrap().to_owned()).collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_failed_sync_is_final_and_what_was_acknowledged_is_there_after_it() {
    // The segment is synced when it is opened, and then for each command.
    let (mut figures, mut happened) = (Figures::new("a sync of the segment fails (EIO)"), 0);
    let faults = 4..4 + setting("MATCHBOOK_TEST_SYNCS", 3);
    for nth in faults {
        let mut server = Server::start(&[]).await;
        create(&server, "before").await.expect(201);
        assert_eq!(server.terminate(), Some(0), "{}", server.log());
        let segment = server.data().join("events/00000000000000000001.segment");
        server.restart_under(&strace(&segment, &format!("inject=fdatasync:error=EIO:when={nth}"))).await;
        let mut acknowledged = vec!["before".to_owned()];
        let unknown = loop {
            let name = format!("job-{}", acknowledged.len());
            let answer = create(&server, &name).await;
            if answer.status != 201 {
                assert_eq!(answer.problem(503)["code"], "OUTCOME_UNKNOWN");
                break name;
            }
            acknowledged.push(name);
        };
        assert_eq!(server.ended(), Some(74), "{}", server.log());
        let log = server.log();
        let last = log.lines().last().unwrap();
        assert!(last.contains("disk failed") && last.contains("what was acknowledged is safe"), "{last}");

        let start = Instant::now();
        server.restart().await;
        figures.recoveries.push(start.elapsed());
        let mut there = names(&server).await;
        figures.acknowledged += acknowledged.len() as u64;
        figures.times += 1;
        happened += there.len() - acknowledged.len();
        there.retain(|name| *name != unknown);
        acknowledged.sort_unstable();
        assert_eq!(there, acknowledged, "but for {unknown}");
        create(&server, &unknown).await.expect(201);
        until("the job is shown", async || names(&server).await.contains(&unknown)).await;
        assert_eq!(names(&server).await.len(), acknowledged.len() + 1);
    }
    eprintln!("of the unknown, {happened} had happened");
    figures.print();
}

/// A folder on a disk that few others write to meanwhile.
fn quiet_folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_commands_and_answers_questions_until_there_is_room() {
    let folder = quiet_folder();
    let free = {
        let disk = rustix::fs::statvfs(folder.path()).unwrap();
        disk.f_bavail * disk.f_frsize
    };
    // What others write meanwhile must not tip the balance, so it is tipped by as much as is decent.
    let ballast = (free / 2).min(128_000_000);
    let reserve = format!("--reserve-bytes={}", free - ballast / 2);
    let server = Server::start_in(folder, &[&reserve, "--segment-bytes=60000"]).await;
    let job = create(&server, "before").await.expect(201)["id"].as_str().unwrap().to_owned();

    let file = std::fs::File::create(server.folder.path().join("ballast")).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, ballast).unwrap();
    let mut made = 1;
    let refused = loop {
        let long = json!({ "name": format!("job-{made}"), "metadata": { "text": "x".repeat(10_000) } });
        let answer = server.post("/jobs", &long).await;
        if answer.status != 201 {
            break answer;
        }
        made += 1;
        assert!(made < 100, "the disk never got full");
    };
    assert_eq!(refused.problem(507)["code"], "INSUFFICIENT_STORAGE");
    assert!(refused.headers.contains_key("retry-after"));
    until("all that was taken is shown", async || names(&server).await.len() == made).await;
    server.get("/audit/events").await.expect(200);
    server.get(&format!("/jobs/{job}/matching/summary")).await.expect(200);
    let mut stream =
        server.http.get(format!("{}/jobs/{job}/matching/stream", server.url)).send().await.unwrap();
    assert!(stream.chunk().await.unwrap().is_some());

    drop(file);
    std::fs::remove_file(server.folder.path().join("ballast")).unwrap();
    until("there is room", async || create(&server, "after").await.status == 201).await;
    until("the job is shown", async || names(&server).await.len() == made + 1).await;
    server.get("/ready").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_without_room_for_a_read_model_and_makes_it_once_there_is() {
    let mut server = Server::start(&[]).await;
    create(&server, "before").await.expect(201);
    server.kill();
    std::fs::remove_dir_all(server.data().join("read")).unwrap();
    let file = server.data().join("read/jobs.1.sqlite-wal");
    server.spawn_under(&strace(&file, "inject=pwrite64:error=ENOSPC"));
    let state = async || {
        let answer = server.http.get(format!("{}/internal/projections", server.url)).send().await.ok()?;
        let answer: Value = serde_json::from_str(&answer.text().await.ok()?).ok()?;
        let jobs = answer["items"].as_array()?.iter().find(|item| item["name"] == "jobs")?.clone();
        Some((
            jobs["state"].as_str()?.to_owned(),
            jobs["stop"]["error"].as_str().unwrap_or_default().to_owned(),
        ))
    };
    until("it says that there is no room", async || {
        state().await.is_some_and(|(state, error)| state == "retrying" && error.contains("disk is full"))
    })
    .await;
    server.get("/jobs").await.problem(503);
    create(&server, "meanwhile").await.expect(201);
    server.get("/audit/events").await.expect(200);

    // Whoever traces lets go, and with it the fault.
    let tracer = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let tracer =
        tracer.lines().find_map(|line| line.strip_prefix("TracerPid:")).unwrap().trim().parse().unwrap();
    signal(tracer, "TERM");
    until("the read model is made", async || state().await.is_some_and(|(state, _)| state == "live")).await;
    assert_eq!(names(&server).await, ["before", "meanwhile"]);
}
