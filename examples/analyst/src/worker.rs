//! The main loop of the worker: claim, process, complete, and stop gracefully.

use std::time::{Duration, Instant};

use matchbook_worker::client::CallError;
use serde_json::Value;

use crate::analysis::{AnalysisError, WorkContext, analyse};
use crate::api::{Api, Item};
use crate::fault::Fault;

/// The shortest pause between two heartbeats.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
const CLAIM_WAIT: Duration = Duration::from_secs(10);
/// The pause after an empty response that came without a wait.
const EMPTY_ANSWER_PAUSE: Duration = Duration::from_millis(250);
/// The timeout of each call of a shutdown.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a worker stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// There was no work for `until_idle`.
    Idle,
    Stopped,
    /// A fault made it vanish without a report.
    Vanished,
}

/// A worker for analyses.
#[derive(Debug)]
pub struct Worker {
    pub api: Api,
    pub context: WorkContext,
    /// The time without work after which to stop; without it, keep running.
    pub until_idle: Option<Duration>,
}

/// The outcome of a work item.
enum ItemOutcome {
    /// It was completed or failed, or its lease was lost.
    Finished,
    Vanish,
}

impl Worker {
    /// Runs until it is stopped, is idle for long enough, or is refused.
    ///
    /// # Errors
    /// [`CallError`], if the server refuses this worker.
    pub async fn run(&self, stop: impl Future<Output = ()>) -> Result<StopReason, CallError> {
        tokio::pin!(stop);
        let mut idle_since = Instant::now();
        let ended = loop {
            if self.until_idle.is_some_and(|until| idle_since.elapsed() >= until) {
                break StopReason::Idle;
            }
            let left = self.until_idle.map_or(CLAIM_WAIT, |until| until.saturating_sub(idle_since.elapsed()));
            let claimed_at = Instant::now();
            let item = tokio::select! {
                () = &mut stop => break StopReason::Stopped,
                item = self.api.claim(left.min(CLAIM_WAIT)) => item?,
            };
            let Some(item) = item else {
                if claimed_at.elapsed() < EMPTY_ANSWER_PAUSE {
                    tokio::time::sleep(EMPTY_ANSWER_PAUSE).await;
                }
                continue;
            };
            tokio::select! {
                () = &mut stop => {
                    let release = self.api.fail(&item.lease_id, "the worker is shutting down");
                    if tokio::time::timeout(EXIT_TIMEOUT, release).await.is_err() {
                        tracing::warn!(job = item.job_id, "lease not released: it will expire");
                    }
                    break StopReason::Stopped;
                }
                done = self.work_on(&item) => if matches!(done?, ItemOutcome::Vanish) { return Ok(StopReason::Vanished) },
            }
            idle_since = Instant::now();
        };
        let _ = tokio::time::timeout(EXIT_TIMEOUT, self.api.exit("no work, or stopped")).await;
        Ok(ended)
    }

    async fn work_on(&self, item: &Item) -> Result<ItemOutcome, CallError> {
        let started = Instant::now();
        tracing::info!(job = item.job_id, attempt = item.attempt, "claimed");
        let result = tokio::select! {
            result = analyse(&self.api, &self.context, item) => result,
            refused = self.keep_lease(item) => Err(refused.into()),
        };
        let reported = match result {
            Ok(result) => {
                let found = result.get("highlights").and_then(Value::as_array).map_or(0, Vec::len);
                tracing::info!(
                    job = item.job_id,
                    highlights = found,
                    ms = started.elapsed().as_millis() as u64,
                    "done"
                );
                self.api.complete(&item.lease_id, result).await
            }
            Err(AnalysisError::Fault(Fault::WorkerLost)) => return Ok(ItemOutcome::Vanish),
            Err(AnalysisError::Refused(refused)) if refused.is_lost_lease() => {
                tracing::info!(job = item.job_id, %refused, "dropped");
                return Ok(ItemOutcome::Finished);
            }
            Err(error) => {
                tracing::warn!(job = item.job_id, %error, "failed");
                match error.report() {
                    Some(report) => self.api.fail_with(&item.lease_id, report).await,
                    None => self.api.fail(&item.lease_id, &error.to_string()).await,
                }
            }
        };
        match reported {
            Err(refused) if !refused.is_lost_lease() => Err(refused),
            _ => Ok(ItemOutcome::Finished),
        }
    }

    /// Sends heartbeats for the lease; returns only if one is refused.
    async fn keep_lease(&self, item: &Item) -> CallError {
        let pause =
            Duration::try_from_secs_f64(item.heartbeat_seconds).unwrap_or_default().max(HEARTBEAT_MIN);
        loop {
            tokio::time::sleep(pause).await;
            if let Err(refused) = self.api.heartbeat(&item.lease_id).await {
                return refused;
            }
        }
    }
}
