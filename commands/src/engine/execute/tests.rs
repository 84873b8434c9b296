use std::collections::HashSet;
use std::time::Duration;

use domain::decider::{RefusalKind, Refused};
use event_log::{APPEND_EVENTS_MAX, MemoryLog};
use event_log_embedded::EmbeddedLog;
use event_log_embedded::{Settings, SimDisk};
use event_schemas::envelope::{Actor, BodyHash, NewEvent};
use event_schemas::ids::{CommandId, CorrelationId, JobId, Revision, Tenant};
use event_schemas::job::{JobCancelled, JobEvent, Phase};
use event_schemas::time::Timestamp;
use futures_util::FutureExt;
use futures_util::future::join_all;
use uuid::Uuid;

use super::*;

/// A set of notes: each is recorded once, and none may be empty.
#[derive(Debug)]
struct Notes;

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("a note must not be empty")]
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

struct TestStreams {
    clock: Clock,
    log: Log,
    streams: Streams<Notes>,
}

impl TestStreams {
    fn new() -> Self {
        let clock = Clock::manual(Timestamp::EPOCH);
        let log = Log::new(MemoryLog::new(clock.clone()));
        let streams = Streams::over(log.clone(), clock.clone(), StateCache::new(StateCacheLimits::default()));
        Self { clock, log, streams }
    }

    /// Another process, or this one after a restart: the same log with an empty cache.
    fn elsewhere(&self) -> Streams<Notes> {
        self.with_cache(StateCacheLimits::default())
    }

