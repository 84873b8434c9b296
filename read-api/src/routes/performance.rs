//! How fast the server answers: durations by operation, caches, and slow queries.

use std::collections::BTreeMap;
use std::sync::Arc;

use event_schemas::time::Timestamp;
use poem_openapi::OpenApi;
use poem_openapi::param::Query;
use projections::search::answers::{CacheStatus, PopularQuery, percent};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use web::caller::{Caller, Role};
use web::json::Json;
use web::paging::Limit;
use web::problem::Problem;
use web::schema::Api;

use super::Tag;
use crate::ReadApi;
use crate::latency::{self, OperationDurations};
use crate::slow_queries::{SlowQuery, milliseconds};

/// Claims of work wait until there is some: their durations say nothing of the server.
const LONG_POLL: &str = "/internal/work/claim";

/// The bounds from which an operator is advised.
const HIT_RATE_PERCENT_MIN: f64 = 70.0;
const ERROR_RATE_PERCENT_MAX: f64 = 1.0;
/// The number of requests from which a rate says something.
const COUNT_MIN: u64 = 100;

/// How fast an operation is, by the duration that 95 % of its responses do not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Under 50 ms.
    Excellent,
    /// Under 100 ms.
    Good,
    /// Under 150 ms.
    Acceptable,
    /// Under 300 ms.
    Slow,
    Critical,
}

impl Grade {
    fn of(p95_ms: f64) -> Self {
        match p95_ms {
            ..50.0 => Self::Excellent,
            50.0..100.0 => Self::Good,
            100.0..150.0 => Self::Acceptable,
            150.0..300.0 => Self::Slow,
            _ => Self::Critical,
        }
    }
}

/// The durations of requests until their responses start, in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OperationPerformance {
    pub method: String,
    /// The path as in the OpenAPI document; `unmatched` for all unknown ones.
    pub route: String,
    pub count: u64,
    /// The number of responses with a status from 500.
    pub errors: u64,
    pub error_rate_percent: Option<f64>,
    pub mean_ms: Option<f64>,
    pub min_ms: Option<f64>,
    /// The percentiles are interpolated between the bounds of the metrics' histogram.
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub max_ms: Option<f64>,
    /// The share of requests whose answer was kept; null for operations without a cache.
    pub cache_hit_rate_percent: Option<f64>,
    pub grade: Option<Grade>,
}

/// How fast the server answers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Performance {
    /// The start of the server, from which on all durations count.
    pub since: Timestamp,
    /// The grade of all operations together, without long polls; null before the first request.
    pub health: Option<Grade>,
    /// The number of requests, without long polls.
    pub count: u64,
    pub errors: u64,
    pub p95_ms: Option<f64>,
    pub operations: Vec<OperationPerformance>,
    /// What an operator should look at.
    pub advice: Vec<String>,
}

/// The caches of answers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CacheReport {
    /// The start of the server, from which on all requests count.
    pub since: Timestamp,
    pub hits: u64,
    pub misses: u64,
    /// Null before the first request.
    pub hit_rate_percent: Option<f64>,
    pub hits_by_type: BTreeMap<String, u64>,
    pub bytes: usize,
    pub entries: usize,
    pub evictions: u64,
    pub caches: Vec<CacheStatus>,
    /// What the tenant's callers searched for at least five times, as far as the answers are kept; the most frequent first.
    pub popular_queries: Vec<PopularQuery>,
    /// The number of the tenant's users with at least ten interactions; null until the index is built.
    pub active_users: Option<usize>,
}

/// The slow queries of the tenant.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SlowQueryReport {
    /// The duration from which a query is slow.
    threshold_ms: f64,
    /// The slowest ones first.
    items: Vec<SlowQuery>,
}

impl CacheReport {
    fn new(since: Timestamp, caches: Vec<CacheStatus>) -> Self {
        let sum = |count: fn(&CacheStatus) -> u64| caches.iter().map(count).sum::<u64>();
        let (hits, misses) = (sum(|cache| cache.hits), sum(|cache| cache.misses));
        Self {
            since,
            hits,
            misses,
            hit_rate_percent: (hits + misses > 0).then(|| percent(hits, hits + misses)),
            hits_by_type: caches.iter().map(|cache| (cache.name.clone(), cache.hits)).collect(),
            bytes: caches.iter().map(|cache| cache.bytes).sum(),
            entries: caches.iter().map(|cache| cache.entries).sum(),
            evictions: sum(|cache| cache.evictions),
            caches,
            popular_queries: Vec::new(),
            active_users: None,
        }
    }
}

