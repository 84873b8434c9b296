//! The one seam through which time and new ids enter the program.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use event_schemas::time::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

/// What time it is. Cheap to clone; clones of a manual clock show the same time.
#[derive(Clone, Debug)]
pub enum Clock {
    System,
    Manual(Arc<watch::Sender<Timestamp>>),
}

impl Clock {
    /// A clock that stands still until it is moved: for tests in simulated time.
    pub fn manual(start: Timestamp) -> Self {
        Self::Manual(Arc::new(watch::Sender::new(start)))
    }

    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => std::time::SystemTime::now().into(),
            Self::Manual(now) => *now.borrow(),
        }
    }

    /// Moves a manual clock on, and wakes everyone whose instant has come. The system's clock moves by itself.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(now) = self {
            now.send_modify(|now| *now = now.after(by));
        }
    }

    /// Sets a manual clock, also back, as an operator may do with a real one.
    pub fn set(&self, to: Timestamp) {
        if let Self::Manual(now) = self {
            now.send_replace(to);
        }
    }

    /// Waits until it is `instant` or later.
    pub async fn sleep_until(&self, instant: Timestamp) {
        match self {
            Self::System => loop {
                // The system's clock may be set back while we sleep, so it is asked again.
                let left = instant.since(self.now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left).await;
            },
            Self::Manual(now) => {
                // The sender lives in `self`, so waiting cannot fail.
                let _ = now.subscribe().wait_for(|now| *now >= instant).await;
            }
        }
    }

    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.now().after(duration)).await;
    }
}

/// Where new ids come from.
#[derive(Clone, Debug)]
pub enum Ids {
    /// UUIDv7: they sort by the time of their making.
    Random,
    /// The same ids in the same order at every run: for tests.
    Sequence(Arc<AtomicU64>),
}

impl Ids {
    pub fn sequence() -> Self {
        Self::Sequence(Arc::new(AtomicU64::new(1)))
    }

    pub fn next(&self) -> Uuid {
        match self {
            Self::Random => Uuid::now_v7(),
            Self::Sequence(next) => Uuid::from_u128(u128::from(next.fetch_add(1, Ordering::Relaxed))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleeper_wakes_when_its_instant_comes_and_not_before() {
        let clock = Clock::manual(Timestamp::EPOCH);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep(Duration::from_secs(45)).await }
        });
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(44));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        sleeper.await.unwrap();
    }
}
