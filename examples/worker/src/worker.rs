//! The main loop of a worker: register, claim a job, work on it, report its end, and stop gracefully.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::client::{CallError, Client, pause};

/// The longest wait of one claim.
const CLAIM_WAIT_MAX: Duration = Duration::from_secs(10);
/// The pause after an empty response that came without a wait.
const EMPTY_ANSWER_PAUSE: Duration = Duration::from_millis(250);
/// The shortest pause between two heartbeats.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// The timeout of each of the two calls of a shutdown: together under the usual five seconds of a supervisor.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
const SHUTTING_DOWN: &str = "worker is shutting down";

/// A claimed job under a lease.
#[derive(Clone, Debug, Deserialize)]
pub struct Claimed {
    pub lease_id: String,
    /// The longest pause between two heartbeats that keeps the lease.
    pub heartbeat_seconds: f64,
    pub kind: String,
    pub job_id: String,
    /// What is to be done; its form depends on the kind.
    #[serde(default)]
    pub source: Value,
    /// What earlier workers have reported of it.
    #[serde(default)]
    pub progress: Value,
    /// The position of the claim.
    #[serde(default)]
    pub position: Value,
}

impl Claimed {
    /// The path of a call under its lease.
    pub fn path(&self, action: &str) -> String {
        format!("/internal/work/{}/{action}", self.lease_id)
    }
}

#[derive(Debug, Deserialize)]
struct Claims {
    items: Vec<Claimed>,
    #[serde(default)]
    position: Value,
}

/// Why a job was not completed.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The server classifies the message, and decides whether the job is retried.
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Why a worker stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// There was no work for long enough.
    Idle,
    Stopped,
}

/// A worker for some kinds of jobs.
#[derive(Clone, Debug)]
pub struct Worker {
    pub client: Client,
    pub worker_id: String,
    pub kinds: &'static [&'static str],
    pub version: &'static str,
    /// The time without work after which to stop; without it, keep running.
    pub until_idle: Option<Duration>,
}

impl Worker {
    /// Runs until it is stopped, is idle for long enough, or is refused by the server; then reports its exit. `work` returns the
    /// result of a job.
    ///
    /// # Errors
    /// [`CallError`] if the server refuses this worker.
    pub async fn run(
        &self,
        stop: impl Future<Output = ()>,
        work: impl AsyncFn(&Claimed) -> Result<Value, WorkError>,
    ) -> Result<StopReason, CallError> {
        let registration = json!({"kinds": self.kinds, "version": self.version});
        self.client.send(Method::PUT, &self.path(""), &registration).await?;
        info!(worker = self.worker_id, "registered");
        tokio::pin!(stop);
        let mut idle_since = Instant::now();
        let mut failures = 0;
        let ended = loop {
            let left = self.until_idle.map(|until| until.saturating_sub(idle_since.elapsed()));
            if left.is_some_and(|left| left.is_zero()) {
                break Ok(StopReason::Idle);
            }
            let wait = left.unwrap_or(CLAIM_WAIT_MAX).min(CLAIM_WAIT_MAX);
            let claimed_at = Instant::now();
            let claimed = tokio::select! {
                () = &mut stop => break Ok(StopReason::Stopped),
                claimed = self.claim(wait) => claimed,
            };
            let (claimed, was_unreachable) = match claimed {
                Ok(claimed) => claimed,
                Err(error) => break Err(error),
            };
            if was_unreachable {
                // It is unknown whether there was work meanwhile.
                idle_since = Instant::now();
            }
            let Some(claimed) = claimed else {
                if claimed_at.elapsed() < EMPTY_ANSWER_PAUSE {
                    tokio::time::sleep(EMPTY_ANSWER_PAUSE).await;
                }
                continue;
            };
            let has_failed = tokio::select! {
                () = &mut stop => {
                    self.release(&claimed).await;
                    break Ok(StopReason::Stopped);
                }
                done = self.work_on(&claimed, &work) => match done {
                    Ok(is_done) => !is_done,
                    Err(error) => break Err(error),
                },
            };
            idle_since = Instant::now();
            failures = if has_failed { failures + 1 } else { 0 };
            if has_failed {
                // The server may return the job at once.
                tokio::time::sleep(pause(failures, None)).await;
            }
        };
        self.report_exit(&ended).await;
        ended
    }

