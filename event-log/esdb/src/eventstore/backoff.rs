//! Exponential backoff between retries.

use std::time::Duration;

use uuid::Uuid;

const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// Waits that double up to five seconds, each with random jitter, so that clients of the same server do not all reconnect at
/// once.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    attempts: u32,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: SHORTEST, attempts: 0 }
    }

    /// The number of waits since the last success.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The next wait: between half and all of the current maximum.
    pub(super) fn pause(&mut self) -> Duration {
        let random = Uuid::new_v4().as_bytes()[0];
        let pause = self.next / 2 + self.next / 2 * u32::from(random) / 255;
        self.next = (self.next * 2).min(LONGEST);
        self.attempts += 1;
        pause
    }

    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.pause()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_seconds_and_are_never_zero() {
        let mut backoff = Backoff::new();
        let pauses: Vec<Duration> = (0..20).map(|_| backoff.pause()).collect();
        assert!(pauses.iter().all(|pause| (SHORTEST / 2..=LONGEST).contains(pause)), "{pauses:?}");
        assert!(pauses[19] >= LONGEST / 2);
        assert_eq!(backoff.attempts(), 20);
    }

    #[test]
    fn two_backoffs_wait_for_different_times() {
        let pauses = || -> Vec<Duration> {
            let mut backoff = Backoff::new();
            (0..8).map(|_| backoff.pause()).collect()
        };
        assert_ne!(pauses(), pauses());
    }
}
