//! The calls of this worker, by the client that workers share.

use std::time::Duration;

use matchbook_worker::client::{CallError, Client, SetupError};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::fault::{FailureReport, Stage};

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

/// A client that sends requests as one worker.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
    worker_id: String,
}

impl Api {
    /// # Errors
    /// [`SetupError`] for a wrong address or token.
    pub fn new(server: &str, worker_id: String, token: Option<&str>) -> Result<Self, SetupError> {
        Ok(Self { client: Client::new(server, token)?, worker_id })
    }

    /// Claims an analysis, with a long poll of up to `wait`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn claim(&self, wait: Duration) -> Result<Option<Item>, CallError> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let body =
            json!({"kinds": ["video_analysis"], "worker_id": self.worker_id, "max": 1, "wait_ms": wait_ms});
        let claimed = self.client.command_within(Method::POST, "/internal/work/claim", &body, wait).await;
        let (Claimed { items }, _) = claimed?;
        Ok(items.into_iter().next())
    }

    /// # Errors
    /// [`CallError`], for example if the lease is lost.
    pub async fn heartbeat(&self, lease: &str) -> Result<(), CallError> {
        self.report(lease, "heartbeat", &json!({})).await
    }

    /// # Errors
    /// [`CallError`], for example if the lease is lost.
    pub async fn progress(&self, lease: &str, progress: Progress) -> Result<(), CallError> {
        self.report(lease, "progress", &json!(progress)).await
    }

    /// # Errors
    /// [`CallError`], for example if the lease is lost.
    pub async fn complete(&self, lease: &str, result: Value) -> Result<(), CallError> {
        self.report(lease, "complete", &json!({"result": result})).await
    }

    /// # Errors
    /// [`CallError`], for example if the lease is lost.
    pub async fn fail(&self, lease: &str, error: &str) -> Result<(), CallError> {
        self.report(lease, "fail", &json!({"error": error})).await
    }

    /// # Errors
    /// [`CallError`], for example if the lease is lost.
    pub async fn fail_with(&self, lease: &str, report: FailureReport) -> Result<(), CallError> {
        let FailureReport { message, exit_code, retry_after_seconds } = report;
        let body =
            json!({"error": message, "exit_code": exit_code, "retry_after_seconds": retry_after_seconds});
        self.report(lease, "fail", &body).await
    }

    /// Reports the exit of the worker.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn exit(&self, reason: &str) -> Result<(), CallError> {
        let path = format!("/internal/workers/{}/exit", self.worker_id);
        self.client.send(Method::POST, &path, &json!({"exit_code": 0, "reason": reason})).await
    }

    async fn report(&self, lease: &str, action: &str, body: &Value) -> Result<(), CallError> {
        self.client.send(Method::POST, &format!("/internal/work/{lease}/{action}"), body).await
    }
}
