//! A failing disk and a full disk.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::fault_report::FaultReport;
use crate::support::server::{Response, Server, signal};
use crate::support::{setting, wait_until};

/// The `strace` command that makes system calls on one file fail. With `-D` the server stays a child of the test.
fn strace(file: &Path, injection: &str) -> Vec<String> {
    let version = Command::new("strace").arg("-V").output();
    assert!(version.is_ok(), "strace is missing: ./test installs it");
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

/// Creates a job with its name as the idempotency key, so that a repeated call creates no second job.
async fn create(server: &Server, name: &str) -> Response {
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
async fn first_failed_sync_is_final_and_keeps_acknowledged_events() {
    // The segment is synced when it is opened, and then for each command.
    let (mut report, mut recorded) = (FaultReport::new("a sync of the segment fails (EIO)"), 0);
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
            let response = create(&server, &name).await;
            if response.status != 201 {
                assert_eq!(response.problem(503)["code"], "OUTCOME_UNKNOWN");
                break name;
            }
            acknowledged.push(name);
        };
        assert_eq!(server.wait_for_exit(), Some(74), "{}", server.log());
        let log = server.log();
        let last = log.lines().last().unwrap();
        assert!(last.contains("disk failed") && last.contains("acknowledged events are safe"), "{last}");

        let start = Instant::now();
        server.restart().await;
        report.recoveries.push(start.elapsed());
        let mut actual = names(&server).await;
        report.acknowledged += acknowledged.len() as u64;
        report.count += 1;
        recorded += actual.len() - acknowledged.len();
        actual.retain(|name| *name != unknown);
        acknowledged.sort_unstable();
        assert_eq!(actual, acknowledged, "apart from {unknown}");
        create(&server, &unknown).await.expect(201);
        wait_until("the job is listed", async || names(&server).await.contains(&unknown)).await;
        assert_eq!(names(&server).await.len(), acknowledged.len() + 1);
    }
    eprintln!("{recorded} commands of unknown outcome were recorded");
    report.print();
}

/// A match of a few kilobytes.
fn long_match(n: u64) -> Value {
    json!({
        "match_id": format!("m{n}"), "product_id": "p", "video_id": "v", "img_id": "i", "frame_id": "f",
        "score": 0.5, "evidence_path": "x".repeat(1_000),
    })
}

