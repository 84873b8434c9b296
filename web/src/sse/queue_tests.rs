use serde_json::json;

use super::*;

const CONNECTION: Uuid = Uuid::from_u128(0x018f_0000_0000_7000_8000_0000_0000_01f4);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A queue whose `connected` event has been read.
fn connected_queue(now: Instant) -> SseQueue {
    let mut queue = SseQueue::new(CONNECTION, &json!({}), now);
    queue.pop(now).unwrap();
    queue
}

fn progress(percentage: u64) -> Update {
    Update::progress("progress", Some(Position(percentage)), &json!({"percentage": percentage}))
}

fn state(event: &'static str) -> Update {
    Update::state(event, Some(Position(9)), &json!({}))
}

fn read(queue: &mut SseQueue, now: Instant) -> Option<String> {
    queue.pop(now).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

/// The names of the events read at `now`.
fn names(queue: &mut SseQueue, now: Instant) -> Vec<String> {
    let mut text = String::new();
    while let Some(more) = read(queue, now) {
        text += &more;
    }
    text.lines().filter_map(|line| line.strip_prefix("event: ")).map(str::to_owned).collect()
}

#[test]
fn stream_has_the_standard_format() {
    let now = Instant::now();
    let mut queue = SseQueue::new(CONNECTION, &json!({"job_id": "j"}), now);
    queue.push(progress(40)).unwrap();
    let mut text = read(&mut queue, now).unwrap();
    queue.push(Update::last("completed", Some(Position(8)), &json!({"event": "x", "note": "a\nb"}))).unwrap();
    text += &read(&mut queue, now).unwrap();
    assert!(queue.is_finished());
    insta::assert_snapshot!(text);
}

#[test]
fn progress_is_sent_at_once_and_then_four_times_a_second() {
    let start = Instant::now();
    let mut queue = connected_queue(start);
    let mut sent = Vec::new();
    for at in 0..1000 {
        let now = start + ms(at);
        queue.push(progress(at)).unwrap();
        sent.extend(read(&mut queue, now).map(|text| (at, text.contains(&format!("\"percentage\":{at}")))));
    }
    assert_eq!(sent, [(0, true), (250, true), (500, true), (750, true)]);
}

#[test]
fn delayed_progress_sets_the_wake_time() {
    let start = Instant::now();
    let mut queue = connected_queue(start);
    queue.push(progress(1)).unwrap();
    assert!(read(&mut queue, start).is_some());
    queue.push(progress(2)).unwrap();
    assert_eq!(read(&mut queue, start + ms(100)), None);
    assert_eq!(queue.wake_at(), start + ms(250));
    assert!(read(&mut queue, start + ms(250)).unwrap().contains("\"percentage\":2"));
}

#[test]
fn state_is_sent_at_once_and_replaces_queued_progress() {
    let start = Instant::now();
    let mut queue = connected_queue(start);
    queue.push(progress(1)).unwrap();
    assert_eq!(names(&mut queue, start), ["progress"]);
    queue.push(progress(2)).unwrap();
    queue.push(state("retrying")).unwrap();
    queue.push(state("failed")).unwrap();
    assert_eq!(names(&mut queue, start + ms(1)), ["retrying", "failed"]);
    assert_eq!(names(&mut queue, start + ms(1000)), Vec::<String>::new());
}

#[test]
fn subscriber_too_many_events_behind_gets_lagged() {
    let now = Instant::now();
    let mut queue = connected_queue(now);
    for _ in 0..BEHIND_EVENTS_MAX {
        queue.push(state("matched")).unwrap();
    }
    assert_eq!(queue.push(state("matched")), Err(Closed));
    assert_eq!(queue.push(state("matched")), Err(Closed));
    let text = read(&mut queue, now).unwrap();
    assert!(text.starts_with("event: lagged\ndata: "), "{text}");
    assert!(queue.is_finished());
}

#[test]
fn subscriber_too_many_bytes_behind_gets_lagged() {
    let now = Instant::now();
    let mut queue = connected_queue(now);
    let large = json!({"text": "x".repeat(BEHIND_BYTES_MAX / 3)});
    let pushed = [(); 3].map(|()| queue.push(Update::state("matched", None, &large)));
    assert_eq!(pushed, [Ok(()), Ok(()), Err(Closed)]);
    assert_eq!(names(&mut queue, now), ["lagged"]);
}

#[test]
fn subscriber_that_keeps_up_is_never_disconnected() {
    let now = Instant::now();
    let mut queue = connected_queue(now);
    for _ in 0..10 * BEHIND_EVENTS_MAX {
        queue.push(state("matched")).unwrap();
        assert_eq!(names(&mut queue, now), ["matched"]);
    }
}

#[test]
fn replay_leaves_room_for_new_updates() {
    let now = Instant::now();
    let mut queue = connected_queue(now);
    let mut replayed = 0;
    while queue.has_room() {
        queue.push_replayed(progress(1)).unwrap();
        replayed += 1;
    }
    assert_eq!(replayed, BEHIND_EVENTS_MAX / 2);
    queue.push(state("completed")).unwrap();
    assert_eq!(names(&mut queue, now).len(), replayed + 1);
}

#[test]
fn silent_stream_sends_a_heartbeat_every_15_seconds() {
    let start = Instant::now();
    let mut queue = connected_queue(start);
    assert_eq!(queue.wake_at(), start + HEARTBEAT_EVERY);
    assert_eq!(read(&mut queue, start + HEARTBEAT_EVERY - ms(1)), None);
    assert_eq!(read(&mut queue, start + HEARTBEAT_EVERY).as_deref(), Some(":\n\n"));
    assert_eq!(queue.wake_at(), start + 2 * HEARTBEAT_EVERY);
}

#[test]
fn queued_progress_is_sent_at_the_end() {
    let start = Instant::now();
    let mut queue = connected_queue(start);
    queue.push(progress(1)).unwrap();
    names(&mut queue, start);
    queue.push(progress(2)).unwrap();
    queue.close();
    assert!(!queue.is_finished());
    assert_eq!(names(&mut queue, start), ["progress"]);
    assert!(queue.is_finished());
}

#[test]
fn retry_times_are_spread_around_three_seconds() {
    let now = Instant::now();
    for connection in [0_u128, 500, 1000, u128::MAX] {
        let mut queue = SseQueue::new(Uuid::from_u128(connection), &json!({}), now);
        let text = read(&mut queue, now).unwrap();
        let retry: u64 = text.lines().next().unwrap().strip_prefix("retry: ").unwrap().parse().unwrap();
        assert!((2500..=3500).contains(&retry), "{retry}");
    }
}
