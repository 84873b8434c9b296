//! The client of Matchbook's HTTP API for workers. While the server is unreachable or busy, calls are repeated without limit: the
//! server may be restarted at any time, and the work continues.

use std::fmt;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client as Http, Method, RequestBuilder, Response, StatusCode};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::{info, warn};
use uuid::Uuid;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The timeout of one attempt, without the wait of a long poll.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The limit on a server's `Retry-After`.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("`{url}` is not the address of a server: {reason}")]
    Url { url: String, reason: String },
    #[error("the token contains characters that a header cannot: use it as it was minted")]
    Token,
    #[error("cannot set up the http client: {0}")]
    Client(#[from] reqwest::Error),
}

/// Why a call failed. Transient errors are not included, because such calls are repeated.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{call} was refused with {status}: {problem}")]
    Refused { call: String, status: StatusCode, problem: Box<Problem> },
    #[error("the response to {call} does not follow the api ({source}); is it a matchbook server?")]
    Unreadable { call: String, source: serde_json::Error },
}

impl CallError {
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Unreadable { .. } => None,
        }
    }

    /// Whether a call under a lease was refused because the lease has ended.
    pub fn is_lost_lease(&self) -> bool {
        matches!(self.status(), Some(StatusCode::CONFLICT | StatusCode::NOT_FOUND))
    }
}

/// An RFC 9457 problem, for messages.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Problem {
    pub title: String,
    pub detail: String,
    pub code: String,
    pub request_id: String,
    pub errors: Vec<FieldProblem>,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FieldProblem {
    pub field: String,
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.detail.is_empty() { &self.title } else { &self.detail })?;
        for error in &self.errors {
            write!(f, "; {}: {}", error.field, error.reason)?;
        }
        if !self.code.is_empty() {
            write!(f, " ({})", self.code)?;
        }
        if !self.request_id.is_empty() {
            write!(f, " [request {}]", self.request_id)?;
        }
        Ok(())
    }
}

/// The error of one attempt.
#[derive(Debug)]
enum AttemptError {
    Transient { error: String, retry_after: Option<Duration> },
    Final(CallError),
}

/// A client of one server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: Http,
    server: String,
}

