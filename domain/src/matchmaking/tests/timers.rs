//! Many instants that are waited for at once, over restarts.

use event_schemas::challenge::{ChallengeCreated, ChallengeExpired, Strength};
use event_schemas::envelope::{Actor, Envelope, Event, Metadata};
use event_schemas::ids::{ChallengeId, CorrelationId, MatchRecordId, Position, Revision};
use event_schemas::match_record::{
    AbandonReason, MatchConfirmed, MatchExpired, MatchPlayer, MatchProposed, Side,
};
use event_schemas::player::{
    FreedReason, PlayerFreed, PlayerQueued, QueueEntryExpired, QueueEntryMatched, QueueEntryReleased,
    QueuedPool,
};
use event_schemas::rating::RatingSource;
use event_schemas::stream::StreamId;

use super::super::obligations::{Due, Obligations};
use super::*;
use crate::scenario::id;

const TIMERS: u64 = 100_000;
const RESTARTS: u64 = 4;
/// All fall due within so many microseconds.
const WITHIN: u64 = 600_000_000;
/// How far time moves at least, so that the test is over some day.
const STEP: Duration = Duration::from_millis(50);

/// Who waits in no queue.
const SOMEBODY: SubjectId = SubjectId(Uuid::max());

/// In no order, and some at the same instant.
fn due_at(n: u64) -> Timestamp {
    let drawn = Uuid::new_v5(&Uuid::NAMESPACE_OID, &n.to_be_bytes()).as_u128() as u64;
    Timestamp::EPOCH.after(Duration::from_micros(1 + drawn % WITHIN / 50 * 50))
}

/// Of every five, three are entries, one is a challenge and one a match.
fn timer(n: u64) -> Due {
    let id = Uuid::from_u128(u128::from(n) + 1);
    match n % 5 {
        0..3 => Due::Entry(SubjectId(id), EntryId(id)),
        3 => Due::Challenge(ChallengeId(id)),
        _ => Due::Match(MatchRecordId(id)),
    }
}

fn recorded(stream: StreamId, at: Timestamp, event: impl Into<Event>) -> Envelope {
    let event = event.into();
    Envelope {
        position: Position(1),
        recorded_at: at,
        id: EventId(Uuid::nil()),
        stream,
        revision: Revision(0),
        metadata: Metadata {
            schema_version: 1,
            occurred_at: at,
            tenant: id("default"),
            actor: Actor::System(id("test")),
            correlation_id: CorrelationId(Uuid::nil()),
            causation_id: Uuid::nil(),
            subject: None,
            idempotency: None,
            traceparent: None,
        },
        event,
    }
}

/// What the log says when something begins to wait.
fn begun(n: u64, events: &mut Vec<Envelope>) {
    let (at, rating) = (Timestamp::EPOCH, Rating::new(1500).unwrap());
    let of = |stream: StreamId, event: Event| recorded(stream, at, event);
    match timer(n) {
        Due::Entry(subject_id, entry_id) => {
            let stream = StreamId::player(&id("default"), subject_id);
            let pool = QueuedPool {
                pool_key: id("blitz"),
                rating,
                rating_source: RatingSource::Default,
                skill: unproven(rating),
                side_balance: 0,
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
            // Some were taken for a match that came to nothing, and wait as before.
            if n.is_multiple_of(7) {
                let match_id = MatchRecordId(Uuid::from_u128(1 << 100 | u128::from(n)));
                let (pool_key, opponent, side) = (id("blitz"), player(0), Side::First);
                let taken = QueueEntryMatched { subject_id, entry_id, match_id, pool_key, opponent, side };
                let reason = AbandonReason::PlayerUnavailable;
                let released = QueueEntryReleased { subject_id, entry_id, match_id, reason, eligible_at: at };
                events.push(of(stream.clone(), Event::Player(taken.into())));
                events.push(of(stream, Event::Player(released.into())));
            }
        }
        Due::Challenge(challenge_id) => {
            let strength = Strength { rating, rating_source: RatingSource::Default, skill: unproven(rating) };
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
        Due::Match(match_id) => {
            let stream = StreamId::match_record(match_id);
            let of_player = |subject_id| MatchPlayer {
                subject_id,
                entry_id: None,
                queued_at: None,
                round: 0,
                rating,
                skill: unproven(rating),
            };
            let (first, second) = (of_player(player(1)), of_player(player(2)));
            let pool_key = id("blitz");
            let proposed = MatchProposed { match_id, pool_key, challenge_id: None, first, second };
            let confirmed = MatchConfirmed { game_id: None, result_due_at: due_at(n) };
            events.push(of(stream.clone(), Event::MatchRecord(proposed.into())));
            events.push(of(stream, Event::MatchRecord(confirmed.into())));
        }
    }
}

/// What the log says when its time has come.
fn ended(due: Due, at: Timestamp) -> Vec<Envelope> {
    match due {
        Due::Entry(subject_id, entry_id) => {
            let stream = StreamId::player(&id("default"), subject_id);
            let expired = QueueEntryExpired { subject_id, entry_id };
            vec![recorded(stream, at, Event::Player(expired.into()))]
        }
        Due::Challenge(challenge) => {
            let expired = Event::Challenge(ChallengeExpired {}.into());
            vec![recorded(StreamId::challenge(challenge), at, expired)]
        }
        Due::Match(match_id) => {
            let expired = Event::MatchRecord(MatchExpired {}.into());
            let stream = StreamId::player(&id("default"), SOMEBODY);
            let freed = PlayerFreed { subject_id: SOMEBODY, match_id, reason: FreedReason::Expired };
            vec![
                recorded(StreamId::match_record(match_id), at, expired),
                recorded(stream, at, Event::Player(freed.into())),
            ]
        }
    }
}

#[test]
fn of_a_hundred_thousand_entries_challenges_and_matches_none_ends_early_late_twice_or_never_over_restarts() {
    let mut history = Vec::new();
    (0..TIMERS).for_each(|n| begun(n, &mut history));
    let mut waiting: BTreeSet<(Timestamp, Due)> = (0..TIMERS).map(|n| (due_at(n), timer(n))).collect();
    let mut now = Timestamp::EPOCH;
    let mut left = Obligations::default();
    for restart in 1..=RESTARTS {
        left = Obligations::default();
        history.iter().for_each(|event| left.apply(event));
        let until = Timestamp::EPOCH.after(Duration::from_micros(WITHIN / RESTARTS * restart + 1));
        while now < until {
            let next = waiting.first().map(|(due, _)| *due);
            assert_eq!(left.next_due(), next, "at {now}");
            // The first one exactly at its instant, with all that fall due at it; the others not too many at a time.
            now = next.map_or(until, |next| next.max(now.after(STEP)).min(until));
            let due: BTreeSet<Due> = left.due(now).map(|(due, _)| due).collect();
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
    assert_eq!((left.waiting(), left.unfinished().count()), (0, 0));
}
