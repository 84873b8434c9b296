//! Tests of many simultaneous deadlines over restarts.

use event_schemas::challenge::{ChallengeCreated, ChallengeExpired, Strength};
use event_schemas::envelope::{Envelope, Event};
use event_schemas::game_match::{
    AbandonReason, MatchConfirmed, MatchExpired, MatchPlayer, MatchProposed, Side,
};
use event_schemas::ids::{ChallengeId, GameMatchId};
use event_schemas::player::{
    PlayerQueued, PlayerReleased, QueueEntryExpired, QueueEntryMatched, QueueEntryReleased, QueuedPool,
    ReleaseReason,
};
use event_schemas::rating::RatingSource;
use event_schemas::stream::StreamId;

use super::super::pending_work::{Expiring, PendingSagas};
use super::*;
use crate::scenario::{envelope, id};

const TIMERS: u64 = 100_000;
const RESTARTS: u64 = 4;
/// All deadlines are within this many microseconds.
const WITHIN: u64 = 600_000_000;
/// The minimum time step, which bounds the duration of the test.
const STEP: Duration = Duration::from_millis(50);

/// A player without a queue entry.
const IDLE_PLAYER: SubjectId = SubjectId(Uuid::max());

/// In no order, and some at the same time.
fn due_at(n: u64) -> Timestamp {
    let drawn = Uuid::new_v5(&Uuid::NAMESPACE_OID, &n.to_be_bytes()).as_u128() as u64;
    Timestamp::EPOCH.after(Duration::from_micros(1 + drawn % WITHIN / 50 * 50))
}

/// Of every five deadlines, three are of entries, one of a challenge and one of a match.
fn timer(n: u64) -> Expiring {
    let id = Uuid::from_u128(u128::from(n) + 1);
    match n % 5 {
        0..3 => Expiring::Entry(SubjectId(id), EntryId(id)),
        3 => Expiring::Challenge(ChallengeId(id)),
        _ => Expiring::Match(GameMatchId(id)),
    }
}

/// Adds the events that start a deadline.
fn add_start_events(n: u64, events: &mut Vec<Envelope>) {
    let (at, rating) = (Timestamp::EPOCH, Rating::new(1500).unwrap());
    let of = |stream: StreamId, event: Event| envelope(1, stream, at, event);
    match timer(n) {
        Expiring::Entry(subject_id, entry_id) => {
            let stream = StreamId::player(&id("default"), subject_id);
            let pool = QueuedPool {
                pool_key: id("blitz"),
                rating,
                rating_source: RatingSource::Default,
                skill: unproven(rating),
                side_balance: 0,
                rating_call: None,
            };
            let queued = PlayerQueued {
                subject_id,
                entry_id,
                pools: vec![pool],
                max_rating_gap: None,
                last_opponent: None,
                expires_at: due_at(n),
                metadata: None,
            };
            events.push(of(stream.clone(), Event::Player(queued.into())));
            // Some were reserved for a match that was abandoned, and wait again.
            if n.is_multiple_of(7) {
                let match_id = GameMatchId(Uuid::from_u128(1 << 100 | u128::from(n)));
                let (pool_key, opponent, side) = (id("blitz"), player(0), Side::First);
                let matched = QueueEntryMatched { subject_id, entry_id, match_id, pool_key, opponent, side };
                let reason = AbandonReason::PlayerUnavailable;
                let released = QueueEntryReleased { subject_id, entry_id, match_id, reason, eligible_at: at };
                events.push(of(stream.clone(), Event::Player(matched.into())));
                events.push(of(stream, Event::Player(released.into())));
            }
        }
        Expiring::Challenge(challenge_id) => {
            let strength = Strength {
                rating,
                rating_source: RatingSource::Default,
                skill: unproven(rating),
                rating_call: None,
            };
            let created = ChallengeCreated {
                challenge_id,
                pool_key: id("blitz"),
                challenger: player(1),
                challenged: player(2),
                strength,
                expires_at: due_at(n),
                message: None,
            };
            events.push(of(StreamId::challenge(challenge_id), Event::Challenge(created.into())));
        }
        Expiring::Match(match_id) => {
            let stream = StreamId::game_match(match_id);
            let of_player = |subject_id| MatchPlayer {
                subject_id,
                entry_id: None,
                queued_at: None,
                release_count: 0,
                rating,
                skill: unproven(rating),
            };
            let (first, second) = (of_player(player(1)), of_player(player(2)));
            let pool_key = id("blitz");
            let proposed = MatchProposed { match_id, pool_key, challenge_id: None, first, second };
            let confirmed = MatchConfirmed { game_id: None, result_due_at: due_at(n) };
            events.push(of(stream.clone(), Event::GameMatch(proposed.into())));
            events.push(of(stream, Event::GameMatch(confirmed.into())));
        }
    }
}

/// The events of an expiry.
fn ended(due: Expiring, at: Timestamp) -> Vec<Envelope> {
    match due {
        Expiring::Entry(subject_id, entry_id) => {
            let stream = StreamId::player(&id("default"), subject_id);
            let expired = QueueEntryExpired { subject_id, entry_id };
            vec![envelope(1, stream, at, Event::Player(expired.into()))]
        }
        Expiring::Challenge(challenge) => {
            let expired = Event::Challenge(ChallengeExpired {}.into());
            vec![envelope(1, StreamId::challenge(challenge), at, expired)]
        }
        Expiring::Match(match_id) => {
            let expired = Event::GameMatch(MatchExpired {}.into());
            let stream = StreamId::player(&id("default"), IDLE_PLAYER);
            let player_released =
                PlayerReleased { subject_id: IDLE_PLAYER, match_id, reason: ReleaseReason::Expired };
            vec![
                envelope(1, StreamId::game_match(match_id), at, expired),
                envelope(1, stream, at, Event::Player(player_released.into())),
            ]
        }
    }
}

#[test]
fn deadlines_survive_restarts_and_fire_exactly_once() {
    let mut history = Vec::new();
    (0..TIMERS).for_each(|n| add_start_events(n, &mut history));
    let mut waiting: BTreeSet<(Timestamp, Expiring)> = (0..TIMERS).map(|n| (due_at(n), timer(n))).collect();
    let mut now = Timestamp::EPOCH;
    let mut left = PendingSagas::default();
    for restart in 1..=RESTARTS {
        left = PendingSagas::default();
        history.iter().for_each(|event| left.apply(event));
        let until = Timestamp::EPOCH.after(Duration::from_micros(WITHIN / RESTARTS * restart + 1));
        while now < until {
            let next = waiting.first().map(|(due, _)| *due);
            assert_eq!(left.next_due(), next, "at {now}");
            // Advances exactly to the first deadline and handles all that are due; limits the number per
            // step.
            now = next.map_or(until, |next| next.max(now.after(STEP)).min(until));
            let due: BTreeSet<Expiring> = left.due(now).map(|(due, _)| due).collect();
            let later = waiting.iter().find(|(at, _)| *at > now).copied();
            let later = later.map_or_else(BTreeSet::new, |first| waiting.split_off(&first));
            let fell_due = std::mem::replace(&mut waiting, later);
            assert_eq!(due, fell_due.into_iter().map(|(_, due)| due).collect(), "at {now}");
            for event in due.into_iter().flat_map(|due| ended(due, now)) {
                left.apply(&event);
                history.push(event);
            }
        }
    }
    assert!(waiting.is_empty());
    assert_eq!((left.deadline_count(), left.unfinished().count()), (0, 0));
}