    fn with_cache(&self, limits: StateCacheLimits) -> Streams<Notes> {
        Streams::over(self.log.clone(), self.clock.clone(), StateCache::new(limits))
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

fn keyed_cause(command: u128, body: &str) -> Cause {
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
async fn repeated_command_records_once() {
    let test = TestStreams::new();
    let first = test.streams.execute(&stream(1), &cause(1), notes(&["a", "b"])).await.unwrap();
    assert_eq!(first, Executed { events: 2, position: Position(2), repeated: false });
    let second = test.streams.execute(&stream(1), &cause(2), notes(&["a", "b"])).await.unwrap();
    assert_eq!(second, Executed { events: 0, position: Position(2), repeated: false });
    assert_eq!(test.events(), 2);
}

#[tokio::test]
async fn refused_command_records_nothing() {
    let test = TestStreams::new();
    let refused = test.streams.execute(&stream(1), &cause(1), notes(&["a", ""])).await;
    assert!(matches!(refused, Err(ExecuteError::Refused(_))));
    assert_eq!(test.events(), 0);
}

#[tokio::test]
async fn conflicting_command_decides_again_on_new_events() {
    let test = TestStreams::new();
    let elsewhere = test.elsewhere();
    test.streams.execute(&stream(1), &cause(1), notes(&["a"])).await.unwrap();
    elsewhere.execute(&stream(1), &cause(2), notes(&["b"])).await.unwrap();
    let late = test.streams.execute(&stream(1), &cause(3), notes(&["a", "b", "c"])).await.unwrap();
    assert_eq!(late, Executed { events: 1, position: Position(3), repeated: false });
}

#[tokio::test]
async fn no_op_is_decided_on_the_newest_events() {
    let test = TestStreams::new();
    test.streams.execute(&stream(1), &cause(1), notes(&["a"])).await.unwrap();
    test.elsewhere().execute(&stream(1), &cause(2), notes(&["b"])).await.unwrap();
    let nothing = test.streams.execute(&stream(1), &cause(3), notes(&["a"])).await.unwrap();
    assert_eq!(nothing.position, Position(2));
}

#[tokio::test]
async fn first_event_is_looked_for_until_it_is_known() {
    let test = TestStreams::new();
    let read = async || test.streams.query_first(&stream(1), |cached| cached.state.len()).await.unwrap();
    assert_eq!(read().await, 0);
    test.elsewhere().execute(&stream(1), &cause(1), notes(&["a"])).await.unwrap();
    assert_eq!(read().await, 1);
    test.elsewhere().execute(&stream(1), &cause(2), notes(&["b"])).await.unwrap();
    assert_eq!(read().await, 1, "the log is not read again");
    assert_eq!(test.streams.query(&stream(1), |cached| cached.state.len()).await.unwrap(), 2);
}

#[tokio::test]
async fn concurrent_processes_record_each_note_once() {
    let test = TestStreams::new();
    let processes: Vec<_> = (0..4).map(|_| test.elsewhere()).collect();
    let stream = stream(1);
    let commands =
        (0..200_u128).map(|n| {
            let (process, stream) = (&processes[(n % 4) as usize], &stream);
            async move {
                process.execute(stream, &cause(n), vec![format!("note {}", n / 4)]).await.unwrap().events
            }
        });
    let recorded: usize = join_all(commands).await.into_iter().sum();
    assert_eq!((recorded, test.events()), (50, 50));
}

#[tokio::test]
async fn stream_of_another_tenant_is_refused() {
    let test = TestStreams::new();
    test.streams.execute(&stream(1), &cause(1), notes(&["a"])).await.unwrap();
    let other = Cause { tenant: "other".parse::<Tenant>().unwrap(), ..cause(2) };
    for streams in [&test.streams, &test.elsewhere()] {
        let refused = streams.execute(&stream(1), &other, notes(&["b"])).await;
        assert!(matches!(refused, Err(ExecuteError::OtherTenant)));
    }
}

#[tokio::test]
async fn repeated_key_gets_its_first_result_after_restart() {
    let test = TestStreams::new();
    let first = test.streams.execute(&stream(1), &keyed_cause(1, "ab"), notes(&["a", "b"])).await.unwrap();
    test.streams.execute(&stream(1), &cause(2), notes(&["c"])).await.unwrap();
    for streams in [&test.streams, &test.elsewhere()] {
        let again = streams.execute(&stream(1), &keyed_cause(3, "ab"), notes(&["a", "b"])).await.unwrap();
        assert_eq!(again, Executed { repeated: true, ..first });
        let other = streams.execute(&stream(1), &keyed_cause(4, "x"), notes(&["x"])).await;
        assert!(matches!(other, Err(ExecuteError::KeyReused)));
    }
    assert_eq!(test.events(), 3);
}

#[tokio::test]
async fn key_of_a_no_op_gets_its_first_result_after_restart() {
    let test = TestStreams::new();
    test.streams.execute(&stream(1), &cause(1), notes(&["a"])).await.unwrap();
    let first = test.streams.execute(&stream(1), &keyed_cause(2, "a"), notes(&["a"])).await.unwrap();
    assert_eq!(first, Executed { events: 0, position: Position(2), repeated: false });
    test.streams.execute(&stream(1), &cause(3), notes(&["b"])).await.unwrap();
    for streams in [&test.streams, &test.elsewhere()] {
        let again = streams.execute(&stream(1), &keyed_cause(2, "a"), notes(&["a"])).await.unwrap();
        assert_eq!(again, Executed { repeated: true, ..first });
        // Whatever the stream, because the same key may come with another one.
        for n in [1, 2] {
            let other = streams.execute(&stream(n), &keyed_cause(2, "c"), notes(&["c"])).await;
            assert!(matches!(other, Err(ExecuteError::KeyReused)), "{other:?}");
        }
    }
    assert_eq!(test.events(), 3);
    test.clock.advance(Duration::from_secs(25 * 60 * 60));
    let fresh = test.elsewhere().execute(&stream(1), &keyed_cause(2, "a"), notes(&["a"])).await.unwrap();
    assert_eq!(fresh, Executed { events: 0, position: Position(4), repeated: false });
    let used = test.elsewhere().execute(&stream(1), &keyed_cause(2, "c"), notes(&["c"])).await;
    assert!(matches!(used, Err(ExecuteError::KeyReused)));
}

#[tokio::test]
async fn concurrent_no_ops_with_one_key_are_one_answer() {
    let test = TestStreams::new();
    test.streams.execute(&stream(1), &cause(1), notes(&["a"])).await.unwrap();
    let processes: Vec<_> = (0..4).map(|_| test.elsewhere()).collect();
    let (stream, cause) = (stream(1), keyed_cause(2, "a"));
    let copies = (0..32).map(|n| processes[n % 4].execute(&stream, &cause, notes(&["a"])));
    let positions: HashSet<_> =
        join_all(copies).await.into_iter().map(|done| done.unwrap().position).collect();
    assert_eq!((positions, test.events()), (HashSet::from([Position(2)]), 2));
}

#[tokio::test]
async fn key_is_unused_again_after_its_ttl() {
    let test = TestStreams::new();
    test.streams.execute(&stream(1), &keyed_cause(1, "a"), notes(&["a"])).await.unwrap();
    test.clock.advance(Duration::from_secs(25 * 60 * 60));
    test.streams.execute(&stream(1), &cause(2), notes(&["b"])).await.unwrap();
    let fresh = test.streams.execute(&stream(1), &keyed_cause(3, "c"), notes(&["c"])).await.unwrap();
    assert_eq!((fresh.events, fresh.repeated), (1, false));
}

#[tokio::test]
async fn large_command_is_split_with_unique_event_ids() {
    let test = TestStreams::new();
    let many: Vec<String> = (0..10_000).map(|n| format!("note {n}")).collect();
    let all = test.streams.execute(&stream(1), &keyed_cause(1, "many"), many.clone()).await.unwrap();
    assert_eq!(all, Executed { events: 10_000, position: Position(10_000), repeated: false });
    let recorded = test.log.read_stream(&stream(1), Revision(0), 20_000).await.unwrap();
    let ids: HashSet<_> = recorded.iter().map(|event| event.id).collect();
    assert_eq!(ids.len(), 10_000);
    let again = test.elsewhere().execute(&stream(1), &keyed_cause(2, "many"), many.clone()).await.unwrap();
    assert_eq!(again, Executed { repeated: true, ..all });
}

#[tokio::test]
async fn repetition_resumes_a_command_interrupted_between_appends() {
    let whole = TestStreams::new();
    let many: Vec<String> = (0..10_000).map(|n| format!("note {n}")).collect();
    whole.streams.execute(&stream(1), &keyed_cause(1, "many"), many.clone()).await.unwrap();
    let events = whole.log.read_stream(&stream(1), Revision(0), 20_000).await.unwrap();

    // Another log that received only the first append.
    let test = TestStreams::new();
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
        test.log.append(&stream(1), Expected::Any, vec![event]).await.unwrap();
    }
    let resumed = test.streams.execute(&stream(1), &keyed_cause(1, "many"), many.clone()).await.unwrap();
    assert_eq!(resumed, Executed { events: 10_000, position: Position(10_000), repeated: false });
    let ids: Vec<_> =
        test.log.read_stream(&stream(1), Revision(0), 20_000).await.unwrap().iter().map(|e| e.id).collect();
    assert_eq!(ids, events.iter().map(|event| event.id).collect::<Vec<_>>());
}

#[tokio::test]
async fn states_beyond_the_cost_limit_are_evicted_and_reloaded() {
    let test = TestStreams::new();
    let small = test.with_cache(StateCacheLimits { small: 5_000, large: 0 });
    for n in 0..100 {
        small.execute(&stream(n), &cause(n), notes(&["a"])).await.unwrap();
    }
    assert!(small.cache.len() <= 10, "{}", small.cache.len());
    let seen = small.query(&stream(0), |folded| folded.state.contains("a")).await.unwrap();
    assert!(seen);
}

/// A caller may disconnect while its events are being appended, and then send another body under the same key.
#[tokio::test]
async fn key_of_a_pending_append_is_refused_for_another_body() {
    let clock = Clock::manual(Timestamp::EPOCH);
    let settings = Settings { reserve_bytes: 0, ..Settings::new("simulated") };
    let (log, _) = EmbeddedLog::open_simulated(SimDisk::new(1), &settings, clock.clone()).unwrap();
    let streams =
        Streams::<Notes>::over(Log::new(log.clone()), clock, StateCache::new(StateCacheLimits::default()));
    let stream = stream(1);

    assert!(streams.execute(&stream, &keyed_cause(1, "a"), notes(&["a"])).now_or_never().is_none());
    let other = streams.execute(&stream, &keyed_cause(1, "b"), notes(&["b"])).await;
    assert!(matches!(other, Err(ExecuteError::KeyReused)), "{other:?}");
    let state = streams.query(&stream, |folded| folded.state.clone()).await.unwrap();
    assert_eq!(state, HashSet::from(["a".to_owned()]));
    log.close().await;
}

#[tokio::test]
async fn states_of_large_events_are_evicted_earlier() {
    let test = TestStreams::new();
    let small = test.with_cache(StateCacheLimits { small: 500_000, large: 0 });
    for n in 0..20 {
        small.execute(&stream(n), &cause(n), vec!["a".repeat(100_000)]).await.unwrap();
    }
    assert!(small.cache.len() <= 5, "{}", small.cache.len());
    let elsewhere = test.with_cache(StateCacheLimits { small: 500_000, large: 0 });
    for n in 0..20 {
        elsewhere.query(&stream(n), |_| ()).await.unwrap();
    }
    assert_eq!(elsewhere.cache.len(), small.cache.len());
}
