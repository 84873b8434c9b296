use std::collections::HashSet;
use std::time::Duration;

use domain::decider::{RefusalKind, Refused};
use event_log::embedded::{Settings, SimDisk};
use event_log::{EmbeddedLog, MemoryLog};
use event_schemas::envelope::{Actor, BodyHash, Idempotency};
use event_schemas::ids::{CommandId, CorrelationId, JobId, Revision, Tenant};
use event_schemas::job::{JobCancelled, JobEvent, Phase};
use event_schemas::time::Timestamp;
use futures_util::FutureExt;
use futures_util::future::join_all;
use uuid::Uuid;

use super::*;

/// A set of notes: each is written down once, and none may be empty.
#[derive(Debug)]
struct Notes;

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("a note says something")]
struct Empty;

impl Refused for Empty {
    fn kind(&self) -> RefusalKind {
        RefusalKind::Invalid
    }
}

impl Decider for Notes {
    type State = HashSet<String>;
    type Command = Vec<String>;
    type Event = JobEvent;
    type Refusal = Empty;

    fn decide(command: &Vec<String>, state: &HashSet<String>) -> Result<Vec<Occurred<JobEvent>>, Empty> {
        if command.iter().any(String::is_empty) {
            return Err(Empty);
        }
        let new = command.iter().filter(|note| !state.contains(*note));
        let event =
            |note: &String| JobEvent::from(JobCancelled { from: Phase::Queued, reason: Some(note.clone()) });
        Ok(new.map(|note| Occurred { at: Timestamp::EPOCH, event: event(note) }).collect())
    }

    fn evolve(mut state: HashSet<String>, event: &JobEvent, _: Timestamp) -> HashSet<String> {
        if let JobEvent::JobCancelled(JobCancelled { reason: Some(note), .. }) = event {
            state.insert(note.clone());
        }
        state
    }
}

struct Bench {
    clock: Clock,
    log: Log,
    streams: Streams<Notes>,
}

impl Bench {
    fn new() -> Self {
        let clock = Clock::manual(Timestamp::EPOCH);
        let log = Log::Memory(MemoryLog::new(clock.clone()));
        let streams = Streams::new(log.clone(), clock.clone(), 1_000_000);
        Self { clock, log, streams }
    }

    /// Another process, or this one after a restart: the same log, and nothing cached.
    fn elsewhere(&self) -> Streams<Notes> {
        Streams::new(self.log.clone(), self.clock.clone(), 1_000_000)
    }

    fn events(&self) -> u64 {
        self.log.head().borrow().0
    }
}

fn stream(n: u128) -> StreamId {
    StreamId::job(JobId(Uuid::from_u128(n)))
}

