//! The status of an entry in each of its pools at a point in time.

use event_schemas::ids::PoolKey;
use event_schemas::rating::{Rating, RatingSource};
use event_schemas::time::Timestamp;

use super::explanation::Explanation;
use super::queues::{Entry, Queues};
use super::statistics::Estimate;

/// The status of an entry in one of its pools.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolStatus {
    pub pool_key: PoolKey,
    pub rating: Rating,
    pub rating_source: RatingSource,
    /// None unless it searches.
    pub search: Option<SearchStatus>,
}

/// A search in one pool.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchStatus {
    pub explanation: Explanation,
    /// None until a first match was made in the pool.
    pub estimate: Option<Estimate>,
}

/// The status of the entry in each of its pools, by key. O(entries in these pools).
pub fn pool_statuses(queues: &Queues, entry: &Entry, now: Timestamp) -> Vec<PoolStatus> {
    let pools = entry.queued.pools.iter();
    pools
        .map(|queued| PoolStatus {
            pool_key: queued.pool_key.clone(),
            rating: queued.rating,
            rating_source: queued.rating_source,
            search: search(queues, entry, &queued.pool_key, now),
        })
        .collect()
}

fn search(queues: &Queues, entry: &Entry, pool_key: &PoolKey, now: Timestamp) -> Option<SearchStatus> {
    let of = queues.waiting(entry.queued.entry_id, pool_key)?;
    let pool = queues.pool(&(entry.tenant.clone(), pool_key.clone()))?;
    Some(SearchStatus {
        explanation: pool.explain(of, queues.blocks(), now),
        estimate: pool.recent().estimate(of.rating),
    })
}

/// The pool in which an opponent is likely to be found first: the one with the shortest estimate, then the
/// most entries within the window, then the first by key. None unless the entry searches.
pub fn best(statuses: &[PoolStatus]) -> Option<(&PoolStatus, &SearchStatus)> {
    let searches = statuses.iter().filter_map(|status| Some((status, status.search.as_ref()?)));
    searches.min_by(|(_, one), (_, other)| {
        let estimate =
            |search: &SearchStatus| search.estimate.map_or(f64::INFINITY, |found| found.p50_seconds);
        let by_estimate = estimate(one).total_cmp(&estimate(other));
        by_estimate.then(other.explanation.in_window.cmp(&one.explanation.in_window))
    })
}
