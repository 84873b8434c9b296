//! Answers that are kept in memory for requests that come again.
//!
//! An answer is a function of the request and of events. It is kept with the number of these events, so an event that could
//! change the answer makes it unreachable at once. Lists also depend on the time: one that is kept names the instant for which it was
//! computed, and is handed out for a short time only ([decision 0021](../../../docs/decisions/0021-kept-answers.md)).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::product::view::heap_bytes;
use domain::recommend::sources::ListSources;
use domain::recommend::{NoList, Recommendation, Request};
use domain::search::question::{Answer, PageStart, Question, Search, Unanswerable};
use event_schemas::ids::{Position, Tenant};
use event_schemas::product::ProductDetails;
use event_schemas::time::Timestamp;
use hashlink::LruCache;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ProductSearch;
use crate::generation::QueryError;

/// Counter: requests for an answer, by `cache` and `outcome`, which is `hit` or `miss`.
const REQUESTS: &str = "matchbook_cache_requests_total";

/// The longest time for which a list is handed out after it was computed.
const LIST_AGE_MAX: Duration = Duration::from_secs(120);

/// A request is popular when it came this often.
const POPULAR_FROM: u64 = 5;

/// The most popular queries that are listed.
const POPULAR_MAX: usize = 50;

/// A user is active with this many interactions.
const ACTIVE_FROM: usize = 10;

/// The memory of an entry besides its request and its answer.
const ENTRY_BYTES: usize = 256;

/// A request of a tenant, as text: equal requests have equal texts.
type Key = (Tenant, String);

/// What an answer was made from: a generation of the index, and the number of changes in it that could change the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) generation: u64,
    pub(super) changes: u64,
}

/// A list, and for how long it is handed out.
#[derive(Debug)]
struct KeptList {
    list: Recommendation,
    at: Timestamp,
    until: Timestamp,
}

/// The kept answers to searches and requests for lists.
#[derive(Debug)]
pub(super) struct Answers {
    searches: AnswerCache<Answer>,
    lists: AnswerCache<KeptList>,
}

impl Answers {
    /// Each of the two caches has half of the memory.
    pub(super) fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max / 2;
        Self {
            searches: AnswerCache::new("search", bytes_max),
            lists: AnswerCache::new("recommend", bytes_max),
        }
    }
}

/// A cache of answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CacheStatus {
    pub name: String,
    /// The number of requests whose answer was in the cache.
    pub hits: u64,
    /// The number of requests whose answer was computed.
    pub misses: u64,
    /// Null before the first request.
    pub hit_rate_percent: Option<f64>,
    /// The number of misses whose answer was there, but an event or the time had made it outdated.
    pub outdated: u64,
    /// The number of answers that were removed because the memory was used up.
    pub evictions: u64,
    pub entries: usize,
    /// The memory of the answers, approximately.
    pub bytes: usize,
    pub bytes_max: usize,
    /// The number of kept requests that came at least five times.
    pub popular: usize,
}

/// A text that was searched for often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PopularQuery {
    pub query: String,
    /// The number of requests whose answers are kept, with any filters.
    pub requests: u64,
}

/// Answers by request, the least recently used ones first.
#[derive(Debug)]
struct AnswerCache<A> {
    name: &'static str,
    bytes_max: usize,
    entries: Mutex<Entries<A>>,
}

#[derive(Debug)]
struct Entries<A> {
    lru: LruCache<Key, Entry<A>>,
    bytes: usize,
    hits: u64,
    misses: u64,
    outdated: u64,
    evictions: u64,
}

#[derive(Debug)]
struct Entry<A> {
    version: Version,
    answer: Arc<A>,
    bytes: usize,
    /// The number of requests for it.
    requests: u64,
    /// The text that is searched for.
    query: Option<Box<str>>,
}

