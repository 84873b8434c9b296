use event_schemas::game_match::{MatchConfirmed, MatchPlayer};
use event_schemas::player::{
    PlayerBlocked, PlayerUnblocked, QueueEntryCancelled, QueueEntryExpired, QueuedPool,
};
use event_schemas::pool::PoolConfigured;
use event_schemas::rating::{Rating, RatingSource};
use event_schemas::stream::StreamId;
use proptest::prelude::*;
use uuid::Uuid;

use super::super::recording::Recording;
use super::*;
use crate::rating::unproven;
use crate::scenario::{at, id};

const PLAYERS: u64 = 12;

fn player(number: u64) -> SubjectId {
    SubjectId(Uuid::from_u128(number.into()))
}

impl Recording {
    fn of_player(&mut self, number: u64, second: u32, event: impl Into<PlayerEvent>) {
        let stream = StreamId::player(&id("default"), player(number));
        self.add(stream, at(f64::from(second)), event.into());
    }

    fn join(&mut self, number: u64, entry: EntryId, second: u32, rating: u16, term: u32) {
        let rating = Rating::new(rating).unwrap();
        let pool = QueuedPool {
            pool_key: id("blitz"),
            rating,
            rating_source: RatingSource::Default,
            skill: unproven(rating),
            side_balance: 0,
            rating_call: None,
        };
        let queued = PlayerQueued {
            subject_id: player(number),
            entry_id: entry,
            pools: vec![pool],
            max_rating_gap: None,
            last_opponent: None,
            expires_at: at(f64::from(second + term)),
            metadata: None,
        };
        self.of_player(number, second, queued);
    }

    fn matched(&mut self, first: &WaitingEntry, second: &WaitingEntry, now: u32) {
        let match_id = GameMatchId(Uuid::from_u128(1 + self.0.len() as u128));
        let [first, second] = [first, second].map(|entry| MatchPlayer {
            subject_id: entry.player,
            entry_id: Some(entry.entry_id),
            queued_at: Some(entry.queued_at),
            release_count: 0,
            rating: entry.rating,
            skill: entry.skill,
        });
        let proposed = MatchProposed { match_id, pool_key: id("blitz"), challenge_id: None, first, second };
        let of = |event: GameMatchEvent| (StreamId::game_match(match_id), event);
        let confirmed = MatchConfirmed { game_id: None, result_due_at: at(1e9) };
        for (stream, event) in [of(proposed.into()), of(confirmed.into())] {
            self.add(stream, at(f64::from(now)), event);
        }
    }

    fn replayed(&self, settings: &PoolSettings) -> PoolComparison {
        let mut history = PoolHistory::new(id("blitz"), Position::START);
        self.0.iter().for_each(|envelope| history.apply(envelope));
        history.replay(settings, || false).unwrap()
    }
}

/// What players do: who, after how many seconds, with which rating; a rating of 0 cancels.
type Action = (u64, u32, u16);

/// Records a pool with these settings, whose matchmaker looks every second.
fn record(actions: &[Action], settings: &PoolSettings) -> Recording {
    let mut recording = Recording::default();
    let configured = PoolConfigured { pool_key: id("blitz"), settings: *settings };
    recording.add(StreamId::pool(&id("default"), &id("blitz")), at(0.0), PoolEvent::from(configured));
    let blocked = PlayerBlocked { subject_id: player(0), blocked: player(1) };
    recording.of_player(0, 0, blocked.clone());
    let mut blocks = Blocks::default();
    blocks.add(blocked.subject_id, blocked.blocked);
    let mut queue: Vec<WaitingEntry> = Vec::new();
    let mut actions = actions.iter().peekable();
    let (mut second, mut due, term) = (0, 0, settings.entry_expires_after_seconds);
    while actions.peek().is_some() || !queue.is_empty() {
        let now = at(f64::from(second));
        let expired: Vec<_> = queue.extract_if(.., |entry| entry.expires_at <= now).collect();
        for entry in expired {
            let event = QueueEntryExpired { subject_id: entry.player, entry_id: entry.entry_id };
            recording.of_player(0, second, event);
        }
        while let Some((number, _, rating)) = actions.next_if(|(_, after, _)| due + after <= second) {
            due = second;
            let waiting = queue.iter().position(|entry| entry.player == player(*number));
            match (waiting, rating) {
                (Some(place), 0) => {
                    let entry_id = queue.remove(place).entry_id;
                    recording.of_player(
                        *number,
                        second,
                        QueueEntryCancelled { subject_id: player(*number), entry_id },
                    );
                }
                (None, 1..) => {
                    let entry = EntryId(Uuid::from_u128(1000 + recording.0.len() as u128));
                    recording.join(*number, entry, second, *rating, term);
                    let envelope = recording.0.last().unwrap();
                    let Event::Player(PlayerEvent::PlayerQueued(queued)) = &envelope.event else { panic!() };
                    queue.push(waiting_entry(queued, envelope, &id("blitz")).unwrap());
                }
                _ => {}
            }
        }
        queue.sort_by_key(WaitingEntry::key);
        let pass = PairingPass::new(&queue, settings, &blocks, now).finish();
        let pairs: Vec<_> = pass.iter().map(|pair| (pair.first.clone(), pair.second.clone())).collect();
        for (first, other) in pairs {
            queue.retain(|entry| entry.entry_id != first.entry_id && entry.entry_id != other.entry_id);
            recording.matched(&first, &other, second);
        }
        second += 1;
    }
    // An event long after all entries have ended, also those of a replay.
    let unblocked = PlayerUnblocked { subject_id: player(0), unblocked: player(1) };
    recording.of_player(0, second + 1000, unblocked);
    recording
}

