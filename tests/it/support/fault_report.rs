//! The result of a fault test, as a row of the table in `docs/testing.md`.

use std::fmt;
use std::time::Duration;

/// The header of the table of [`FaultReport`]s.
pub(crate) const HEADER: &str = "| fault | count | acknowledged | lost | phantom | duplicate | refused starts | recovery time, p50 | p99 |\n\
                                 |---|---|---|---|---|---|---|---|---|";

/// A run that passed. Lost, phantom and duplicate events and refused starts are always 0 in it, because an assertion fails
/// the test at the first one.
pub(crate) struct FaultReport {
    pub(crate) fault: String,
    pub(crate) count: u64,
    pub(crate) acknowledged: u64,
    pub(crate) recoveries: Vec<Duration>,
}

impl FaultReport {
    pub(crate) fn new(fault: impl Into<String>) -> Self {
        Self { fault: fault.into(), count: 0, acknowledged: 0, recoveries: Vec::new() }
    }

    /// Prints the row.
    pub(crate) fn print(mut self) {
        self.recoveries.sort_unstable();
        eprintln!("{HEADER}\n{self}");
    }

    fn percentile(&self, percent: usize) -> String {
        let at = (self.recoveries.len() * percent / 100).min(self.recoveries.len().saturating_sub(1));
        self.recoveries.get(at).map_or_else(|| "–".to_owned(), |took| format!("{:.2} s", took.as_secs_f64()))
    }
}

impl fmt::Display for FaultReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, count, acknowledged, .. } = self;
        let (p50, p99) = (self.percentile(50), self.percentile(99));
        write!(f, "| {fault} | {count} | {acknowledged} | 0 | 0 | 0 | 0 | {p50} | {p99} |")
    }
}
