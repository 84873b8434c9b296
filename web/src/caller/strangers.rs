//! Clients without valid credentials. An address that is refused too often gets its refusals later, so that it takes little of
//! the processor from the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::limits::Bucket;

/// The refusals of an address that are answered at once.
const REFUSALS_PER_MINUTE: u32 = 600;

/// The time after which each further refusal is answered.
const PAUSE: Duration = Duration::from_secs(1);

/// The most addresses that are kept apart. Beyond them all start again, which only answers their refusals at once.
const ADDRESSES_MAX: usize = 10_000;

/// The recent refusals of each address; None stands for clients without one.
#[derive(Debug, Default)]
pub(crate) struct Strangers(Mutex<HashMap<Option<IpAddr>, Bucket>>);

impl Strangers {
    /// Counts a refusal, and waits if there were too many.
    pub(crate) async fn refused(&self, address: Option<IpAddr>) {
        if !self.count(address) {
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn count(&self, address: Option<IpAddr>) -> bool {
        // Each change is one step.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= ADDRESSES_MAX && !known.contains_key(&address) {
            known.clear();
        }
        let bucket = known.entry(address).or_insert_with(|| Bucket::full(REFUSALS_PER_MINUTE));
        bucket.take(REFUSALS_PER_MINUTE)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn address_that_is_refused_too_often_waits() {
        let strangers = Strangers::default();
        let address = |last| Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)));
        let start = Instant::now();
        for _ in 0..REFUSALS_PER_MINUTE {
            strangers.refused(address(1)).await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        strangers.refused(address(1)).await;
        assert_eq!(start.elapsed(), PAUSE);
        strangers.refused(address(2)).await;
        assert_eq!(start.elapsed(), PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn table_of_addresses_is_bounded() {
        let strangers = Strangers::default();
        for number in 0..3 * ADDRESSES_MAX as u32 {
            strangers.refused(Some(IpAddr::V4(number.into()))).await;
        }
        assert!(strangers.0.lock().unwrap().len() <= ADDRESSES_MAX);
    }
}