/// A folder on a disk to which few other programs write.
fn quiet_folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_refuses_commands_and_serves_reads_until_freed() {
    let folder = quiet_folder();
    let free = {
        let disk = rustix::fs::statvfs(folder.path()).unwrap();
        disk.f_bavail * disk.f_frsize
    };
    // The ballast is large, so that writes of other programs do not decide whether the disk counts as full.
    let ballast = (free / 2).min(128_000_000);
    let reserve = format!("--reserve-bytes={}", free - ballast / 2);
    let server = Server::start_in(folder, &[&reserve, "--segment-bytes=60000"]).await;
    let job = create(&server, "before").await.expect(201)["id"].as_str().unwrap().to_owned();

    let file = std::fs::File::create(server.folder.path().join("ballast")).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, ballast).unwrap();
    let mut created = 1;
    let refused = loop {
        let long = json!({ "name": format!("job-{created}"), "metadata": { "text": "x".repeat(10_000) } });
        let response = server.post("/jobs", &long).await;
        if response.status != 201 {
            break response;
        }
        created += 1;
        assert!(created < 100, "the disk never got full");
    };
    assert_eq!(refused.problem(507)["code"], "INSUFFICIENT_STORAGE");
    assert!(refused.headers.contains_key("retry-after"));
    wait_until("all accepted jobs are listed", async || names(&server).await.len() == created).await;
    server.get("/audit/events").await.expect(200);
    server.get(&format!("/jobs/{job}/matching/summary")).await.expect(200);
    let mut stream =
        server.http.get(format!("{}/jobs/{job}/matching/stream", server.url)).send().await.unwrap();
    assert!(stream.chunk().await.unwrap().is_some());
    // Short batches still fit into the space that the current segment has, until one fits in part or not at all.
    let batch = |n: u64| -> Value { (n * 100..(n + 1) * 100).map(long_match).collect() };
    let mut complete = 0;
    let refused = loop {
        let response = server.post(&format!("/jobs/{job}/matches"), &batch(complete)).await;
        if response.status != 200 {
            break response.problem(507);
        }
        complete += 1;
        assert!(complete < 100, "the disk has space again");
    };
    let summary = server.get(&format!("/jobs/{job}/matching/summary?force_refresh=true")).await.expect(200);
    let recorded = summary["matches_found"].as_u64().unwrap() - complete * 100;
    let named = refused["parts"].as_array().into_iter().flatten().find(|part| part["outcome"] == "recorded");
    assert_eq!(named.map_or(0, |part| part["items"].as_array().unwrap().len() as u64), recorded, "{refused}");

    drop(file);
    std::fs::remove_file(server.folder.path().join("ballast")).unwrap();
    wait_until("the disk has space", async || create(&server, "after").await.status == 201).await;
    wait_until("the job is listed", async || names(&server).await.len() == created + 1).await;
    let completed = server.post(&format!("/jobs/{job}/matches"), &batch(complete)).await.expect(200);
    assert_eq!(
        (&completed["accepted"], &completed["duplicates"]),
        (&json!(100 - recorded), &json!(recorded))
    );
    server.get("/ready").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_starts_without_space_and_builds_read_model_later() {
    let mut server = Server::start(&[]).await;
    let job = create(&server, "before").await.expect(201)["id"].as_str().unwrap().to_owned();
    server.kill();
    std::fs::remove_dir_all(server.data().join("read")).unwrap();
    let file = server.data().join("read/jobs.1.sqlite-wal");
    server.spawn_under(&strace(&file, "inject=pwrite64:error=ENOSPC"));
    let state = async || {
        let response = server.http.get(format!("{}/internal/projections", server.url)).send().await.ok()?;
        let list: Value = serde_json::from_str(&response.text().await.ok()?).ok()?;
        let jobs = list["items"].as_array()?.iter().find(|item| item["name"] == "jobs")?.clone();
        Some((
            jobs["state"].as_str()?.to_owned(),
            jobs["stop"]["error"].as_str().unwrap_or_default().to_owned(),
        ))
    };
    wait_until("the projection reports the full disk", async || {
        state().await.is_some_and(|(state, error)| state == "retrying" && error.contains("disk is full"))
    })
    .await;
    let problem = server.get("/jobs").await;
    assert!(problem.headers.contains_key("retry-after"));
    problem.problem(503);
    // What the log alone determines is read from there.
    let job = server.get(&format!("/jobs/{job}")).await.expect(200);
    assert_eq!((&job["name"], &job["status"]), (&json!("before"), &json!("pending")));
    create(&server, "meanwhile").await.expect(201);
    server.get("/audit/events").await.expect(200);

    // Without its tracer the process has no faults any more.
    let tracer = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let tracer =
        tracer.lines().find_map(|line| line.strip_prefix("TracerPid:")).unwrap().trim().parse().unwrap();
    signal(tracer, "TERM");
    wait_until("the read model is built", async || state().await.is_some_and(|(state, _)| state == "live"))
        .await;
    assert_eq!(names(&server).await, ["before", "meanwhile"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn summary_is_read_from_the_log_on_a_full_disk() {
    let mut server = Server::start(&[]).await;
    let job = create(&server, "before").await.expect(201)["id"].as_str().unwrap().to_owned();
    let path = format!("/jobs/{job}/matching/summary");
    let mut before = server.get(&path).await.expect(200);
    let head = server.get("/status").await.expect(200)["log"]["head"].clone();
    server.kill();
    std::fs::remove_dir_all(server.data().join("read")).unwrap();
    let file = server.data().join("read/matching_summary.1.sqlite-wal");
    server.spawn_under(&strace(&file, "inject=pwrite64:error=ENOSPC"));
    wait_until("the server answers", async || {
        server.http.get(format!("{}/live", server.url)).send().await.is_ok()
    })
    .await;
    let mut now = server.get_at_head(&path).await;
    assert_eq!(now["position"], head);
    for summary in [&mut before, &mut now] {
        // They change with the time and with every other event.
        let is_timed = |name: &str| name == "position" || name.ends_with("_seconds") || name == "blockers";
        summary.as_object_mut().unwrap().retain(|name, _| !is_timed(name));
    }
    assert_eq!(now, before);
    server.get(&format!("/jobs/{job}")).await.expect(200);
    server.get("/jobs/00000000-0000-4000-8000-000000000000/matching/summary").await.problem(404);
}
