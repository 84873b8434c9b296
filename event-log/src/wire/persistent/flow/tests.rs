//! Groups in simulated time, event by event and under random histories.

use std::collections::BTreeMap;
use std::time::Duration;

use event_schemas::ids::Position;
use event_schemas::time::Timestamp;
use proptest::prelude::{Just, Strategy as _, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use uuid::Uuid;

use super::super::settings::Beginning;
use super::*;

const A: ConsumerId = ConsumerId(1);
const B: ConsumerId = ConsumerId(2);

fn settings() -> Settings {
    Settings {
        start: Beginning::First,
        resolve_links: false,
        extra_statistics: false,
        message_timeout: Duration::from_secs(30),
        max_retries: 2,
        checkpoint_after: Duration::from_secs(2),
        min_checkpoint_count: 10,
        max_checkpoint_count: 1000,
        max_subscribers: 0,
        live_buffer_size: 500,
        read_batch_size: 10,
        history_buffer_size: 40,
        strategy: Strategy::RoundRobin,
    }
}

fn flow(settings: Settings) -> Flow {
    Flow::new(settings, Place(0), Revision(0))
}

fn id(number: u64) -> EventId {
    EventId(Uuid::from_u128(u128::from(number)))
}

fn recorded(number: u64, stream: &str) -> Recorded {
    let new = crate::conformance::event(1);
    Recorded {
        position: Position(number + 1),
        recorded_at: Timestamp::EPOCH,
        stream: stream.parse().unwrap(),
        revision: Revision(number),
        id: id(number),
        event_type: new.event_type,
        format: new.format,
        metadata: new.metadata,
        data: new.data,
    }
}

fn read(flow: &mut Flow, numbers: std::ops::Range<u64>) {
    let next = Place(numbers.end);
    flow.read(numbers.map(|number| (Place(number), recorded(number, "order-1"))), next);
}

/// Who gets what now.
fn given(flow: &mut Flow, now: Instant) -> Vec<(ConsumerId, u64, u32)> {
    let number = |event: &Recorded| event.revision.0;
    flow.dispatch(now).iter().map(|given| (given.consumer, number(&given.event), given.retries)).collect()
}

#[test]
fn consumers_take_turns_and_get_no_more_than_they_have_room_for() {
    let mut flow = flow(settings());
    flow.join(A, 2);
    flow.join(B, 1);
    read(&mut flow, 0..5);
    let now = Instant::now();
    assert_eq!(given(&mut flow, now), [(A, 0, 0), (B, 1, 0), (A, 2, 0)]);
    flow.ack(&[id(1)]);
    assert_eq!(given(&mut flow, now), [(B, 3, 0)]);
    flow.ack(&[id(0), id(2), id(3)]);
    assert_eq!(given(&mut flow, now), [(A, 4, 0)]);
}

#[test]
fn a_single_consumer_gets_all_while_it_has_room() {
    let mut flow = flow(Settings { strategy: Strategy::DispatchToSingle, ..settings() });
    flow.join(A, 3);
    flow.join(B, 3);
    read(&mut flow, 0..4);
    assert_eq!(given(&mut flow, Instant::now()), [(A, 0, 0), (A, 1, 0), (A, 2, 0), (B, 3, 0)]);
}

#[test]
fn a_stream_is_pinned_to_a_consumer_and_waits_for_it_while_others_go_on() {
    let mut flow = flow(Settings { strategy: Strategy::Pinned, ..settings() });
    flow.join(A, 1);
    flow.join(B, 1);
    let streams: Vec<_> = (0..20).map(|number| format!("order-{}", number % 5)).collect();
    let events = streams.iter().zip(0..).map(|(stream, number)| (Place(number), recorded(number, stream)));
    flow.read(events, Place(20));
    let mut consumer_of = BTreeMap::new();
    let mut given_of = BTreeMap::<u64, Vec<u64>>::new();
    loop {
        let now = given(&mut flow, Instant::now());
        if now.is_empty() {
            break;
        }
        for (consumer, number, _) in now {
            assert_eq!(*consumer_of.entry(number % 5).or_insert(consumer), consumer);
            given_of.entry(number % 5).or_default().push(number);
            flow.ack(&[id(number)]);
        }
    }
    assert!(given_of.values().all(|numbers| numbers.len() == 4 && numbers.is_sorted()));
    assert_eq!(consumer_of.len(), 5);
}

#[test]
fn an_event_that_nobody_manages_in_time_is_retried_and_then_parked() {
    let mut flow = flow(settings());
    flow.join(A, 10);
    read(&mut flow, 0..2);
    let mut now = Instant::now();
    assert_eq!(given(&mut flow, now), [(A, 0, 0), (A, 1, 0)]);
    flow.ack(&[id(1)]);
    for retry in 1..=2 {
        assert_eq!(flow.next_deadline(), Some(now + Duration::from_secs(30)));
        flow.expire(now + Duration::from_secs(29));
        assert!(given(&mut flow, now).is_empty());
        now += Duration::from_secs(30);
        flow.expire(now);
        assert_eq!(given(&mut flow, now), [(A, 0, retry)]);
    }
    assert_eq!(flow.resume_at().next, Place(0));
    flow.expire(now + Duration::from_secs(30));
    let (item, reason) = flow.next_failed().unwrap();
    assert_eq!((item.event.id, reason), (id(0), "it was retried 2 times"));
    // Until the parked event is durable, a restart would try it again.
    assert_eq!(flow.resume_at().next, Place(0));
    flow.parked();
    assert_eq!(flow.resume_at().next, Place(2));
}

#[test]
fn what_a_consumer_leaves_behind_is_tried_with_another_first() {
    let mut flow = flow(settings());
    flow.join(A, 3);
    read(&mut flow, 0..5);
    let now = Instant::now();
    assert_eq!(given(&mut flow, now).len(), 3);
    flow.ack(&[id(1)]);
    flow.leave(A);
    flow.join(B, 10);
    assert_eq!(given(&mut flow, now), [(B, 0, 1), (B, 2, 1), (B, 3, 0), (B, 4, 0)]);
}

#[test]
fn a_group_that_nobody_reads_or_that_is_full_reads_nothing() {
    let mut flow = flow(settings());
    assert_eq!(flow.wants(), None);
    flow.join(A, 1);
    assert_eq!(flow.wants(), Some((Place(0), 10)));
    read(&mut flow, 0..10);
    assert_eq!(flow.wants(), Some((Place(10), 10)));
    read(&mut flow, 10..31);
    assert_eq!(flow.wants(), None);
}

#[test]
fn replayed_events_go_first_and_are_marked_when_they_are_done() {
    let mut flow = flow(settings());
    flow.join(A, 10);
    read(&mut flow, 5..6);
    flow.replay([(Revision(0), recorded(1, "order-1")), (Revision(1), recorded(2, "order-1"))], Revision(2));
    let now = Instant::now();
    assert_eq!(given(&mut flow, now), [(A, 1, 0), (A, 2, 0), (A, 5, 0)]);
    flow.ack(&[id(2)]);
    assert_eq!(flow.resume_at().next_parked, Revision(0));
    flow.ack(&[id(1)]);
    assert_eq!(flow.resume_at().next_parked, Revision(2));
    assert_eq!(flow.resume_at().next, Place(5));
}

#[derive(Clone, Debug)]
enum Step {
    Read(u64),
    Join(usize),
    Leave(usize),
    Ack(usize),
    Nack(usize, Action),
    Wait(u64),
    Park,
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    let action = prop_oneof![Just(Action::Retry), Just(Action::Park), Just(Action::Skip)];
    prop_oneof![
        3 => (1..8_u64).prop_map(Step::Read),
        1 => (1..4_usize).prop_map(Step::Join),
        1 => (0..8_usize).prop_map(Step::Leave),
        6 => (0..8_usize).prop_map(Step::Ack),
        3 => (0..8_usize, action).prop_map(|(index, action)| Step::Nack(index, action)),
        1 => (1..40_u64).prop_map(Step::Wait),
        2 => Just(Step::Park),
    ]
}

proptest! {
    /// Nothing is lost, nothing is out twice, and a restart would never pass over an event that is not done.
    #[test]
    fn every_event_is_somewhere_until_it_is_done(
        steps in prop::collection::vec(step(), 1..200),
        strategy in prop::sample::select(&Strategy::ALL[..]),
    ) {
        let mut flow = flow(Settings { strategy, ..settings() });
        let (mut now, mut number, mut consumer) = (tokio::time::Instant::now(), 0, 0);
        let mut consumers = Vec::new();
        let mut out: BTreeMap<u64, ConsumerId> = BTreeMap::new();
        let mut undone = BTreeSet::new();
        for step in steps {
            match step {
                Step::Read(count) => {
                    read(&mut flow, number..number + count);
                    undone.extend(number..number + count);
                    number += count;
                }
                Step::Join(slots) => {
                    consumer += 1;
                    consumers.push(ConsumerId(consumer));
                    flow.join(ConsumerId(consumer), slots);
                }
                Step::Leave(index) if index < consumers.len() => {
                    let id = consumers.remove(index);
                    flow.leave(id);
                    out.retain(|_, consumer| *consumer != id);
                }
                Step::Ack(index) => {
                    let Some((&number, _)) = out.iter().nth(index) else { continue };
                    flow.ack(&[id(number)]);
                    out.remove(&number);
                    undone.remove(&number);
                }
                Step::Nack(index, action) => {
                    let Some((&number, _)) = out.iter().nth(index) else { continue };
                    flow.nack(&[id(number)], action, "no");
                    out.remove(&number);
                    if action == Action::Skip {
                        undone.remove(&number);
                    }
                }
                Step::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    flow.expire(now);
                    out.retain(|number, _| flow.out.contains_key(&id(*number)));
                }
                Step::Park => {
                    let Some((item, _)) = flow.next_failed() else { continue };
                    undone.remove(&item.event.revision.0);
                    flow.parked();
                }
                Step::Leave(_) => {}
            }
            for (consumer, number, retries) in given(&mut flow, now) {
                prop_assert!(consumers.contains(&consumer) && retries <= 2);
                prop_assert!(undone.contains(&number));
                prop_assert!(out.insert(number, consumer).is_none(), "{number} is out already");
            }
            let standing = flow.standing();
            prop_assert_eq!(standing.out, out.len());
            for (id, slots, busy) in standing.consumers {
                prop_assert!(busy <= slots);
                prop_assert_eq!(busy, out.values().filter(|consumer| **consumer == id).count());
            }
            prop_assert_eq!(flow.resume_at().next, Place(undone.first().copied().unwrap_or(number)));
            let held = standing.waiting + standing.again + standing.out + flow.failed.len();
            prop_assert_eq!(held, undone.len());
        }
    }
}
