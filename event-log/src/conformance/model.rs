//! A property test of a log against the simplest model: a list.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{START, all_of, events, stream};
use crate::clock::Clock;
use crate::{AppendError, EventLog, Expected, Filter, Log};
use event_schemas::ids::{Position, Revision};

/// One append of a random history.
#[derive(Clone, Debug)]
struct RandomAppend {
    stream: usize,
    expected: RandomExpected,
    events: u128,
    /// Whether the same append is retried immediately.
    retried: bool,
}

#[derive(Clone, Copy, Debug)]
enum RandomExpected {
    None,
    /// The actual revision plus this offset.
    Offset(i8),
    Any,
}

const STREAMS: [&str; 4] = ["a-1", "a-2", "ab-1", "b-1.x"];

fn appends() -> impl Strategy<Value = Vec<RandomAppend>> {
    let expected = prop_oneof![
        1 => Just(RandomExpected::None),
        4 => (-2_i8..=2).prop_map(|off| RandomExpected::Offset(if off.abs() == 2 { off } else { 0 })),
        2 => Just(RandomExpected::Any),
    ];
    let append = (0..STREAMS.len(), expected, 1_u128..6, any::<bool>())
        .prop_map(|(stream, expected, events, retried)| RandomAppend { stream, expected, events, retried });
    proptest::collection::vec(append, 1..40)
}

/// Runs random appends, then every kind of read, and compares the results with a list.
pub fn any_history_matches_a_list_model<K>(make: impl Fn(Clock) -> (Log, K)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("the runtime starts");
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&appends(), |appends| {
        let (log, _kept) = make(Clock::manual(START));
        runtime.block_on(check_history(&log, &appends));
        Ok(())
    });
    if let Err(failed) = outcome {
        panic!("{failed}");
    }
}

async fn check_history(log: &Log, appends: &[RandomAppend]) {
    // The stream and id of every event.
    let mut model: Vec<(usize, u128)> = Vec::new();
    let mut next = 0;
    for append in appends {
        let name = stream(STREAMS[append.stream]);
        let count = model.iter().filter(|(stream, _)| *stream == append.stream).count() as u64;
        let actual = count.checked_sub(1).map(Revision);
        let expected = match append.expected {
            RandomExpected::None => Expected::NoStream,
            RandomExpected::Offset(off) => count
                .checked_add_signed(i64::from(off) - 1)
                .map_or(Expected::NoStream, |revision| Expected::At(Revision(revision))),
            RandomExpected::Any => Expected::Any,
        };
        let right = expected == Expected::Any || expected == Expected::after(actual);
        let numbers = next..next + append.events;
        next += append.events;
        for _ in 0..=usize::from(append.retried) {
            let outcome = log.append(&name, expected, events(numbers.clone())).await;
            if right {
                let appended = outcome.expect("the expectation matches");
                assert_eq!(appended.revision.0, count + append.events as u64 - 1);
            } else {
                assert!(
                    matches!(outcome, Err(AppendError::Conflict { actual: found }) if found == actual),
                    "{outcome:?}"
                );
            }
        }
        if right {
            model.extend(numbers.map(|number| (append.stream, number)));
        }
    }
    check_reads(log, &model).await;
}

async fn check_reads(log: &Log, model: &[(usize, u128)]) {
    let ids = |events: Vec<event_schemas::envelope::Recorded>| -> Vec<u128> {
        events.iter().map(|event| event.id.0.as_u128()).collect()
    };
    let of = |wanted: &dyn Fn(usize) -> bool| -> Vec<u128> {
        model.iter().filter(|(stream, _)| wanted(*stream)).map(|(_, number)| *number).collect()
    };
    for events_max in [1, 3, 1000] {
        assert_eq!(ids(all_of(log, &Filter::All, events_max).await), of(&|_| true));
        let filter = Filter::StreamPrefixes(vec!["a-".to_owned(), "b".to_owned()]);
        assert_eq!(ids(all_of(log, &filter, events_max).await), of(&|stream| stream != 2));
    }
    for (n, name) in STREAMS.iter().enumerate() {
        let expected = of(&|stream| stream == n);
        for from in [0, expected.len() / 2, expected.len()] {
            let read = log
                .read_stream(&stream(name), Revision(from as u64), 1000)
                .await
                .expect("the log can be read");
            assert_eq!(ids(read), expected[from..]);
        }
    }
    assert_eq!(log.position_at(START).await.expect("the log can be read"), *log.head().borrow());
    assert!(model.is_empty() || *log.head().borrow() > Position::START);
}
