//! The calls of this worker, by the client that workers share.

use std::time::Duration;

use matchbook_worker::client::{self, Client};
use reqwest::Method;
use serde::Serialize;
use uuid::Uuid;

use crate::wire::{
    Claim, Claimed, EmptyBody, Exit, Failure, Item, LeaseId, Match, MatchesReported, Progress, Registration,
    WorkKind, WorkerId,
};

pub use matchbook_worker::client::CallError;

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("the worker id `{0}` is not valid in a path: use letters, digits, `-`, `_` and `.`")]
    WorkerId(String),
    #[error(transparent)]
    Client(#[from] client::SetupError),
}

#[derive(Debug)]
pub struct Api {
    client: Client,
    worker_id: WorkerId,
}

/// The response to a claim. If the server was unreachable meanwhile, an empty response does not mean that it had no work.
#[derive(Debug)]
pub struct ClaimAnswer {
    pub items: Vec<Item>,
    pub was_unreachable: bool,
}

impl Api {
    pub fn new(server: &str, worker_id: WorkerId, token: Option<&str>) -> Result<Self, SetupError> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.~:".contains(c);
        if worker_id.0.is_empty() || !worker_id.0.chars().all(is_allowed) {
            return Err(SetupError::WorkerId(worker_id.0));
        }
        Ok(Self { client: Client::new(server, token)?, worker_id })
    }

    pub fn worker_id(&self) -> &WorkerId {
        &self.worker_id
    }

    pub async fn register(&self) -> Result<(), CallError> {
        let body = Registration { kinds: [WorkKind::MatchRequest], version: env!("CARGO_PKG_VERSION") };
        self.client.send(Method::PUT, &self.worker_path(""), &body).await
    }

    pub async fn heartbeat(&self) -> Result<(), CallError> {
        self.post(&self.worker_path("/heartbeat"), &EmptyBody {}).await
    }

    pub async fn exit(&self, exit: &Exit) -> Result<(), CallError> {
        self.post(&self.worker_path("/exit"), exit).await
    }

    /// Claims a match request, with a long poll of up to `wait`.
    pub async fn claim(&self, wait: Duration) -> Result<ClaimAnswer, CallError> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let body = Claim { kinds: [WorkKind::MatchRequest], worker_id: &self.worker_id, max: 1, wait_ms };
        let claimed = self.client.command_within(Method::POST, "/internal/work/claim", &body, wait).await;
        let (Claimed { items }, was_unreachable) = claimed?;
        Ok(ClaimAnswer { items, was_unreachable })
    }

    pub async fn extend_lease(&self, lease: &LeaseId) -> Result<(), CallError> {
        self.post(&lease_path(lease, "heartbeat"), &EmptyBody {}).await
    }

    pub async fn fail(&self, lease: &LeaseId, error: &str) -> Result<(), CallError> {
        self.post(&lease_path(lease, "fail"), &Failure { error }).await
    }

    pub async fn report_matches(&self, job: Uuid, found: &[Match]) -> Result<MatchesReported, CallError> {
        self.client.command(Method::POST, &format!("/jobs/{job}/matches"), found).await
    }

    pub async fn report_progress(&self, job: Uuid, progress: &Progress<'_>) -> Result<(), CallError> {
        self.post(&format!("/jobs/{job}/match-progress"), &[progress]).await
    }

    async fn post<B: Serialize + ?Sized + Sync>(&self, path: &str, body: &B) -> Result<(), CallError> {
        self.client.send(Method::POST, path, body).await
    }

    fn worker_path(&self, rest: &str) -> String {
        format!("/internal/workers/{}{rest}", self.worker_id.0)
    }
}

fn lease_path(lease: &LeaseId, action: &str) -> String {
    format!("/internal/work/{}/{action}", lease.0)
}