impl<A> AnswerCache<A> {
    fn new(name: &'static str, bytes_max: usize) -> Self {
        for outcome in ["hit", "miss"] {
            metrics::counter!(REQUESTS, "cache" => name, "outcome" => outcome).increment(0);
        }
        let lru = LruCache::new_unbounded();
        let entries = Entries { lru, bytes: 0, hits: 0, misses: 0, outdated: 0, evictions: 0 };
        Self { name, bytes_max, entries: Mutex::new(entries) }
    }

    /// The answer of this version, if it is kept and can be used.
    fn find(&self, key: &Key, version: Version, can_be_used: impl FnOnce(&A) -> bool) -> Option<Arc<A>> {
        let mut entries = self.locked();
        let entry = entries.lru.get_mut(key)?;
        if entry.version != version || !can_be_used(&entry.answer) {
            return None;
        }
        entry.requests += 1;
        let answer = Arc::clone(&entry.answer);
        entries.hits += 1;
        drop(entries);
        metrics::counter!(REQUESTS, "cache" => self.name, "outcome" => "hit").increment(1);
        Some(answer)
    }

    /// Keeps an answer that was not found, unless it would take a large part of the memory.
    fn keep(&self, key: Key, version: Version, answer: &Arc<A>, answer_bytes: usize, query: Option<&str>) {
        metrics::counter!(REQUESTS, "cache" => self.name, "outcome" => "miss").increment(1);
        let mut entries = self.locked();
        entries.misses += 1;
        let outdated = entries.lru.remove(&key);
        let requests = outdated.as_ref().map_or(0, |entry| entry.requests) + 1;
        if let Some(outdated) = outdated {
            entries.outdated += 1;
            entries.bytes -= outdated.bytes;
        }
        let query: Option<Box<str>> = query.map(Into::into);
        let texts = key.0.as_str().len() + key.1.len() + query.as_ref().map_or(0, |query| query.len());
        let bytes = ENTRY_BYTES + texts + answer_bytes;
        if bytes > self.bytes_max / 8 {
            return;
        }
        entries.bytes += bytes;
        entries.lru.insert(key, Entry { version, answer: Arc::clone(answer), bytes, requests, query });
        while entries.bytes > self.bytes_max
            && let Some((_, oldest)) = entries.lru.remove_lru()
        {
            entries.bytes -= oldest.bytes;
            entries.evictions += 1;
        }
    }

