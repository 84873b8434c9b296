//! A pool at an instant, counted: who waits there, how long, how strong.

use std::collections::BTreeMap;
use std::time::Duration;

use event_schemas::rating::Rating;
use event_schemas::time::Timestamp;

use super::queues::PoolLine;
use super::statistics::{Percentiles, percentiles};

/// How many points one bar of the histogram is wide.
pub const BUCKET_POINTS: u16 = 100;
/// How many of those who wait are shown one by one.
pub const SAMPLE_MAX: usize = 500;

/// Those who wait in a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Census {
    pub waiting: usize,
    /// How long the first in line has waited.
    pub oldest: Option<Duration>,
    /// The seconds that they have waited so far.
    pub waits: Option<Percentiles>,
    /// How many there are from each of these ratings on, [`BUCKET_POINTS`] wide, in order; only where there is somebody.
    pub histogram: Vec<(u16, usize)>,
    /// At most [`SAMPLE_MAX`] of them, evenly along the line, the longest waiting first.
    pub sample: Vec<(Rating, Duration)>,
}

/// Counts those who search in a pool. O(line).
pub fn census(pool: &PoolLine, now: Timestamp) -> Census {
    let waiting = pool.line().len();
    let shown = waiting.min(SAMPLE_MAX);
    let mut waits = Vec::with_capacity(waiting);
    let mut histogram: BTreeMap<u16, usize> = BTreeMap::new();
    let mut sample = Vec::with_capacity(shown);
    for (place, entry) in pool.line().enumerate() {
        let waited = now.since(entry.queued_at);
        waits.push(waited.as_secs_f64());
        *histogram.entry(entry.rating.points() / BUCKET_POINTS * BUCKET_POINTS).or_default() += 1;
        if place == sample.len() * waiting / shown {
            sample.push((entry.rating, waited));
        }
    }
    let oldest = pool.line().next().map(|first| now.since(first.queued_at));
    Census { waiting, oldest, waits: percentiles(waits), histogram: histogram.into_iter().collect(), sample }
}
