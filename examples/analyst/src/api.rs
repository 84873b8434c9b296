//! The client of Matchbook's HTTP API for this worker. Calls to an unreachable or busy server are retried without limit.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Client, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::fault::{FailureReport, Stage};

const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A leased work item.
#[derive(Clone, Debug, Deserialize)]
pub struct Item {
    pub lease_id: String,
    /// The longest pause between two heartbeats that keeps the lease.
    pub heartbeat_seconds: f64,
    pub job_id: String,
    pub attempt: u32,
    /// None for a job that was created without a video.
    pub source: Option<Source>,
}

/// The video of a job.
#[derive(Clone, Debug, Deserialize)]
pub struct Source {
    pub video_id: String,
    #[serde(default)]
    pub options: Value,
}

#[derive(Deserialize)]
struct Claimed {
    items: Vec<Item>,
}

/// The progress of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Progress {
    pub stage: Stage,
    pub fraction: f64,
    pub items_done: Option<u64>,
    pub items_total: Option<u64>,
}

/// The server refused the request; a retry would not help.
#[derive(Debug, thiserror::Error)]
#[error("{path} was refused with {status}: {problem}")]
pub struct Refused {
    pub path: String,
    pub status: StatusCode,
    pub problem: String,
}

impl Refused {
    /// Whether the lease is lost.
    pub fn is_lost_lease(&self) -> bool {
        matches!(self.status, StatusCode::CONFLICT | StatusCode::NOT_FOUND)
    }
}

/// A client that sends requests as one worker.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
    server: String,
    worker_id: String,
    token: Option<String>,
}

impl Api {
    /// # Errors
    /// If the system does not allow to create a client.
    pub fn new(server: &str, worker_id: String, token: Option<String>) -> Result<Self, reqwest::Error> {
        // Without one, reqwest panics. It may be installed already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(3))
            .user_agent(concat!("matchbook-analyst/", env!("CARGO_PKG_VERSION")))
            // The server is set by a flag; a proxy for web access is not used for it.
            .no_proxy()
            .build()?;
        Ok(Self { client, server: server.trim_end_matches('/').to_owned(), worker_id, token })
    }

    /// Claims an analysis, with a long poll of up to `wait`.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn claim(&self, wait: Duration) -> Result<Option<Item>, Refused> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let body =
            json!({"kinds": ["video_analysis"], "worker_id": self.worker_id, "max": 1, "wait_ms": wait_ms});
        let path = "/internal/work/claim".to_owned();
        let answer = self.call(path.clone(), &body, ATTEMPT_TIMEOUT + wait).await?;
        let claimed: Claimed = serde_json::from_slice(&answer).map_err(|error| Refused {
            path,
            status: StatusCode::OK,
            problem: format!("the response cannot be parsed ({error}); is --url a matchbook server?"),
        })?;
        Ok(claimed.items.into_iter().next())
    }

    /// # Errors
    /// [`Refused`], for example if the lease is lost.
    pub async fn heartbeat(&self, lease: &str) -> Result<(), Refused> {
        self.report(lease, "heartbeat", &json!({})).await
    }

    /// # Errors
    /// [`Refused`], for example if the lease is lost.
    pub async fn progress(&self, lease: &str, progress: Progress) -> Result<(), Refused> {
        self.report(lease, "progress", &json!(progress)).await
    }

    /// # Errors
    /// [`Refused`], for example if the lease is lost.
    pub async fn complete(&self, lease: &str, result: Value) -> Result<(), Refused> {
        self.report(lease, "complete", &json!({"result": result})).await
    }

    /// # Errors
    /// [`Refused`], for example if the lease is lost.
    pub async fn fail(&self, lease: &str, error: &str) -> Result<(), Refused> {
        self.report(lease, "fail", &json!({"error": error})).await
    }

    /// # Errors
    /// [`Refused`], for example if the lease is lost.
    pub async fn fail_with(&self, lease: &str, report: FailureReport) -> Result<(), Refused> {
        let FailureReport { message, exit_code, retry_after_seconds } = report;
        let body =
            json!({"error": message, "exit_code": exit_code, "retry_after_seconds": retry_after_seconds});
        self.report(lease, "fail", &body).await
    }

    /// Reports the exit of the worker.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn exit(&self, reason: &str) -> Result<(), Refused> {
        let path = format!("/internal/workers/{}/exit", self.worker_id);
        self.call(path, &json!({"exit_code": 0, "reason": reason}), ATTEMPT_TIMEOUT).await.map(drop)
    }

    async fn report(&self, lease: &str, action: &str, body: &Value) -> Result<(), Refused> {
        self.call(format!("/internal/work/{lease}/{action}"), body, ATTEMPT_TIMEOUT).await.map(drop)
    }

    /// Retries until the server succeeds or refuses. All attempts have the same idempotency key, so that a report whose
    /// response was lost counts once.
    async fn call(&self, path: String, body: &Value, timeout: Duration) -> Result<Vec<u8>, Refused> {
        let key = Uuid::new_v4().to_string();
        let mut pause = PAUSE_FIRST;
        loop {
            let mut request = self.client.post(format!("{}{path}", self.server)).timeout(timeout);
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            let sent = request.header("idempotency-key", &key).json(body).send().await;
            let (error, delay) = match sent {
                Ok(response) => {
                    let status = response.status();
                    let delay = retry_after(&response);
                    match response.bytes().await {
                        Ok(bytes) if status.is_success() => return Ok(bytes.to_vec()),
                        Ok(bytes) => {
                            let problem = problem(&bytes);
                            if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS {
                                return Err(Refused { path, status, problem });
                            }
                            (format!("{status}: {problem}"), delay)
                        }
                        Err(error) => (error.to_string(), None),
                    }
                }
                Err(error) => (error.to_string(), None),
            };
            tracing::warn!(path, error, "retrying");
            tokio::time::sleep(pause.max(delay.unwrap_or_default())).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// The message of a problem document, or the text itself.
fn problem(bytes: &[u8]) -> String {
    let detail = serde_json::from_slice::<Value>(bytes).ok().and_then(|problem| {
        let detail = problem.get("detail").or_else(|| problem.get("title"))?;
        Some(detail.as_str()?.to_owned())
    });
    detail.unwrap_or_else(|| String::from_utf8_lossy(bytes).chars().take(200).collect())
}

fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