fn notes(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn cause(command: u128) -> Cause {
    Cause {
        command_id: CommandId(Uuid::from_u128(command)),
        correlation_id: CorrelationId(Uuid::from_u128(command)),
        event_id: None,
        tenant: "default".parse().unwrap(),
        actor: Actor::System("test".parse().unwrap()),
        subject: None,
        idempotency: None,
        traceparent: None,
    }
}

fn keyed(command: u128, body: &str) -> Cause {
    let key = Uuid::from_u128(99);
    Cause {
        idempotency: Some(Idempotency {
            key,
            body: BodyHash(Uuid::new_v5(&Uuid::NAMESPACE_OID, body.as_bytes()).into_bytes()),
        }),
        ..cause(command)
    }
}

#[tokio::test]
async fn a_command_sent_twice_records_once() {
    let bench = Bench::new();
    let first = bench.streams.execute(&stream(1), &cause(1), notes(&["a", "b"])).await.unwrap();
    assert_eq!(first, Executed { events: 2, position: Position(2), repeated: false });
    let second = bench.streams.execute(&stream(1), &cause(2), notes(&["a", "b"])).await.unwrap();
    assert_eq!(second, Executed { events: 0, position: Position(2), repeated: false });
    assert_eq!(bench.events(), 2);
}

#[tokio::test]
async fn a_refused_command_records_nothing() {
    let bench = Bench::new();
    let refused = bench.streams.execute(&stream(1), &cause(1), notes(&["a", ""])).await;
    assert!(matches!(refused, Err(ExecuteError::Refused(_))));
    assert_eq!(bench.events(), 0);
}

#[tokio::test]
async fn who_lost_a_race_decides_again_on_what_the_winner_left() {
    let bench = Bench::new();
    let elsewhere = bench.elsewhere();
    bench.streams.execute(&stream(1), &cause(1), notes(&["a"])).await.unwrap();
    elsewhere.execute(&stream(1), &cause(2), notes(&["b"])).await.unwrap();
    let late = bench.streams.execute(&stream(1), &cause(3), notes(&["a", "b", "c"])).await.unwrap();
    assert_eq!(late, Executed { events: 1, position: Position(3), repeated: false });
}

#[tokio::test]
async fn a_decision_to_do_nothing_rests_on_the_newest_events() {
    let bench = Bench::new();
    bench.streams.execute(&stream(1), &cause(1), notes(&["a"])).await.unwrap();
    bench.elsewhere().execute(&stream(1), &cause(2), notes(&["b"])).await.unwrap();
    let nothing = bench.streams.execute(&stream(1), &cause(3), notes(&["a"])).await.unwrap();
    assert_eq!(nothing.position, Position(2));
}

#[tokio::test]
async fn many_processes_at_once_record_each_note_once() {
    let bench = Bench::new();
    let processes: Vec<_> = (0..4).map(|_| bench.elsewhere()).collect();
    let stream = stream(1);
    let commands =
        (0..200_u128).map(|n| {
            let (process, stream) = (&processes[(n % 4) as usize], &stream);
            async move {
                process.execute(stream, &cause(n), vec![format!("note {}", n / 4)]).await.unwrap().events
            }
        });
    let recorded: usize = join_all(commands).await.into_iter().sum();
    assert_eq!((recorded, bench.events()), (50, 50));
}

#[tokio::test]
async fn another_tenants_stream_is_not_there() {
    let bench = Bench::new();
    bench.streams.execute(&stream(1), &cause(1), notes(&["a"])).await.unwrap();
    let other = Cause { tenant: "other".parse::<Tenant>().unwrap(), ..cause(2) };
    for streams in [&bench.streams, &bench.elsewhere()] {
        let refused = streams.execute(&stream(1), &other, notes(&["b"])).await;
        assert!(matches!(refused, Err(ExecuteError::OtherTenant)));
    }
}

#[tokio::test]
async fn a_key_is_answered_as_the_first_time_even_after_a_restart() {
    let bench = Bench::new();
    let first = bench.streams.execute(&stream(1), &keyed(1, "ab"), notes(&["a", "b"])).await.unwrap();
    bench.streams.execute(&stream(1), &cause(2), notes(&["c"])).await.unwrap();
    for streams in [&bench.streams, &bench.elsewhere()] {
        let again = streams.execute(&stream(1), &keyed(3, "ab"), notes(&["a", "b"])).await.unwrap();
        assert_eq!(again, Executed { repeated: true, ..first });
        let other = streams.execute(&stream(1), &keyed(4, "x"), notes(&["x"])).await;
        assert!(matches!(other, Err(ExecuteError::KeyReused)));
    }
    assert_eq!(bench.events(), 3);
}

#[tokio::test]
async fn a_key_is_forgotten_after_a_day() {
    let bench = Bench::new();
    bench.streams.execute(&stream(1), &keyed(1, "a"), notes(&["a"])).await.unwrap();
    bench.clock.advance(Duration::from_secs(25 * 60 * 60));
    bench.streams.execute(&stream(1), &cause(2), notes(&["b"])).await.unwrap();
    let fresh = bench.streams.execute(&stream(1), &keyed(3, "c"), notes(&["c"])).await.unwrap();
    assert_eq!((fresh.events, fresh.repeated), (1, false));
}

#[tokio::test]
async fn a_large_command_is_split_and_each_event_keeps_an_id_of_its_own() {
    let bench = Bench::new();
    let many: Vec<String> = (0..10_000).map(|n| format!("note {n}")).collect();
    let all = bench.streams.execute(&stream(1), &keyed(1, "many"), many.clone()).await.unwrap();
    assert_eq!(all, Executed { events: 10_000, position: Position(10_000), repeated: false });
    let recorded = bench.log.read_stream(&stream(1), Revision(0), 20_000).await.unwrap();
    let ids: HashSet<_> = recorded.iter().map(|event| event.id).collect();
    assert_eq!(ids.len(), 10_000);
    let again = bench.elsewhere().execute(&stream(1), &keyed(2, "many"), many.clone()).await.unwrap();
    assert_eq!(again, Executed { repeated: true, ..all });
}

#[tokio::test]
async fn a_command_that_was_interrupted_between_two_appends_is_carried_on_by_its_repetition() {
    let whole = Bench::new();
    let many: Vec<String> = (0..10_000).map(|n| format!("note {n}")).collect();
    whole.streams.execute(&stream(1), &keyed(1, "many"), many.clone()).await.unwrap();
    let events = whole.log.read_stream(&stream(1), Revision(0), 20_000).await.unwrap();

    // Another log that got the first append only.
    let bench = Bench::new();
    let keys: Vec<_> = events.iter().map(|e| e.metadata().unwrap().idempotency.unwrap().key).collect();
    let first_append = APPEND_EVENTS_MAX.min(keys.iter().take_while(|key| **key == keys[0]).count());
    let begun = events[..first_append].iter().map(|event| NewEvent {
        id: event.id,
        event_type: event.event_type.clone(),
        format: event.format,
        metadata: event.metadata.clone(),
        data: event.data.clone(),
    });
    for event in begun {
        bench.log.append(&stream(1), Expected::Any, vec![event]).await.unwrap();
    }
    let carried_on = bench.streams.execute(&stream(1), &keyed(1, "many"), many.clone()).await.unwrap();
    assert_eq!(carried_on, Executed { events: 10_000, position: Position(10_000), repeated: false });
    let ids: Vec<_> =
        bench.log.read_stream(&stream(1), Revision(0), 20_000).await.unwrap().iter().map(|e| e.id).collect();
    assert_eq!(ids, events.iter().map(|event| event.id).collect::<Vec<_>>());
}

#[tokio::test]
async fn states_leave_memory_when_they_weigh_too_much_and_are_read_again() {
    let bench = Bench::new();
    let small = Streams::<Notes>::new(bench.log.clone(), bench.clock.clone(), 50);
    for n in 0..100 {
        small.execute(&stream(n), &cause(n), notes(&["a"])).await.unwrap();
    }
    assert!(small.cache.len() <= 10, "{}", small.cache.len());
    let seen = small.look(&stream(0), |folded| folded.state.contains("a")).await.unwrap();
    assert!(seen);
}

/// The caller of a command may go away while its events are on their way into the log, and then come back with another
/// body under the same key.
#[tokio::test]
async fn a_key_is_not_taken_for_another_body_while_the_first_is_on_its_way_without_its_caller() {
    let clock = Clock::manual(Timestamp::EPOCH);
    let settings = Settings { reserve_bytes: 0, ..Settings::new("simulated") };
    let (log, _) = EmbeddedLog::open_simulated(SimDisk::new(1), &settings, clock.clone()).unwrap();
    let streams = Streams::<Notes>::new(Log::Embedded(log.clone()), clock, 1_000_000);
    let stream = stream(1);

    assert!(streams.execute(&stream, &keyed(1, "a"), notes(&["a"])).now_or_never().is_none());
    let other = streams.execute(&stream, &keyed(1, "b"), notes(&["b"])).await;
    assert!(matches!(other, Err(ExecuteError::KeyReused)), "{other:?}");
    let state = streams.look(&stream, |folded| folded.state.clone()).await.unwrap();
    assert_eq!(state, HashSet::from(["a".to_owned()]));
    log.close().await;
}

#[tokio::test]
async fn a_state_of_few_large_events_weighs_as_much_as_one_of_many_small_ones() {
    let bench = Bench::new();
    let small = Streams::<Notes>::new(bench.log.clone(), bench.clock.clone(), 1000);
    for n in 0..20 {
        small.execute(&stream(n), &cause(n), vec!["a".repeat(100_000)]).await.unwrap();
    }
    assert!(small.cache.len() <= 5, "{}", small.cache.len());
    let elsewhere = Streams::<Notes>::new(bench.log.clone(), bench.clock.clone(), 1000);
    for n in 0..20 {
        elsewhere.look(&stream(n), |_| ()).await.unwrap();
    }
    assert_eq!(elsewhere.cache.len(), small.cache.len());
}