fn settings(window: u16, widen_by: u16) -> PoolSettings {
    let [widen_every_seconds, entry_expires_after_seconds] = [3, 40];
    PoolSettings { window, widen_by, widen_every_seconds, entry_expires_after_seconds, ..pool::DEFAULTS }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn replay_with_the_recorded_settings_is_what_was_recorded(
        actions in proptest::collection::vec((0..PLAYERS, 0_u32..9, prop_oneof![1 => Just(0_u16), 5 => 1000_u16..1600]), 0..60),
        window in 0_u16..200, widen_by in 0_u16..60,
    ) {
        let settings = settings(window, widen_by);
        let comparison = record(&actions, &settings).replayed(&settings);
        prop_assert_eq!(comparison.recorded, comparison.other);
        let PoolOutcomes { matches, left, expired, waiting, .. } = comparison.other;
        prop_assert_eq!(2 * matches + left + expired + waiting, comparison.joined);
    }

    #[test]
    fn replay_with_other_settings_is_what_they_would_have_recorded(
        joins in proptest::collection::vec((0_u32..9, 1000_u16..1600), 0..40),
        window in 0_u16..200, widen_by in 0_u16..60,
    ) {
        // Each player joins once, so that what happens to one changes no arrival.
        let actions: Vec<Action> =
            joins.iter().enumerate().map(|(number, (after, rating))| (number as u64, *after, *rating)).collect();
        let other = settings(window, widen_by);
        let expected = record(&actions, &other).replayed(&other).recorded;
        let found = record(&actions, &settings(50, 20)).replayed(&other).other;
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn wider_window_shortens_waits_and_widens_distances() {
    let joins = (0..40).map(|number| (number, 2, 1000 + 37 * (number as u16 * 7 % 20)));
    let recording = record(&joins.collect::<Vec<_>>(), &settings(20, 10));
    let PoolComparison { joined, recorded, other } = recording.replayed(&settings(400, 10));
    assert_eq!(joined, 40);
    let mean = |spread: Option<Spread>| spread.unwrap().mean;
    assert!(mean(other.wait_seconds) < mean(recorded.wait_seconds), "{other:?} {recorded:?}");
    assert!(mean(other.rating_distance) > mean(recorded.rating_distance), "{other:?} {recorded:?}");
    assert!(other.matches >= recorded.matches);
}

#[test]
fn player_who_joins_again_leaves_the_entry_that_still_waits() {
    // Both players meet twice with the recorded window; with a narrow one they never do.
    let actions = [(2, 0, 1000), (3, 1, 1050), (2, 5, 1000), (3, 1, 1050)];
    let comparison = record(&actions, &settings(100, 0)).replayed(&settings(10, 0));
    assert_eq!((comparison.recorded.matches, comparison.other.matches), (2, 0));
    assert_eq!((comparison.other.left, comparison.other.expired), (2, 2));
}

#[test]
fn only_entries_of_the_range_and_of_the_pool_count() {
    let recording = record(&[(2, 0, 1000), (3, 1, 1050), (4, 5, 1000), (5, 1, 1050)], &settings(100, 0));
    let count = |key: &str, after: u64| {
        let mut history = PoolHistory::new(id(key), Position(after));
        recording.0.iter().for_each(|envelope| history.apply(envelope));
        let comparison = history.replay(&settings(100, 0), || false).unwrap();
        (comparison.joined, comparison.recorded.matches, comparison.other.matches)
    };
    let second_match = recording.0.iter().rposition(|envelope| {
        matches!(&envelope.event, Event::Player(PlayerEvent::PlayerQueued(queued)) if queued.subject_id == player(4))
    });
    assert_eq!(count("blitz", 0), (4, 2, 2));
    assert_eq!(count("blitz", second_match.unwrap() as u64), (2, 1, 1));
    assert_eq!(count("rapid", 0), (0, 0, 0));
}
