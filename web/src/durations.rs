//! The durations of requests as metrics.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use metrics::{Gauge, Histogram};
use poem::http::StatusCode;

/// Histogram: seconds until the response starts, by `method`, `route` (its template) and `status`.
pub const DURATION: &str = "matchbook_http_request_duration_seconds";
/// Gauges: the shortest and the longest of them, which a histogram does not know.
pub const DURATION_MIN: &str = "matchbook_http_request_duration_min_seconds";
pub const DURATION_MAX: &str = "matchbook_http_request_duration_max_seconds";

/// The measured durations of a route, by method and status, so that a request neither builds nor looks up their labels.
#[derive(Clone, Default)]
pub(crate) struct Durations(Arc<RwLock<HashMap<(&'static str, StatusCode), Measured>>>);

/// The durations of one method and status.
struct Measured {
    all: Histogram,
    /// The shortest and the longest one. Locked while a gauge is set, so that the gauges have the same values.
    extremes: Mutex<(f64, f64)>,
    shortest: Gauge,
    longest: Gauge,
}

impl Measured {
    fn new(method: &'static str, route: &str, status: StatusCode) -> Self {
        let labels = labels(method, route, status);
        Self {
            all: metrics::histogram!(DURATION, &labels),
            extremes: Mutex::new((f64::INFINITY, 0.0)),
            shortest: metrics::gauge!(DURATION_MIN, &labels),
            longest: metrics::gauge!(DURATION_MAX, &labels),
        }
    }

    fn record(&self, seconds: f64) {
        self.all.record(seconds);
        let mut extremes = self.extremes.lock().unwrap_or_else(PoisonError::into_inner);
        if seconds < extremes.0 {
            extremes.0 = seconds;
            self.shortest.set(seconds);
        }
        if seconds > extremes.1 {
            extremes.1 = seconds;
            self.longest.set(seconds);
        }
    }
}

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
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let measured = all.entry((method, status)).or_insert_with(|| Measured::new(method, route, status));
        measured.record(seconds);
    }
}

pub(crate) fn histogram(method: &'static str, route: &str, status: StatusCode) -> Histogram {
    metrics::histogram!(DURATION, &labels(method, route, status))
}

fn labels(method: &'static str, route: &str, status: StatusCode) -> [(&'static str, String); 3] {
    [("method", method.to_owned()), ("route", route.to_owned()), ("status", status.as_u16().to_string())]
}
