//! What every log must do, as one suite that each implementation runs.
//!
//! Each rule of the contract ([`EventLog`]) is a function over a fresh log and its clock, which stands still until it is
//! moved. [`conformance_tests!`](crate::conformance_tests) makes a test of every one.

#![allow(clippy::unwrap_used, reason = "these are tests, although they are not marked as such")]

use bytes::Bytes;
use event_schemas::envelope::{DataFormat, EventType, NewEvent, Recorded};
use event_schemas::ids::{EventId, Position};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use uuid::Uuid;

use crate::{Appended, EventLog, Expected, Filter, Log, Page};

mod appending;
mod model;
mod reading;
mod together;

pub use appending::*;
pub use model::any_history_agrees_with_a_plain_list;
pub use reading::*;
pub use together::*;

/// When the clocks of the suite start.
pub const START: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

/// Makes a test of every rule. `$make` names a function from a clock to a fresh log and whatever must live as long as
/// it does.
#[macro_export]
macro_rules! conformance_tests {
    ($make:path) => {
        $crate::conformance_tests!($make:
            an_append_comes_back_as_it_was,
            positions_and_revisions_count_up,
            a_right_expectation_is_met,
            a_wrong_expectation_is_a_conflict_that_names_the_revision,
            any_takes_the_stream_as_it_is,
            a_retried_append_is_recognised,
            a_retry_of_an_older_append_is_recognised,
            a_retry_that_differs_is_no_retry,
            an_append_within_the_limits_is_taken_and_one_beyond_is_refused,
            a_refused_append_leaves_nothing,
            a_stream_is_read_in_pages,
            what_is_not_there_is_no_error,
            the_whole_log_is_read_in_pages,
            a_filter_leaves_over_its_streams_and_moves_on,
            the_position_at_an_instant_is_the_last_one_recorded_by_then,
            recorded_at_never_goes_back,
            the_head_moves_with_what_is_durable,
            of_concurrent_appenders_at_one_revision_one_wins,
            concurrent_appenders_on_many_streams_all_get_in,
            the_same_append_many_times_at_once_is_one,
            a_subscription_sees_everything_in_order_from_old_to_new,
            a_filtered_subscription_sees_only_its_streams,
        );

        #[test]
        fn any_history_agrees_with_a_plain_list() {
            $crate::conformance::any_history_agrees_with_a_plain_list($make);
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
    name.parse().expect("the suite's names are proper")
}

/// An event whose id and contents are derived from a number.
pub(crate) fn event(number: u128) -> NewEvent {
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
    log.append(&stream(name), expected, events(numbers)).await.expect("the append is right")
}

async fn all(log: &Log) -> Vec<Recorded> {
    all_of(log, &Filter::All, 1000).await
}

/// Everything that passes, page by page.
async fn all_of(log: &Log, filter: &Filter, events_max: usize) -> Vec<Recorded> {
    let mut events = Vec::new();
    let mut after = Position::START;
    loop {
        let Page { events: page, next, at_head } =
            log.read_all(after, filter, events_max).await.expect("the log can be read");
        assert!(page.len() <= events_max, "a page is not larger than asked for");
        assert!(page.iter().all(|event| event.position > after && event.position <= next));
        events.extend(page);
        assert!(next > after || at_head, "reading moves on until the head");
        after = next;
        if at_head {
            return events;
        }
    }
}

fn ids(events: &[Recorded]) -> Vec<u128> {
    events.iter().map(|event| event.id.0.as_u128()).collect()
}
