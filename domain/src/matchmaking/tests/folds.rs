//! Tests of the folds: queues, pending work and statistics.

use std::collections::VecDeque;

use event_schemas::envelope::{Envelope, Event};
use event_schemas::game_match::{AbandonReason, MatchAbandoned, MatchConfirmed, MatchResultReported, Side};
use event_schemas::ids::{ChallengeId, GameMatchId, PoolKey, Tenant};
use event_schemas::player::{
    PlayerQueued, PlayerReleased, PlayerReserved, QueueEntryCancelled, QueueEntryMatched, QueueEntryReleased,
    QueuedPool, ReleaseReason,
};
use event_schemas::rating::RatingSource;
use event_schemas::stream::StreamId;

use super::super::pass::Pairing;
use super::super::pending_work::{Expiring, PendingSagas, UnfinishedSaga};
use super::super::queues::{Queues, propose};
use super::super::statistics::{RecentMatches, percentiles};
use super::*;
use crate::scenario::{self, id};

pub(super) fn match_id(n: u128) -> GameMatchId {
    GameMatchId(Uuid::from_u128(0xa00 + n))
}

pub(super) fn entry_id(n: u128) -> EntryId {
    EntryId(Uuid::from_u128(n))
}

pub(super) fn envelope(stream: StreamId, second: f64, event: impl Into<Event>) -> Envelope {
    let event = event.into();
    let id = EventId(Uuid::new_v5(&Uuid::nil(), format!("{stream}{second}{event:?}").as_bytes()));
    Envelope { id, ..scenario::envelope(1, stream, at(second), event) }
}

pub(super) fn of_player<E: Into<event_schemas::player::PlayerEvent>>(
    n: u128,
    second: f64,
    event: E,
) -> Envelope {
    envelope(StreamId::player(&id("default"), player(n)), second, event.into())
}

fn of_match<E: Into<event_schemas::game_match::GameMatchEvent>>(n: u128, second: f64, event: E) -> Envelope {
    envelope(StreamId::game_match(match_id(n)), second, event.into())
}

/// Player `n` joins with their entry `n`.
pub(super) fn queued(n: u128, second: f64, pools: &[&str]) -> Envelope {
    let pool = |key: &&str| QueuedPool {
        pool_key: id(key),
        rating: Rating::new(1500).unwrap(),
        rating_source: RatingSource::Default,
        skill: unproven(Rating::new(1500).unwrap()),
        side_balance: 0,
        rating_call: None,
    };
    let queued = PlayerQueued {
        subject_id: player(n),
        entry_id: entry_id(n),
        pools: pools.iter().map(pool).collect(),
        max_rating_gap: None,
        last_opponent: None,
        expires_at: at(second + 600.0),
        metadata: None,
    };
    of_player(n, second, queued)
}

pub(super) fn matched(n: u128, second: f64, of: u128) -> Envelope {
    let matched = QueueEntryMatched {
        subject_id: player(n),
        entry_id: entry_id(n),
        match_id: match_id(of),
        pool_key: id("blitz"),
        opponent: player(99),
        side: Side::First,
    };
    of_player(n, second, matched)
}

pub(super) fn released(n: u128, second: f64, of: u128, eligible: f64) -> Envelope {
    let released = QueueEntryReleased {
        subject_id: player(n),
        entry_id: entry_id(n),
        match_id: match_id(of),
        reason: AbandonReason::GameServiceFailed,
        eligible_at: at(eligible),
    };
    of_player(n, second, released)
}

pub(super) fn player_released(n: u128, second: f64, of: u128) -> Envelope {
    let player_released = PlayerReleased {
        subject_id: player(n),
        match_id: match_id(of),
        reason: ReleaseReason::ResultReported,
    };
    of_player(n, second, player_released)
}

pub(super) fn proposed(of: u128, second: f64, players: [u128; 2]) -> Envelope {
    let [seed, partner] = players.map(|n| waiting(n, 0.0, 1500));
    let mut proposed = propose(&id("blitz"), &Pairing { first: &seed, second: &partner });
    proposed.match_id = match_id(of);
    of_match(of, second, proposed)
}

pub(super) fn confirmed(of: u128, second: f64) -> Envelope {
    of_match(of, second, MatchConfirmed { game_id: None, result_due_at: at(second + 7200.0) })
}

pub(super) fn abandoned(of: u128, second: f64) -> Envelope {
    let reason = AbandonReason::GameServiceFailed;
    of_match(of, second, MatchAbandoned { reason, detail: None, eligible_at: at(second) })
}

fn queues(events: &[Envelope]) -> Queues {
    let mut queues = Queues::default();
    events.iter().for_each(|event| queues.apply(event));
    queues.take_changed();
    queues
}

fn in_pool(queues: &Queues, key: &str) -> Vec<u128> {
    let pool: (Tenant, PoolKey) = (id("default"), id(key));
    queues
        .pool(&pool)
        .map_or_else(Vec::new, |pool| pool.entries().map(|waiting| waiting.entry_id.0.as_u128()).collect())
}

