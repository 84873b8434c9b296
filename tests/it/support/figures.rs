//! What a run of faults came to, as a row of the one table that all of them make (`docs/testing.md`).

use std::fmt;
use std::time::Duration;

/// The columns of [`Figures`], to be printed above them.
pub(crate) const HEADER: &str = "| fault | times | acknowledged | lost | phantom | duplicate | refused starts | ready again, p50 | p99 |\n\
                                 |---|---|---|---|---|---|---|---|---|";

/// A run that has ended well: what was lost, made up or doubled, and the starts that failed, are counted by assertions
/// that stop the run at the first.
pub(crate) struct Figures {
    pub(crate) fault: String,
    pub(crate) times: u64,
    pub(crate) acknowledged: u64,
    pub(crate) recoveries: Vec<Duration>,
}

impl Figures {
    pub(crate) fn new(fault: impl Into<String>) -> Self {
        Self { fault: fault.into(), times: 0, acknowledged: 0, recoveries: Vec::new() }
    }

    /// Prints the row.
    pub(crate) fn print(mut self) {
        self.recoveries.sort_unstable();
        eprintln!("{HEADER}\n{self}");
    }

    fn rank(&self, part: usize) -> String {
        let at = (self.recoveries.len() * part / 100).min(self.recoveries.len().saturating_sub(1));
        self.recoveries.get(at).map_or_else(|| "–".to_owned(), |took| format!("{:.2} s", took.as_secs_f64()))
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, times, acknowledged, .. } = self;
        let (p50, p99) = (self.rank(50), self.rank(99));
        write!(f, "| {fault} | {times} | {acknowledged} | 0 | 0 | 0 | 0 | {p50} | {p99} |")
    }
}
