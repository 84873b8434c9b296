//! The client of Matchbook's HTTP API for workers. While the server is unreachable or busy, calls are retried without
//! limit: the server may be restarted at any time, and the work continues.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{info, warn};
use uuid::Uuid;

use crate::backoff::Backoff;
use crate::wire::{
    Claim, Claimed, EmptyBody, Exit, Failure, Item, LeaseId, Match, MatchesReported, Problem, Progress,
    Registration, WorkKind, WorkerId,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The timeout of one attempt, without the wait of a long poll.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("the token contains characters that a header cannot: use --token as it was minted")]
    Token,
    #[error("the worker id `{0}` is not valid in a path: use letters, digits, `-`, `_` and `.`")]
    WorkerId(String),
    #[error("cannot set up the http client: {0}")]
    Client(#[from] reqwest::Error),
}

/// Why a call failed. Transient errors are not included, because they are retried.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{call} was refused with {status}: {problem}")]
    Refused { call: String, status: StatusCode, problem: Box<Problem> },
    #[error("the response to {call} does not follow the api ({source}); is --url a matchbook server?")]
    Unreadable { call: String, source: serde_json::Error },
}

impl CallError {
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Unreadable { .. } => None,
        }
    }
}

/// The error of one attempt.
#[derive(Debug)]
enum AttemptError {
    Transient { error: String, retry_after: Option<Duration> },
    Final(CallError),
}

#[derive(Debug)]
pub struct Api {
    client: Client,
    server: String,
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
        let server = server.trim_end_matches('/').to_owned();
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.~:".contains(c);
        if worker_id.0.is_empty() || !worker_id.0.chars().all(is_allowed) {
            return Err(SetupError::WorkerId(worker_id.0));
        }
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let mut bearer =
                HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| SetupError::Token)?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        // Without one, reqwest panics. It may be installed already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .default_headers(headers)
            .user_agent(concat!("matchbook-matcher/", env!("CARGO_PKG_VERSION")))
            // The server is set by a flag; a proxy for web access is not used for it.
            .no_proxy()
            .build()?;
        Ok(Self { client, server, worker_id })
    }

    pub fn worker_id(&self) -> &WorkerId {
        &self.worker_id
    }

    pub async fn register(&self) -> Result<(), CallError> {
        let body = Registration { kinds: [WorkKind::MatchRequest], version: env!("CARGO_PKG_VERSION") };
        self.command(Method::PUT, &self.worker_path(""), &body).await
    }

    pub async fn heartbeat(&self) -> Result<(), CallError> {
        self.command(Method::POST, &self.worker_path("/heartbeat"), &EmptyBody {}).await
    }

    pub async fn exit(&self, exit: &Exit) -> Result<(), CallError> {
        self.command(Method::POST, &self.worker_path("/exit"), exit).await
    }

    /// Claims a match request, with a long poll of up to `wait`.
    pub async fn claim(&self, wait: Duration) -> Result<ClaimAnswer, CallError> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let body = Claim { kinds: [WorkKind::MatchRequest], worker_id: &self.worker_id, max: 1, wait_ms };
        let (bytes, attempts) =
            self.call(Method::POST, "/internal/work/claim", &body, ATTEMPT_TIMEOUT + wait).await?;
        let claimed: Claimed = decoded("claim", &bytes)?;
        Ok(ClaimAnswer { items: claimed.items, was_unreachable: attempts > 0 })
    }

    pub async fn extend_lease(&self, lease: &LeaseId) -> Result<(), CallError> {
        self.command(Method::POST, &lease_path(lease, "heartbeat"), &EmptyBody {}).await
    }

    pub async fn fail(&self, lease: &LeaseId, error: &str) -> Result<(), CallError> {
        self.command(Method::POST, &lease_path(lease, "fail"), &Failure { error }).await
    }

    pub async fn report_matches(&self, job: Uuid, found: &[Match]) -> Result<MatchesReported, CallError> {
        let path = format!("/jobs/{job}/matches");
        let (bytes, _) = self.call(Method::POST, &path, found, ATTEMPT_TIMEOUT).await?;
        decoded(&path, &bytes)
    }

    pub async fn report_progress(&self, job: Uuid, progress: &Progress<'_>) -> Result<(), CallError> {
        self.command(Method::POST, &format!("/jobs/{job}/match-progress"), &[progress]).await
    }

    fn worker_path(&self, rest: &str) -> String {
        format!("/internal/workers/{}{rest}", self.worker_id.0)
    }

    /// A call whose response the worker does not need.
    async fn command<B>(&self, method: Method, path: &str, body: &B) -> Result<(), CallError>
    where
        B: Serialize + ?Sized + Sync,
    {
        self.call(method, path, body, ATTEMPT_TIMEOUT).await.map(drop)
    }

    /// Retries until the server succeeds or refuses; also returns the number of failed attempts. All attempts have the same
    /// idempotency key, so that a report whose response was lost counts once.
    async fn call<B>(
        &self,
        method: Method,
        path: &str,
        body: &B,
        timeout: Duration,
    ) -> Result<(Vec<u8>, u32), CallError>
    where
        B: Serialize + ?Sized + Sync,
    {
        let key = Uuid::new_v4();
        let mut backoff = Backoff::new(key.as_u64_pair().1);
        let call = format!("{method} {path}");
        loop {
            let request = self
                .client
                .request(method.clone(), format!("{}{path}", self.server))
                .timeout(timeout)
                .header("idempotency-key", key.to_string())
                .json(body);
            match attempt(&call, request).await {
                Ok(bytes) => {
                    if backoff.attempts() > 0 {
                        info!(%call, attempts = backoff.attempts() + 1, "the server responds again");
                    }
                    return Ok((bytes, backoff.attempts()));
                }
                Err(AttemptError::Final(error)) => return Err(error),
                Err(AttemptError::Transient { error, retry_after }) => {
                    let wait = backoff.next(retry_after);
                    warn!(%call, %error, wait_ms = wait.as_millis() as u64, "retrying");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}

fn lease_path(lease: &LeaseId, action: &str) -> String {
    format!("/internal/work/{}/{action}", lease.0)
}

async fn attempt(call: &str, request: RequestBuilder) -> Result<Vec<u8>, AttemptError> {
    let transient =
        |error: &reqwest::Error| AttemptError::Transient { error: causes(error), retry_after: None };
    let response = request.send().await.map_err(|error| transient(&error))?;
    let status = response.status();
    let retry_after = retry_after(&response);
    let bytes = response.bytes().await.map_err(|error| transient(&error))?;
    if status.is_success() {
        return Ok(bytes.to_vec());
    }
    let problem = serde_json::from_slice(&bytes).unwrap_or_else(|_| {
        let title = status.canonical_reason().unwrap_or("unknown reason").to_lowercase();
        Box::new(Problem { title, ..Problem::default() })
    });
    // 507, a full disk of the server, is also transient: it ends when space is freed.
    let is_transient = status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    if is_transient {
        return Err(AttemptError::Transient { error: format!("{status}: {problem}"), retry_after });
    }
    Err(AttemptError::Final(CallError::Refused { call: call.to_owned(), status, problem }))
}

fn decoded<T: DeserializeOwned>(call: &str, bytes: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(bytes).map_err(|source| CallError::Unreadable { call: call.to_owned(), source })
}

/// `Retry-After` in seconds; the form with a date would need synchronized clocks.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The error with its causes; its own message is only "error sending request".
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
