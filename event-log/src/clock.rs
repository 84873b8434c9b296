//! The clock and the id generator: the only sources of time and new ids for what is in the log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_schemas::time::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

/// A clock. Cheap to clone; clones of a manual clock share its time.
#[derive(Clone, Debug)]
pub enum Clock {
    System,
    Manual(Arc<Manual>),
}

/// A clock that tests advance, and the instants that tasks wait for.
#[derive(Debug)]
pub struct Manual {
    now: watch::Sender<Timestamp>,
    /// The number of tasks that wait for each instant.
    sleepers: Mutex<BTreeMap<Timestamp, usize>>,
}

/// The registration of one task that waits for an instant, until it is dropped.
struct Sleeper<'a> {
    clock: &'a Manual,
    instant: Timestamp,
}

impl Manual {
    fn sleepers(&self) -> MutexGuard<'_, BTreeMap<Timestamp, usize>> {
        // Each change is a single operation, so a panic leaves the map consistent.
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sleeper(&self, instant: Timestamp) -> Sleeper<'_> {
        *self.sleepers().entry(instant).or_default() += 1;
        Sleeper { clock: self, instant }
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        let mut sleepers = self.clock.sleepers();
        if let Some(count) = sleepers.get_mut(&self.instant) {
            *count -= 1;
            if *count == 0 {
                sleepers.remove(&self.instant);
            }
        }
    }
}

impl Clock {
    /// A clock whose time changes only by `advance` and `set`: for tests in simulated time.
    pub fn manual(start: Timestamp) -> Self {
        Self::Manual(Arc::new(Manual { now: watch::Sender::new(start), sleepers: Mutex::default() }))
    }

    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => std::time::SystemTime::now().into(),
            Self::Manual(clock) => *clock.now.borrow(),
        }
    }

    /// Advances a manual clock and wakes the tasks whose instant is reached. No effect on the system's clock.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(clock) = self {
            clock.now.send_modify(|now| *now = now.after(by));
        }
    }

    /// Sets a manual clock, forwards or backwards, as an operator may do with a real one.
    pub fn set(&self, to: Timestamp) {
        if let Self::Manual(clock) = self {
            clock.now.send_replace(to);
        }
    }

    /// The next instant that a task waits for on a manual clock. No timer fires before it, so a simulation can advance
    /// to it directly.
    pub fn next_sleeper(&self) -> Option<Timestamp> {
        match self {
            Self::System => None,
            Self::Manual(clock) => clock.sleepers().keys().next().copied(),
        }
    }

    /// Waits until it is `instant` or later.
    pub async fn sleep_until(&self, instant: Timestamp) {
        match self {
            Self::System => loop {
                // The system's clock may be set back during the sleep, so it is read again.
                let left = instant.since(self.now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left).await;
            },
            Self::Manual(clock) => {
                let _sleeper = clock.sleeper(instant);
                // The sender lives in `self`, so waiting cannot fail.
                let _ = clock.now.subscribe().wait_for(|now| *now >= instant).await;
            }
        }
    }

    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.now().after(duration)).await;
    }
}

/// A generator of new ids.
#[derive(Clone, Debug)]
pub enum Ids {
    /// UUIDv7: they sort by their creation time.
    Random,
    /// The same ids in the same order in every run: for tests.
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
    async fn a_sleeping_task_wakes_at_its_instant_not_before() {
        let clock = Clock::manual(Timestamp::EPOCH);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep(Duration::from_secs(45)).await }
        });
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(44));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        assert_eq!(clock.next_sleeper(), Some(Timestamp::EPOCH.after(Duration::from_secs(45))));
        clock.advance(Duration::from_secs(1));
        sleeper.await.unwrap();
        assert_eq!(clock.next_sleeper(), None);
    }
}
