//! Idempotency keys: a repeated command is recognised and gets its first result.
//!
//! Key and body hash are stored in the metadata of a command's events, so that the fold of a stream knows all of its
//! recent keys, across restarts and on every node.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_schemas::envelope::{BodyHash, Idempotency};
use event_schemas::ids::{Position, uuid_v5};
use event_schemas::time::Timestamp;
use uuid::Uuid;

/// The time for which a key is kept after its last event was recorded.
pub const KEY_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The result of a command with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletedCommand {
    /// The number of events that it recorded in this stream.
    pub events: usize,
    /// The position of the last of them, or the stream's position if there were none.
    pub position: Position,
}

/// The status of an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStatus {
    Unused,
    /// The same command was executed before.
    Completed(CompletedCommand),
    /// The key was used for another body.
    BodyMismatch,
}

/// The keys that a stream's events carry.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    entries: HashMap<Uuid, Entry>,
    /// The keys in the order of recording. A key occurs once for each append that carried it.
    order: VecDeque<(Timestamp, Uuid)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    body: BodyHash,
    events: usize,
    position: Position,
    recorded_at: Timestamp,
}

/// The key that all appends but the last carry when a command's events do not fit into one append. While only this key
/// is known, the command was interrupted and must be resumed.
pub(crate) fn partial_key(idempotency: Idempotency) -> Idempotency {
    Idempotency { key: uuid_v5(idempotency.key, b"unfinished"), ..idempotency }
}

impl Keys {
    /// The status of this key.
    pub(crate) fn find(&self, idempotency: Idempotency) -> KeyStatus {
        let partial = self.entries.get(&partial_key(idempotency).key);
        let completed = self.entries.get(&idempotency.key);
        if [partial, completed].iter().flatten().any(|entry| entry.body != idempotency.body) {
            return KeyStatus::BodyMismatch;
        }
        completed.map_or(KeyStatus::Unused, |completed| {
            let events = completed.events + partial.map_or(0, |partial| partial.events);
            KeyStatus::Completed(CompletedCommand { events, position: completed.position })
        })
    }

    /// The number of events that an interrupted command with this key has recorded.
    pub(crate) fn partial_events(&self, idempotency: Idempotency) -> usize {
        self.entries.get(&partial_key(idempotency).key).map_or(0, |entry| entry.events)
    }

    /// Records that `events` more events carry this key, the last of them at `position`.
    pub(crate) fn record(
        &mut self,
        carried: Idempotency,
        events: usize,
        position: Position,
        recorded_at: Timestamp,
    ) {
        let first = Entry { body: carried.body, events: 0, position, recorded_at };
        let entry = self.entries.entry(carried.key).or_insert(first);
        entry.events += events;
        entry.position = position;
        entry.recorded_at = recorded_at;
        if self.order.back() != Some(&(recorded_at, carried.key)) {
            self.order.push_back((recorded_at, carried.key));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Evicts the keys that were last recorded before this instant.
    pub(crate) fn evict_before(&mut self, instant: Timestamp) {
        while let Some((recorded_at, key)) = self.order.front().copied()
            && recorded_at < instant
        {
            self.order.pop_front();
            // A later append may have carried it again.
            if self.entries.get(&key).is_some_and(|entry| entry.recorded_at < instant) {
                self.entries.remove(&key);
            }
        }
    }
}

/// Serialises commands with the same key, where several streams must be read to know if a command was executed before.
#[derive(Debug, Default)]
pub(crate) struct KeyLocks(Mutex<HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>>);

/// The lock of one command on its key. Other commands with the same key wait.
#[derive(Debug)]
pub(crate) struct KeyGuard<'a> {
    locks: &'a KeyLocks,
    key: Uuid,
    /// None while it waits, and while it is dropped.
    held: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl KeyLocks {
    pub(crate) async fn acquire(&self, key: Uuid) -> KeyGuard<'_> {
        let lock = Arc::clone(self.locked().entry(key).or_default());
        // Created before the wait, so that a cancelled command cleans up, too.
        let mut guard = KeyGuard { locks: self, key, held: None };
        guard.held = Some(lock.lock_owned().await);
        guard
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>> {
        // Each change of the map is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for KeyGuard<'_> {
    fn drop(&mut self) {
        let mut locks = self.locks.locked();
        self.held = None;
        // Waiting commands hold a reference to the lock, too; the last user removes it.
        if locks.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const KEY: Uuid = Uuid::from_u128(1);

    fn idempotency(body: &str) -> Idempotency {
        Idempotency { key: KEY, body: hash(body) }
    }

    fn hash(body: &str) -> BodyHash {
        BodyHash(Uuid::new_v5(&Uuid::NAMESPACE_OID, body.as_bytes()).into_bytes())
    }

    fn at(hours: u64) -> Timestamp {
        Timestamp::EPOCH.after(Duration::from_secs(hours * 3600))
    }

    #[tokio::test]
    async fn key_lock_serialises_commands_and_leaves_no_entry() {
        let locks = KeyLocks::default();
        let passed = AtomicUsize::new(0);
        let pass = || async {
            let _guard = locks.acquire(KEY).await;
            let before = passed.load(Ordering::SeqCst);
            tokio::task::yield_now().await;
            passed.store(before + 1, Ordering::SeqCst);
        };
        futures_util::future::join_all((0..32).map(|_| pass())).await;
        assert_eq!(passed.load(Ordering::SeqCst), 32);
        assert!(locks.locked().is_empty());
    }

    #[test]
    fn completed_key_counts_all_events_that_carry_it() {
        let mut keys = Keys::default();
        assert_eq!(keys.find(idempotency("a")), KeyStatus::Unused);
        keys.record(idempotency("a"), 1, Position(4), at(0));
        keys.record(idempotency("a"), 2, Position(6), at(0));
        assert_eq!(
            keys.find(idempotency("a")),
            KeyStatus::Completed(CompletedCommand { events: 3, position: Position(6) })
        );
        assert_eq!(keys.find(idempotency("b")), KeyStatus::BodyMismatch);
    }

    #[test]
    fn interrupted_command_completes_with_all_its_events() {
        let mut keys = Keys::default();
        keys.record(partial_key(idempotency("a")), 5, Position(5), at(0));
        assert_eq!(keys.find(idempotency("a")), KeyStatus::Unused);
        assert_eq!(keys.find(idempotency("b")), KeyStatus::BodyMismatch);
        assert_eq!(keys.partial_events(idempotency("a")), 5);
        keys.record(idempotency("a"), 2, Position(7), at(0));
        assert_eq!(
            keys.find(idempotency("a")),
            KeyStatus::Completed(CompletedCommand { events: 7, position: Position(7) })
        );
    }

    #[test]
    fn key_is_kept_for_a_day_after_its_last_use() {
        let mut keys = Keys::default();
        let other = Idempotency { key: Uuid::from_u128(2), ..idempotency("x") };
        keys.record(idempotency("a"), 1, Position(1), at(0));
        keys.record(idempotency("a"), 1, Position(2), at(10));
        keys.record(other, 1, Position(3), at(30));
        keys.evict_before(at(30).before(KEY_TTL));
        assert!(matches!(keys.find(idempotency("a")), KeyStatus::Completed(_)));
        keys.evict_before(at(35).before(KEY_TTL));
        assert_eq!(keys.find(idempotency("a")), KeyStatus::Unused);
        assert_eq!(keys.len(), 1);
    }
}
