//! The conformance suite that every implementation of the log must pass.
//!
//! Each rule of the contract ([`EventLog`]) is a function over a new log and its manual clock.
//! [`conformance_tests!`](crate::conformance_tests) generates a test for each of them.

#![allow(clippy::unwrap_used, reason = "the suite consists of tests, although they are not marked as tests")]

use bytes::Bytes;
use event_schemas::envelope::{DataFormat, EventType, NewEvent, Recorded};
use event_schemas::ids::{EventId, Position};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use uuid::Uuid;

use crate::{Appended, EventLog, Expected, Filter, Log, Page};

mod appending;
mod concurrency;
mod model;
mod reading;
pub use appending::*;
pub use concurrency::*;
pub use model::any_history_matches_a_list_model;
pub use reading::*;

/// The time at which the clocks of the suite start.
pub const START: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

/// Generates a test for every rule. `$make` names a function from a clock to a new log and a value that must live as
/// long as the log.
#[macro_export]
macro_rules! conformance_tests {
    ($make:path) => {
        $crate::conformance_tests!($make:
            append_is_read_back_unchanged,
            positions_and_revisions_increase,
            correct_expected_revision_succeeds,
            wrong_expected_revision_conflicts_with_actual,
            expected_any_ignores_the_revision,
            retried_append_is_recognised,
            retry_of_an_older_append_is_recognised,
            different_events_are_not_a_retry,
            append_limits_are_enforced,
            refused_append_leaves_no_events,
            stream_is_read_in_pages,
            reads_beyond_the_end_are_empty,
            whole_log_is_read_in_pages,
            filter_selects_streams_and_advances,
            position_at_is_the_last_recorded_by_then,
            recorded_at_never_decreases,
            head_follows_durable_events,
            one_concurrent_append_per_revision_wins,
            concurrent_appends_to_many_streams_succeed,
            concurrent_retries_append_once,
            subscription_delivers_all_events_in_order,
            filtered_subscription_delivers_its_streams,
        );

        #[test]
        fn any_history_matches_a_list_model() {
            $crate::conformance::any_history_matches_a_list_model($make);
        }
    };
    ($make:path: $($rule:ident),* $(,)?) => {$(
        #[tokio::test]
        async fn $rule() {
            let clock = $crate::clock::Clock::manual($crate::conformance::START);
            let (log, _kept) = $make(clock.clone());
            $crate::conformance::$rule(&log, &clock).await;
        }
    )*};
}

fn stream(name: &str) -> StreamId {
    name.parse().expect("the suite's stream names are valid")
}

/// An event whose id and content are derived from a number.
pub fn event(number: u128) -> NewEvent {
    NewEvent {
        id: EventId(Uuid::from_u128(number)),
        event_type: EventType::new(if number.is_multiple_of(2) { "Happened" } else { "JobCreated" }),
        format: DataFormat::Json,
        metadata: Bytes::from(format!(r#"{{"number":{number}}}"#)),
        data: Bytes::from(format!(r#"{{"data":"{}"}}"#, "x".repeat((number % 50) as usize))),
    }
}

fn events(numbers: std::ops::Range<u128>) -> Vec<NewEvent> {
    numbers.map(event).collect()
}

async fn append(log: &Log, name: &str, expected: Expected, numbers: std::ops::Range<u128>) -> Appended {
    log.append(&stream(name), expected, events(numbers)).await.expect("the append succeeds")
}

async fn all(log: &Log) -> Vec<Recorded> {
    all_of(log, &Filter::All, 1000).await
}

/// All events that pass the filter, read page by page.
async fn all_of(log: &Log, filter: &Filter, events_max: usize) -> Vec<Recorded> {
    let mut events = Vec::new();
    let mut after = Position::START;
    loop {
        let Page { events: page, next, at_head } =
            log.read_all(after, filter, events_max).await.expect("the log can be read");
        assert!(page.len() <= events_max, "a page is not larger than requested");
        assert!(page.iter().all(|event| event.position > after && event.position <= next));
        events.extend(page);
        assert!(next > after || at_head, "reads advance until the head");
        after = next;
        if at_head {
            return events;
        }
    }
}

fn ids(events: &[Recorded]) -> Vec<u128> {
    events.iter().map(|event| event.id.0.as_u128()).collect()
}
