//! The process is killed in the middle of its work, again and again, and nothing that it acknowledged is missing.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use event_schemas::ids::{Position, Revision};
use uuid::Uuid;

use super::rig::{Lots, event};
use super::{EmbeddedLog, Settings};
use crate::clock::Clock;
use crate::{EventLog, Expected, Filter};

/// Set for the process that is to be killed: where its log is.
const FOLDER: &str = "EVENT_LOG_KILL_TEST_FOLDER";

const APPENDERS: u64 = 16;
const KILLS: u64 = 8;

fn settings(folder: &Path) -> Settings {
    Settings { segment_bytes: 256 << 10, reserve_bytes: 0, ..Settings::new(folder) }
}

/// The process that is killed: appends without end and prints what was acknowledged. Started by the test below; by
/// itself it has nothing to do.
#[test]
fn an_appender_for_others_to_kill() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let (log, opened) = EmbeddedLog::open(&settings(Path::new(&folder)), Clock::System).unwrap();
        let mut appenders = Vec::new();
        for appender in 0..APPENDERS {
            let log = log.clone();
            appenders.push(tokio::spawn(async move { append_for_ever(&log, appender, opened.events).await }));
        }
        for appender in appenders {
            appender.await.unwrap();
        }
    });
}

async fn append_for_ever(log: &EmbeddedLog, appender: u64, life: u64) {
    let stream = format!("a-{appender}").parse().unwrap();
    let mut lots = Lots::new(life * APPENDERS + appender);
    loop {
        // The first id says how many events the append has, so that half of one is noticed.
        let count = 1 + lots.below(5);
        let first = Uuid::new_v4().as_u128() >> 8 << 8;
        let events = (0..count).map(|n| event(first | u128::from(count << 4 | n), 100)).collect();
        let appended = log.append(&stream, Expected::Any, events).await.unwrap();
        let line =
            format!("acked {} {:032x}\n", appended.position, first | u128::from(count << 4 | (count - 1)));
        // The parent is gone when this fails; then so are we.
        std::io::stdout().write_all(line.as_bytes()).unwrap();
    }
}

fn start(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::kill_tests::an_appender_for_others_to_kill", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_process_loses_nothing_that_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<Position, u128> = BTreeMap::new();
    let mut lots = Lots::new(1);
    for _ in 0..KILLS {
        let mut child = start(folder.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = 50 + lots.below(1500);
        let mut killed = false;
        let mut seen = 0;
        // What was printed before the kill is still in the pipe, and read to its end.
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
                std::thread::sleep(Duration::from_micros(lots.below(3000)));
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(killed, "the appender ended by itself after {seen} appends");
        check(folder.path(), &acknowledged);
    }
    assert!(acknowledged.len() > 400);
}

/// Every acknowledged event at its position, no gap, no half append.
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
