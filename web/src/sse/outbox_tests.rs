use serde_json::json;

use super::*;

const CONNECTION: Uuid = Uuid::from_u128(0x018f_0000_0000_7000_8000_0000_0000_01f4);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// An outbox whose greeting is read.
fn greeted(now: Instant) -> Outbox {
    let mut outbox = Outbox::new(CONNECTION, &json!({}), now);
    outbox.pop(now).unwrap();
    outbox
}

fn progress(percentage: u64) -> Update {
    Update::progress("progress", Some(Position(percentage)), &json!({"percentage": percentage}))
}

fn state(event: &'static str) -> Update {
    Update::state(event, Some(Position(9)), &json!({}))
}

fn read(outbox: &mut Outbox, now: Instant) -> Option<String> {
    outbox.pop(now).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

/// The names of the events read at `now`.
fn names(outbox: &mut Outbox, now: Instant) -> Vec<String> {
    let mut text = String::new();
    while let Some(more) = read(outbox, now) {
        text += &more;
    }
    text.lines().filter_map(|line| line.strip_prefix("event: ")).map(str::to_owned).collect()
}

#[test]
fn a_stream_reads_as_the_standard_says() {
    let now = Instant::now();
    let mut outbox = Outbox::new(CONNECTION, &json!({"job_id": "j"}), now);
    outbox.push(progress(40)).unwrap();
    let mut text = read(&mut outbox, now).unwrap();
    outbox
        .push(Update::last("completed", Some(Position(8)), &json!({"event": "x", "note": "a\nb"})))
        .unwrap();
    text += &read(&mut outbox, now).unwrap();
    assert!(outbox.is_finished());
    insta::assert_snapshot!(text);
}

#[test]
fn progress_is_told_at_once_and_then_four_times_a_second_the_newest() {
    let start = Instant::now();
    let mut outbox = greeted(start);
    let mut told = Vec::new();
    for at in 0..1000 {
        let now = start + ms(at);
        outbox.push(progress(at)).unwrap();
        told.extend(read(&mut outbox, now).map(|text| (at, text.contains(&format!("\"percentage\":{at}")))));
    }
    assert_eq!(told, [(0, true), (250, true), (500, true), (750, true)]);
}

#[test]
fn the_outbox_asks_to_be_woken_for_progress_that_waits() {
    let start = Instant::now();
    let mut outbox = greeted(start);
    outbox.push(progress(1)).unwrap();
    assert!(read(&mut outbox, start).is_some());
    outbox.push(progress(2)).unwrap();
    assert_eq!(read(&mut outbox, start + ms(100)), None);
    assert_eq!(outbox.wake_at(), start + ms(250));
    assert!(read(&mut outbox, start + ms(250)).unwrap().contains("\"percentage\":2"));
}

#[test]
fn a_change_of_state_is_never_held_back_and_replaces_waiting_progress() {
    let start = Instant::now();
    let mut outbox = greeted(start);
    outbox.push(progress(1)).unwrap();
    assert_eq!(names(&mut outbox, start), ["progress"]);
    outbox.push(progress(2)).unwrap();
    outbox.push(state("retrying")).unwrap();
    outbox.push(state("failed")).unwrap();
    assert_eq!(names(&mut outbox, start + ms(1)), ["retrying", "failed"]);
    assert_eq!(names(&mut outbox, start + ms(1000)), Vec::<String>::new());
}

#[test]
fn a_reader_too_many_events_behind_is_told_and_let_go() {
    let now = Instant::now();
    let mut outbox = greeted(now);
    for _ in 0..BEHIND_EVENTS_MAX {
        outbox.push(state("matched")).unwrap();
    }
    assert_eq!(outbox.push(state("matched")), Err(Closed));
    assert_eq!(outbox.push(state("matched")), Err(Closed));
    let text = read(&mut outbox, now).unwrap();
    assert!(text.starts_with("event: lagged\ndata: "), "{text}");
    assert!(outbox.is_finished());
}

#[test]
fn a_reader_too_many_bytes_behind_is_told_and_let_go() {
    let now = Instant::now();
    let mut outbox = greeted(now);
    let large = json!({"text": "x".repeat(BEHIND_BYTES_MAX / 3)});
    let pushed = [(); 3].map(|()| outbox.push(Update::state("matched", None, &large)));
    assert_eq!(pushed, [Ok(()), Ok(()), Err(Closed)]);
    assert_eq!(names(&mut outbox, now), ["lagged"]);
}

#[test]
fn a_reader_that_keeps_up_is_never_let_go() {
    let now = Instant::now();
    let mut outbox = greeted(now);
    for _ in 0..10 * BEHIND_EVENTS_MAX {
        outbox.push(state("matched")).unwrap();
        assert_eq!(names(&mut outbox, now), ["matched"]);
    }
}

#[test]
fn a_replay_leaves_room_for_what_happens_meanwhile() {
    let now = Instant::now();
    let mut outbox = greeted(now);
    let mut replayed = 0;
    while outbox.has_room() {
        outbox.push_replayed(progress(1)).unwrap();
        replayed += 1;
    }
    assert_eq!(replayed, BEHIND_EVENTS_MAX / 2);
    outbox.push(state("completed")).unwrap();
    assert_eq!(names(&mut outbox, now).len(), replayed + 1);
}

#[test]
fn a_silent_stream_gives_a_sign_of_life_every_15_seconds() {
    let start = Instant::now();
    let mut outbox = greeted(start);
    assert_eq!(outbox.wake_at(), start + HEARTBEAT_EVERY);
    assert_eq!(read(&mut outbox, start + HEARTBEAT_EVERY - ms(1)), None);
    assert_eq!(read(&mut outbox, start + HEARTBEAT_EVERY).as_deref(), Some(":\n\n"));
    assert_eq!(outbox.wake_at(), start + 2 * HEARTBEAT_EVERY);
}

#[test]
fn what_waits_at_the_end_is_still_told() {
    let start = Instant::now();
    let mut outbox = greeted(start);
    outbox.push(progress(1)).unwrap();
    names(&mut outbox, start);
    outbox.push(progress(2)).unwrap();
    outbox.close();
    assert!(!outbox.is_finished());
    assert_eq!(names(&mut outbox, start), ["progress"]);
    assert!(outbox.is_finished());
}

#[test]
fn connections_come_back_at_different_times_around_three_seconds() {
    let now = Instant::now();
    for connection in [0_u128, 500, 1000, u128::MAX] {
        let mut outbox = Outbox::new(Uuid::from_u128(connection), &json!({}), now);
        let text = read(&mut outbox, now).unwrap();
        let retry: u64 = text.lines().next().unwrap().strip_prefix("retry: ").unwrap().parse().unwrap();
        assert!((2500..=3500).contains(&retry), "{retry}");
    }
}
