//! Pools and queues as those see them who run them.

use domain::matchmaking::census::BUCKET_POINTS;
use domain::matchmaking::statistics::Percentiles;
use event_schemas::ids::{PoolKey, Tenant};
use poem_openapi::Object;
use projections::queue::{PoolCount, PoolView, QueueCount};
use web::pool::PoolSettings;
use web::value::{At, Pos, Text};

/// How a pool matches its players, and how many wait there.
#[derive(Clone, Debug, PartialEq, Object)]
pub struct Pool {
    pub pool_key: Text<PoolKey>,
    /// Whether somebody said how it matches; it has the defaults otherwise.
    pub configured: bool,
    pub settings: PoolSettings,
    pub waiting: u64,
    /// Those for whom a game is being made.
    pub placing: u64,
    /// The log position that the answer reflects.
    pub position: Pos,
}

/// How many entries stand where; those that have ended are counted since ever. A matched entry counts in the pool where it
/// was matched, another one in all its pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Object)]
pub struct EntryCounts {
    pub searching: u64,
    pub placing: u64,
    pub matched: u64,
    pub cancelled: u64,
    pub expired: u64,
}

/// How long waits are.
#[derive(Clone, Copy, Debug, PartialEq, Object)]
pub struct WaitPercentiles {
    pub p50_seconds: f64,
    pub p95_seconds: f64,
    pub count: u64,
}

/// How many rating points apart those were who were matched lately.
#[derive(Clone, Copy, Debug, PartialEq, Object)]
pub struct MatchQuality {
    pub gap_p50: f64,
    pub gap_p95: f64,
    /// On how many matches it rests.
    pub count: u64,
}

/// How many have a rating in this range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Object)]
pub struct RatingBucket {
    pub from: u16,
    pub below: u16,
    pub count: u64,
}

/// One of those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Object)]
pub struct WaitingPoint {
    pub rating: u16,
    pub waited_seconds: f64,
}

/// Some of those who wait: all up to 500, else 500 of them taken evenly along the line, the longest waiting first.
#[derive(Clone, Debug, PartialEq, Object)]
pub struct WaitingSample {
    /// How many wait in all.
    pub of: u64,
    pub points: Vec<WaitingPoint>,
}

/// A pool in numbers.
#[derive(Clone, Debug, PartialEq, Object)]
pub struct PoolSummary {
    pub tenant: Text<Tenant>,
    pub pool_key: Text<PoolKey>,
    pub configured: bool,
    pub settings: PoolSettings,
    pub waiting: u64,
    pub placing: u64,
    /// How long the first in line has waited; null if nobody waits.
    pub oldest_wait_seconds: Option<f64>,
    pub by_status: EntryCounts,
    /// Of those who wait now.
    pub wait: Option<WaitPercentiles>,
    /// Of those who were matched lately.
    pub recent_wait: Option<WaitPercentiles>,
    /// All that ever were.
    pub matches: u64,
    /// In the last 60 seconds.
    pub matches_a_minute: u64,
    pub match_quality: Option<MatchQuality>,
    /// Of those who wait now, 100 points wide; only where there is somebody.
    pub rating_histogram: Vec<RatingBucket>,
    pub sample: WaitingSample,
}

/// All pools in numbers.
#[derive(Clone, Debug, PartialEq, Object)]
pub struct QueueSummary {
    /// The instant of the waits.
    pub at: At,
    /// The log position that the answer reflects.
    pub position: Pos,
    /// Entries; one in several pools counts once.
    pub waiting: u64,
    pub placing: u64,
    /// By tenant and key.
    pub pools: Vec<PoolSummary>,
}

/// What passes without anything happening, and is left out of `ETag`.
pub(super) const RUNNING_TIMES: &[&str] =
    &["at", "position", "oldest_wait_seconds", "wait", "waited_seconds"];

fn count(count: usize) -> u64 {
    count as u64
}

impl Pool {
    pub(super) fn new(pool_key: PoolKey, view: &PoolView) -> Self {
        Self {
            pool_key: Text(pool_key),
            configured: view.is_configured,
            settings: view.settings.into(),
            waiting: count(view.waiting),
            placing: count(view.placing),
            position: Pos(view.position),
        }
    }
}

impl From<Percentiles> for WaitPercentiles {
    fn from(seconds: Percentiles) -> Self {
        Self { p50_seconds: seconds.p50, p95_seconds: seconds.p95, count: count(seconds.count) }
    }
}

impl From<Percentiles> for MatchQuality {
    fn from(gaps: Percentiles) -> Self {
        Self { gap_p50: gaps.p50, gap_p95: gaps.p95, count: count(gaps.count) }
    }
}

impl From<PoolCount> for PoolSummary {
    fn from(pool: PoolCount) -> Self {
        let census = pool.census;
        let bucket =
            |(from, number)| RatingBucket { from, below: from + BUCKET_POINTS, count: count(number) };
        let points = census.sample.into_iter().map(|(rating, waited)| WaitingPoint {
            rating: rating.points(),
            waited_seconds: waited.as_secs_f64(),
        });
        Self {
            tenant: Text(pool.tenant),
            pool_key: Text(pool.pool_key),
            configured: pool.is_configured,
            settings: pool.settings.into(),
            waiting: count(census.waiting),
            placing: count(pool.placing),
            oldest_wait_seconds: census.oldest.map(|oldest| oldest.as_secs_f64()),
            by_status: EntryCounts {
                searching: count(census.waiting),
                placing: count(pool.placing),
                matched: pool.ends.matched,
                cancelled: pool.ends.cancelled,
                expired: pool.ends.expired,
            },
            wait: census.waits.map(Into::into),
            recent_wait: pool.recent_waits.map(Into::into),
            matches: pool.matches,
            matches_a_minute: pool.matches_a_minute,
            match_quality: pool.recent_gaps.map(Into::into),
            rating_histogram: census.histogram.into_iter().map(bucket).collect(),
            sample: WaitingSample { of: count(census.waiting), points: points.collect() },
        }
    }
}

impl From<QueueCount> for QueueSummary {
    fn from(counted: QueueCount) -> Self {
        Self {
            at: At(counted.at),
            position: Pos(counted.position),
            waiting: count(counted.waiting),
            placing: count(counted.placing),
            pools: counted.pools.into_iter().map(Into::into).collect(),
        }
    }
}
