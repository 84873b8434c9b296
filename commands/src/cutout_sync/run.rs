//! The work of one job: page by page, from the place that the job has kept.
//!
//! Cutouts are recorded by the same command as those that are pushed, so an unchanged one appends nothing, and reading a page
//! twice does no harm. After each page the job keeps the place of the next one. The upstream may change while it is read:
//! pages are sorted by id, and where a page might have moved forward, because the sync was interrupted or the upstream has
//! fewer cutouts than before, earlier pages are read again until one begins with a known id.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::breaker::{CircuitState, Outcome};
use domain::cutout::Facts;
use event_log::clock::Clock;
use event_schemas::cutout::CutoutId;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use web::problem::Problem;

use super::Source;
use super::item;
use super::upstream::{CallError, Page, PageSource, Place};
use crate::catalogue::Catalogue;
use crate::catalogue::cutouts::TakenOver;
use crate::jobs::server_work::{ServerJob, WorkFailure, WorkProgress};

/// The most cutouts that are recorded at a time.
const CUTOUTS_AT_ONCE: usize = 64;

/// The number of times that a failed page is asked for again, before the attempt fails.
const PAGE_RETRIES: u32 = 3;

/// The delay before a failed page is asked for again; doubled each time.
const PAGE_RETRY_DELAY: Duration = Duration::from_secs(1);

/// The longest delay, in seconds, that a page waits for the upstream's rate limit. After longer ones the job is retried.
const RATE_LIMIT_WAIT_MAX: u32 = 60;

/// The number of times in a row that a page waits for the rate limit.
const RATE_LIMIT_WAITS: u32 = 5;

/// The number of pages in a row without a new id, after which the upstream is taken to repeat itself for ever.
const REPEATED_PAGES_MAX: u32 = 100;

/// The most reasons of failed items that the result lists.
const FAILURES_LISTED: usize = 20;

/// What a sync has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct SyncResult {
    /// The number of different items that were read.
    fetched: u64,
    new: u64,
    changed: u64,
    unchanged: u64,
    /// The number of items that could not be taken over.
    failed: u64,
    pages: u64,
    /// The reasons of the first failed items.
    failures: Vec<String>,
}

/// What a job keeps between pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Checkpoint {
    place: Place,
    result: SyncResult,
}

/// The options of a job of the kind `cutout_sync`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SyncOptions {
    /// Where an earlier sync stopped before its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    continue_at: Option<Place>,
}

impl SyncOptions {
    /// The options of a sync that continues where an earlier one has stopped, if that says where.
    pub(crate) fn after(checkpoint: Option<Value>) -> Self {
        let checkpoint = checkpoint.and_then(|checkpoint| serde_json::from_value(checkpoint).ok());
        Self { continue_at: checkpoint.map(|checkpoint: Checkpoint| checkpoint.place) }
    }
}

/// Does the work of a job.
///
/// # Errors
/// The reason why the attempt failed; the next one continues after the last page that was taken over.
pub(crate) async fn sync<S: PageSource>(
    catalogue: Arc<Catalogue>,
    clock: Clock,
    source: Arc<Source<S>>,
    job: ServerJob,
) -> Result<Value, WorkFailure> {
    let earlier: Option<Checkpoint> =
        job.checkpoint().and_then(|checkpoint| serde_json::from_value(checkpoint).ok());
    let start = || {
        let options: SyncOptions = serde_json::from_value(job.options()).unwrap_or_default();
        Checkpoint { place: options.continue_at.unwrap_or(Place::START), result: SyncResult::default() }
    };
    let Checkpoint { place, result } = earlier.unwrap_or_else(start);
    let is_seeking = place != Place::START;
    let run = Run {
        catalogue: &catalogue,
        clock: &clock,
        source: &source,
        job: &job,
        place,
        result,
        is_seeking,
        step: 1,
        total: None,
    };
    let result = run.complete().await?;
    serde_json::to_value(result).map_err(|error| WorkFailure::new(error.to_string()))
}

/// One attempt.
struct Run<'a, S> {
    catalogue: &'a Catalogue,
    clock: &'a Clock,
    source: &'a Source<S>,
    job: &'a ServerJob,
    place: Place,
    result: SyncResult,
    /// Whether the page may begin after cutouts that were not read: they have moved to an earlier page.
    is_seeking: bool,
    /// The number of pages to go back next.
    step: u64,
    total: Option<u64>,
}

