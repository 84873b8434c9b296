//! What is told of each request: a span, a duration, and how many are under way.

use std::sync::Arc;
use std::time::Instant;

use poem::http::{Method, StatusCode};
use tracing::Span;

use crate::request::RequestId;
use crate::routes::Route;

/// Histogram, seconds until the answer begins, by `method`, `route` (its template) and `status`.
pub const DURATION: &str = "http_server_request_duration_seconds";

/// Gauge, requests whose answer has not begun.
pub const ACTIVE: &str = "http_server_active_requests";

/// Paths that nobody serves share a name, so that a scanner cannot fill the metrics.
const UNMATCHED: &str = "unmatched";

pub(super) struct Observed {
    method: &'static str,
    route: Arc<str>,
    since: Instant,
}

impl Observed {
    pub(super) fn start(method: &Method, route: Option<&Route>) -> Self {
        metrics::gauge!(ACTIVE).increment(1.0);
        let route = route.map_or_else(|| UNMATCHED.into(), |route| route.template.clone());
        Self { method: known(method), route, since: Instant::now() }
    }

    pub(super) fn span(&self, id: &RequestId) -> Span {
        tracing::info_span!("request", method = self.method, route = &*self.route, request_id = %id.0)
    }

    /// The answer begins.
    pub(super) fn end(self, status: StatusCode) {
        let elapsed = self.since.elapsed();
        let labels = [
            ("method", self.method.to_owned()),
            ("route", self.route.to_string()),
            ("status", status.as_u16().to_string()),
        ];
        metrics::histogram!(DURATION, &labels).record(elapsed.as_secs_f64());
        let (status, elapsed_us) = (status.as_u16(), elapsed.as_micros());
        match status {
            500.. => tracing::warn!(status, elapsed_us, "answered"),
            401 | 403 => tracing::info!(status, elapsed_us, "answered"),
            _ => tracing::debug!(status, elapsed_us, "answered"),
        }
    }
}

/// Also where the caller went away before the answer.
impl Drop for Observed {
    fn drop(&mut self) {
        metrics::gauge!(ACTIVE).decrement(1.0);
    }
}

/// A method can be any word; those that are not ours share a name.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
