//! A log against the simplest thing that could be one: a list.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{START, all_of, events, stream};
use crate::clock::Clock;
use crate::{AppendError, EventLog, Expected, Filter, Log};
use event_schemas::ids::{Position, Revision};

#[derive(Clone, Debug)]
struct Step {
    stream: usize,
    expected: Belief,
    events: u128,
    /// Whether the same append is sent again at once.
    retried: bool,
}

#[derive(Clone, Copy, Debug)]
enum Belief {
    None,
    /// This many revisions off the truth.
    Off(i8),
    Any,
}

const STREAMS: [&str; 4] = ["a-1", "a-2", "ab-1", "b-1.x"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let belief = prop_oneof![
        1 => Just(Belief::None),
        4 => (-2_i8..=2).prop_map(|off| Belief::Off(if off.abs() == 2 { off } else { 0 })),
        2 => Just(Belief::Any),
    ];
    let step = (0..STREAMS.len(), belief, 1_u128..6, any::<bool>())
        .prop_map(|(stream, expected, events, retried)| Step { stream, expected, events, retried });
    proptest::collection::vec(step, 1..40)
}

/// Random appends, then every way of reading: all as a list has it.
pub fn any_history_agrees_with_a_plain_list<K>(make: impl Fn(Clock) -> (Log, K)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&steps(), |steps| {
        let (log, _kept) = make(Clock::manual(START));
        runtime.block_on(agrees(&log, &steps));
        Ok(())
    });
    if let Err(failed) = outcome {
        panic!("{failed}");
    }
}

async fn agrees(log: &Log, steps: &[Step]) {
    // Stream and id of every event.
    let mut model: Vec<(usize, u128)> = Vec::new();
    let mut next = 0;
    for step in steps {
        let name = stream(STREAMS[step.stream]);
        let count = model.iter().filter(|(stream, _)| *stream == step.stream).count() as u64;
        let actual = count.checked_sub(1).map(Revision);
        let expected = match step.expected {
            Belief::None => Expected::NoStream,
            Belief::Off(off) => count
                .checked_add_signed(i64::from(off) - 1)
                .map_or(Expected::NoStream, |revision| Expected::At(Revision(revision))),
            Belief::Any => Expected::Any,
        };
        let right = expected == Expected::Any || expected == Expected::after(actual);
        let numbers = next..next + step.events;
        next += step.events;
        for _ in 0..=usize::from(step.retried) {
            let outcome = log.append(&name, expected, events(numbers.clone())).await;
            if right {
                let appended = outcome.expect("the expectation is right");
                assert_eq!(appended.revision.0, count + step.events as u64 - 1);
            } else {
                assert!(
                    matches!(outcome, Err(AppendError::Conflict { actual: found }) if found == actual),
                    "{outcome:?}"
                );
            }
        }
        if right {
            model.extend(numbers.map(|number| (step.stream, number)));
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
            let read =
                log.read_stream(&stream(name), Revision(from as u64), 1000).await.expect("it can be read");
            assert_eq!(ids(read), expected[from..]);
        }
    }
    assert_eq!(log.position_at(START).await.expect("it can be read"), *log.head().borrow());
    assert!(model.is_empty() || *log.head().borrow() > Position::START);
}
