//! The HTTP client of the commands. They use the public API of a running server.

use std::time::Duration;

use clap::Args;
use read_api::routes::operations::dto::Ready;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::Failure;

/// The address of the server, and the caller's token.
#[derive(Args, Clone, Debug)]
pub struct Server {
    /// The server's address
    #[arg(long, env = "MATCHBOOK_URL", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// Token for the API; `matchbook token` mints one. Not needed on an open server
    #[arg(long, env = "MATCHBOOK_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// The timeout of a call without a stream.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The most attempts of a call while the server does not respond, with a growing pause: about a minute in total.
const ATTEMPTS_MAX: u32 = 12;

#[derive(Clone, Debug)]
pub struct Client {
    server: Server,
    http: reqwest::Client,
}

impl Client {
    pub fn new(server: Server) -> Result<Self, Failure> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .build()
            .map_err(|error| Failure::Failed(format!("cannot create an HTTP client: {error}")))?;
        Ok(Self { server, http })
    }

    pub fn url(&self) -> &str {
        self.server.url.trim_end_matches('/')
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        parse_body(self.send(Method::GET, path, None, None).await?).await
    }

    /// Asks once whether the server is ready.
    pub async fn ready(&self) -> Result<Ready, Failure> {
        let request = self.request(Method::GET, "/ready").timeout(Duration::from_secs(5));
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        // A server that is not ready answers 503 with the same object.
        let is_object = answer.status() == StatusCode::SERVICE_UNAVAILABLE;
        let answer = if is_object { answer } else { check_status(answer).await? };
        parse_body(answer).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        self.command(Method::POST, path, body).await
    }

    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        self.command(Method::PUT, path, body).await
    }

    /// Sends a command with a new idempotency key, so that retries are safe.
    async fn command<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<T, Failure> {
        let key = uuid::Uuid::new_v4().to_string();
        parse_body(self.send(method, path, Some(body), Some(&key)).await?).await
    }

    /// Sends one request without retries, and returns the server's time.
    pub async fn probe(&self, path: &str) -> Result<Option<std::time::SystemTime>, Failure> {
        let request = self.request(Method::GET, path).timeout(Duration::from_secs(5));
        let answer = check_status(request.send().await.map_err(|error| self.unreachable(&error))?).await?;
        let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
        Ok(date.and_then(|date| httpdate::parse_http_date(date).ok()))
    }

    /// Opens a streaming response.
    pub async fn stream(&self, path: &str, accept: &str) -> Result<Response, Failure> {
        let request = self.request(Method::GET, path).header("accept", accept);
        check_status(request.send().await.map_err(|error| self.unreachable(&error))?).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Response, Failure> {
        let mut attempts = 0;
        loop {
            let mut request = self.request(method.clone(), path).timeout(CALL_TIMEOUT);
            if let Some(body) = body {
                request = request.json(body);
            }
            if let Some(key) = key {
                request = request.header("idempotency-key", key);
            }
            attempts += 1;
            match request.send().await {
                Ok(answer) if !is_retryable(answer.status()) || attempts == ATTEMPTS_MAX => {
                    return check_status(answer).await;
                }
                Err(error) if attempts == ATTEMPTS_MAX => return Err(self.unreachable(&error)),
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(250) * attempts.min(20)).await,
            }
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url()));
        match &self.server.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        Failure::Unreachable(format!(
            "no response from {}: {error}; is the server running? (`matchbook serve`, or --url)",
            self.url()
        ))
    }
}

/// Whether the same call may succeed later.
fn is_retryable(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS | StatusCode::INSUFFICIENT_STORAGE
    )
}

async fn check_status(answer: Response) -> Result<Response, Failure> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let problem: Value = answer.json().await.unwrap_or_default();
    let text = |member: &str| problem.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut message = format!("the server refused ({status}): {}", text("detail"));
    for error in problem.get("errors").and_then(Value::as_array).into_iter().flatten() {
        let part = |member: &str| error.get(member).and_then(Value::as_str).unwrap_or_default();
        message.push_str(&format!("\n  {}: {}", part("field"), part("reason")));
    }
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        message.push_str("\n  set a token with --token or MATCHBOOK_TOKEN; `matchbook token` mints one");
    }
    Err(Failure::Failed(message))
}

async fn parse_body<T: DeserializeOwned>(answer: Response) -> Result<T, Failure> {
    answer.json().await.map_err(|error| {
        Failure::Failed(format!(
            "the server's response cannot be parsed: {error}; is it a matchbook server of this version?"
        ))
    })
}
