//! Request headers that must be valid, and the default headers of responses.

use poem::Response;
use poem::http::{HeaderMap, HeaderValue, header};

use crate::problem::Problem;
use crate::request::{REQUEST_ID, RequestId};

const LAST_EVENT_ID: &str = "last-event-id";

/// Headers that the server uses. poem treats one that is not ASCII as absent.
const READ: [&str; 7] =
    ["idempotency-key", "if-none-match", LAST_EVENT_ID, "x-api-key", "x-min-position", "x-tenant", "x-user"];

/// Removes an empty `Last-Event-ID`, which stands for none.
///
/// # Errors
/// 400 for a header that the server uses and that is not ASCII, or is given twice.
pub(super) fn check(headers: &mut HeaderMap) -> Result<(), Problem> {
    if headers.get(LAST_EVENT_ID).is_some_and(|id| id.as_bytes().trim_ascii().is_empty()) {
        headers.remove(LAST_EVENT_ID);
    }
    let is_ambiguous =
        |name: &&&str| **name != "if-none-match" && headers.get_all(**name).iter().nth(1).is_some();
    if let Some(name) = READ.iter().find(is_ambiguous) {
        return Err(Problem::invalid(*name, "is given more than once"));
    }
    if headers.values().all(|value| value.to_str().is_ok()) {
        return Ok(());
    }
    let unreadable = |name: &&&str| headers.get_all(**name).iter().any(|value| value.to_str().is_err());
    match READ.iter().find(unreadable) {
        Some(name) => Err(Problem::invalid(*name, "must be printable ASCII")),
        None => Ok(()),
    }
}

/// API responses are not pages: they must not run scripts or be framed.
const POLICY: &str = "default-src 'none'; frame-ancestors 'none'";

/// Pages (the console, the documentation) have inline scripts and styles, and load from this server only.
const PAGE_POLICY: &str = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The number of headers that are added to each response.
const ADDED: usize = 5;

pub(super) fn add(response: &mut Response, id: &RequestId) {
    let page = response.content_type().is_some_and(|content_type| content_type.starts_with("text/html"));
    let policy = if page { PAGE_POLICY } else { POLICY };
    let headers = response.headers_mut();
    headers.reserve(ADDED);
    if let Ok(id) = HeaderValue::from_str(&id.0) {
        headers.insert(REQUEST_ID, id);
    }
    default(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    default(headers, header::REFERRER_POLICY, "no-referrer");
    default(headers, header::CONTENT_SECURITY_POLICY, policy);
    default(headers, header::CACHE_CONTROL, "no-store");
}

fn default(headers: &mut HeaderMap, name: header::HeaderName, value: &'static str) {
    headers.entry(name).or_insert(HeaderValue::from_static(value));
}