#[test]
fn entry_matched_in_one_pool_leaves_all_pools() {
    let mut events = vec![queued(1, 0.0, &["blitz", "rapid"]), queued(2, 1.0, &["rapid"])];
    assert_eq!(
        (in_pool(&queues(&events), "blitz"), in_pool(&queues(&events), "rapid")),
        (vec![1], vec![1, 2])
    );
    events.push(matched(1, 2.0, 1));
    assert_eq!((in_pool(&queues(&events), "blitz"), in_pool(&queues(&events), "rapid")), (vec![], vec![2]));
}

#[test]
fn released_entry_returns_to_its_old_position() {
    let events = [
        queued(1, 0.0, &["blitz"]),
        queued(2, 1.0, &["blitz"]),
        matched(1, 2.0, 1),
        released(1, 3.0, 1, 8.0),
    ];
    let queues = queues(&events);
    assert_eq!(in_pool(&queues, "blitz"), [1, 2]);
    let waiting = queues.waiting(entry_id(1), &id("blitz")).unwrap();
    assert_eq!((waiting.queued_at, waiting.eligible_at, waiting.release_count), (at(0.0), at(8.0), 1));
    assert_eq!(waiting.searching_since_event, events[3].id);
}

#[test]
fn failed_challenge_returns_the_entry_to_the_queue() {
    let reserved = PlayerReserved {
        subject_id: player(1),
        match_id: match_id(1),
        attempt: 1,
        challenge_id: ChallengeId(Uuid::nil()),
        pool_key: id("blitz"),
        opponent: player(2),
        left_entry: Some(entry_id(1)),
    };
    let mut events = vec![queued(1, 0.0, &["blitz"]), of_player(1, 1.0, reserved)];
    assert_eq!(in_pool(&queues(&events), "blitz"), [] as [u128; 0]);
    events.push(released(1, 2.0, 1, 2.0));
    assert_eq!(in_pool(&queues(&events), "blitz"), [1]);
}

#[test]
fn finished_entries_and_matches_leave_no_memory() {
    let events = [
        queued(1, 0.0, &["blitz"]),
        queued(2, 0.0, &["blitz"]),
        queued(3, 0.0, &["blitz"]),
        proposed(1, 1.0, [1, 2]),
        matched(1, 1.0, 1),
        matched(2, 1.0, 1),
        confirmed(1, 1.0),
        of_match(1, 9.0, MatchResultReported { result: event_schemas::game_match::GameResult::Draw }),
        player_released(1, 9.0, 1),
        player_released(2, 9.0, 1),
        of_player(3, 9.0, QueueEntryCancelled { subject_id: player(3), entry_id: entry_id(3) }),
    ];
    let queues = queues(&events);
    assert!((1..4).all(|n| queues.entry(entry_id(n)).is_none() && queues.entry_of(player(n)).is_none()));
    let pool: (Tenant, PoolKey) = (id("default"), id("blitz"));
    let pool = queues.pool(&pool).unwrap();
    assert_eq!((pool.entries().len(), pool.placing(), pool.recent().matches()), (0, 0, 1));
    let mut left = PendingSagas::default();
    events.iter().for_each(|event| left.apply(event));
    assert_eq!(left, PendingSagas::default());
}

#[test]
fn proposal_is_deterministic_and_balances_sides() {
    let a = WaitingEntry { side_balance: 2, ..waiting(1, 0.0, 1500) };
    let b = WaitingEntry { side_balance: -1, ..waiting(2, 0.0, 1500) };
    let one = propose(&id("blitz"), &Pairing { first: &a, second: &b });
    assert_eq!(one.first.subject_id, b.player);
    assert_eq!(propose(&id("blitz"), &Pairing { first: &b, second: &a }), one);
    let again =
        WaitingEntry { searching_since_event: EventId(Uuid::from_u128(77)), release_count: 1, ..a.clone() };
    let other = propose(&id("blitz"), &Pairing { first: &again, second: &b });
    assert_ne!(other.match_id, one.match_id, "another release count gives another match");
    let (c, d) = (waiting(3, 0.0, 1500), waiting(4, 0.0, 1500));
    let drawn = propose(&id("blitz"), &Pairing { first: &c, second: &d });
    assert_eq!(propose(&id("blitz"), &Pairing { first: &d, second: &c }), drawn);
}

#[test]
fn searching_entries_are_counted_once_each() {
    let searching = |events: &[Envelope]| {
        let mut left = PendingSagas::default();
        events.iter().for_each(|event| left.apply(event));
        left.searching()
    };
    let mut events = vec![queued(1, 0.0, &["blitz", "rapid"]), queued(2, 0.0, &["blitz"])];
    assert_eq!(searching(&events), 2);
    events.push(matched(1, 1.0, 1));
    assert_eq!(searching(&events), 1);
    events.push(released(1, 2.0, 1, 2.0));
    assert_eq!(searching(&events), 2);
    events.extend([matched(1, 3.0, 1), player_released(1, 4.0, 1)]);
    assert_eq!(searching(&events), 1);
}

