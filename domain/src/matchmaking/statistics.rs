//! Statistics of a pool's latest matches: waiting times, rating distances and match rate.

use std::collections::VecDeque;
use std::time::Duration;

use event_schemas::rating::Rating;
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The maximum number of remembered waiting times; a match has two.
pub const SAMPLES_MAX: usize = 2_000;
/// The period over which the match rate is counted.
pub const RATE_OVER: Duration = Duration::from_secs(60);
/// The minimum number of waiting times for an estimate; below it, a wider rating range is used.
const ENOUGH: usize = 20;
/// The rating ranges for an estimate, in points; the first one with enough waiting times is used.
const NEAR: [u16; 4] = [50, 100, 200, 400];

/// A player's waiting time that ended in a match. Stored as a pair, because there are many.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "(Rating, u64)", into = "(Rating, u64)")]
struct WaitSample {
    rating: Rating,
    /// In whole microseconds, like timestamps.
    waited: Duration,
}

impl From<(Rating, u64)> for WaitSample {
    fn from((rating, micros): (Rating, u64)) -> Self {
        Self { rating, waited: Duration::from_micros(micros) }
    }
}

impl From<WaitSample> for (Rating, u64) {
    fn from(sample: WaitSample) -> Self {
        (sample.rating, u64::try_from(sample.waited.as_micros()).unwrap_or(u64::MAX))
    }
}

/// The latest matches of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecentMatches {
    samples: VecDeque<WaitSample>,
    /// The rating distance of the players in each of the latest matches.
    gaps: VecDeque<u16>,
    /// The number of matches in each of the latest seconds that had any.
    seconds: VecDeque<(i64, u32)>,
    /// The total number of matches.
    matches: u64,
}

/// An estimated waiting time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub p50_seconds: f64,
    pub p90_seconds: f64,
    /// The number of waiting times that the estimate is based on.
    pub samples: usize,
    /// The rating range that they come from; none if the whole pool was used.
    pub within: Option<u16>,
}

/// Percentiles of a set of numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub count: usize,
}

impl RecentMatches {
    /// Records a match of two players, with their ratings and waiting times.
    pub fn add(&mut self, at: Timestamp, players: [(Rating, Duration); 2]) {
        let [(first, _), (second, _)] = players;
        for (rating, waited) in players {
            push(&mut self.samples, WaitSample { rating, waited }, SAMPLES_MAX);
        }
        push(&mut self.gaps, first.distance(second), SAMPLES_MAX / 2);
        self.matches += 1;
        let second = at.micros().div_euclid(1_000_000);
        // Events may arrive slightly out of order; they are counted in their own second.
        match self.seconds.iter_mut().rev().find(|(known, _)| *known <= second) {
            Some((known, count)) if *known == second => *count += 1,
            _ => {
                let place = self.seconds.partition_point(|(known, _)| *known < second);
                self.seconds.insert(place, (second, 1));
            }
        }
        let newest = self.seconds.back().map_or(second, |(newest, _)| *newest);
        let over = i64::try_from(RATE_OVER.as_secs()).unwrap_or(i64::MAX);
        while self.seconds.front().is_some_and(|(oldest, _)| newest - oldest >= over) {
            self.seconds.pop_front();
        }
    }

    /// The total number of matches in the pool.
    pub fn matches(&self) -> u64 {
        self.matches
    }

    /// The number of matches in the minute before this time.
    pub fn matches_a_minute(&self, now: Timestamp) -> u64 {
        let now = now.micros().div_euclid(1_000_000);
        let over = i64::try_from(RATE_OVER.as_secs()).unwrap_or(i64::MAX);
        let recent = self.seconds.iter().filter(|(second, _)| *second <= now && now - second < over);
        recent.map(|(_, count)| u64::from(*count)).sum()
    }

    /// The waiting times of the latest matched players, in seconds; none without matches.
    pub fn waits(&self) -> Option<Percentiles> {
        percentiles(self.samples.iter().map(|sample| sample.waited.as_secs_f64()).collect())
    }

    /// The rating distances of the latest matches, in points: the quality of the matches.
    pub fn gaps(&self) -> Option<Percentiles> {
        percentiles(self.gaps.iter().map(|gap| f64::from(*gap)).collect())
    }

    /// The estimated waiting time for this rating; none until a first match was made in the pool.
    pub fn estimate(&self, rating: Rating) -> Option<Estimate> {
        let near = |within: Option<u16>| {
            let is_near =
                |sample: &&WaitSample| within.is_none_or(|within| sample.rating.distance(rating) <= within);
            let waits = self.samples.iter().filter(is_near).map(|sample| sample.waited.as_secs_f64());
            waits.collect::<Vec<_>>()
        };
        let enough = NEAR.into_iter().map(|within| (Some(within), near(Some(within))));
        let (within, waits) =
            enough.into_iter().find(|(_, waits)| waits.len() >= ENOUGH).unwrap_or_else(|| (None, near(None)));
        let percentiles = percentiles(waits)?;
        Some(Estimate {
            p50_seconds: percentiles.p50,
            p90_seconds: percentiles.p90,
            samples: percentiles.count,
            within,
        })
    }
}

fn push<T>(queue: &mut VecDeque<T>, item: T, max: usize) {
    queue.push_back(item);
    if queue.len() > max {
        queue.pop_front();
    }
}

/// Percentiles by linear interpolation, like PostgreSQL's `PERCENTILE_CONT`; none for an empty set.
pub fn percentiles(mut values: Vec<f64>) -> Option<Percentiles> {
    values.sort_unstable_by(f64::total_cmp);
    (!values.is_empty()).then(|| Percentiles {
        p50: quantile(&values, 0.5),
        p90: quantile(&values, 0.9),
        p95: quantile(&values, 0.95),
        count: values.len(),
    })
}

/// The value below which this share of the sorted values is, by linear interpolation. There must be a value.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}
