//! The main loop of the worker: register, claim, process, report, and stop gracefully.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use matchbook_worker::client::pause;
use reqwest::StatusCode;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::api::{Api, CallError};
use crate::request::{RequestError, RequestOutcome, WorkContext, process};
use crate::wire::{Exit, Item, LeaseId};

/// The longest wait of one claim.
const CLAIM_WAIT_MAX: Duration = Duration::from_secs(10);
/// The pause after an empty response that came without a wait.
const EMPTY_ANSWER_PAUSE: Duration = Duration::from_millis(250);
/// The shortest pause between two heartbeats.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// The timeout of each of the two calls of a shutdown: together under the usual five seconds of a supervisor.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
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

/// Why a worker stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// There was no work for `until_idle`.
    Idle,
    Signalled(Signal),
}

#[derive(Debug)]
pub struct Worker {
    api: Api,
    context: WorkContext,
    until_idle: Option<Duration>,
    /// The interval of the worker's heartbeats, and the longest of those of a lease.
    heartbeat_every: Duration,
    /// The lease to release if the worker is stopped.
    current_lease: Mutex<Option<LeaseId>>,
}

impl Worker {
    pub fn new(
        api: Api,
        context: WorkContext,
        until_idle: Option<Duration>,
        heartbeat_every: Duration,
    ) -> Self {
        Self { api, context, until_idle, heartbeat_every, current_lease: Mutex::new(None) }
    }

    /// Runs until it is idle for long enough, is stopped, or is refused by the server; then reports its exit.
    pub async fn run(&self, stop: impl Future<Output = Signal>) -> Result<StopReason, CallError> {
        // All three run in one task and end with it.
        let ended = tokio::select! {
            signal = stop => Ok(StopReason::Signalled(signal)),
            error = self.stay_present() => Err(error),
            ended = self.work() => ended.map(|()| StopReason::Idle),
        };
        if let Ok(StopReason::Signalled(_)) = ended {
            self.release_lease().await;
        }
        self.report_exit(&match &ended {
            Ok(StopReason::Idle) => Exit { exit_code: 0, signal: None, reason: "no work".to_owned() },
            Ok(StopReason::Signalled(signal)) => {
                Exit { exit_code: 0, signal: Some(signal.number()), reason: SHUTTING_DOWN.to_owned() }
            }
            Err(error) => Exit { exit_code: 1, signal: None, reason: error.to_string() },
        })
        .await;
        ended
    }

    /// Reports the exit of the worker, if the server is reachable.
    pub async fn report_exit(&self, exit: &Exit) {
        match timeout(EXIT_TIMEOUT, self.api.exit(exit)).await {
            Ok(Ok(())) => info!(reason = exit.reason, "exit reported"),
            Ok(Err(error)) => warn!(%error, "exit not reported"),
            Err(_) => {
                warn!(
                    "exit not reported: no response from the server; it will notice the missing heartbeats"
                );
            }
        }
    }

    async fn release_lease(&self) {
        let lease = self.current_lease().take();
        let Some(lease) = lease else { return };
        match timeout(EXIT_TIMEOUT, self.api.fail(&lease, SHUTTING_DOWN)).await {
            Ok(Ok(())) => info!(lease = lease.0, "lease released"),
            Ok(Err(error)) => warn!(lease = lease.0, %error, "lease not released"),
            Err(_) => warn!(lease = lease.0, "lease not released: it will expire"),
        }
    }

    /// Registers and sends heartbeats; returns only if the server refuses.
    async fn stay_present(&self) -> CallError {
        if let Err(error) = self.api.register().await {
            return error;
        }
        info!(worker = self.api.worker_id().0, "registered");
        loop {
            tokio::time::sleep(self.heartbeat_every).await;
            let Err(error) = self.api.heartbeat().await else { continue };
            // A server that was restored or reset does not know the worker.
            let is_unknown = error.status() == Some(StatusCode::NOT_FOUND);
            if let Err(error) = if is_unknown { self.api.register().await } else { Err(error) } {
                return error;
            }
        }
    }

    async fn work(&self) -> Result<(), CallError> {
        let mut idle_since = Instant::now();
        let mut failures = 0;
        loop {
            let left = self.until_idle.map(|until| until.saturating_sub(idle_since.elapsed()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(());
            }
            let claimed_at = Instant::now();
            let answer = self.api.claim(left.unwrap_or(CLAIM_WAIT_MAX).min(CLAIM_WAIT_MAX)).await?;
            if answer.was_unreachable {
                // It is unknown whether there was work while the server was unreachable.
                idle_since = Instant::now();
            }
            if answer.items.is_empty() && claimed_at.elapsed() < EMPTY_ANSWER_PAUSE {
                tokio::time::sleep(EMPTY_ANSWER_PAUSE).await;
            }
            for item in answer.items {
                if self.work_on(&item).await {
                    failures = 0;
                } else {
                    // The server may return the failed request immediately, so the retry is delayed.
                    tokio::time::sleep(pause(failures, None)).await;
                    failures += 1;
                }
                idle_since = Instant::now();
            }
        }
    }

    /// Processes a request. Returns false if it failed.
    async fn work_on(&self, item: &Item) -> bool {
        let started = Instant::now();
        *self.current_lease() = Some(item.lease_id.clone());
        let result = tokio::select! {
            result = process(&self.api, &self.context, item) => result,
            lost = self.keep_lease(item) => Err(lost),
        };
        self.current_lease().take();
        match result {
            Ok(finished) => log_finished(item, &finished, started.elapsed()),
            Err(reason @ (RequestError::LeaseLost | RequestError::JobEnded)) => {
                info!(request = item.request_id.0, %reason, "request dropped");
            }
            Err(reason) => {
                warn!(request = item.request_id.0, %reason, "request failed");
                if let Err(error) = self.api.fail(&item.lease_id, &reason.to_string()).await {
                    debug!(%error, "failure not accepted");
                }
                return false;
            }
        }
        true
    }

    /// Sends heartbeats for a lease; returns only if it is lost.
    async fn keep_lease(&self, item: &Item) -> RequestError {
        let asked = Duration::try_from_secs_f64(item.heartbeat_seconds).unwrap_or_default();
        let interval = asked.max(HEARTBEAT_MIN).min(self.heartbeat_every);
        loop {
            tokio::time::sleep(interval).await;
            if let Err(error) = self.api.extend_lease(&item.lease_id).await {
                return if error.is_lost_lease() {
                    RequestError::LeaseLost
                } else {
                    RequestError::Call(error)
                };
            }
        }
    }

    fn current_lease(&self) -> std::sync::MutexGuard<'_, Option<LeaseId>> {
        self.current_lease.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn log_finished(item: &Item, finished: &RequestOutcome, took: Duration) {
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
