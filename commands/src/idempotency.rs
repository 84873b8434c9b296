//! Commands that arrive twice.
//!
//! Key and body hash travel in the metadata of the events that a command caused, so a fold of a stream knows every key
//! that it has seen, across restarts and on every node. A repeated command is answered from there, as the first time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_schemas::envelope::{BodyHash, Idempotency};
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;
use uuid::Uuid;

/// How long a key is remembered after its last event was recorded.
pub const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// What a command with a key did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// How many events it recorded in this stream.
    pub events: usize,
    /// Of the last of them; where the stream was, if there were none.
    pub position: Position,
}

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Never,
    /// The same command was carried out before.
    Done(Done),
    /// The key was used for another body.
    OtherBody,
}

/// The keys that a stream's events carry.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    seen: HashMap<Uuid, Entry>,
    /// By when they were recorded. A key is once in it for each append that it was part of.
    order: VecDeque<(Timestamp, Uuid)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    body: BodyHash,
    events: usize,
    position: Position,
    recorded_at: Timestamp,
}

/// The key that all appends but the last carry when a command's events do not fit into one. As long as only this one is
/// known, the command was interrupted and must be carried on.
pub(crate) fn unfinished(idempotency: Idempotency) -> Idempotency {
    Idempotency { key: Uuid::new_v5(&idempotency.key, b"unfinished"), ..idempotency }
}

impl Keys {
    /// What is known of the command with this key.
    pub(crate) fn find(&self, asked: Idempotency) -> Seen {
        let begun = self.seen.get(&unfinished(asked).key);
        let done = self.seen.get(&asked.key);
        if [begun, done].iter().flatten().any(|entry| entry.body != asked.body) {
            return Seen::OtherBody;
        }
        done.map_or(Seen::Never, |done| {
            let events = done.events + begun.map_or(0, |begun| begun.events);
            Seen::Done(Done { events, position: done.position })
        })
    }

    /// How many events an interrupted command with this key has recorded.
    pub(crate) fn begun(&self, asked: Idempotency) -> usize {
        self.seen.get(&unfinished(asked).key).map_or(0, |entry| entry.events)
    }

    /// `events` more events carry this key, the last of them at `position`.
    pub(crate) fn note(
        &mut self,
        carried: Idempotency,
        events: usize,
        position: Position,
        recorded_at: Timestamp,
    ) {
        let first = Entry { body: carried.body, events: 0, position, recorded_at };
        let entry = self.seen.entry(carried.key).or_insert(first);
        entry.events += events;
        entry.position = position;
        entry.recorded_at = recorded_at;
        if self.order.back() != Some(&(recorded_at, carried.key)) {
            self.order.push_back((recorded_at, carried.key));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.seen.len()
    }

    /// Lets go of what was recorded before this instant.
    pub(crate) fn forget_before(&mut self, instant: Timestamp) {
        while let Some((recorded_at, key)) = self.order.front().copied()
            && recorded_at < instant
        {
            self.order.pop_front();
            // It may have been carried again since.
            if self.seen.get(&key).is_some_and(|entry| entry.recorded_at < instant) {
                self.seen.remove(&key);
            }
        }
    }
}

/// Lets commands with the same key pass one at a time, where more than one stream has to be looked at to know whether a
/// command was carried out before.
#[derive(Debug, Default)]
pub(crate) struct KeyLocks(Mutex<HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>>);

/// The right of one command to its key. Others with the same key wait.
#[derive(Debug)]
pub(crate) struct KeyGuard<'a> {
    locks: &'a KeyLocks,
    key: Uuid,
    /// None while it waits, and while it is dropped.
    held: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl KeyLocks {
    pub(crate) async fn hold(&self, key: Uuid) -> KeyGuard<'_> {
        let lock = Arc::clone(self.locked().entry(key).or_default());
        // Made before the wait, so that a command that gives up waiting cleans up, too.
        let mut guard = KeyGuard { locks: self, key, held: None };
        guard.held = Some(lock.lock_owned().await);
        guard
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>> {
        // Entries come and go in one step each.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for KeyGuard<'_> {
    fn drop(&mut self) {
        let mut locks = self.locks.locked();
        self.held = None;
        // Whoever waits has a hold on the lock, too; the last one out takes it away.
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

    fn asked(body: &str) -> Idempotency {
        Idempotency { key: KEY, body: hash(body) }
    }

    fn hash(body: &str) -> BodyHash {
        BodyHash(Uuid::new_v5(&Uuid::NAMESPACE_OID, body.as_bytes()).into_bytes())
    }

    fn at(hours: u64) -> Timestamp {
        Timestamp::EPOCH.after(Duration::from_secs(hours * 3600))
    }

    #[tokio::test]
    async fn commands_with_one_key_pass_one_at_a_time_and_leave_nothing_behind() {
        let locks = KeyLocks::default();
        let passed = AtomicUsize::new(0);
        let pass = || async {
            let _guard = locks.hold(KEY).await;
            let before = passed.load(Ordering::SeqCst);
            tokio::task::yield_now().await;
            passed.store(before + 1, Ordering::SeqCst);
        };
        futures_util::future::join_all((0..32).map(|_| pass())).await;
        assert_eq!(passed.load(Ordering::SeqCst), 32);
        assert!(locks.locked().is_empty());
    }

    #[test]
    fn a_known_key_answers_with_all_events_that_carry_it() {
        let mut keys = Keys::default();
        assert_eq!(keys.find(asked("a")), Seen::Never);
        keys.note(asked("a"), 1, Position(4), at(0));
        keys.note(asked("a"), 2, Position(6), at(0));
        assert_eq!(keys.find(asked("a")), Seen::Done(Done { events: 3, position: Position(6) }));
        assert_eq!(keys.find(asked("b")), Seen::OtherBody);
    }

    #[test]
    fn an_interrupted_command_is_not_done_and_counts_when_it_is() {
        let mut keys = Keys::default();
        keys.note(unfinished(asked("a")), 5, Position(5), at(0));
        assert_eq!(keys.find(asked("a")), Seen::Never);
        assert_eq!(keys.find(asked("b")), Seen::OtherBody);
        assert_eq!(keys.begun(asked("a")), 5);
        keys.note(asked("a"), 2, Position(7), at(0));
        assert_eq!(keys.find(asked("a")), Seen::Done(Done { events: 7, position: Position(7) }));
    }

    #[test]
    fn a_key_is_kept_for_a_day_after_its_last_use_and_no_longer() {
        let mut keys = Keys::default();
        let other = Idempotency { key: Uuid::from_u128(2), ..asked("x") };
        keys.note(asked("a"), 1, Position(1), at(0));
        keys.note(asked("a"), 1, Position(2), at(10));
        keys.note(other, 1, Position(3), at(30));
        keys.forget_before(at(30).before(KEPT));
        assert!(matches!(keys.find(asked("a")), Seen::Done(_)));
        keys.forget_before(at(35).before(KEPT));
        assert_eq!(keys.find(asked("a")), Seen::Never);
        assert_eq!(keys.len(), 1);
    }
}