/// The cache of an operation's answers.
fn cache_of(route: &str) -> Option<&'static str> {
    match route {
        "/api/v1/search" | "/api/v1/search/batch" => Some("search"),
        "/api/v1/recommend" | "/api/v1/recommend/batch" => Some("recommend"),
        _ => None,
    }
}

impl OperationPerformance {
    fn new(measured: &OperationDurations, caches: &[CacheStatus]) -> Self {
        let ms = |seconds: Option<f64>| seconds.map(milliseconds);
        let cache = cache_of(&measured.route).and_then(|name| caches.iter().find(|cache| cache.name == name));
        let p95_ms = ms(measured.at(0.95));
        Self {
            method: measured.method.clone(),
            route: measured.route.clone(),
            count: measured.count(),
            errors: measured.errors,
            error_rate_percent: (measured.count() > 0).then(|| percent(measured.errors, measured.count())),
            mean_ms: ms(measured.mean()),
            min_ms: ms(measured.min),
            p50_ms: ms(measured.at(0.5)),
            p95_ms,
            p99_ms: ms(measured.at(0.99)),
            max_ms: ms(measured.max),
            cache_hit_rate_percent: cache.and_then(|cache| cache.hit_rate_percent),
            grade: p95_ms.map(Grade::of),
        }
    }

    fn advice(&self) -> Option<String> {
        let Self { method, route, .. } = self;
        let rate = self.error_rate_percent.filter(|rate| *rate > ERROR_RATE_PERCENT_MAX);
        if let Some(rate) = rate.filter(|_| self.count >= COUNT_MIN) {
            return Some(format!(
                "{method} {route}: {rate} % of the responses are errors of the server; its log has the causes"
            ));
        }
        let is_slow = self.grade >= Some(Grade::Slow) && self.count >= COUNT_MIN && route != LONG_POLL;
        let p95 = self.p95_ms.filter(|_| is_slow)?;
        let next = match cache_of(route) {
            Some(_) => "see /performance/slow-queries",
            None => "compare with the load of the machine, and with the lag of the read models in /status",
        };
        Some(format!("{method} {route}: one response of twenty takes longer than {p95} ms; {next}"))
    }
}

fn advice_on_cache(cache: &CacheStatus) -> Option<String> {
    let rate = cache.hit_rate_percent.filter(|rate| *rate < HIT_RATE_PERCENT_MIN)?;
    let (name, outdated, evictions) = (&cache.name, cache.outdated, cache.evictions);
    (cache.hits + cache.misses >= COUNT_MIN).then(|| {
        format!(
            "the cache {name} had the answers to {rate} % of the requests: {outdated} were outdated, {evictions} were removed \
             because the memory was used up, the others are of new requests; more memory (--answer-cache-bytes) helps \
             against removals only"
        )
    })
}

impl Performance {
    fn new(since: Timestamp, measured: &[OperationDurations], caches: &[CacheStatus]) -> Self {
        let mut all = OperationDurations::default();
        for operation in measured.iter().filter(|operation| operation.route != LONG_POLL) {
            all.add(operation);
        }
        let operations: Vec<_> =
            measured.iter().map(|operation| OperationPerformance::new(operation, caches)).collect();
        let of_operations = operations.iter().filter_map(OperationPerformance::advice);
        let p95_ms = all.at(0.95).map(milliseconds);
        Self {
            since,
            health: p95_ms.map(Grade::of),
            count: all.count(),
            errors: all.errors,
            p95_ms,
            advice: of_operations.chain(caches.iter().filter_map(advice_on_cache)).collect(),
            operations,
        }
    }
}

