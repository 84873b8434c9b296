//! The client of Matchbook's HTTP API for a game server and players. Calls to an unreachable or busy server are retried.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The limit on a server's `Retry-After`.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// A client of a server.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
    server: String,
    token: Option<String>,
}

/// A client that sends requests as one user.
#[derive(Clone, Debug)]
pub struct Caller {
    api: Api,
    tenant: String,
    user: String,
}

/// A final response of the server: neither a server error nor a rate limit.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiResponse {
    pub status: StatusCode,
    /// Null if the response is empty or not JSON.
    pub body: Value,
}

/// The server sent no final response in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {error}")]
pub struct Unreachable {
    pub path: String,
    pub error: String,
}

impl ApiResponse {
    /// The message of a problem document.
    pub fn problem(&self) -> String {
        let message = ["detail", "title"].iter().find_map(|member| self.body.get(member)?.as_str());
        message.map_or_else(|| self.status.to_string(), str::to_owned)
    }

    /// A string member of the response.
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.body.pointer(pointer)?.as_str()
    }
}

impl Api {
    /// # Errors
    /// If the system does not allow to create a client.
    pub fn new(server: &str, token: Option<String>) -> Result<Self, reqwest::Error> {
        // Without one, reqwest panics. It may be installed already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(3))
            .user_agent(concat!("matchbook-arena/", env!("CARGO_PKG_VERSION")))
            // The server is set by a flag; a proxy for web access is not used for it.
            .no_proxy()
            .build()?;
        Ok(Self { client, server: server.trim_end_matches('/').to_owned(), token })
    }

    /// A caller with this tenant and user, for a server without keys.
    pub fn caller(&self, tenant: &str, user: &str) -> Caller {
        Caller { api: self.clone(), tenant: tenant.to_owned(), user: user.to_owned() }
    }
}

impl Caller {
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Builds a request, which the caller sends.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.api.client.request(method, format!("{}{path}", self.api.server));
        let request = request.header("x-tenant", &self.tenant).header("x-user", &self.user);
        match &self.api.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Retries until the server sends a final response, for at most `timeout`. All attempts have the same idempotency key, so
    /// that a command whose response was lost takes effect once.
    ///
    /// # Errors
    /// [`Unreachable`], with the last error.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        timeout: Duration,
    ) -> Result<ApiResponse, Unreachable> {
        self.send_with_key(Uuid::new_v4(), method, path, body, timeout).await
    }

    /// As [`Self::send`], with a key from the caller: the same command with the same key returns the same response, even
    /// later.
    ///
    /// # Errors
    /// [`Unreachable`], with the last error.
    pub async fn send_with_key(
        &self,
        key: Uuid,
        method: Method,
        path: &str,
        body: Option<&Value>,
        timeout: Duration,
    ) -> Result<ApiResponse, Unreachable> {
        let (key, until) = (key.to_string(), Instant::now() + timeout);
        let mut pause = PAUSE_FIRST;
        loop {
            let mut request = self.request(method.clone(), path).timeout(ATTEMPT_TIMEOUT);
            if method != Method::GET {
                request = request.header("idempotency-key", &key);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            let (error, retry_after) = match attempt(request).await {
                Ok((answer, _)) if is_final(answer.status) => return Ok(answer),
                Ok((answer, retry_after)) => {
                    (format!("{}: {}", answer.status, answer.problem()), retry_after)
                }
                Err(error) => (describe(&error), None),
            };
            let wait = jittered(pause).max(retry_after.unwrap_or_default());
            if Instant::now() + wait > until {
                return Err(Unreachable { path: path.to_owned(), error });
            }
            tracing::debug!(user = self.user, path, error, "retrying");
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

fn is_final(status: StatusCode) -> bool {
    !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS
}

async fn attempt(request: RequestBuilder) -> Result<(ApiResponse, Option<Duration>), reqwest::Error> {
    let response = request.send().await?;
    let (status, delay) = (response.status(), retry_after(&response));
    let body = response.bytes().await?;
    Ok((ApiResponse { status, body: serde_json::from_slice(&body).unwrap_or_default() }, delay))
}

fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// Half to all of a pause, so that players that lost the server at the same time do not retry at the same time.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + 0.5 * fastrand::f64())
}

fn describe(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "timeout"
    } else if error.is_connect() {
        "the server is unreachable"
    } else {
        "the connection broke"
    };
    what.to_owned()
}
