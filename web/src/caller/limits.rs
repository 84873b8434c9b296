//! The limits of each caller: requests, costly reads and open streams.
//!
//! A caller's requests are counted by a token bucket that holds the quota of a minute. A costly read also waits for its
//! turn: only a few are in progress at once, and fewer of one caller, so that one caller's reads do not take the processor
//! from the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use poem::http::{HeaderName, HeaderValue};
use poem::{FromRequest, Request, RequestBody};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::CallerId;
use super::share::Share;
use crate::problem::Problem;

/// The interval for which quotas are given.
const WINDOW_SECONDS: f64 = 60.0;

/// The most reads of a caller that are in progress at once; more of them wait, so that they do not stand before those of others.
const READS_IN_PROGRESS_MAX: usize = 8;

/// A caller is alone if no other one has sent a request for this time.
const ALONE_AFTER: Duration = Duration::from_secs(1);

/// The most callers whose limits are kept apart. The callers beyond them share one entry.
const CALLERS_MAX: usize = 10_000;

/// The shortest time between two searches for callers that can be forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The limits that apply to each caller. None means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallerLimits {
    pub requests_per_minute: Option<u32>,
    /// Reads that recompute a result from the log, or read the whole log.
    pub costly_reads_per_minute: Option<u32>,
    pub streams: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn full(quota: u32) -> Self {
        Self { left: f64::from(quota), at: Instant::now() }
    }

    fn refill(&mut self, quota: u32, now: Instant) {
        let quota = f64::from(quota);
        let refilled = now.saturating_duration_since(self.at).as_secs_f64() * quota / WINDOW_SECONDS;
        *self = Self { left: (self.left + refilled).min(quota), at: now };
    }

    /// Takes one request; false if there is none left.
    pub(super) fn take(&mut self, quota: u32) -> bool {
        self.refill(quota, Instant::now());
        let has_one = self.left >= 1.0;
        if has_one {
            self.left -= 1.0;
        }
        has_one
    }
}

/// The state of a quota after a request, for its headers.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Quota {
    name: &'static str,
    per_minute: u32,
    left: f64,
}

impl Quota {
    fn seconds_until(&self, left: f64) -> f64 {
        (left - self.left).max(0.0) * WINDOW_SECONDS / f64::from(self.per_minute).max(f64::MIN_POSITIVE)
    }
}

/// The quotas that a request has used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quotas(Vec<Quota>);

impl Quotas {
    /// The `RateLimit-Policy` and `RateLimit` headers; none without a limit.
    pub(crate) fn headers(&self) -> Option<[(HeaderName, HeaderValue); 2]> {
        let list = |each: &dyn Fn(&Quota) -> String| {
            HeaderValue::from_str(&self.0.iter().map(each).collect::<Vec<_>>().join(", ")).ok()
        };
        if self.0.is_empty() {
            return None;
        }
        let policy = list(&|quota| format!("\"{}\";q={};w={WINDOW_SECONDS}", quota.name, quota.per_minute))?;
        let limit = list(&|quota| {
            let reset = quota.seconds_until(f64::from(quota.per_minute)).ceil();
            format!("\"{}\";r={};t={reset}", quota.name, quota.left.floor())
        })?;
        Some([(POLICY, policy), (LIMIT, limit)])
    }
}

#[derive(Debug)]
struct CallerState {
    requests: Mutex<Option<Bucket>>,
    costly_reads: Mutex<Option<Bucket>>,
    /// The costly reads, and the others, that may be in progress.
    turns: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    /// Those of the reads that may be in progress while the caller is not alone.
    shared_reads: Arc<Semaphore>,
    share: Share,
    streams: Arc<Semaphore>,
}

/// The limits of all callers.
#[derive(Debug)]
pub(crate) struct Callers {
    limits: CallerLimits,
    /// The costly reads of all callers that may be in progress.
    turns: Arc<Semaphore>,
    turns_per_caller: usize,
    threads: usize,
    known: Mutex<KnownCallers>,
    /// The callers that `known` has no room for.
    others: Arc<CallerState>,
}

#[derive(Debug, Default)]
struct KnownCallers {
    states: HashMap<CallerId, Arc<CallerState>>,
    /// The caller of the last request, and when that was last another one.
    latest: Option<CallerId>,
    changed_at: Option<Instant>,
    /// The time at which callers were last forgotten.
    swept_at: Option<Instant>,
}

/// The right to compute a read.
#[derive(Debug)]
pub struct Turn {
    _of_caller: OwnedSemaphorePermit,
    /// For a costly read.
    _of_all: Option<OwnedSemaphorePermit>,
    /// For another read while the caller is not alone.
    _shared: Option<OwnedSemaphorePermit>,
}

