//! A span and metrics for each request: its duration, and the number of active requests.

use std::sync::Arc;
use std::time::Instant;

use poem::http::{Method, StatusCode};
use tracing::Span;

use crate::durations::{self, Durations};
use crate::request::RequestId;
use crate::routes::Route;

/// Gauge: requests whose response has not started.
pub const ACTIVE: &str = "matchbook_http_active_requests";

/// Unknown paths share a label, so that a scanner cannot create many time series.
const UNMATCHED: &str = "unmatched";

pub(super) struct RequestMetrics {
    method: &'static str,
    route: Arc<str>,
    /// None for an unknown path.
    durations: Option<Durations>,
    since: Instant,
}

impl RequestMetrics {
    pub(super) fn start(method: &Method, route: Option<&Route>) -> Self {
        metrics::gauge!(ACTIVE).increment(1.0);
        let durations = route.map(|route| route.durations.clone());
        let route = route.map_or_else(|| UNMATCHED.into(), |route| route.template.clone());
        Self { method: known(method), route, durations, since: Instant::now() }
    }

    pub(super) fn span(&self, id: &RequestId) -> Span {
        tracing::info_span!("request", method = self.method, route = &*self.route, request_id = %id.0)
    }

    /// The response starts.
    pub(super) fn end(self, status: StatusCode) {
        let elapsed = self.since.elapsed();
        match &self.durations {
            Some(durations) => durations.record(self.method, &self.route, status, elapsed),
            None => durations::histogram(self.method, &self.route, status).record(elapsed.as_secs_f64()),
        }
        let (status, elapsed_us) = (status.as_u16(), elapsed.as_micros());
        match status {
            500.. => tracing::warn!(status, elapsed_us, "responded"),
            _ => tracing::debug!(status, elapsed_us, "responded"),
        }
    }
}

/// Also runs if the caller disconnects before the response.
impl Drop for RequestMetrics {
    fn drop(&mut self) {
        metrics::gauge!(ACTIVE).decrement(1.0);
    }
}

/// A method can be any token; unknown ones share a label.
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
