//! How long to wait before the next try.

use std::time::Duration;

use crate::splitmix::SplitMix64;

const FIRST: Duration = Duration::from_millis(200);
const CAP: Duration = Duration::from_secs(5);
/// A server that asks for more is asked again after this much all the same.
const RETRY_AFTER_CAP: Duration = Duration::from_secs(120);

/// Exponential back-off with jitter, so that workers that lost the server together do not come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    tries: u32,
    random: SplitMix64,
}

impl Backoff {
    pub fn new(seed: u64) -> Self {
        Self { tries: 0, random: SplitMix64::new(seed) }
    }

    /// The wait before the next try, half to whole of a doubling delay, and never less than the server asked for.
    pub fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        let doubled = FIRST.saturating_mul(1 << self.tries.min(16)).min(CAP);
        self.tries += 1;
        let jittered = doubled.mul_f64(0.5 + 0.5 * self.random.unit());
        jittered.max(retry_after.unwrap_or_default().min(RETRY_AFTER_CAP))
    }

    pub fn tries(&self) -> u32 {
        self.tries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_are_jittered_downwards() {
        let mut backoff = Backoff::new(7);
        for full in [200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            let wait = backoff.next(None).as_millis();
            assert!((full / 2..=full).contains(&wait), "{wait} is not within half of {full}");
        }
    }

    #[test]
    fn the_server_is_never_asked_sooner_than_it_said() {
        assert_eq!(Backoff::new(1).next(Some(Duration::from_secs(30))), Duration::from_secs(30));
    }

    #[test]
    fn workers_with_different_seeds_come_back_apart() {
        assert_ne!(Backoff::new(1).next(None), Backoff::new(2).next(None));
    }
}