/// The budget of a request's caller for costly reads, for a route that learns only later that it has to read the log.
#[derive(Clone, Debug, Default)]
pub struct CostlyReads(pub(crate) Option<(Arc<Callers>, CallerId, Duration)>);

impl CostlyReads {
    /// Counts a costly read of the caller, and waits for its turn. None if the request has it already.
    ///
    /// # Errors
    /// 429 over the quota, or if the turn does not come in time.
    pub async fn turn(&self) -> Result<Option<Turn>, Problem> {
        let Some((callers, caller, patience)) = &self.0 else { return Ok(None) };
        let state = callers.state(caller);
        let costly = ("costly-reads", callers.limits.costly_reads_per_minute, &state.costly_reads);
        take_all(&[costly], &mut Quotas::default())?;
        callers.turn(caller, *patience).await.map(Some)
    }
}

impl<'a> FromRequest<'a> for CostlyReads {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        Ok(request.data::<Self>().cloned().unwrap_or_default())
    }
}

impl Callers {
    pub(crate) fn new(limits: CallerLimits) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_threads(limits, processors)
    }

    fn with_threads(limits: CallerLimits, threads: usize) -> Self {
        let turns = (threads / 2).max(1);
        let turns_per_caller = (turns / 2).max(1);
        Self {
            limits,
            turns: Arc::new(Semaphore::new(turns)),
            turns_per_caller,
            threads,
            known: Mutex::default(),
            others: Arc::new(CallerState::new(&limits, turns_per_caller, threads)),
        }
    }

    /// Counts a request of the caller.
    ///
    /// # Errors
    /// 429 over its quota. The quotas are set in both cases.
    pub(crate) fn count(
        &self,
        caller: &CallerId,
        is_costly: bool,
        quotas: &mut Quotas,
    ) -> Result<(), Problem> {
        if self.limits.requests_per_minute.is_none()
            && (!is_costly || self.limits.costly_reads_per_minute.is_none())
        {
            return Ok(());
        }
        let state = self.state(caller);
        let requests = ("requests", self.limits.requests_per_minute, &state.requests);
        let costly = ("costly-reads", self.limits.costly_reads_per_minute, &state.costly_reads);
        let counted = [requests, costly];
        take_all(&counted[..if is_costly { 2 } else { 1 }], quotas)
    }

    /// Waits for the caller's turn to compute a costly read.
    ///
    /// # Errors
    /// 429 if it does not come within `patience`.
    pub(crate) async fn turn(&self, caller: &CallerId, patience: Duration) -> Result<Turn, Problem> {
        let state = self.state(caller);
        let turn = async {
            // The caller's own turn comes first, so that it cannot fill the queue of all callers.
            let of_caller = state.turns.clone().acquire_owned().await.ok()?;
            let of_all = self.turns.clone().acquire_owned().await.ok()?;
            Some(Turn { _of_caller: of_caller, _of_all: Some(of_all), _shared: None })
        };
        let turn = tokio::time::timeout(patience, turn).await.ok().flatten();
        turn.ok_or_else(|| {
            Problem::rate_limited(
                "too many costly reads wait for their turn; nothing was done; send fewer at once",
                Duration::from_secs(1),
            )
        })
    }

    /// Waits for the caller's turn to compute a read that is not costly. While the caller `is_alone`, more of them may be in
    /// progress.
    ///
    /// # Errors
    /// 429 if it does not come within `patience`.
    pub(crate) async fn read_turn(
        &self,
        caller: &CallerId,
        is_alone: bool,
        patience: Duration,
    ) -> Result<Turn, Problem> {
        let state = self.state(caller);
        let turn = async {
            let of_caller = state.reads.clone().acquire_owned().await.ok()?;
            let shared = match is_alone {
                true => None,
                false => Some(state.shared_reads.clone().acquire_owned().await.ok()?),
            };
            Some(Turn { _of_caller: of_caller, _of_all: None, _shared: shared })
        };
        let turn = tokio::time::timeout(patience, turn).await.ok().flatten();
        turn.ok_or_else(|| {
            Problem::rate_limited(
                "too many reads of this caller wait for their turn; send fewer at once",
                Duration::from_secs(1),
            )
        })
    }

    /// The share of the threads for a request of the caller; all of them while the caller is alone.
    pub(crate) fn share(&self, caller: &CallerId) -> Share {
        let now = Instant::now();
        let is_alone = {
            let mut known = self.known();
            if known.latest.as_ref() != Some(caller) {
                known.changed_at = known.latest.replace(caller.clone()).map(|_| now);
            }
            known.changed_at.is_none_or(|at| now - at >= ALONE_AFTER)
        };
        if is_alone { Share::default() } else { self.state(caller).share.clone() }
    }

    /// The place of one more open stream or long poll of the caller.
    ///
    /// # Errors
    /// 429 if the caller has too many.
    pub(crate) fn stream(&self, caller: &CallerId) -> Result<OwnedSemaphorePermit, Problem> {
        self.state(caller).streams.clone().try_acquire_owned().map_err(|_| {
            let max = self.limits.streams.unwrap_or_default();
            let detail = format!(
                "this caller has {max} open streams and long polls; close one before it opens another"
            );
            Problem::rate_limited(detail, Duration::from_secs(1))
        })
    }

    fn state(&self, caller: &CallerId) -> Arc<CallerState> {
        let mut known = self.known();
        if let Some(state) = known.states.get(caller) {
            return state.clone();
        }
        let now = Instant::now();
        if known.states.len() >= CALLERS_MAX && known.swept_at.is_none_or(|at| now - at >= SWEEP_EVERY) {
            known.states.retain(|_, state| !self.is_as_new(state));
            known.swept_at = Some(now);
        }
        if known.states.len() >= CALLERS_MAX {
            return self.others.clone();
        }
        let state = Arc::new(CallerState::new(&self.limits, self.turns_per_caller, self.threads));
        known.states.insert(caller.clone(), state.clone());
        state
    }

    /// Whether the caller has nothing open and its whole quota, so that it can be forgotten.
    fn is_as_new(&self, state: &Arc<CallerState>) -> bool {
        let is_full = |bucket: &Mutex<Option<Bucket>>, limit: Option<u32>| match (*locked(bucket), limit) {
            (Some(mut bucket), Some(quota)) => {
                bucket.refill(quota, Instant::now());
                bucket.left >= f64::from(quota)
            }
            _ => true,
        };
        Arc::strong_count(state) == 1
            && state.turns.available_permits() == self.turns_per_caller
            && state.reads.available_permits() == READS_IN_PROGRESS_MAX
            && state.streams.available_permits() == places(&self.limits)
            && is_full(&state.requests, self.limits.requests_per_minute)
            && is_full(&state.costly_reads, self.limits.costly_reads_per_minute)
    }

    fn known(&self) -> MutexGuard<'_, KnownCallers> {
        // Each change of the map is one step.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallerState {
    fn new(limits: &CallerLimits, turns: usize, threads: usize) -> Self {
        Self {
            requests: Mutex::default(),
            costly_reads: Mutex::default(),
            turns: Arc::new(Semaphore::new(turns)),
            reads: Arc::new(Semaphore::new(READS_IN_PROGRESS_MAX)),
            shared_reads: Arc::new(Semaphore::new((threads / 2).max(1))),
            share: Share::new(threads),
            streams: Arc::new(Semaphore::new(places(limits))),
        }
    }
}