impl Client {
    /// # Errors
    /// [`SetupError`] for a wrong address or token.
    pub fn new(server: &str, token: Option<&str>) -> Result<Self, SetupError> {
        let server =
            server_url(server).map_err(|reason| SetupError::Url { url: server.to_owned(), reason })?;
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let mut bearer =
                HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| SetupError::Token)?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        // Without one, reqwest panics. It may be installed already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = Http::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .default_headers(headers)
            .user_agent(concat!("matchbook-worker/", env!("CARGO_PKG_VERSION")))
            // The server is set by a flag; a proxy for web access is not used for it.
            .no_proxy()
            .build()?;
        Ok(Self { http, server })
    }

    /// The address of the server, without a slash at its end.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Like [`Self::command`], for a command whose answer is not needed.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn send<B>(&self, method: Method, path: &str, body: &B) -> Result<(), CallError>
    where
        B: Serialize + ?Sized + Sync,
    {
        self.command::<B, IgnoredAny>(method, path, body).await.map(drop)
    }

    /// Sends a command until it is answered. All attempts have the same idempotency key, so it takes effect once.
    ///
    /// # Errors
    /// [`CallError`] if the server refuses it.
    pub async fn command<B, T>(&self, method: Method, path: &str, body: &B) -> Result<T, CallError>
    where
        B: Serialize + ?Sized + Sync,
        T: DeserializeOwned,
    {
        self.command_within(method, path, body, Duration::ZERO).await.map(|(answer, _)| answer)
    }

    /// Like [`Self::command`], for a long poll of up to `wait`. Also tells whether the server was unreachable meanwhile.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn command_within<B, T>(
        &self,
        method: Method,
        path: &str,
        body: &B,
        wait: Duration,
    ) -> Result<(T, bool), CallError>
    where
        B: Serialize + ?Sized + Sync,
        T: DeserializeOwned,
    {
        let key = Uuid::new_v4().to_string();
        let request = || {
            self.http
                .request(method.clone(), format!("{}{path}", self.server))
                .timeout(ATTEMPT_TIMEOUT + wait)
                .header("idempotency-key", &key)
                .json(body)
        };
        self.until_answered(&format!("{method} {path}"), request).await
    }

    /// Reads until it is answered, at least as of a position of the log.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str, min: Option<&Value>) -> Result<T, CallError> {
        let request = || {
            let request = self.http.get(format!("{}{path}", self.server)).timeout(ATTEMPT_TIMEOUT);
            match min {
                Some(min) => request.header("x-min-position", min.to_string()),
                None => request,
            }
        };
        self.until_answered(&format!("GET {path}"), request).await.map(|(answer, _)| answer)
    }

    async fn until_answered<T: DeserializeOwned>(
        &self,
        call: &str,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<(T, bool), CallError> {
        let mut attempts = 0_u32;
        loop {
            match attempt(call, request()).await {
                Ok(bytes) => {
                    if attempts > 0 {
                        info!(%call, attempts = attempts + 1, "the server responds again");
                    }
                    let answer = serde_json::from_slice(&bytes);
                    let unreadable = |source| CallError::Unreadable { call: call.to_owned(), source };
                    return Ok((answer.map_err(unreadable)?, attempts > 0));
                }
                Err(AttemptError::Final(error)) => return Err(error),
                Err(AttemptError::Transient { error, retry_after }) => {
                    let pause = pause(attempts, retry_after);
                    attempts += 1;
                    warn!(%call, %error, pause_ms = pause.as_millis() as u64, "repeating");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

/// The address of a server, without a slash at its end. It is checked, so that a wrong one is an error instead of an unreachable server.
///
/// # Errors
/// What is wrong with it.
pub fn server_url(text: &str) -> Result<String, String> {
    match reqwest::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(text.trim_end_matches('/').to_owned()),
        Ok(url) => Err(format!("`{}:` is not supported; write it as http://host:port", url.scheme())),
        Err(error) => Err(format!("it is not a URL ({error}); write it as http://host:port")),
    }
}

/// The pause after some failed attempts: half to all of a doubling delay, so that workers that lost the server together do not
/// come back together, and never less than `Retry-After`.
pub fn pause(attempts: u32, retry_after: Option<Duration>) -> Duration {
    let delay = FIRST_PAUSE.saturating_mul(1 << attempts.min(16)).min(PAUSE_MAX);
    let jittered = delay.mul_f64(0.5 + 0.5 * fastrand::f64());
    jittered.max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX))
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

/// `Retry-After` in seconds; the form with a date would need synchronized clocks.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// An error with its causes; its own message is only "error sending request".
pub fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_with_jitter() {
        for (attempts, full) in (0..).zip([200, 400, 800, 1_600, 3_200, 5_000, 5_000]) {
            let pause = pause(attempts, None).as_millis();
            assert!((full / 2..=full).contains(&pause), "{pause} is not within half of {full}");
        }
        assert_eq!(pause(0, Some(Duration::from_secs(30))), Duration::from_secs(30));
        assert_eq!(pause(0, Some(Duration::from_secs(3_000))), RETRY_AFTER_MAX);
    }

    #[test]
    fn wrong_address_is_an_error_and_not_an_unreachable_server() {
        for wrong in ["localhost:8080", "ftp://a.example", "", "http://"] {
            assert!(matches!(Client::new(wrong, None), Err(SetupError::Url { .. })), "{wrong}");
        }
        let client = Client::new("http://127.0.0.1:8080/", Some("a.b.c")).unwrap();
        assert_eq!(client.server(), "http://127.0.0.1:8080");
        assert!(matches!(Client::new("http://127.0.0.1", Some("a\n")), Err(SetupError::Token)));
    }
}
