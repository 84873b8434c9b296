//! Matchbook's HTTP API as a game server and a player use it. A server that is away or busy is waited for.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

const TRY_TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A server that asks for more is asked again after this much all the same.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// A server.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
    server: String,
    token: Option<String>,
}

/// A server, as one caller reaches it.
#[derive(Clone, Debug)]
pub struct Caller {
    api: Api,
    tenant: String,
    user: String,
}

/// What the server answered for good: neither that it fails, nor that it is asked too much.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: StatusCode,
    /// Null if the answer is empty or no JSON.
    pub body: Value,
}

/// The server gave no answer for good in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {trouble}")]
pub struct Away {
    pub path: String,
    pub trouble: String,
}

impl Answer {
    /// What a problem document says.
    pub fn problem(&self) -> String {
        let said = ["detail", "title"].iter().find_map(|member| self.body.get(member)?.as_str());
        said.map_or_else(|| self.status.to_string(), str::to_owned)
    }

    /// A member of the answer that is a text.
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.body.pointer(pointer)?.as_str()
    }
}

impl Api {
    /// # Errors
    /// If the system lets no client be made.
    pub fn new(server: &str, token: Option<String>) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(3))
            .user_agent(concat!("matchbook-arena/", env!("CARGO_PKG_VERSION")))
            // The one server is named by a flag; a proxy meant for the web is not on the way to it.
            .no_proxy()
            .build()?;
        Ok(Self { client, server: server.trim_end_matches('/').to_owned(), token })
    }

    /// Where a server without keys takes the caller's word for who they are.
    pub fn caller(&self, tenant: &str, user: &str) -> Caller {
        Caller { api: self.clone(), tenant: tenant.to_owned(), user: user.to_owned() }
    }
}

impl Caller {
    pub fn user(&self) -> &str {
        &self.user
    }

    /// A request that is sent by whoever asks for it.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.api.client.request(method, format!("{}{path}", self.api.server));
        let request = request.header("x-tenant", &self.tenant).header("x-user", &self.user);
        match &self.api.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Tries until the server answers for good, as long as `patience` lasts. All tries carry one key, so that a command
    /// whose answer was lost counts once.
    ///
    /// # Errors
    /// [`Away`], with the last trouble.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Answer, Away> {
        self.ask_as(Uuid::new_v4(), method, path, body, patience).await
    }

    /// As [`Self::ask`], under a key that the caller keeps: asked again with it, even later, the same command is answered
    /// as it was.
    ///
    /// # Errors
    /// [`Away`], with the last trouble.
    pub async fn ask_as(
        &self,
        key: Uuid,
        method: Method,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Answer, Away> {
        let (key, until) = (key.to_string(), Instant::now() + patience);
        let mut pause = PAUSE_FIRST;
        loop {
            let mut request = self.request(method.clone(), path).timeout(TRY_TIMEOUT);
            if method != Method::GET {
                request = request.header("idempotency-key", &key);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            let (trouble, told) = match attempt(request).await {
                Ok((answer, _)) if is_for_good(answer.status) => return Ok(answer),
                Ok((answer, told)) => (format!("{}: {}", answer.status, answer.problem()), told),
                Err(error) => (describe(&error), None),
            };
            let wait = jittered(pause).max(told.unwrap_or_default());
            if Instant::now() + wait > until {
                return Err(Away { path: path.to_owned(), trouble });
            }
            tracing::debug!(user = self.user, path, trouble, "trying again");
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

fn is_for_good(status: StatusCode) -> bool {
    !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS
}

async fn attempt(request: RequestBuilder) -> Result<(Answer, Option<Duration>), reqwest::Error> {
    let response = request.send().await?;
    let (status, told) = (response.status(), retry_after(&response));
    let body = response.bytes().await?;
    Ok((Answer { status, body: serde_json::from_slice(&body).unwrap_or_default() }, told))
}

fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// Half to whole of a pause, so that those who lost the server together do not come back together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + 0.5 * fastrand::f64())
}

fn describe(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "the server cannot be reached"
    } else {
        "the connection broke"
    };
    what.to_owned()
}
