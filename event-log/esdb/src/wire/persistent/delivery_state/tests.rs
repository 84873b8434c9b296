//! Deliveries in simulated time, with single cases and random histories.

use std::collections::BTreeMap;
use std::time::Duration;

use event_schemas::ids::Position;
use event_schemas::time::Timestamp;
use proptest::prelude::{Just, Strategy as _, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use uuid::Uuid;

use super::super::settings::GroupStart;
use super::*;

const A: ConsumerId = ConsumerId(1);
const B: ConsumerId = ConsumerId(2);

fn settings() -> Settings {
    Settings {
        start: GroupStart::First,
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

fn delivery(settings: Settings) -> DeliveryState {
    DeliveryState::new(settings, SourcePosition(0), Revision(0))
}

fn id(number: u64) -> EventId {
    EventId(Uuid::from_u128(u128::from(number)))
}

fn recorded(number: u64, stream: &str) -> Recorded {
    let new = event_log::conformance::event(1);
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

fn read(delivery: &mut DeliveryState, numbers: std::ops::Range<u64>) {
    let next = SourcePosition(numbers.end);
    delivery.add_events(numbers.map(|number| (SourcePosition(number), recorded(number, "order-1"))), next);
}

/// The deliveries now: consumer, event and retries.
fn delivered(delivery: &mut DeliveryState, now: Instant) -> Vec<(ConsumerId, u64, u32)> {
    let number = |event: &Recorded| event.revision.0;
    delivery
        .dispatch(now)
        .iter()
        .map(|delivered| (delivered.consumer, number(&delivered.event), delivered.retries))
        .collect()
}

#[test]
fn round_robin_respects_free_slots() {
    let mut delivery = delivery(settings());
    delivery.join(A, 2);
    delivery.join(B, 1);
    read(&mut delivery, 0..5);
    let now = Instant::now();
    assert_eq!(delivered(&mut delivery, now), [(A, 0, 0), (B, 1, 0), (A, 2, 0)]);
    delivery.ack(&[id(1)]);
    assert_eq!(delivered(&mut delivery, now), [(B, 3, 0)]);
    delivery.ack(&[id(0), id(2), id(3)]);
    assert_eq!(delivered(&mut delivery, now), [(A, 4, 0)]);
}

#[test]
fn dispatch_to_single_fills_the_first_consumer() {
    let mut delivery = delivery(Settings { strategy: Strategy::DispatchToSingle, ..settings() });
    delivery.join(A, 3);
    delivery.join(B, 3);
    read(&mut delivery, 0..4);
    assert_eq!(delivered(&mut delivery, Instant::now()), [(A, 0, 0), (A, 1, 0), (A, 2, 0), (B, 3, 0)]);
}

#[test]
fn a_pinned_stream_waits_for_its_own_consumer_only() {
    let mut delivery = delivery(Settings { strategy: Strategy::Pinned, ..settings() });
    delivery.join(A, 1);
    delivery.join(B, 1);
    let streams: Vec<_> = (0..20).map(|number| format!("order-{}", number % 5)).collect();
    let events =
        streams.iter().zip(0..).map(|(stream, number)| (SourcePosition(number), recorded(number, stream)));
    delivery.add_events(events, SourcePosition(20));
    let mut consumer_of = BTreeMap::new();
    let mut delivered_of = BTreeMap::<u64, Vec<u64>>::new();
    loop {
        let now = delivered(&mut delivery, Instant::now());
        if now.is_empty() {
            break;
        }
        for (consumer, number, _) in now {
            assert_eq!(*consumer_of.entry(number % 5).or_insert(consumer), consumer);
            delivered_of.entry(number % 5).or_default().push(number);
            delivery.ack(&[id(number)]);
        }
    }
    assert!(delivered_of.values().all(|numbers| numbers.len() == 4 && numbers.is_sorted()));
    assert_eq!(consumer_of.len(), 5);
}

#[test]
fn a_timed_out_event_is_retried_and_then_parked() {
    let mut delivery = delivery(settings());
    delivery.join(A, 10);
    read(&mut delivery, 0..2);
    let mut now = Instant::now();
    assert_eq!(delivered(&mut delivery, now), [(A, 0, 0), (A, 1, 0)]);
    delivery.ack(&[id(1)]);
    for retry in 1..=2 {
        assert_eq!(delivery.next_deadline(), Some(now + Duration::from_secs(30)));
        delivery.expire(now + Duration::from_secs(29));
        assert!(delivered(&mut delivery, now).is_empty());
        now += Duration::from_secs(30);
        delivery.expire(now);
        assert_eq!(delivered(&mut delivery, now), [(A, 0, retry)]);
    }
    assert_eq!(delivery.checkpoint().next, SourcePosition(0));
    delivery.expire(now + Duration::from_secs(30));
    let (item, reason) = delivery.next_failed().unwrap();
    assert_eq!((item.event.id, reason), (id(0), "it was retried 2 times"));
    // Until the parked event is durable, a restart would retry it.
    assert_eq!(delivery.checkpoint().next, SourcePosition(0));
    delivery.parked();
    assert_eq!(delivery.checkpoint().next, SourcePosition(2));
}

#[test]
fn events_of_a_lost_consumer_are_retried_first() {
    let mut delivery = delivery(settings());
    delivery.join(A, 3);
    read(&mut delivery, 0..5);
    let now = Instant::now();
    assert_eq!(delivered(&mut delivery, now).len(), 3);
    delivery.ack(&[id(1)]);
    delivery.leave(A);
    delivery.join(B, 10);
    assert_eq!(delivered(&mut delivery, now), [(B, 0, 1), (B, 2, 1), (B, 3, 0), (B, 4, 0)]);
}

#[test]
fn a_group_without_consumers_or_free_buffer_reads_nothing() {
    let mut delivery = delivery(settings());
    assert_eq!(delivery.next_read(), None);
    delivery.join(A, 1);
    assert_eq!(delivery.next_read(), Some((SourcePosition(0), 10)));
    read(&mut delivery, 0..10);
    assert_eq!(delivery.next_read(), Some((SourcePosition(10), 10)));
    read(&mut delivery, 10..31);
    assert_eq!(delivery.next_read(), None);
}

#[test]
fn replayed_events_go_first_and_advance_the_checkpoint() {
    let mut delivery = delivery(settings());
    delivery.join(A, 10);
    read(&mut delivery, 5..6);
    delivery.add_replayed(
        [(Revision(0), recorded(1, "order-1")), (Revision(1), recorded(2, "order-1"))],
        Revision(2),
    );
    let now = Instant::now();
    assert_eq!(delivered(&mut delivery, now), [(A, 1, 0), (A, 2, 0), (A, 5, 0)]);
    delivery.ack(&[id(2)]);
    assert_eq!(delivery.checkpoint().next_parked, Revision(0));
    delivery.ack(&[id(1)]);
    assert_eq!(delivery.checkpoint().next_parked, Revision(2));
    assert_eq!(delivery.checkpoint().next, SourcePosition(5));
}

#[derive(Clone, Debug)]
enum DeliveryStep {
    Read(u64),
    Join(usize),
    Leave(usize),
    Ack(usize),
    Nack(usize, NackAction),
    Wait(u64),
    Park,
}

fn step() -> impl proptest::strategy::Strategy<Value = DeliveryStep> {
    let action = prop_oneof![Just(NackAction::Retry), Just(NackAction::Park), Just(NackAction::Skip)];
    prop_oneof![
        3 => (1..8_u64).prop_map(DeliveryStep::Read),
        1 => (1..4_usize).prop_map(DeliveryStep::Join),
        1 => (0..8_usize).prop_map(DeliveryStep::Leave),
        6 => (0..8_usize).prop_map(DeliveryStep::Ack),
        3 => (0..8_usize, action).prop_map(|(index, action)| DeliveryStep::Nack(index, action)),
        1 => (1..40_u64).prop_map(DeliveryStep::Wait),
        2 => Just(DeliveryStep::Park),
    ]
}

proptest! {
    /// No event is lost or in flight twice, and a restart never skips an event that is not done.
    #[test]
    fn no_event_is_lost_before_it_is_done(
        steps in prop::collection::vec(step(), 1..200),
        strategy in prop::sample::select(<Strategy as strum::VariantArray>::VARIANTS),
    ) {
        let mut delivery = delivery(Settings { strategy, ..settings() });
        let (mut now, mut number, mut consumer) = (tokio::time::Instant::now(), 0, 0);
        let mut consumers = Vec::new();
        let mut in_flight: BTreeMap<u64, ConsumerId> = BTreeMap::new();
        let mut undone = BTreeSet::new();
        for step in steps {
            match step {
                DeliveryStep::Read(count) => {
                    read(&mut delivery, number..number + count);
                    undone.extend(number..number + count);
                    number += count;
                }
                DeliveryStep::Join(slots) => {
                    consumer += 1;
                    consumers.push(ConsumerId(consumer));
                    delivery.join(ConsumerId(consumer), slots);
                }
                DeliveryStep::Leave(index) if index < consumers.len() => {
                    let id = consumers.remove(index);
                    delivery.leave(id);
                    in_flight.retain(|_, consumer| *consumer != id);
                }
                DeliveryStep::Ack(index) => {
                    let Some((&number, _)) = in_flight.iter().nth(index) else { continue };
                    delivery.ack(&[id(number)]);
                    in_flight.remove(&number);
                    undone.remove(&number);
                }
                DeliveryStep::Nack(index, action) => {
                    let Some((&number, _)) = in_flight.iter().nth(index) else { continue };
                    delivery.nack(&[id(number)], action, "no");
                    in_flight.remove(&number);
                    if action == NackAction::Skip {
                        undone.remove(&number);
                    }
                }
                DeliveryStep::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    delivery.expire(now);
                    in_flight.retain(|number, _| delivery.in_flight.contains_key(&id(*number)));
                }
                DeliveryStep::Park => {
                    let Some((item, _)) = delivery.next_failed() else { continue };
                    undone.remove(&item.event.revision.0);
                    delivery.parked();
                }
                DeliveryStep::Leave(_) => {}
            }
            for (consumer, number, retries) in delivered(&mut delivery, now) {
                prop_assert!(consumers.contains(&consumer) && retries <= 2);
                prop_assert!(undone.contains(&number));
                prop_assert!(in_flight.insert(number, consumer).is_none(), "{number} is in flight already");
            }
            let stats = delivery.stats();
            prop_assert_eq!(stats.in_flight, in_flight.len());
            for (id, slots, busy) in stats.consumers {
                prop_assert!(busy <= slots);
                prop_assert_eq!(busy, in_flight.values().filter(|consumer| **consumer == id).count());
            }
            prop_assert_eq!(delivery.checkpoint().next, SourcePosition(undone.first().copied().unwrap_or(number)));
            let pending = stats.read_buffer + stats.retry_buffer + stats.in_flight + delivery.failed.len();
            prop_assert_eq!(pending, undone.len());
        }
    }
}
