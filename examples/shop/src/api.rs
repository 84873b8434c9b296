//! The client of Matchbook's HTTP API for a shop. Calls to an unreachable or busy server are retried.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
const RETRY_FOR: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(500);
/// The limit on a server's `Retry-After`.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// Why a request was not answered as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("cannot set up the http client: {0}")]
    Client(String),
    #[error("{0} does not respond: start the server, or name another one with --url")]
    Unreachable(String),
    #[error("{path} was refused with {status}: {detail}")]
    Refused { path: String, status: u16, code: String, detail: String },
}

impl Failure {
    /// Whether an earlier request with the same key did something else, so this one is not needed.
    pub fn is_repeated(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "IDEMPOTENCY_KEY_REUSED")
    }
}

/// A client of a server.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
    server: String,
    token: Option<String>,
}

impl Api {
    /// # Errors
    /// If the system does not allow to create a client.
    pub fn new(server: &str, token: Option<String>) -> Result<Self, Failure> {
        // Without one, reqwest panics. It may be installed already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(3))
            .timeout(ATTEMPT_TIMEOUT)
            .user_agent(concat!("matchbook-shop/", env!("CARGO_PKG_VERSION")))
            // The server is set by a flag; a proxy for web access is not used for it.
            .no_proxy()
            .build()
            .map_err(|error| Failure::Client(error.to_string()))?;
        Ok(Self { client, server: server.trim_end_matches('/').to_owned(), token })
    }

    /// GETs an object; none if there is no such object.
    ///
    /// # Errors
    /// [`Failure`], also if the server did not respond for two minutes.
    pub async fn get(&self, path: &str) -> Result<Option<Value>, Failure> {
        match self.send(path, &self.client.get(self.address(path))).await {
            Ok(body) => Ok(Some(body)),
            Err(Failure::Refused { status: 404, .. }) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// POSTs JSON. With a key, the server does it once, however often it is sent.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post(&self, path: &str, body: &Value, key: Option<&str>) -> Result<Value, Failure> {
        self.send(path, &keyed(self.client.post(self.address(path)).json(body), key)).await
    }

    /// POSTs one object per line.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post_lines(&self, path: &str, lines: String) -> Result<Value, Failure> {
        let request = self.client.post(self.address(path)).header(CONTENT_TYPE, "application/x-ndjson");
        self.send(path, &request.body(lines)).await
    }

    fn address(&self, path: &str) -> String {
        format!("{}{path}", self.server)
    }

    async fn send(&self, path: &str, request: &RequestBuilder) -> Result<Value, Failure> {
        let until = Instant::now() + RETRY_FOR;
        loop {
            // Bodies are in memory, so that each request can be sent again.
            let mut attempt =
                request.try_clone().ok_or_else(|| Failure::Client("the body is a stream".to_owned()))?;
            if let Some(token) = &self.token {
                attempt = attempt.bearer_auth(token);
            }
            let wait = match attempt.send().await {
                Ok(response) if is_final(response.status()) => return read(path, response).await,
                Ok(response) => retry_after(&response).unwrap_or(PAUSE),
                Err(_) => PAUSE,
            };
            if Instant::now() + wait > until {
                return Err(Failure::Unreachable(self.server.clone()));
            }
            tokio::time::sleep(wait).await;
        }
    }
}

fn keyed(request: RequestBuilder, key: Option<&str>) -> RequestBuilder {
    match key {
        Some(key) => request.header("idempotency-key", key),
        None => request,
    }
}

fn is_final(status: StatusCode) -> bool {
    !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).clamp(PAUSE, RETRY_AFTER_MAX))
}

async fn read(path: &str, response: Response) -> Result<Value, Failure> {
    let status = response.status();
    let body: Value = response.json().await.unwrap_or_default();
    if status.is_success() {
        return Ok(body);
    }
    let text = |member: &str| body.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
    Err(Failure::Refused {
        path: path.to_owned(),
        status: status.as_u16(),
        code: text("code"),
        detail: text("detail"),
    })
}