fn places(limits: &CallerLimits) -> usize {
    limits.streams.map_or(Semaphore::MAX_PERMITS, |streams| streams as usize)
}

fn locked(bucket: &Mutex<Option<Bucket>>) -> MutexGuard<'_, Option<Bucket>> {
    bucket.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A quota's name, its limit, and what is left of it.
type Counted<'a> = (&'static str, Option<u32>, &'a Mutex<Option<Bucket>>);

/// Takes one request from each quota that has a limit.
fn take_all(counted: &[Counted<'_>], quotas: &mut Quotas) -> Result<(), Problem> {
    for (name, limit, bucket) in counted {
        let Some(per_minute) = *limit else { continue };
        let (left, is_refused) = take(bucket, per_minute);
        let quota = Quota { name, per_minute, left };
        quotas.0.push(quota);
        if is_refused {
            let wait = Duration::from_secs_f64(quota.seconds_until(1.0).min(WINDOW_SECONDS));
            let detail =
                format!("this caller has used its quota of {per_minute} {name} a minute; nothing was done");
            return Err(Problem::rate_limited(detail, wait));
        }
    }
    Ok(())
}

/// Takes one request from a quota: what is left, and whether there was none.
fn take(bucket: &Mutex<Option<Bucket>>, quota: u32) -> (f64, bool) {
    let mut bucket = locked(bucket);
    let bucket = bucket.get_or_insert_with(|| Bucket::full(quota));
    let has_one = bucket.take(quota);
    (bucket.left, !has_one)
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