/// Routes for the performance of the server.
#[derive(Clone, Debug)]
pub struct PerformanceRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Operations")]
impl PerformanceRoutes {
    /// Get the statistics of the caches
    ///
    /// Answers to searches and recommendations are kept in memory for the same request of the same tenant, until an event
    /// changes what they were made from.
    #[oai(path = "/cache/stats", method = "get", operation_id = "read_cache_stats")]
    async fn caches(&self, caller: Caller) -> Result<Json<Api<CacheReport>>, Problem> {
        caller.require(Role::Admin | Role::Service)?;
        let search = self.api.models.search();
        Ok(Json(Api(CacheReport {
            popular_queries: search.popular_queries(&caller.tenant),
            active_users: search.active_users(&caller.tenant).await.ok(),
            ..CacheReport::new(self.api.server.started_at, search.caches())
        })))
    }

    /// Get the durations of requests by operation
    ///
    /// With a grade for each operation and for all of them, and advice where responses are slow, fail, or are rarely kept.
    #[oai(path = "/performance", method = "get", operation_id = "read_performance")]
    async fn performance(&self, caller: Caller) -> Result<Json<Api<Performance>>, Problem> {
        caller.require(Role::Admin | Role::Service)?;
        let measured = latency::operations(&self.api.metrics.render());
        let caches = self.api.models.search().caches();
        Ok(Json(Api(Performance::new(self.api.server.started_at, &measured, &caches))))
    }

    /// List the slow queries of the tenant
    ///
    /// Searches and recommendations that took longer than the setting `slow_query`, the slowest first. The server remembers
    /// the last thousand of all tenants, until it stops.
    #[oai(path = "/performance/slow-queries", method = "get", operation_id = "list_slow_queries")]
    async fn slow_queries(
        &self,
        caller: Caller,
        #[oai(default)] limit: Query<Limit>,
    ) -> Result<Json<Api<SlowQueryReport>>, Problem> {
        caller.require(Role::Admin | Role::Service)?;
        let queries = &self.api.slow_queries;
        Ok(Json(Api(SlowQueryReport {
            threshold_ms: milliseconds(queries.threshold().as_secs_f64()),
            items: queries.slowest(&caller.tenant, limit.0.get()),
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grade_follows_from_the_95th_percentile() {
        let grades = [0.0, 49.9, 50.0, 99.9, 100.0, 150.0, 299.9, 300.0, f64::INFINITY].map(Grade::of);
        let [a, b, c, d, e, f, g, h, i] = grades;
        assert_eq!([a, b, c, d], [Grade::Excellent, Grade::Excellent, Grade::Good, Grade::Good]);
        assert_eq!((e, [f, g], [h, i]), (Grade::Acceptable, [Grade::Slow; 2], [Grade::Critical; 2]));
    }

    #[test]
    fn advice_names_what_is_slow_fails_or_is_rarely_kept() {
        let operation = |route: &str, p95_ms, errors, count| OperationPerformance {
            method: "POST".to_owned(),
            route: route.to_owned(),
            count,
            errors,
            error_rate_percent: Some(percent(errors, count)),
            mean_ms: None,
            min_ms: None,
            p50_ms: None,
            p95_ms: Some(p95_ms),
            p99_ms: None,
            max_ms: None,
            cache_hit_rate_percent: None,
            grade: Some(Grade::of(p95_ms)),
        };
        let advice = |route, p95_ms, errors| operation(route, p95_ms, errors, 1000).advice();
        assert_eq!(operation("/jobs", 1_000.0, 99, 99).advice(), None, "a few requests say little");
        assert_eq!(advice("/jobs", 149.0, 10), None);
        assert!(advice("/jobs", 1.0, 11).unwrap().contains("1.1 %"));
        assert!(advice("/api/v1/search", 150.0, 0).unwrap().contains("slow-queries"));
        assert_eq!(advice(LONG_POLL, 30_000.0, 0), None);
        let cache = |hits, misses| CacheStatus {
            name: "search".to_owned(),
            hits,
            misses,
            hit_rate_percent: Some(percent(hits, hits + misses)),
            outdated: misses,
            evictions: 0,
            entries: 0,
            bytes: 0,
            bytes_max: 0,
            popular: 0,
        };
        assert_eq!((advice_on_cache(&cache(70, 30)), advice_on_cache(&cache(0, 99))), (None, None));
        assert!(advice_on_cache(&cache(69, 31)).unwrap().contains("69 %"));
    }
}