fn unfinished_after(events: &[Envelope]) -> Vec<UnfinishedSaga> {
    let mut left = PendingSagas::default();
    events.iter().for_each(|event| left.apply(event));
    left.unfinished().map(|(id, _)| id).collect()
}

#[test]
fn proposal_is_unfinished_until_decided_and_released() {
    let ours = vec![UnfinishedSaga::Match(match_id(1))];
    let mut events = vec![queued(1, 0.0, &["blitz"]), proposed(1, 1.0, [1, 2])];
    assert_eq!(unfinished_after(&events), ours);
    events.push(matched(1, 1.0, 1));
    assert_eq!(unfinished_after(&events), ours);
    let confirmed: Vec<_> = events.iter().cloned().chain([confirmed(1, 2.0)]).collect();
    assert_eq!(unfinished_after(&confirmed), []);
    events.push(abandoned(1, 2.0));
    assert_eq!(unfinished_after(&events), ours, "the player is still reserved");
    events.push(released(1, 3.0, 1, 3.0));
    assert_eq!(unfinished_after(&events), []);
    events.push(matched(1, 4.0, 1));
    assert_eq!(unfinished_after(&events), ours, "a late reservation for a match that is over");
}

#[test]
fn reserved_entry_does_not_expire() {
    let due = |events: &[Envelope], second: f64| {
        let mut left = PendingSagas::default();
        events.iter().for_each(|event| left.apply(event));
        left.due(at(second)).map(|(due, _)| due).collect::<Vec<_>>()
    };
    let ours = Expiring::Entry(player(1), entry_id(1));
    let mut events = vec![queued(1, 0.0, &["blitz"])];
    assert_eq!(due(&events, 599.9), []);
    assert_eq!(due(&events, 600.0), [ours]);
    events.push(matched(1, 1.0, 1));
    assert_eq!(due(&events, 600.0), []);
    events.push(released(1, 700.0, 1, 700.0));
    assert_eq!(due(&events, 700.0), [ours]);
    let confirmed = [proposed(2, 0.0, [3, 4]), confirmed(2, 0.0)];
    assert_eq!(due(&confirmed, 7199.9), []);
    assert_eq!(due(&confirmed, 7200.0), [Expiring::Match(match_id(2))]);
}

#[test]
fn percentiles_are_interpolated_like_postgresql() {
    let found = percentiles(vec![4.0, 1.0, 3.0, 2.0]).unwrap();
    assert!((found.p50 - 2.5).abs() < 1e-9 && (found.p90 - 3.7).abs() < 1e-9, "{found:?}");
    assert_eq!(percentiles(Vec::new()), None);
}

#[test]
fn estimate_uses_waits_near_the_rating_if_enough() {
    let mut recent = RecentMatches::default();
    assert_eq!(recent.estimate(Rating::new(1500).unwrap()), None);
    for n in 0..20 {
        let low = (Rating::new(1500).unwrap(), Duration::from_secs(10));
        let high = (Rating::new(2500).unwrap(), Duration::from_secs(100));
        recent.add(at(f64::from(n)), [low, high]);
    }
    let near = recent.estimate(Rating::new(1510).unwrap()).unwrap();
    assert_eq!((near.p50_seconds as u32, near.samples, near.within), (10, 20, Some(50)));
    let far = recent.estimate(Rating::new(5000).unwrap()).unwrap();
    assert_eq!((far.samples, far.within), (40, None));
    assert_eq!((recent.matches_a_minute(at(19.0)), recent.matches_a_minute(at(70.0))), (20, 9));
    assert_eq!(recent.gaps().unwrap().count, 20);
}

/// Each player's events in order; the players in any order.
fn histories() -> impl Strategy<Value = (Vec<Vec<Envelope>>, Vec<usize>)> {
    let history = |n: u128| {
        (0.0..100.0_f64, 0..5_usize).prop_map(move |(second, length)| {
            let events = [
                queued(n, second, &["blitz", "rapid"]),
                matched(n, second + 1.0, n),
                released(n, second + 2.0, n, second + 9.0),
                of_player(
                    n,
                    second + 3.0,
                    QueueEntryCancelled { subject_id: player(n), entry_id: entry_id(n) },
                ),
            ];
            events.into_iter().take(length).collect::<Vec<_>>()
        })
    };
    let players: Vec<_> = (1..7).map(history).collect();
    (players, proptest::collection::vec(0..6_usize, 0..60))
}

proptest! {
    #[test]
    fn events_of_different_players_commute((histories, order) in histories()) {
        let one_by_one: Vec<Envelope> = histories.iter().flatten().cloned().collect();
        let mut left: Vec<VecDeque<Envelope>> = histories.into_iter().map(VecDeque::from).collect();
        let mut mixed = Vec::new();
        for n in order {
            mixed.extend(left[n].pop_front());
        }
        mixed.extend(left.into_iter().flatten());
        prop_assert_eq!(queues(&one_by_one), queues(&mixed));
    }
}