    /// The texts of a tenant that were searched for often, the most frequent first.
    fn popular_queries(&self, tenant: &Tenant) -> Vec<PopularQuery> {
        let entries = self.locked();
        let mut requests: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, entry) in entries.lru.iter().filter(|((of, _), _)| of == tenant) {
            if let Some(query) = &entry.query {
                *requests.entry(query).or_default() += entry.requests;
            }
        }
        requests.retain(|_, requests| *requests >= POPULAR_FROM);
        let popular =
            requests.into_iter().map(|(query, requests)| PopularQuery { query: query.to_owned(), requests });
        let mut popular: Vec<_> = popular.collect();
        popular.sort_by_key(|query| Reverse(query.requests));
        popular.truncate(POPULAR_MAX);
        popular
    }

    fn status(&self) -> CacheStatus {
        let entries = self.locked();
        let requests = entries.hits + entries.misses;
        CacheStatus {
            name: self.name.to_owned(),
            hits: entries.hits,
            misses: entries.misses,
            hit_rate_percent: (requests > 0).then(|| percent(entries.hits, requests)),
            outdated: entries.outdated,
            evictions: entries.evictions,
            entries: entries.lru.len(),
            bytes: entries.bytes,
            bytes_max: self.bytes_max,
            popular: entries.lru.iter().filter(|(_, entry)| entry.requests >= POPULAR_FROM).count(),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Entries<A>> {
        // Nothing in a locked section can panic half-way.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A share, with two decimals.
pub fn percent(part: u64, all: u64) -> f64 {
    (part as f64 / all as f64 * 10_000.0).round() / 100.0
}

/// The memory of products in an answer, approximately.
fn bytes<'a>(products: impl Iterator<Item = &'a ProductDetails>) -> usize {
    products.map(heap_bytes).sum()
}

/// Whether the same search may come again: a page after a cursor is read once, and vectors are rarely equal.
fn may_come_again(search: &Search) -> bool {
    matches!(search.start, PageStart::Offset(_)) && !matches!(search.question, Question::Vector(_))
}

impl ProductSearch {
    /// Answers a search by comparing every product that passes its filter, exactly as [`Self::search_as_of`] will.
    ///
    /// # Errors
    /// As [`Self::search`].
    pub async fn search_exactly(
        &self,
        tenant: &Tenant,
        search: Search,
    ) -> Result<Result<(Answer, Position), Unanswerable>, QueryError> {
        // The vectors of the server's encoder change without events.
        if self.encoding_of(&search).is_some() {
            return self.search_with_all_vectors(tenant, search).await;
        }
        if !may_come_again(&search) {
            let read = move |fold: &ListSources, position| Ok((fold.products.search(&search)?, position));
            return self.read(tenant, read).await;
        }
        let (answers, key) = (Arc::clone(&self.answers), (tenant.clone(), format!("{search:?}")));
        let live = self.live()?;
        let found = live.try_read(tenant, |fold, position| {
            let version = Version { generation: live.number, changes: fold.product_changes() };
            Some((answers.searches.find(&key, version, |_| true)?, position))
        });
        if let Some((answer, position)) = found.flatten() {
            return Ok(Ok((Answer::clone(&answer), position)));
        }
        let of = tenant.clone();
        let answered = self.on_live(move |live| {
            live.read(&of, |fold, position| {
                let answer = Arc::new(fold.products.search(&search)?);
                let version = Version { generation: live.number, changes: fold.product_changes() };
                let found = answer.results.iter().map(|found| &found.details);
                let query = match &search.question {
                    Question::Text(text, _) | Question::Encoded(text, ..) => Some(text.as_str()),
                    Question::Vector(_) | Question::SimilarTo(_) => None,
                };
                answers.searches.keep(key, version, &answer, bytes(found), query);
                Ok((answer, position))
            })
        });
        Ok(answered.await?.map(|(answer, position)| (Arc::unwrap_or_clone(answer), position)))
    }

    /// Recommends products of the tenant, and returns the position that the list reflects, and the instant for which it was
    /// computed: this one, or a short time before if nothing has happened since.
    ///
    /// # Errors
    /// As [`Self::search`].
    pub async fn recommend(
        &self,
        tenant: &Tenant,
        request: Request,
        now: Timestamp,
    ) -> Result<Result<(Recommendation, Position, Timestamp), NoList>, QueryError> {
        let (answers, key) = (Arc::clone(&self.answers), (tenant.clone(), format!("{request:?}")));
        let live = self.live()?;
        let found = live.try_read(tenant, |fold, position| {
            let version = Version { generation: live.number, changes: fold.changes() };
            let is_current = |kept: &KeptList| kept.at <= now && now < kept.until;
            Some((answers.lists.find(&key, version, is_current)?, position))
        });
        if let Some((kept, position)) = found.flatten() {
            return Ok(Ok((kept.list.clone(), position, kept.at)));
        }
        let of = tenant.clone();
        let answered = self.on_live(move |live| {
            live.read(&of, |fold, position| {
                let list = fold.recommend(&request, now)?;
                let latest = now.after(LIST_AGE_MAX);
                let until = fold.rules().next_change(now).map_or(latest, |change| change.min(latest));
                let version = Version { generation: live.number, changes: fold.changes() };
                let bytes = bytes(list.items.iter().map(|item| &item.details));
                let kept = Arc::new(KeptList { list, at: now, until });
                answers.lists.keep(key, version, &kept, bytes, None);
                Ok((kept, position))
            })
        });
        Ok(answered.await?.map(|(kept, position)| (kept.list.clone(), position, kept.at)))
    }

    /// The texts that the tenant's callers searched for often, the most frequent first.
    pub fn popular_queries(&self, tenant: &Tenant) -> Vec<PopularQuery> {
        self.answers.searches.popular_queries(tenant)
    }

    /// The number of the tenant's users with at least ten interactions.
    ///
    /// # Errors
    /// As [`Self::search`].
    pub async fn active_users(&self, tenant: &Tenant) -> Result<usize, QueryError> {
        self.read(tenant, |fold, _| fold.signals.active_users(ACTIVE_FROM)).await
    }

    /// The caches of answers.
    pub fn caches(&self) -> Vec<CacheStatus> {
        vec![self.answers.searches.status(), self.answers.lists.status()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(request: &str) -> Key {
        ("default".parse().unwrap(), request.to_owned())
    }

    fn version(changes: u64) -> Version {
        Version { generation: 1, changes }
    }

    fn find(cache: &AnswerCache<u8>, request: &str, changes: u64) -> Option<u8> {
        cache.find(&key(request), version(changes), |_| true).map(|answer| *answer)
    }

    #[test]
    fn answer_of_another_version_is_not_found() {
        let cache = AnswerCache::new("test", 1 << 20);
        cache.keep(key("a"), version(1), &Arc::new(7), 1, None);
        assert_eq!((find(&cache, "a", 1), find(&cache, "a", 2), find(&cache, "b", 1)), (Some(7), None, None));
        let other = Version { generation: 2, changes: 1 };
        assert_eq!(cache.find(&key("a"), other, |_| true), None);
        assert_eq!(cache.find(&key("a"), version(1), |answer| *answer == 8), None);
        cache.keep(key("a"), version(2), &Arc::new(8), 1, None);
        assert_eq!((find(&cache, "a", 1), find(&cache, "a", 2)), (None, Some(8)));
        let status = cache.status();
        assert_eq!((status.hits, status.misses, status.outdated, status.entries), (2, 2, 1, 1));
        assert_eq!(status.hit_rate_percent, Some(50.0));
    }

    #[test]
    fn least_recently_used_answers_are_evicted() {
        let cache = AnswerCache::new("test", 100_000);
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        for name in names {
            cache.keep(key(name), version(1), &Arc::new(0), 12_000, None);
            assert!(find(&cache, "a", 1).is_some(), "{name}");
        }
        let status = cache.status();
        let answer_bytes = 12_000 + ENTRY_BYTES + "default".len() + 1;
        assert_eq!((status.entries, status.bytes, status.evictions), (8, 8 * answer_bytes, 0));
        cache.keep(key("i"), version(1), &Arc::new(0), 12_000, None);
        assert_eq!((find(&cache, "a", 1), find(&cache, "b", 1)), (Some(0), None));
        assert_eq!((cache.status().entries, cache.status().evictions), (8, 1));
        assert_eq!(cache.status().popular, 1);
    }

    #[test]
    fn popular_queries_are_those_of_the_tenant() {
        let cache = AnswerCache::new("test", 1 << 20);
        for (request, query, more) in [("a", "shoe", 1), ("b", "shoe", 2), ("c", "hat", 3), ("d", "sock", 5)]
        {
            cache.keep(key(request), version(1), &Arc::new(0), 1, Some(query));
            (0..more).for_each(|_| assert!(find(&cache, request, 1).is_some()));
        }
        let popular = cache.popular_queries(&"default".parse().unwrap());
        let popular: Vec<_> = popular.iter().map(|query| (query.query.as_str(), query.requests)).collect();
        assert_eq!(popular, [("sock", 6), ("shoe", 5)]);
        assert_eq!(cache.popular_queries(&"other".parse().unwrap()), []);
    }

    #[test]
    fn answer_that_takes_much_of_the_memory_is_not_kept() {
        let cache = AnswerCache::new("test", 100_000);
        cache.keep(key("a"), version(1), &Arc::new(0), 1, None);
        cache.keep(key("a"), version(2), &Arc::new(0), 13_000, None);
        let status = cache.status();
        assert_eq!((status.entries, status.bytes, status.misses), (0, 0, 2));
    }
}
