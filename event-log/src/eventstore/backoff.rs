//! How long to wait before the next try.

use std::time::Duration;

use uuid::Uuid;

const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// Waits that double up to five seconds, each with a part left to chance, so that those who lost the same server do not
/// come back in the same instant.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    tries: u32,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: SHORTEST, tries: 0 }
    }

    /// How often a wait was asked for since the last success.
    pub(super) fn tries(&self) -> u32 {
        self.tries
    }

    /// Between half and all of what it has come to.
    pub(super) fn pause(&mut self) -> Duration {
        let chance = Uuid::new_v4().as_bytes()[0];
        let pause = self.next / 2 + self.next / 2 * u32::from(chance) / 255;
        self.next = (self.next * 2).min(LONGEST);
        self.tries += 1;
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
    fn waits_grow_to_seconds_and_are_never_nothing() {
        let mut backoff = Backoff::new();
        let pauses: Vec<Duration> = (0..20).map(|_| backoff.pause()).collect();
        assert!(pauses.iter().all(|pause| (SHORTEST / 2..=LONGEST).contains(pause)), "{pauses:?}");
        assert!(pauses[19] >= LONGEST / 2);
        assert_eq!(backoff.tries(), 20);
    }

    #[test]
    fn two_who_wait_do_not_wait_alike() {
        let pauses = || -> Vec<Duration> {
            let mut backoff = Backoff::new();
            (0..8).map(|_| backoff.pause()).collect()
        };
        assert_ne!(pauses(), pauses());
    }
}
