//! How far a long command is, said on standard error about once a second.

use std::time::{Duration, Instant};

/// How often it is said.
const SAID_EVERY: Duration = Duration::from_secs(1);

/// What is being done, since when, and when that was said last.
#[derive(Debug)]
pub(super) struct Pace {
    doing: &'static str,
    started: Instant,
    said: Instant,
}

impl Pace {
    /// `doing` as in "verified 7 events".
    pub(super) fn new(doing: &'static str) -> Self {
        let now = Instant::now();
        Self { doing, started: now, said: now }
    }

    pub(super) fn took(&self) -> Duration {
        self.started.elapsed()
    }

    /// Of so many bytes of work.
    pub(super) fn bytes(&mut self, events: u64, done: u64, total: u64) {
        if self.is_due() {
            eprintln!("{}", of_bytes(self.doing, events, done, total, self.took()));
        }
    }

    /// Of so many parts of the work, in any unit; none if it is not known how many there are.
    pub(super) fn share(&mut self, what: &str, count: u64, done: u64, total: u64) {
        if self.is_due() {
            let mut text = format!("{} {count} {what}", self.doing);
            if total > 0 {
                let left = seconds_left(done, total, self.took());
                let percent = done.min(total) as f64 / total as f64 * 100.0;
                text.push_str(&format!(", {percent:.0} %, about {left:.0}s left"));
            }
            eprintln!("{text}");
        }
    }

    fn is_due(&mut self) -> bool {
        let due = self.said.elapsed() > SAID_EVERY;
        if due {
            self.said = Instant::now();
        }
        due
    }
}

/// `verified 1200000 events, 512 of 2048 MiB, about 3s left`
fn of_bytes(doing: &str, events: u64, done: u64, total: u64, took: Duration) -> String {
    let left = seconds_left(done, total, took);
    format!("{doing} {events} events, {} of {} MiB, about {left:.0}s left", done >> 20, total >> 20)
}

/// If the rest goes as fast as what is done.
fn seconds_left(done: u64, total: u64, took: Duration) -> f64 {
    took.as_secs_f64() * total.saturating_sub(done) as f64 / done.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_the_bytes() {
        assert_eq!(
            of_bytes("verified", 1_200_000, 512 << 20, 2048 << 20, Duration::from_secs(1)),
            "verified 1200000 events, 512 of 2048 MiB, about 3s left"
        );
    }
}
