use event_log::embedded::{SimDisk, Trouble};
use serde_json::{Value, json};

use crate::support::{Answer, Bench, a_match};

#[tokio::test]
async fn a_full_disk_refuses_commands_and_takes_them_when_there_is_room() {
    let disk = SimDisk::new(1);
    let bench = Bench::on_disk(&disk).await;
    let job = bench.job().await;
    disk.set_capacity(0);
    // The room that was reserved ahead is used up first.
    let refused = until(507, &bench, |n| {
        let batch: Value = (n * 2_000..(n + 1) * 2_000).map(a_match).collect();
        (format!("{job}/matches"), batch)
    });
    refused.await.refused(507, "INSUFFICIENT_STORAGE");
    bench.post("/jobs", &json!({})).await.refused(507, "INSUFFICIENT_STORAGE");
    disk.set_capacity(u64::MAX);
    until(201, &bench, |_| ("/jobs".to_owned(), json!({}))).await.ok();
    bench.stopped().await;
}

/// Sends one command after the other until one is answered with this status.
async fn until(status: u16, bench: &Bench, command: impl Fn(usize) -> (String, Value)) -> Answer {
    for n in 0..1_000_000 {
        let (path, body) = command(n);
        let answer = bench.post(path, &body).await;
        if answer.status == status {
            return answer;
        }
    }
    panic!("no command was answered with {status}");
}

/// Whatever call to the disk the power fails at: what was answered is there, and repeating what was not does it once.
#[tokio::test]
async fn a_command_that_met_a_power_cut_is_done_once_when_it_is_repeated() {
    for call in 1..=40 {
        let disk = SimDisk::new(call);
        let bench = Bench::on_disk(&disk).await;
        let job = bench.job().await;
        let path = format!("{job}/matches");
        let batch: Value = (0..100).map(a_match).collect();
        disk.trouble_at(call, Trouble::PowerCut);
        let first = bench.call("POST", &path).key("k").body(&batch).send().await;
        bench.stopped().await;
        disk.restart();
        let bench = Bench::on_disk(&disk).await;
        let again = bench.call("POST", &path).key("k").body(&batch).send().await.ok();
        assert_eq!((&again["accepted"], &again["duplicates"]), (&json!(100), &json!(0)), "cut at {call}");
        if first.status == 200 {
            assert_eq!(first.body, again);
        } else {
            assert_eq!(first.status, 503, "{first:?}");
        }
        assert_eq!(bench.count("MatchFound").await, 100, "cut at {call}");
        bench.stopped().await;
    }
}

#[tokio::test]
async fn a_failed_write_or_sync_leaves_the_outcome_open_says_so_and_is_final() {
    let mut unknown = 0_usize;
    for call in 1..=12 {
        let disk = SimDisk::new(call);
        let bench = Bench::on_disk(&disk).await;
        disk.trouble_at(call, Trouble::Error);
        let create = |key: &'static str| bench.call("POST", "/jobs").key(key).body(&json!({})).send();
        let first = create("first").await;
        if first.status != 201 {
            // The log works ahead on a thread of its own. If that met the trouble, the command was never tried.
            let was_tried = first.body["code"] == "OUTCOME_UNKNOWN";
            first.refused(503, if was_tried { "OUTCOME_UNKNOWN" } else { "UNAVAILABLE" });
            create("second").await.refused(503, "UNAVAILABLE");
            unknown += usize::from(was_tried);
        }
        bench.stopped().await;
    }
    assert!(unknown > 0);
}
