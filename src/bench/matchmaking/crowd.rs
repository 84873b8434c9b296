//! Players whose events are in the log before the measurement.

use std::future::Future;
use std::time::Duration;

use domain::rating::unproven;
use event_log::{AppendError, EventLog, Expected};
use event_log_embedded::EmbeddedLog;
use event_schemas::envelope::{Actor, Cause, Event, NewEvent};
use event_schemas::ids::{CommandId, CorrelationId, EntryId, PoolKey, SubjectId, Tenant};
use event_schemas::player::{PlayerQueued, QueuedPool};
use event_schemas::rating::{Rating, RatingSource};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use futures_util::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use matchbook::failure::Failure;

/// The appends in flight, which share a sync.
const IN_FLIGHT: usize = 2_048;

pub(super) fn tenant() -> Tenant {
    "bench".parse().expect("a plain word is a tenant")
}

pub(super) fn pool() -> PoolKey {
    "bench".parse().expect("a plain word is a pool")
}

/// A pseudo-random number derived from another (SplitMix64).
pub(super) fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A rating around 1,500 with a deviation of about 300: the mean of several draws.
pub(super) fn rating(number: u64) -> Rating {
    let draws = (0..4).map(|n| (mixed(number.wrapping_mul(4).wrapping_add(n)) % 2_080) as f64);
    Rating::nearest(460.0 + draws.sum::<f64>() / 4.0)
}

pub(super) fn player(number: u64) -> SubjectId {
    SubjectId(Uuid::from_u64_pair(0xbe_0000_0000, mixed(number)))
}

/// The `turn`th queue entry of a player.
pub(super) fn entry(number: u64, turn: u64) -> EntryId {
    EntryId(Uuid::from_u64_pair(0xe0_0000_0000 + turn, mixed(number)))
}

pub(super) fn queued(number: u64, turn: u64, now: Timestamp) -> PlayerQueued {
    let rating = rating(number);
    PlayerQueued {
        subject_id: player(number),
        entry_id: entry(number, turn),
        pools: vec![QueuedPool {
            pool_key: pool(),
            rating,
            rating_source: RatingSource::Token,
            skill: unproven(rating),
            side_balance: 0,
            rating_call: None,
        }],
        max_rating_gap: None,
        last_opponent: None,
        expires_at: now.after(Duration::from_secs(24 * 60 * 60)),
        metadata: None,
    }
}

pub(super) fn of_player(number: u64) -> StreamId {
    StreamId::player(&tenant(), player(number))
}

/// Appends these events to the end of a stream.
pub(super) async fn append(
    log: &EmbeddedLog,
    stream: StreamId,
    at: Timestamp,
    events: Vec<Event>,
) -> Result<(), AppendError> {
    let id = Uuid::now_v7();
    let cause = Cause {
        command_id: CommandId(id),
        correlation_id: CorrelationId(id),
        event_id: None,
        tenant: tenant(),
        actor: Actor::Service("bench".parse().expect("a plain word is a service")),
        subject: None,
        idempotency: None,
        traceparent: None,
    };
    let encode = |(index, event)| NewEvent::encode(&cause, &stream, index, at, event);
    let events = events.iter().enumerate().map(encode).collect();
    log.append(&stream, Expected::Any, events).await.map(|_| ())
}

/// Executes all appends, many concurrently.
pub(super) async fn all<F>(appends: impl Iterator<Item = F>) -> Result<(), Failure>
where
    F: Future<Output = Result<(), AppendError>>,
{
    let appends = stream::iter(appends.map(Ok::<_, AppendError>));
    let done = appends.map(|append| async { append?.await }).buffer_unordered(IN_FLIGHT);
    let done = done.try_for_each(|()| async { Ok(()) }).await;
    done.map_err(|error| Failure::Failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratings_have_the_expected_mean_and_deviation() {
        let ratings: Vec<f64> = (0..10_000).map(|n| f64::from(rating(n).points())).collect();
        let mean = ratings.iter().sum::<f64>() / 10_000.0;
        let deviation = (ratings.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / 10_000.0).sqrt();
        assert!(
            (1_490.0..1_510.0).contains(&mean) && (290.0..310.0).contains(&deviation),
            "{mean} ± {deviation}"
        );
    }
}
