//! How an entry stands in its pools at an instant.

use event_schemas::ids::PoolKey;
use event_schemas::rating::{Rating, RatingSource};
use event_schemas::time::Timestamp;

use super::explanation::Explanation;
use super::queues::{Entry, Queues};
use super::statistics::Estimate;

/// An entry in one of its pools.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub pool_key: PoolKey,
    pub rating: Rating,
    pub rating_source: RatingSource,
    /// None unless it searches.
    pub search: Option<Search>,
}

/// A search in one pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    pub explanation: Explanation,
    /// None while nobody was matched in the pool.
    pub estimate: Option<Estimate>,
}

/// The entry in each of its pools, by key. O(all who wait in them).
pub fn standings(queues: &Queues, entry: &Entry, now: Timestamp) -> Vec<Standing> {
    let pools = entry.queued.pools.iter();
    pools
        .map(|queued| Standing {
            pool_key: queued.pool_key.clone(),
            rating: queued.rating,
            rating_source: queued.rating_source,
            search: search(queues, entry, &queued.pool_key, now),
        })
        .collect()
}

fn search(queues: &Queues, entry: &Entry, pool_key: &PoolKey, now: Timestamp) -> Option<Search> {
    let of = queues.waiting(entry.queued.entry_id, pool_key)?;
    let pool = queues.pool(&(entry.tenant.clone(), pool_key.clone()))?;
    Some(Search {
        explanation: pool.explain(of, queues.blocks(), now),
        estimate: pool.recent().estimate(of.rating),
    })
}

/// The pool in which somebody is likely to be found first: that of the shortest estimate, else with most within the window,
/// else the first by key. None unless the entry searches.
pub fn best(standings: &[Standing]) -> Option<(&Standing, &Search)> {
    let searches = standings.iter().filter_map(|standing| Some((standing, standing.search.as_ref()?)));
    searches.min_by(|(_, one), (_, other)| {
        let estimate = |search: &Search| search.estimate.map_or(f64::INFINITY, |found| found.p50_seconds);
        let by_estimate = estimate(one).total_cmp(&estimate(other));
        by_estimate.then(other.explanation.in_window.cmp(&one.explanation.in_window))
    })
}
