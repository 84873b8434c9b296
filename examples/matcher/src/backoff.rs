//! The delay before the next attempt.

use std::time::Duration;

use crate::splitmix::SplitMix64;

const FIRST: Duration = Duration::from_millis(200);
const CAP: Duration = Duration::from_secs(5);
/// The limit on a server's `Retry-After`.
const RETRY_AFTER_CAP: Duration = Duration::from_secs(120);

/// Exponential backoff with jitter, so that workers that lost the server at the same time do not retry at the same time.
#[derive(Debug, Clone)]
pub struct Backoff {
    attempts: u32,
    random: SplitMix64,
}

impl Backoff {
    pub fn new(seed: u64) -> Self {
        Self { attempts: 0, random: SplitMix64::new(seed) }
    }

    /// The delay before the next attempt: half to all of a doubling delay, and never less than `Retry-After`.
    pub fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        let delay = FIRST.saturating_mul(1 << self.attempts.min(16)).min(CAP);
        self.attempts += 1;
        let jittered = delay.mul_f64(0.5 + 0.5 * self.random.unit());
        jittered.max(retry_after.unwrap_or_default().min(RETRY_AFTER_CAP))
    }

    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_with_jitter() {
        let mut backoff = Backoff::new(7);
        for full in [200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            let wait = backoff.next(None).as_millis();
            assert!((full / 2..=full).contains(&wait), "{wait} is not within half of {full}");
        }
    }

    #[test]
    fn retry_after_is_respected() {
        assert_eq!(Backoff::new(1).next(Some(Duration::from_secs(30))), Duration::from_secs(30));
    }

    #[test]
    fn different_seeds_give_different_delays() {
        assert_ne!(Backoff::new(1).next(None), Backoff::new(2).next(None));
    }
}
