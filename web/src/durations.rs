//! The durations of requests as a metric.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use metrics::Histogram;
use poem::http::StatusCode;

/// Histogram: seconds until the response starts, by `method`, `route` (its template) and `status`.
pub const DURATION: &str = "matchbook_http_request_duration_seconds";

/// The histograms of a route, by method and status, so that a request neither builds nor looks up their labels.
#[derive(Clone, Default)]
pub(crate) struct Durations(Arc<RwLock<HashMap<(&'static str, StatusCode), Histogram>>>);

impl fmt::Debug for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durations").finish_non_exhaustive()
    }
}

impl Durations {
    pub(crate) fn record(&self, method: &'static str, route: &str, status: StatusCode, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        if let Some(known) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&(method, status)) {
            known.record(seconds);
            return;
        }
        let histogram = histogram(method, route, status);
        histogram.record(seconds);
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert((method, status), histogram);
    }
}

pub(crate) fn histogram(method: &'static str, route: &str, status: StatusCode) -> Histogram {
    let labels =
        [("method", method.to_owned()), ("route", route.to_owned()), ("status", status.as_u16().to_string())];
    metrics::histogram!(DURATION, &labels)
}
