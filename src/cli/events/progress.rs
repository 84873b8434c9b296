//! Reports the progress of a long command on standard error, about once a second.

use std::time::{Duration, Instant};

/// The interval of the reports.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Reports the progress of one action.
#[derive(Debug)]
pub(in crate::cli) struct ProgressReporter {
    action: &'static str,
    started: Instant,
    reported: Instant,
}

impl ProgressReporter {
    /// `action` as in "verified 7 events".
    pub(in crate::cli) fn new(action: &'static str) -> Self {
        let now = Instant::now();
        Self { action, started: now, reported: now }
    }

    pub(in crate::cli) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Reports progress in bytes.
    pub(in crate::cli) fn bytes(&mut self, events: u64, done: u64, total: u64) {
        if self.is_due() {
            eprintln!("{}", bytes_line(self.action, events, done, total, self.elapsed()));
        }
    }

    /// Reports progress in any unit; a `total` of zero means that it is unknown.
    pub(in crate::cli) fn share(&mut self, what: &str, count: u64, done: u64, total: u64) {
        if self.is_due() {
            let mut text = format!("{} {count} {what}", self.action);
            if total > 0 {
                let left = seconds_left(done, total, self.elapsed());
                let percent = done.min(total) as f64 / total as f64 * 100.0;
                text.push_str(&format!(", {percent:.0} %, about {left:.0}s left"));
            }
            eprintln!("{text}");
        }
    }

    fn is_due(&mut self) -> bool {
        let due = self.reported.elapsed() > REPORT_EVERY;
        if due {
            self.reported = Instant::now();
        }
        due
    }
}

/// `verified 1200000 events, 512 of 2048 MiB, about 3s left`
fn bytes_line(action: &str, events: u64, done: u64, total: u64, elapsed: Duration) -> String {
    let left = seconds_left(done, total, elapsed);
    format!("{action} {events} events, {} of {} MiB, about {left:.0}s left", done >> 20, total >> 20)
}

/// The estimated time left, at the average speed so far.
fn seconds_left(done: u64, total: u64, elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * total.saturating_sub(done) as f64 / done.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_follows_the_bytes() {
        assert_eq!(
            bytes_line("verified", 1_200_000, 512 << 20, 2048 << 20, Duration::from_secs(1)),
            "verified 1200000 events, 512 of 2048 MiB, about 3s left"
        );
    }
}
