//! Commands that arrive twice.
//!
//! Key and body hash travel in the metadata of the events that a command caused, so a fold of a stream knows every key
//! that it has seen, across restarts and on every node. A repeated command is answered from there, as the first time.

use std::collections::{HashMap, VecDeque};
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

/// The first 16 bytes of the SHA-256 of a command's body.
pub fn body_hash(body: &[u8]) -> BodyHash {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body);
    let mut hash = [0; 16];
    hash.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    BodyHash(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Uuid = Uuid::from_u128(1);

    fn asked(body: &str) -> Idempotency {
        Idempotency { key: KEY, body: body_hash(body.as_bytes()) }
    }

    fn at(hours: u64) -> Timestamp {
        Timestamp::EPOCH.after(Duration::from_secs(hours * 3600))
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
