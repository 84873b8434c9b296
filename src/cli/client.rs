//! How the commands speak to a running server: over its HTTP API, like everyone else.

use std::time::Duration;

use clap::Args;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Failure;

/// Where the server is, and who asks.
#[derive(Args, Clone, Debug)]
pub(crate) struct Server {
    /// The server's address
    #[arg(long, env = "MATCHBOOK_URL", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,
    /// Token for the API; `matchbook token` makes one. Not needed on an open server
    #[arg(long, env = "MATCHBOOK_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
}

/// How long a call may take whose answer is no stream.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a call is tried while the server does not answer, with a growing pause in between: about a minute in all.
const TRIES_MAX: u32 = 12;

#[derive(Clone, Debug)]
pub(crate) struct Client {
    server: Server,
    http: reqwest::Client,
}

impl Client {
    pub(crate) fn new(server: Server) -> Result<Self, Failure> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .build()
            .map_err(|error| Failure::Failed(format!("cannot make an HTTP client: {error}")))?;
        Ok(Self { server, http })
    }

    pub(crate) fn url(&self) -> &str {
        self.server.url.trim_end_matches('/')
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        read(self.send(Method::GET, path, None, None).await?).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        self.command(Method::POST, path, body).await
    }

    pub(crate) async fn put<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        self.command(Method::PUT, path, body).await
    }

    /// Sends a command under a key of its own, so that trying again cannot do it twice.
    async fn command<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<T, Failure> {
        let key = uuid::Uuid::new_v4().to_string();
        read(self.send(method, path, Some(body), Some(&key)).await?).await
    }

    /// Asks once, and says what the server's clock shows.
    pub(crate) async fn once(&self, path: &str) -> Result<Option<std::time::SystemTime>, Failure> {
        let request = self.request(Method::GET, path).timeout(Duration::from_secs(5));
        let answer = checked(request.send().await.map_err(|error| self.unreachable(&error))?).await?;
        let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
        Ok(date.and_then(|date| httpdate::parse_http_date(date).ok()))
    }

    /// An answer that goes on: its body is read as it comes.
    pub(crate) async fn stream(&self, path: &str, accept: &str) -> Result<Response, Failure> {
        let request = self.request(Method::GET, path).header("accept", accept);
        checked(request.send().await.map_err(|error| self.unreachable(&error))?).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Response, Failure> {
        let mut tries = 0;
        loop {
            let mut request = self.request(method.clone(), path).timeout(CALL_TIMEOUT);
            if let Some(body) = body {
                request = request.json(body);
            }
            if let Some(key) = key {
                request = request.header("idempotency-key", key);
            }
            tries += 1;
            match request.send().await {
                Ok(answer) if !worth_another_try(answer.status()) || tries == TRIES_MAX => {
                    return checked(answer).await;
                }
                Err(error) if tries == TRIES_MAX => return Err(self.unreachable(&error)),
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(250) * tries.min(20)).await,
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
            "no answer from {}: {error}; is the server running? (`matchbook serve`, or --url)",
            self.url()
        ))
    }
}

/// Whether the server may well answer the same call otherwise in a moment.
fn worth_another_try(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS | StatusCode::INSUFFICIENT_STORAGE
    )
}

async fn checked(answer: Response) -> Result<Response, Failure> {
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
        message.push_str("\n  give a token with --token or MATCHBOOK_TOKEN; `matchbook token` makes one");
    }
    Err(Failure::Failed(message))
}

async fn read<T: DeserializeOwned>(answer: Response) -> Result<T, Failure> {
    answer.json().await.map_err(|error| {
        Failure::Failed(format!("the server's answer cannot be read: {error}; is it a matchbook?"))
    })
}