    async fn claim(&self, wait: Duration) -> Result<(Option<Claimed>, bool), CallError> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let body = json!({"worker_id": self.worker_id, "kinds": self.kinds, "max": 1, "wait_ms": wait_ms});
        let claimed = self.client.command_within(Method::POST, "/internal/work/claim", &body, wait).await;
        let (Claims { items, position }, was_unreachable) = claimed?;
        let claimed = items.into_iter().next().map(|claimed| Claimed { position, ..claimed });
        Ok((claimed, was_unreachable))
    }

    /// Works on a job. Returns false if it failed.
    async fn work_on(
        &self,
        claimed: &Claimed,
        work: &impl AsyncFn(&Claimed) -> Result<Value, WorkError>,
    ) -> Result<bool, CallError> {
        let started = Instant::now();
        let job = &claimed.job_id;
        info!(job, kind = claimed.kind, "claimed");
        let result = tokio::select! {
            result = work(claimed) => result,
            lost = self.keep_lease(claimed) => Err(lost.into()),
        };
        let (is_done, reported) = match result {
            Ok(result) => {
                info!(job, ms = started.elapsed().as_millis() as u64, "done");
                (true, self.report(claimed, "complete", &json!({"result": result})).await)
            }
            Err(WorkError::Call(error)) if error.is_lost_lease() => {
                info!(job, %error, "dropped");
                return Ok(true);
            }
            Err(error) => {
                warn!(job, %error, "failed");
                let message: String = error.to_string().chars().take(2_000).collect();
                (false, self.report(claimed, "fail", &json!({"error": message})).await)
            }
        };
        match reported {
            Err(error) if !error.is_lost_lease() => Err(error),
            _ => Ok(is_done),
        }
    }

    async fn report(&self, claimed: &Claimed, action: &str, body: &Value) -> Result<(), CallError> {
        self.client.send(Method::POST, &claimed.path(action), body).await
    }

    /// Sends heartbeats for a lease; returns only if one is refused.
    async fn keep_lease(&self, claimed: &Claimed) -> CallError {
        let asked = Duration::try_from_secs_f64(claimed.heartbeat_seconds).unwrap_or_default();
        loop {
            tokio::time::sleep(asked.max(HEARTBEAT_MIN)).await;
            if let Err(error) = self.report(claimed, "heartbeat", &json!({})).await {
                return error;
            }
        }
    }

    async fn release(&self, claimed: &Claimed) {
        let body = json!({"error": SHUTTING_DOWN});
        let release = self.report(claimed, "fail", &body);
        match timeout(EXIT_TIMEOUT, release).await {
            Ok(Ok(())) => info!(job = claimed.job_id, "lease released"),
            Ok(Err(error)) => warn!(job = claimed.job_id, %error, "lease not released"),
            Err(_) => warn!(job = claimed.job_id, "lease not released: it will expire"),
        }
    }

    async fn report_exit(&self, ended: &Result<StopReason, CallError>) {
        let (exit_code, reason) = match ended {
            Ok(StopReason::Idle) => (0, "no work".to_owned()),
            Ok(StopReason::Stopped) => (0, SHUTTING_DOWN.to_owned()),
            Err(error) => (1, error.to_string().chars().take(500).collect()),
        };
        let body = json!({"exit_code": exit_code, "reason": reason});
        let path = self.path("/exit");
        let exit = self.client.send(Method::POST, &path, &body);
        if !matches!(timeout(EXIT_TIMEOUT, exit).await, Ok(Ok(_))) {
            warn!("exit not reported: the server will notice the missing heartbeats");
        }
    }

    fn path(&self, rest: &str) -> String {
        format!("/internal/workers/{}{rest}", self.worker_id)
    }
}

/// The name of this host and the id of this process, in letters that a path can have.
pub fn default_worker_id() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '-' };
    format!("{}-{}", host.chars().map(plain).collect::<String>(), std::process::id())
}
