//! The HTTP client of the commands. They use the public API of a running server.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use read_api::routes::operations::dto::Ready;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use web::http_client;
use web::paging::Page;

use crate::failure::Failure;

/// The address of a server that was started without settings.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// The address of the server, and the caller's token.
#[derive(Args, Clone, Debug)]
pub struct Server {
    /// The server's address
    #[arg(long, env = "MATCHBOOK_URL", value_name = "URL", default_value = DEFAULT_URL, value_parser = server_url)]
    pub url: String,
    /// Token for the API; `matchbook token` mints one. Not needed on an open server
    #[arg(long, env = "MATCHBOOK_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// The timeout of a call without a stream.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The most attempts of a call while the server does not respond, with a growing pause: about a minute in total.
const ATTEMPTS_MAX: u32 = 22;
/// The longest of these pauses.
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// The most items of a list in one response.
const PAGE_MAX: usize = 500;

/// The address as it was given, without the slash at its end, so that a path can be added.
fn server_url(text: &str) -> Result<String, String> {
    let example = "write it as http://127.0.0.1:8080";
    let url = reqwest::Url::parse(text).map_err(|error| format!("it is not a URL ({error}); {example}"))?;
    match url.scheme() {
        "http" | "https" if url.query().is_some() || url.fragment().is_some() => {
            Err(format!("it must end after the path; {example}"))
        }
        "http" | "https" => Ok(text.trim_end_matches('/').to_owned()),
        scheme => Err(format!("`{scheme}:` is neither http nor https; {example}")),
    }
}

#[derive(Clone, Debug)]
pub struct Client {
    server: Server,
    http: reqwest::Client,
    /// Whether the server has responded before. Then a refused connection is probably a restart, which is waited for.
    has_responded: Arc<AtomicBool>,
}

impl Client {
    pub fn new(server: Server) -> Result<Self, Failure> {
        let cannot =
            |error: &dyn std::fmt::Display| Failure::Failed(format!("cannot create an HTTP client: {error}"));
        let url = reqwest::Url::parse(&server.url).map_err(|error| cannot(&error))?;
        let http = http_client::builder(&url)
            .map_err(|error| cannot(&error))?
            .connect_timeout(Duration::from_secs(5))
            .build()
            .map_err(|error| cannot(&error))?;
        Ok(Self { server, http, has_responded: Arc::default() })
    }

    pub fn url(&self) -> &str {
        &self.server.url
    }

    /// Whether the server has responded to this client.
    pub fn has_responded(&self) -> bool {
        self.has_responded.load(Ordering::Relaxed)
    }

    /// The first items of a list, and whether there are more.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        limit: usize,
    ) -> Result<List<T>, Failure> {
        let mut items: Vec<T> = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let size = (limit - items.len()).min(PAGE_MAX).to_string();
            let parameters = query.iter().copied().chain([("limit", size.as_str())]);
            let parameters = parameters.chain(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let encoded = parameters.map(|(name, value)| format!("{name}={}", encoded(value)));
            let page: Page<T> =
                self.get(&format!("{path}?{}", encoded.collect::<Vec<_>>().join("&"))).await?;
            items.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() || items.len() >= limit {
                return Ok(List { items, has_more: cursor.is_some() });
            }
        }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        parse_body(self.send(Method::GET, path, None, None).await?).await
    }

    /// Asks once whether the server is ready.
    pub async fn ready(&self) -> Result<Ready, Failure> {
        let request = self.request(Method::GET, "/ready").timeout(Duration::from_secs(5));
        let answer = self.response(request.send().await)?;
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
        let answer = check_status(self.response(request.send().await)?).await?;
        let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
        Ok(date.and_then(|date| httpdate::parse_http_date(date).ok()))
    }

    /// Opens a streaming response.
    pub async fn stream(&self, path: &str, accept: &str) -> Result<Response, Failure> {
        let request = self.request(Method::GET, path).header("accept", accept);
        check_status(self.response(request.send().await)?).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Response, Failure> {
        let prepare = |request: RequestBuilder| {
            let request = match body {
                Some(body) => request.json(body),
                None => request,
            };
            match key {
                Some(key) => request.header("idempotency-key", key),
                None => request,
            }
        };
        check_status(self.send_until_answered(&method, path, prepare).await?).await
    }

    /// Sends a batch of lines with a new idempotency key, so that retries are safe. A batch without a single right line is
    /// answered with its problem.
    pub async fn post_lines(&self, path: &str, lines: &str) -> Result<Value, Failure> {
        let key = uuid::Uuid::new_v4().to_string();
        let prepare = |request: RequestBuilder| {
            let request = request.header("content-type", "application/x-ndjson");
            request.header("idempotency-key", &key).body(lines.to_owned())
        };
        let answer = self.send_until_answered(&Method::POST, path, prepare).await?;
        let is_refused =
            matches!(answer.status(), StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY);
        parse_body(if is_refused { answer } else { check_status(answer).await? }).await
    }

    /// Sends a request, again while the server does not respond or says that it may succeed later.
    async fn send_until_answered(
        &self,
        method: &Method,
        path: &str,
        prepare: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Failure> {
        let mut attempts = 0;
        loop {
            let request = prepare(self.request(method.clone(), path).timeout(CALL_TIMEOUT));
            attempts += 1;
            let is_last = attempts == ATTEMPTS_MAX;
            match self.response(request.send().await) {
                Ok(answer) if is_last || !is_retryable(answer.status()) => return Ok(answer),
                Err(failure) if is_last || !self.has_responded() => return Err(failure),
                Err(failure) if attempts == 1 => eprintln!("{failure}; trying again for a minute"),
                Ok(_) | Err(_) => {}
            }
            tokio::time::sleep((Duration::from_millis(250) * attempts).min(PAUSE_MAX)).await;
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url()));
        match &self.server.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    fn response(&self, result: reqwest::Result<Response>) -> Result<Response, Failure> {
        let error = match result {
            Ok(response) => {
                self.has_responded.store(true, Ordering::Relaxed);
                return Ok(response);
            }
            Err(error) => error,
        };
        // The outer errors repeat the address.
        let mut cause: &dyn Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Err(Failure::Unreachable(format!(
            "no response from {}: {cause}; start the server with `matchbook serve`, or set its address with --url or \
             MATCHBOOK_URL",
            self.url()
        )))
    }
}

/// The items of a list.
#[derive(Debug)]
pub struct List<T> {
    pub items: Vec<T>,
    /// Whether the list continues after them.
    pub has_more: bool,
}

pub fn encoded(value: &str) -> PercentEncode<'_> {
    utf8_percent_encode(value, NON_ALPHANUMERIC)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_that_is_not_an_http_url_is_refused_with_the_reason() {
        for (text, reason) in [
            ("nonsense", "not a URL"),
            ("", "not a URL"),
            ("localhost:8080", "`localhost:` is neither http nor https"),
            ("127.0.0.1:8080", "not a URL"),
            ("http://", "not a URL"),
            ("http://127.0.0.1:99999", "not a URL"),
            ("http://127.0.0.1:8080/?a=b", "must end after the path"),
        ] {
            let error = server_url(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert_eq!(server_url("http://[::1]:8080/"), Ok("http://[::1]:8080".to_owned()));
        assert_eq!(server_url("https://matchbook.example/"), Ok("https://matchbook.example".to_owned()));
        assert_eq!(server_url("http://proxy/matchbook/"), Ok("http://proxy/matchbook".to_owned()));
    }
}
