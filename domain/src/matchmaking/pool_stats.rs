//! Statistics of a pool at a point in time: waiting players, waiting times and ratings.

use std::collections::BTreeMap;
use std::time::Duration;

use event_schemas::rating::Rating;
use event_schemas::time::Timestamp;

use super::queues::Pool;
use super::statistics::{Percentiles, percentiles};

/// The width of a histogram bucket, in points.
pub const BUCKET_POINTS: u16 = 100;
/// The maximum number of waiting players in the sample.
pub const SAMPLE_MAX: usize = 500;

/// The statistics of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolStats {
    pub waiting: usize,
    /// The waiting time of the first entry in the queue.
    pub oldest: Option<Duration>,
    /// The waiting times so far, in seconds.
    pub waits: Option<Percentiles>,
    /// The number of waiting players per rating bucket of [`BUCKET_POINTS`], by lower bound; empty buckets
    /// are omitted.
    pub histogram: Vec<(u16, usize)>,
    /// At most [`SAMPLE_MAX`] waiting players, evenly spread over the queue, the longest waiting first.
    pub sample: Vec<(Rating, Duration)>,
}

/// Computes the statistics of the searching entries in a pool. O(queue).
pub fn pool_stats(pool: &Pool, now: Timestamp) -> PoolStats {
    let waiting = pool.entries().len();
    let shown = waiting.min(SAMPLE_MAX);
    let mut waits = Vec::with_capacity(waiting);
    let mut histogram: BTreeMap<u16, usize> = BTreeMap::new();
    let mut sample = Vec::with_capacity(shown);
    for (place, entry) in pool.entries().enumerate() {
        let waited = now.since(entry.queued_at);
        waits.push(waited.as_secs_f64());
        *histogram.entry(entry.rating.points() / BUCKET_POINTS * BUCKET_POINTS).or_default() += 1;
        if place == sample.len() * waiting / shown {
            sample.push((entry.rating, waited));
        }
    }
    let oldest = pool.entries().next().map(|first| now.since(first.queued_at));
    PoolStats {
        waiting,
        oldest,
        waits: percentiles(waits),
        histogram: histogram.into_iter().collect(),
        sample,
    }
}
