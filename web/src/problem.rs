//! The one form in which a request is refused: RFC 9457 `application/problem+json`.
//!
//! A route answers `Result<Json<T>, Problem>`. Everything else that can go wrong on the way (a path nobody serves, a body
//! that is no JSON, a panic) is turned into a [`Problem`] at the edge by [`Problem::from_error`], so that a client reads
//! one shape only.

mod code;
mod foreign;
mod openapi;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use poem::error::ResponseError;
use poem::http::{HeaderValue, StatusCode, header};
use poem::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};

pub use code::{Code, markdown, page};
pub use foreign::BodyTooLarge;

/// The media type of every refusal.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// One part of the request that is wrong. `field` is a path such as `images[3].url`, or the parameter's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    pub field: String,
    pub reason: String,
}

impl FieldError {
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// Why a request was refused, and what the caller can do about it.
#[derive(Clone, Debug)]
pub struct Problem {
    pub code: Code,
    pub detail: Cow<'static, str>,
    pub errors: Vec<FieldError>,
    /// Boxed, so that a `Result` that might be a problem stays small.
    more: Box<More>,
}

/// What few problems have.
#[derive(Clone, Debug, Default)]
struct More {
    retry_after: Option<Duration>,
    headers: Vec<(header::HeaderName, HeaderValue)>,
    members: Map<String, Value>,
    request_id: Option<String>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), more: Box::default() }
    }

    /// 400 for one field or parameter that cannot be read: mistyped, missing, out of range.
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        let error = FieldError::new(field, reason);
        let detail = format!("`{}`: {}", error.field, error.reason);
        Self::new(Code::InvalidRequest, detail).error(error)
    }

    /// 422 for one field that can be read and is refused for its content.
    pub fn unprocessable(field: impl Into<String>, reason: impl Into<String>) -> Self {
        let error = FieldError::new(field, reason);
        let detail = format!("`{}`: {}", error.field, error.reason);
        Self::new(Code::Unprocessable, detail).error(error)
    }

    /// 404: it is not there, or belongs to somebody else; the caller is not told which.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::NotFound, detail)
    }

    /// 409: the state of the thing forbids it.
    pub fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Conflict, detail)
    }

    /// 410: it was there, and is gone for good.
    pub fn gone(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Gone, detail)
    }

    /// 403: the caller is known and lacks a right.
    pub fn forbidden(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Forbidden, detail)
    }

    /// 422: the idempotency key was used before, with another request.
    pub fn idempotency_key_reused() -> Self {
        Self::new(
            Code::IdempotencyKeyReused,
            "this idempotency key came before with another request; send the same request, or take a new key",
        )
    }

    /// 429 with the time after which it may work.
    pub fn rate_limited(detail: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self::new(Code::RateLimited, detail).retry_after(retry_after)
    }

    /// 503: nothing was done; the same request may work after `retry_after`.
    pub fn unavailable(detail: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self::new(Code::Unavailable, detail).retry_after(retry_after)
    }

    /// 503: nobody knows whether it was done. The way out is to repeat it under the same idempotency key.
    pub fn outcome_unknown() -> Self {
        Self::new(
            Code::OutcomeUnknown,
            "it is not known whether this was done; repeat it with the same Idempotency-Key, which never does it twice",
        )
        .retry_after(Duration::from_secs(1))
    }

    /// 507: the log's disk is full. Reads go on.
    pub fn insufficient_storage(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InsufficientStorage, detail).retry_after(Duration::from_secs(30))
    }

    /// 500. The cause goes to the server's log here, and nowhere else.
    pub fn internal(cause: &dyn fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed inside the server");
        Self::new(
            Code::Internal,
            "something failed inside the server; the request id finds it in the server's log",
        )
    }

    /// One more part of the request that is wrong.
    #[must_use]
    pub fn error(mut self, error: FieldError) -> Self {
        self.errors.push(error);
        self
    }

    /// When to try again; at least a second.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.more.retry_after = Some(wait);
        self
    }

    /// A member of the answer beside those of every problem, as `existing` with what is in the way.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => {
                self.more.members.insert(member.to_owned(), value);
            }
            Err(error) => tracing::error!(%error, member, "a member of a problem cannot be written as JSON"),
        }
        self
    }

    /// Names the words that a parameter takes, where the framework only says that it takes none but a few.
    #[must_use]
    pub(crate) fn with_choices<'a>(self, choices: impl Fn(&str) -> Option<&'a [String]>) -> Self {
        let [error] = self.errors.as_slice() else { return self };
        match choices(&error.field) {
            Some(words) if error.reason == foreign::NOT_A_CHOICE => {
                let reason = format!("must be one of {}", words.join(", "));
                let detail = format!("`{}`: {reason}", error.field);
                let errors = vec![FieldError::new(error.field.clone(), reason)];
                Self { detail: detail.into(), errors, ..self }
            }
            Some(_) | None => self,
        }
    }

    /// Names the line of a body of many lines in which the errors are.
    #[must_use]
    pub(crate) fn at_line(mut self, line: usize) -> Self {
        for error in &mut self.errors {
            error.field = match error.field.as_str() {
                "body" => format!("line {line}"),
                field => format!("line {line}: {field}"),
            };
        }
        self.detail = format!("line {line}: {}", self.detail).into();
        self
    }

    /// A header of the answer. Used for `Allow` and `WWW-Authenticate`.
    #[must_use]
    pub(crate) fn header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.more.headers.push((name, value));
        self
    }

    #[must_use]
    pub(crate) fn request_id(mut self, id: &str) -> Self {
        self.more.request_id = Some(id.to_owned());
        self
    }

    pub fn status(&self) -> StatusCode {
        self.code.status()
    }

    fn body(&self) -> Value {
        let mut body = self.more.members.clone();
        body.insert("type".into(), self.code.type_uri().into());
        body.insert("title".into(), self.code.title().into());
        body.insert("status".into(), self.status().as_u16().into());
        body.insert("code".into(), self.code.as_str().into());
        body.insert("detail".into(), self.detail.as_ref().into());
        if !self.errors.is_empty() {
            let errors = self
                .errors
                .iter()
                .map(|error| serde_json::json!({ "field": error.field, "reason": error.reason }));
            body.insert("errors".into(), errors.collect());
        }
        if let Some(id) = &self.more.request_id {
            body.insert("request_id".into(), id.as_str().into());
        }
        Value::Object(body)
    }

    fn respond(&self) -> Response {
        let mut response = Response::builder()
            .status(self.status())
            .content_type(MEDIA_TYPE)
            .header(header::CACHE_CONTROL, "no-store")
            .body(self.body().to_string());
        if let Some(wait) = self.more.retry_after {
            let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        for (name, value) in &self.more.headers {
            response.headers_mut().insert(name.clone(), value.clone());
        }
        response
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status(&self) -> StatusCode {
        self.code.status()
    }

    fn as_response(&self) -> Response {
        self.respond()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.respond()
    }
}
