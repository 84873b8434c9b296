//! What a pool's latest matches say: how long people wait there, how far apart they are, how many meet.

use std::collections::VecDeque;
use std::time::Duration;

use event_schemas::rating::Rating;
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

/// How many players' waits are remembered. Two a match.
pub const SAMPLES_MAX: usize = 2_000;
/// Over how long matches are counted for the rate.
pub const RATE_OVER: Duration = Duration::from_secs(60);
/// An estimate looks farther than the next neighbours until it rests on so many waits.
const ENOUGH: usize = 20;
/// How far away, in points, a wait may be to say something about a rating: the first that is enough.
const NEAR: [u16; 4] = [50, 100, 200, 400];

/// One player's wait that ended in a match. Kept as a pair, because there are many.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "(Rating, u64)", into = "(Rating, u64)")]
struct Sample {
    rating: Rating,
    /// In whole microseconds, as instants are.
    waited: Duration,
}

impl From<(Rating, u64)> for Sample {
    fn from((rating, micros): (Rating, u64)) -> Self {
        Self { rating, waited: Duration::from_micros(micros) }
    }
}

impl From<Sample> for (Rating, u64) {
    fn from(sample: Sample) -> Self {
        (sample.rating, u64::try_from(sample.waited.as_micros()).unwrap_or(u64::MAX))
    }
}

/// The latest matches of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recent {
    samples: VecDeque<Sample>,
    /// How far apart the players of each of the latest matches were.
    gaps: VecDeque<u16>,
    /// How many matches there were in each of the latest seconds that had one.
    seconds: VecDeque<(i64, u32)>,
    /// All that ever were.
    matches: u64,
}

/// How long a wait is likely to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub p50_seconds: f64,
    pub p90_seconds: f64,
    /// On how many waits it rests.
    pub samples: usize,
    /// Within how many points of the rating they were; none if all of the pool's count.
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

impl Recent {
    /// Two players, with their ratings and waits, met at this instant.
    pub fn add(&mut self, at: Timestamp, players: [(Rating, Duration); 2]) {
        let [(first, _), (second, _)] = players;
        for (rating, waited) in players {
            push(&mut self.samples, Sample { rating, waited }, SAMPLES_MAX);
        }
        push(&mut self.gaps, first.distance(second), SAMPLES_MAX / 2);
        self.matches += 1;
        let second = at.micros().div_euclid(1_000_000);
        // Instants may come out of order by a little; they count where they fit.
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

    /// How many matches the pool ever had.
    pub fn matches(&self) -> u64 {
        self.matches
    }

    /// How many matches there were in the minute before this instant.
    pub fn matches_a_minute(&self, now: Timestamp) -> u64 {
        let now = now.micros().div_euclid(1_000_000);
        let over = i64::try_from(RATE_OVER.as_secs()).unwrap_or(i64::MAX);
        let recent = self.seconds.iter().filter(|(second, _)| *second <= now && now - second < over);
        recent.map(|(_, count)| u64::from(*count)).sum()
    }

    /// The seconds that those waited who were matched lately; none if nobody was.
    pub fn waits(&self) -> Option<Percentiles> {
        percentiles(self.samples.iter().map(|sample| sample.waited.as_secs_f64()).collect())
    }

    /// How far apart those were who met lately, in points: the quality of the matches.
    pub fn gaps(&self) -> Option<Percentiles> {
        percentiles(self.gaps.iter().map(|gap| f64::from(*gap)).collect())
    }

    /// How long someone of this rating is likely to wait; none while nobody was matched in the pool.
    pub fn estimate(&self, rating: Rating) -> Option<Estimate> {
        let near = |within: Option<u16>| {
            let is_near =
                |sample: &&Sample| within.is_none_or(|within| sample.rating.distance(rating) <= within);
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

/// Percentiles by linear interpolation, as PostgreSQL's `PERCENTILE_CONT`; none of nothing.
pub fn percentiles(mut values: Vec<f64>) -> Option<Percentiles> {
    values.sort_unstable_by(f64::total_cmp);
    let at = |part: f64| {
        let place = part * (values.len() - 1) as f64;
        let (below, above) = (values[place.floor() as usize], values[place.ceil() as usize]);
        below + (above - below) * place.fract()
    };
    (!values.is_empty()).then(|| Percentiles {
        p50: at(0.5),
        p90: at(0.9),
        p95: at(0.95),
        count: values.len(),
    })
}
