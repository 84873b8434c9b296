//! The worker's life: register, claim, work, report, and leave in order.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::api::{Api, CallError};
use crate::backoff::Backoff;
use crate::request::{Bench, Finished, Unfinished, process};
use crate::splitmix::SplitMix64;
use crate::wire::{Exit, Item, LeaseId};

/// How long one claim waits at the server.
const CLAIM_WAIT_MAX: Duration = Duration::from_secs(10);
/// A server that answers "nothing" at once, instead of waiting, is asked again after this.
const EMPTY_ANSWER_PAUSE: Duration = Duration::from_millis(250);
/// The shortest pause between two heartbeats, whatever the server asks for.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// Leaving takes two calls, each at most this long: together under the five seconds a supervisor grants.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);
const SHUTTING_DOWN: &str = "worker is shutting down";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Interrupt,
    Terminate,
}

impl Signal {
    fn number(self) -> i32 {
        match self {
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}

/// Why a worker left in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// No work came for as long as `until_idle` says.
    Idle,
    Signalled(Signal),
}

#[derive(Debug)]
pub struct Worker {
    api: Api,
    bench: Bench,
    until_idle: Option<Duration>,
    /// Between two heartbeats of the worker, and at most between two of a lease.
    heartbeat_every: Duration,
    /// The lease to give back if the worker is told to leave.
    held: Mutex<Option<LeaseId>>,
}

impl Worker {
    pub fn new(api: Api, bench: Bench, until_idle: Option<Duration>, heartbeat_every: Duration) -> Self {
        Self { api, bench, until_idle, heartbeat_every, held: Mutex::new(None) }
    }

    /// Works until idle for long enough, told to stop, or refused for good by the server; then says goodbye.
    pub async fn run(&self, stop: impl Future<Output = Signal>) -> Result<Ended, CallError> {
        // All three share one task and end with it: nothing outlives the worker.
        let ended = tokio::select! {
            signal = stop => Ok(Ended::Signalled(signal)),
            error = self.stay_present() => Err(error),
            ended = self.work() => ended.map(|()| Ended::Idle),
        };
        if let Ok(Ended::Signalled(_)) = ended {
            self.give_back().await;
        }
        self.say_goodbye(&match &ended {
            Ok(Ended::Idle) => Exit { exit_code: 0, signal: None, reason: "no work is left".to_owned() },
            Ok(Ended::Signalled(signal)) => {
                Exit { exit_code: 0, signal: Some(signal.number()), reason: SHUTTING_DOWN.to_owned() }
            }
            Err(error) => Exit { exit_code: 1, signal: None, reason: error.to_string() },
        })
        .await;
        ended
    }

    /// Reports the worker's end, if the server can be reached soon.
    pub async fn say_goodbye(&self, exit: &Exit) {
        match timeout(FAREWELL_TIMEOUT, self.api.exit(exit)).await {
            Ok(Ok(())) => info!(reason = exit.reason, "exit reported"),
            Ok(Err(error)) => warn!(%error, "exit not reported"),
            Err(_) => {
                warn!("exit not reported: the server does not answer; it will see the heartbeats missing");
            }
        }
    }

    async fn give_back(&self) {
        let held = self.held().take();
        let Some(lease) = held else { return };
        match timeout(FAREWELL_TIMEOUT, self.api.fail(&lease, SHUTTING_DOWN)).await {
            Ok(Ok(())) => info!(lease = lease.0, "request given back"),
            Ok(Err(error)) => warn!(lease = lease.0, %error, "request not given back"),
            Err(_) => warn!(lease = lease.0, "request not given back: its lease will run out"),
        }
    }

    /// Registers, and heartbeats for ever; ends only if the server refuses.
    async fn stay_present(&self) -> CallError {
        if let Err(error) = self.api.register().await {
            return error;
        }
        info!(worker = self.api.worker_id().0, "registered");
        loop {
            tokio::time::sleep(self.heartbeat_every).await;
            let Err(error) = self.api.heartbeat().await else { continue };
            // A server with another memory than before, restored or emptied, does not know the worker.
            let known_no_more = error.status() == Some(StatusCode::NOT_FOUND);
            if let Err(error) = if known_no_more { self.api.register().await } else { Err(error) } {
                return error;
            }
        }
    }

    async fn work(&self) -> Result<(), CallError> {
        let mut idle_since = Instant::now();
        let mut failures = self.failures();
        loop {
            let left = self.until_idle.map(|until| until.saturating_sub(idle_since.elapsed()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(());
            }
            let asked_at = Instant::now();
            let answer = self.api.claim(left.unwrap_or(CLAIM_WAIT_MAX).min(CLAIM_WAIT_MAX)).await?;
            if answer.was_away {
                // While the server was away nobody knows whether there was work.
                idle_since = Instant::now();
            }
            if answer.items.is_empty() && asked_at.elapsed() < EMPTY_ANSWER_PAUSE {
                tokio::time::sleep(EMPTY_ANSWER_PAUSE).await;
            }
            for item in answer.items {
                if self.work_on(&item).await {
                    failures = self.failures();
                } else {
                    // The server may hand out what just failed at once: slowly, then, not as fast as it can fail.
                    tokio::time::sleep(failures.next(None)).await;
                }
                idle_since = Instant::now();
            }
        }
    }

    /// Whether the request was dealt with; one that failed was not.
    async fn work_on(&self, item: &Item) -> bool {
        let started = Instant::now();
        *self.held() = Some(item.lease_id.clone());
        let result = tokio::select! {
            result = process(&self.api, &self.bench, item) => result,
            lost = self.keep_lease(item) => Err(lost),
        };
        self.held().take();
        match result {
            Ok(finished) => log_finished(item, &finished, started.elapsed()),
            Err(reason @ (Unfinished::LeaseLost | Unfinished::JobEnded)) => {
                info!(request = item.request_id.0, %reason, "request dropped");
            }
            Err(reason) => {
                warn!(request = item.request_id.0, %reason, "request failed");
                if let Err(error) = self.api.fail(&item.lease_id, &reason.to_string()).await {
                    debug!(%error, "failure not taken");
                }
                return false;
            }
        }
        true
    }

    /// Heartbeats a lease for ever; ends only when it is lost.
    async fn keep_lease(&self, item: &Item) -> Unfinished {
        let asked = Duration::try_from_secs_f64(item.heartbeat_seconds).unwrap_or_default();
        let pause = asked.max(HEARTBEAT_MIN).min(self.heartbeat_every);
        loop {
            tokio::time::sleep(pause).await;
            if let Err(error) = self.api.extend_lease(&item.lease_id).await {
                return match error.status() {
                    Some(StatusCode::CONFLICT | StatusCode::NOT_FOUND) => Unfinished::LeaseLost,
                    _ => Unfinished::Call(error),
                };
            }
        }
    }

    /// Apart for each worker: those that fail alike need not come back alike.
    fn failures(&self) -> Backoff {
        let mut random = SplitMix64::from_names(&[&self.api.worker_id().0]);
        Backoff::new(random.next_u64())
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<LeaseId>> {
        self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn log_finished(item: &Item, finished: &Finished, took: Duration) {
    info!(
        request = item.request_id.0,
        product = item.product_id.0,
        found = finished.found,
        new = finished.accepted,
        of = finished.compared,
        ransac_checked = finished.totals.ransac_checked,
        resumed_at = item.totals.candidates_processed,
        ms = took.as_millis() as u64,
        "request finished: found {} of {}",
        finished.found,
        finished.compared,
    );
}
