//! The one format of errors: RFC 9457 `application/problem+json`.
//!
//! A route returns `Result<Json<T>, Problem>`. All other errors (an unknown path, a body that is not JSON, a panic) are
//! converted to a [`Problem`] by [`Problem::from_error`] in the outer layer, so that clients parse one format only.

mod code;
mod framework_errors;
mod openapi;
mod part;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use poem::error::ResponseError;
use poem::http::{HeaderValue, StatusCode, header};
use poem::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};

pub use code::{Code, markdown, page};
pub use framework_errors::{BodyTooLarge, BudgetUsedUp, BudgetUser};
pub use part::{Outcome, Part};

/// The media type of every error.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// An invalid part of the request. `field` is a path such as `images[3].url`, or the parameter's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    pub field: String,
    pub reason: String,
}

impl FieldError {
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }

    /// The same in an item of a list.
    pub(crate) fn in_item(self, index: usize) -> Self {
        let field = match self.field.as_str() {
            "body" => format!("body[{index}]"),
            field => format!("body[{index}].{field}"),
        };
        Self { field, ..self }
    }
}

/// An error response: the code, a sentence about this request, and the invalid fields.
#[derive(Clone, Debug)]
pub struct Problem {
    pub code: Code,
    pub detail: Cow<'static, str>,
    pub errors: Vec<FieldError>,
    /// Boxed, so that a `Result` that might be a problem stays small.
    extras: Box<Extras>,
}

/// Members and headers that few problems have.
#[derive(Clone, Debug, Default)]
struct Extras {
    retry_after: Option<Duration>,
    headers: Vec<(header::HeaderName, HeaderValue)>,
    members: Map<String, Value>,
    request_id: Option<String>,
    /// Stated only while no part of the request is known to be recorded.
    nothing_recorded: bool,
    parts: Vec<Part>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), extras: Box::default() }
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

    /// 404: it does not exist, or belongs to another tenant or user; the response does not distinguish them.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::NotFound, detail)
    }

    /// 426: a WebSocket client of another version of the protocol.
    pub fn websocket_version() -> Self {
        Self::new(Code::UpgradeRequired, "only version 13 of the WebSocket protocol is supported")
            .header(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))
            .header(header::UPGRADE, HeaderValue::from_static("websocket"))
    }

    /// 409: the state of the resource does not allow it.
    pub fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Conflict, detail)
    }

    /// 410: it existed, and was removed permanently.
    pub fn gone(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Gone, detail)
    }

    /// 403: the caller is authenticated and lacks a role.
    pub fn forbidden(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Forbidden, detail)
    }

    /// 422: the idempotency key was used before, with another request.
    pub fn idempotency_key_reused() -> Self {
        Self::new(
            Code::IdempotencyKeyReused,
            "this idempotency key was used before with another request; send the same request, or use a new key",
        )
    }

    /// 429 with the time after which to retry.
    pub fn rate_limited(detail: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self::new(Code::RateLimited, detail).retry_after(retry_after)
    }

    /// 503: the same request may succeed after `retry_after`.
    pub fn unavailable(detail: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self::new(Code::Unavailable, detail).retry_after(retry_after)
    }

    /// 503: it is unknown whether the command was stored. The remedy is to repeat it with the same idempotency key.
    pub fn outcome_unknown() -> Self {
        Self::new(
            Code::OutcomeUnknown,
            "it is not known whether this was done; repeat it with the same Idempotency-Key, which is safe",
        )
        .retry_after(Duration::from_secs(1))
    }

    /// 507: the log's disk is full. Reads still work.
    pub fn insufficient_storage(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InsufficientStorage, detail).retry_after(Duration::from_secs(30))
    }

    /// 500. The cause is written to the server's log only.
    pub fn internal(cause: &dyn fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed inside the server");
        Self::new(Code::Internal, "the server failed; find the cause in the server's log by the request id")
    }

    /// Adds an invalid part of the request.
    #[must_use]
    pub fn error(mut self, error: FieldError) -> Self {
        self.errors.push(error);
        self
    }

    /// Sets the time after which to retry; at least a second.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.extras.retry_after = Some(wait);
        self
    }

    /// Adds a member to the standard ones, such as `existing` with the conflicting resource.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => {
                self.extras.members.insert(member.to_owned(), value);
            }
            Err(error) => {
                tracing::error!(%error, member, "a member of a problem cannot be serialized as JSON");
            }
        }
        self
    }

    /// States that nothing of the request was recorded.
    #[must_use]
    pub fn nothing_recorded(mut self) -> Self {
        self.extras.nothing_recorded = true;
        self
    }

    /// States what happened to each part of the request, instead of [`Self::nothing_recorded`].
    #[must_use]
    pub fn parts(mut self, parts: Vec<Part>) -> Self {
        self.extras.parts = parts;
        self
    }

    /// The parts of the request, if some of them are recorded.
    pub fn known_parts(&self) -> &[Part] {
        &self.extras.parts
    }

    /// Whether the request may have been recorded.
    pub fn leaves_outcome_unknown(&self) -> bool {
        self.code == Code::OutcomeUnknown
    }

    /// The detail, with what is known to be recorded.
    fn whole_detail(&self) -> Cow<'_, str> {
        let Extras { nothing_recorded, parts, .. } = &*self.extras;
        if parts.is_empty() {
            return match nothing_recorded {
                true => format!("{}; nothing was recorded", self.detail).into(),
                false => Cow::Borrowed(&self.detail),
            };
        }
        let remedy = match self.status().is_server_error() {
            true => "; send the same request again to complete it: nothing is recorded twice",
            false => "",
        };
        format!("{}; {}{remedy}", self.detail, part::summary(parts)).into()
    }

    /// Adds the number of the line to the errors of an NDJSON body.
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

    /// Adds a header to the response. Used for `Allow`, `WWW-Authenticate` and `Content-Range`.
    #[must_use]
    pub fn header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.extras.headers.push((name, value));
        self
    }

    #[must_use]
    pub(crate) fn request_id(mut self, id: &str) -> Self {
        self.extras.request_id = Some(id.to_owned());
        self
    }

    pub fn status(&self) -> StatusCode {
        self.code.status()
    }

    fn body(&self) -> Value {
        let mut body = self.extras.members.clone();
        body.insert("type".into(), self.code.type_uri().into());
        body.insert("title".into(), self.code.title().into());
        body.insert("status".into(), self.status().as_u16().into());
        body.insert("code".into(), self.code.into_str().into());
        body.insert("detail".into(), self.whole_detail().into());
        if !self.extras.parts.is_empty() {
            body.insert("parts".into(), serde_json::json!(self.extras.parts));
        }
        if !self.errors.is_empty() {
            let errors = self
                .errors
                .iter()
                .map(|error| serde_json::json!({ "field": error.field, "reason": error.reason }));
            body.insert("errors".into(), errors.collect());
        }
        if let Some(id) = &self.extras.request_id {
            body.insert("request_id".into(), id.as_str().into());
        }
        Value::Object(body)
    }

    /// The body of the response.
    pub(crate) fn text(&self) -> String {
        self.body().to_string()
    }

    fn respond(&self) -> Response {
        let mut response = Response::builder()
            .status(self.status())
            .content_type(MEDIA_TYPE)
            .header(header::CACHE_CONTROL, "no-store")
            .body(self.text());
        if let Some(wait) = self.extras.retry_after {
            let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        for (name, value) in &self.extras.headers {
            response.headers_mut().insert(name.clone(), value.clone());
        }
        response
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.into_str(), self.whole_detail())
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
