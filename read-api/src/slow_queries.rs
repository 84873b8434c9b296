//! The slow searches and recommendations of each tenant, in memory.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::recommend::Strategy;
use domain::search::plan::Plan;
use event_schemas::ids::Tenant;
use event_schemas::time::Timestamp;
use event_schemas::user::ListContext;
use schemars::JsonSchema;
use serde::Serialize;

/// The most remembered queries of all tenants, at up to 1 kB each.
const REMEMBERED_MAX: usize = 1_000;

/// The most characters of a remembered text.
const TEXT_MAX: usize = 200;

/// The kind of a slow query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueryKind {
    Search,
    Recommend,
    /// A list as of an earlier point in time.
    RecommendAsOf,
}

/// A search or a recommendation that took long.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SlowQuery {
    pub(crate) kind: QueryKind,
    /// The instant of its end.
    pub(crate) at: Timestamp,
    /// With the time that it waited for a free thread.
    pub(crate) duration_ms: f64,
    /// The text that was searched for, at most 200 characters; null if there was none.
    pub(crate) query: Option<String>,
    /// The number of products that were asked for.
    pub(crate) limit: usize,
    /// How a search was executed; null for lists.
    pub(crate) plan: Option<Plan>,
    /// The context of a list; null for searches.
    pub(crate) context: Option<ListContext>,
    /// The rankings that a list is made from; null for searches.
    pub(crate) strategy: Option<Strategy>,
}

impl SlowQuery {
    pub(crate) fn new(kind: QueryKind, query: Option<&str>, limit: usize) -> Self {
        Self {
            kind,
            at: Timestamp::from_micros(0),
            duration_ms: 0.0,
            query: query.map(|text| text.chars().take(TEXT_MAX).collect()),
            limit,
            plan: None,
            context: None,
            strategy: None,
        }
    }
}

/// The slow queries, the oldest first.
#[derive(Debug)]
pub(crate) struct SlowQueries {
    threshold: Duration,
    remembered: Mutex<VecDeque<(Tenant, SlowQuery)>>,
}

impl SlowQueries {
    pub(crate) fn new(threshold: Duration) -> Self {
        Self { threshold, remembered: Mutex::default() }
    }

    pub(crate) fn threshold(&self) -> Duration {
        self.threshold
    }

    /// Remembers a query that started at `since`, if it was slow.
    pub(crate) fn record(
        &self,
        tenant: &Tenant,
        since: Instant,
        now: Timestamp,
        query: impl FnOnce() -> SlowQuery,
    ) {
        let duration = since.elapsed();
        if duration >= self.threshold {
            let duration_ms = milliseconds(duration.as_secs_f64());
            self.remember(tenant, SlowQuery { at: now, duration_ms, ..query() });
        }
    }

    /// When there are too many, the oldest one of the tenant that has the most of them is forgotten.
    fn remember(&self, tenant: &Tenant, query: SlowQuery) {
        let mut remembered = self.locked();
        remembered.push_back((tenant.clone(), query));
        if remembered.len() <= REMEMBERED_MAX {
            return;
        }
        let mut counts: HashMap<&Tenant, usize> = HashMap::new();
        for (of, _) in remembered.iter() {
            *counts.entry(of).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(of, _)| of.clone());
        if let Some(oldest) = remembered.iter().position(|(of, _)| Some(of) == most.as_ref()) {
            remembered.remove(oldest);
        }
    }

    /// The slow queries of a tenant, the slowest first.
    pub(crate) fn slowest(&self, tenant: &Tenant, limit: usize) -> Vec<SlowQuery> {
        let remembered = self.locked();
        let mut found: Vec<SlowQuery> =
            remembered.iter().filter(|(of, _)| of == tenant).map(|(_, query)| query.clone()).collect();
        drop(remembered);
        found.sort_by(|one, other| other.duration_ms.total_cmp(&one.duration_ms));
        found.truncate(limit);
        found
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<(Tenant, SlowQuery)>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds as milliseconds with three decimals.
pub(crate) fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(duration_ms: f64) -> SlowQuery {
        SlowQuery { duration_ms, ..SlowQuery::new(QueryKind::Search, None, 1) }
    }

    #[test]
    fn tenant_with_many_slow_queries_keeps_those_of_others() {
        let queries = SlowQueries::new(Duration::ZERO);
        let [quiet, busy]: [Tenant; 2] = ["quiet", "busy"].map(|name| name.parse().unwrap());
        queries.remember(&quiet, query(5.0));
        queries.remember(&quiet, query(7.0));
        for n in 0..2 * REMEMBERED_MAX {
            queries.remember(&busy, query(n as f64));
        }
        let durations = |tenant, limit| -> Vec<f64> {
            queries.slowest(tenant, limit).iter().map(|query| query.duration_ms).collect()
        };
        assert_eq!(durations(&quiet, 10), [7.0, 5.0]);
        let all = durations(&busy, usize::MAX);
        assert_eq!((all.len(), all[0], all[997]), (998, 1999.0, 1002.0));
    }

    #[test]
    fn only_queries_from_the_threshold_on_are_remembered() {
        let tenant: Tenant = "default".parse().unwrap();
        let record = |threshold| {
            let queries = SlowQueries::new(threshold);
            queries.record(&tenant, Instant::now(), Timestamp::from_micros(7), || query(0.0));
            queries.slowest(&tenant, 10).len()
        };
        assert_eq!((record(Duration::ZERO), record(Duration::MAX)), (1, 0));
    }

    #[test]
    fn long_text_is_cut() {
        let text = "é".repeat(1000);
        let query = SlowQuery::new(QueryKind::Search, Some(&text), 1).query;
        assert_eq!(query.unwrap().chars().count(), TEXT_MAX);
    }
}
