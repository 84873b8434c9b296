//! The response objects of pools and queue statistics.

use domain::matchmaking::pool_stats::BUCKET_POINTS;
use domain::matchmaking::statistics::Percentiles;
use event_schemas::ids::{PoolKey, Position, Tenant};
use event_schemas::pool::PoolSettings;
use event_schemas::time::Timestamp;
use projections::queue::{PoolCount, PoolView, QueueCount};
use schemars::JsonSchema;
use serde::Serialize;

/// The settings of a pool and the number of its entries.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Pool {
    pub pool_key: PoolKey,
    /// Whether it was configured; otherwise it has the default settings.
    pub configured: bool,
    pub settings: PoolSettings,
    pub waiting: u64,
    /// The number of entries whose game is being created.
    pub placing: u64,
    /// The log position that the response reflects.
    pub position: Position,
}

/// The number of entries by status; ended entries are counted in total. A matched entry counts in the pool where it was
/// matched, any other in all its pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct EntryCounts {
    pub searching: u64,
    pub placing: u64,
    pub matched: u64,
    pub cancelled: u64,
    pub expired: u64,
}

/// The percentiles of waiting times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct WaitPercentiles {
    pub p50_seconds: f64,
    pub p95_seconds: f64,
    pub count: u64,
}

/// The rating gaps of recent matches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct MatchQuality {
    pub gap_p50: f64,
    pub gap_p95: f64,
    /// The number of matches that it is based on.
    pub count: u64,
}

/// The number of entries with a rating in this range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RatingBucket {
    pub from: u16,
    pub below: u16,
    pub count: u64,
}

/// One queued player.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct WaitingPoint {
    pub rating: u16,
    pub waited_seconds: f64,
}

/// A sample of the queued players: all up to 500, otherwise 500 at even distances in the queue, longest waiting first.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct WaitingSample {
    /// The number of queued players in total.
    pub of: u64,
    pub points: Vec<WaitingPoint>,
}

/// The statistics of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PoolSummary {
    pub tenant: Tenant,
    pub pool_key: PoolKey,
    pub configured: bool,
    pub settings: PoolSettings,
    pub waiting: u64,
    pub placing: u64,
    /// The longest waiting time; null if the queue is empty.
    pub oldest_wait_seconds: Option<f64>,
    pub by_status: EntryCounts,
    /// The waiting times of the queued players.
    pub wait: Option<WaitPercentiles>,
    /// The waiting times of recently matched players.
    pub recent_wait: Option<WaitPercentiles>,
    /// The number of matches in total.
    pub matches: u64,
    /// The number of matches in the last 60 seconds.
    pub matches_a_minute: u64,
    pub match_quality: Option<MatchQuality>,
    /// The ratings of the queued players in buckets of 100 points; empty buckets are omitted.
    pub rating_histogram: Vec<RatingBucket>,
    pub sample: WaitingSample,
}

/// The statistics of all pools.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct QueueSummary {
    /// The instant at which waiting times were computed.
    pub at: Timestamp,
    /// The log position that the response reflects.
    pub position: Position,
    /// The number of waiting entries; one in several pools counts once.
    pub waiting: u64,
    pub placing: u64,
    /// Ordered by tenant and key.
    pub pools: Vec<PoolSummary>,
}

/// The members that change with time alone and are excluded from the `ETag`.
pub(super) const RUNNING_TIMES: &[&str] =
    &["at", "position", "oldest_wait_seconds", "wait", "waited_seconds"];

fn count(count: usize) -> u64 {
    count as u64
}

impl Pool {
    pub(super) fn new(pool_key: PoolKey, view: &PoolView) -> Self {
        Self {
            pool_key,
            configured: view.is_configured,
            settings: view.settings,
            waiting: count(view.waiting),
            placing: count(view.placing),
            position: view.position,
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
        let stats = pool.stats;
        let bucket =
            |(from, number)| RatingBucket { from, below: from + BUCKET_POINTS, count: count(number) };
        let points = stats.sample.into_iter().map(|(rating, waited)| WaitingPoint {
            rating: rating.points(),
            waited_seconds: waited.as_secs_f64(),
        });
        Self {
            tenant: pool.tenant,
            pool_key: pool.pool_key,
            configured: pool.is_configured,
            settings: pool.settings,
            waiting: count(stats.waiting),
            placing: count(pool.placing),
            oldest_wait_seconds: stats.oldest.map(|oldest| oldest.as_secs_f64()),
            by_status: EntryCounts {
                searching: count(stats.waiting),
                placing: count(pool.placing),
                matched: pool.outcomes.matched,
                cancelled: pool.outcomes.cancelled,
                expired: pool.outcomes.expired,
            },
            wait: stats.waits.map(Into::into),
            recent_wait: pool.recent_waits.map(Into::into),
            matches: pool.matches,
            matches_a_minute: pool.matches_a_minute,
            match_quality: pool.recent_gaps.map(Into::into),
            rating_histogram: stats.histogram.into_iter().map(bucket).collect(),
            sample: WaitingSample { of: count(stats.waiting), points: points.collect() },
        }
    }
}

impl From<QueueCount> for QueueSummary {
    fn from(counted: QueueCount) -> Self {
        Self {
            at: counted.at,
            position: counted.position,
            waiting: count(counted.waiting),
            placing: count(counted.placing),
            pools: counted.pools.into_iter().map(Into::into).collect(),
        }
    }
}