impl<S: PageSource> Run<'_, S> {
    async fn complete(mut self) -> Result<SyncResult, WorkFailure> {
        let mut repeated_pages = 0;
        loop {
            let page = self.next_page().await?;
            self.is_seeking |= self.has_shrunk(&page);
            self.total = page.total.or(self.total);
            if self.is_seeking && self.is_ahead(&page) {
                self.place.page = self.place.page.saturating_sub(self.step).max(1);
                self.step = self.step.saturating_mul(2);
                continue;
            }
            (self.is_seeking, self.step) = (false, 1);
            let last = self.place.after;
            self.take(&page).await?;
            repeated_pages = if self.place.after > last { 0 } else { repeated_pages + 1 };
            if !page.has_more() {
                return Ok(self.result);
            }
            if repeated_pages > REPEATED_PAGES_MAX {
                return Err(WorkFailure::new(format!(
                    "invalid response: the cutout upstream sent {repeated_pages} pages without a new id, and says that \
                     there are more"
                )));
            }
            self.place.page += 1;
            self.place.cursor = page.next_cursor;
            let Self { place, result, .. } = &self;
            let checkpoint = Checkpoint { place: place.clone(), result: result.clone() };
            let checkpoint = serde_json::to_value(checkpoint).ok();
            let (items_done, items_total) = (self.result.fetched, self.total);
            self.job.report(WorkProgress { items_done, items_total, checkpoint }).await?;
        }
    }

    /// Whether the upstream has fewer cutouts than at the last page, so that later ones have moved to earlier pages.
    fn has_shrunk(&self, page: &Page) -> bool {
        self.place.cursor.is_none() && page.total.zip(self.total).is_some_and(|(now, before)| now < before)
    }

    /// Whether the page may begin after cutouts that were not read.
    fn is_ahead(&self, page: &Page) -> bool {
        if self.place.page <= 1 || self.place.cursor.is_some() {
            return false;
        }
        let Some(after) = self.place.after else { return true };
        let first = page.items.iter().filter_map(item::id).min();
        first.is_none_or(|first| first > after)
    }

    /// Takes over a page.
    async fn take(&mut self, page: &Page) -> Result<(), WorkFailure> {
        let mut cutouts: BTreeMap<CutoutId, Facts> = BTreeMap::new();
        let known = self.place.after;
        for (index, value) in page.items.iter().enumerate() {
            match item::read(value) {
                Ok((id, facts)) => {
                    cutouts.insert(id, facts);
                }
                // One that was counted when an earlier page had it.
                Err(_) if item::id(value).is_some_and(|id| Some(id) <= known) => {}
                Err(reason) => self.count_failed(index, value, reason),
            }
        }
        let highest = page.items.iter().filter_map(item::id).max();
        let (catalogue, job) = (self.catalogue, self.job);
        let recording = cutouts.into_iter().map(|(id, facts)| async move {
            let taken = catalogue.take_over(&job.cause(), id, facts).await;
            let failure = |problem: Problem| WorkFailure::new(problem.detail.to_string());
            taken.map(|taken| (id, taken)).map_err(failure)
        });
        let taken: Vec<(CutoutId, TakenOver)> =
            stream::iter(recording).buffer_unordered(CUTOUTS_AT_ONCE).try_collect().await?;
        for (id, taken) in taken {
            let is_repeated = Some(id) <= known;
            let counter = match taken {
                TakenOver::New => &mut self.result.new,
                TakenOver::Changed if !is_repeated => &mut self.result.changed,
                TakenOver::Unchanged if !is_repeated => &mut self.result.unchanged,
                TakenOver::Changed | TakenOver::Unchanged => continue,
            };
            *counter += 1;
            self.result.fetched += 1;
        }
        self.place.after = known.max(highest);
        Ok(())
    }

    fn count_failed(&mut self, index: usize, value: &Value, reason: &str) {
        self.result.fetched += 1;
        self.result.failed += 1;
        if self.result.failures.len() < FAILURES_LISTED {
            let named = match item::id(value) {
                Some(id) => format!("cutout {id}"),
                None => format!("item {} of page {}", index + 1, self.place.page),
            };
            self.result.failures.push(format!("{named}: {reason}"));
        }
    }

    /// Reads the next page: again after a failure, and after the delay of a rate limit.
    async fn next_page(&mut self) -> Result<Page, WorkFailure> {
        let (tenant, clock) = (self.job.tenant(), self.clock);
        let breakers = &self.source.breakers;
        let (mut failures, mut waits) = (0, 0);
        loop {
            let permit = breakers.acquire(tenant).map_err(|open| WorkFailure {
                circuit_open_until: Some(open.until),
                ..WorkFailure::new("connection refused: the circuit breaker of the cutout upstream is open")
            })?;
            let error = match self.source.upstream.page(tenant, &self.place).await {
                Ok(page) => {
                    permit.report(Outcome::Succeeded);
                    self.result.pages += 1;
                    return Ok(page);
                }
                Err(error) => error,
            };
            let is_failed = matches!(error, CallError::Failed(_));
            permit.report(if is_failed { Outcome::Failed } else { Outcome::Refused });
            let failure = WorkFailure::new(error.to_string());
            match error {
                CallError::CursorExpired => {
                    // Back to numbers: this page, or an earlier one if it has moved.
                    self.place.cursor = None;
                    self.is_seeking = true;
                }
                CallError::RateLimited(Some(seconds))
                    if seconds <= RATE_LIMIT_WAIT_MAX && waits < RATE_LIMIT_WAITS =>
                {
                    waits += 1;
                    clock.sleep(Duration::from_secs(seconds.into())).await;
                }
                CallError::RateLimited(seconds) => {
                    return Err(WorkFailure { retry_after_seconds: seconds, ..failure });
                }
                CallError::Failed(_) if failures < PAGE_RETRIES => {
                    clock.sleep(PAGE_RETRY_DELAY * 2_u32.pow(failures)).await;
                    failures += 1;
                }
                CallError::Failed(_) => {
                    let circuit_open_until = match breakers.state(tenant).0 {
                        CircuitState::Open { until } => Some(until),
                        CircuitState::Closed | CircuitState::HalfOpen => None,
                    };
                    return Err(WorkFailure { circuit_open_until, ..failure });
                }
                CallError::Refused(_) => return Err(failure),
            }
        }
    }
}

#[cfg(test)]
mod tests;
