//! A process that appends is killed repeatedly, and no acknowledged event is lost.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use event_schemas::ids::{Position, Revision};
use uuid::Uuid;

use super::harness::{SeededRng, event};
use super::{EmbeddedLog, Settings};
use event_log::clock::Clock;
use event_log::{EventLog, Expected, Filter};

/// The environment variable with the log's folder, set for the process to kill.
const FOLDER: &str = "EVENT_LOG_KILL_TEST_FOLDER";

const APPENDERS: u64 = 16;
const KILLS: u64 = 8;

fn settings(folder: &Path) -> Settings {
    Settings { segment_bytes: 256 << 10, reserve_bytes: 0, ..Settings::new(folder.join("events")) }
}

/// The process to kill: appends in a loop and prints the acknowledged events. The test below starts it; otherwise it does
/// nothing.
#[test]
fn appender_process() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let (log, opened) = EmbeddedLog::open(&settings(Path::new(&folder)), Clock::System).unwrap();
        let mut appenders = Vec::new();
        for appender in 0..APPENDERS {
            let log = log.clone();
            appenders
                .push(tokio::spawn(async move { append_in_a_loop(&log, appender, opened.events).await }));
        }
        for appender in appenders {
            appender.await.unwrap();
        }
    });
}

async fn append_in_a_loop(log: &EmbeddedLog, appender: u64, run: u64) {
    let stream = format!("a-{appender}").parse().unwrap();
    let mut rng = SeededRng::new(run * APPENDERS + appender);
    loop {
        // The ids contain the number of events of the append, so that a partial append is detected.
        let count = 1 + rng.below(5);
        let first = Uuid::new_v4().as_u128() >> 8 << 8;
        let events = (0..count).map(|n| event(first | u128::from(count << 4 | n), 100)).collect();
        let appended = log.append(&stream, Expected::Any, events).await.unwrap();
        let line =
            format!("acked {} {:032x}\n", appended.position, first | u128::from(count << 4 | (count - 1)));
        // This fails when the parent has ended, and then this process ends as well.
        std::io::stdout().write_all(line.as_bytes()).unwrap();
    }
}

fn start(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill_tests::appender_process", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn killed_process_loses_no_acknowledged_event() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<Position, u128> = BTreeMap::new();
    let mut rng = SeededRng::new(1);
    for _ in 0..KILLS {
        let mut child = start(folder.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = 50 + rng.below(1500);
        let mut killed = false;
        let mut seen = 0;
        // The output before the kill is still in the pipe, which is read to its end.
        while let Some(Ok(line)) = lines.next() {
            let mut words = line.split(' ').skip_while(|word| !word.ends_with("acked")).skip(1);
            if let (Some(position), Some(id)) = (words.next(), words.next())
                && id.len() == 32
            {
                acknowledged
                    .insert(Position(position.parse().unwrap()), u128::from_str_radix(id, 16).unwrap());
                seen += 1;
            }
            if seen >= wanted && !killed {
                std::thread::sleep(Duration::from_micros(rng.below(3000)));
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(killed, "the appender ended before it was killed, after {seen} appends");
        check(folder.path(), &acknowledged);
    }
    assert!(acknowledged.len() > 400);
}

/// Checks that every acknowledged event is at its position, and that there is no gap and no partial append.
fn check(folder: &Path, acknowledged: &BTreeMap<Position, u128>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (log, opened) = EmbeddedLog::open(&settings(folder), Clock::System).unwrap();
        let mut events = Vec::new();
        let mut after = Position::START;
        while after.0 < opened.events {
            let page = log.read_all(after, &Filter::All, 4096).await.unwrap();
            events.extend(page.events);
            after = page.next;
        }
        log.close().await;
        assert_eq!(events.len() as u64, opened.events);
        let mut revisions = BTreeMap::new();
        for (n, event) in events.iter().enumerate() {
            assert_eq!(event.position, Position(n as u64 + 1));
            let revision = revisions.entry(event.stream.clone()).or_insert(Revision(0));
            assert_eq!(event.revision, *revision);
            *revision = revision.next();
        }
        for (position, id) in acknowledged {
            assert_eq!(events[usize::try_from(position.0).unwrap() - 1].id.0.as_u128(), *id, "{position}");
        }
        let mut at = 0;
        while let Some(first) = events.get(at) {
            let id = first.id.0.as_u128();
            let count = usize::try_from(id >> 4 & 15).unwrap();
            assert_eq!(id & 15, 0, "an append starts at position {}", first.position);
            let whole = events.get(at..at + count).expect("the last append is whole");
            assert!(whole.iter().zip(id..).all(|(event, id)| event.id.0.as_u128() == id));
            at += count;
        }
    });
}
