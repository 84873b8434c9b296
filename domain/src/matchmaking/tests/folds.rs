//! The folds: who waits, what is left to do, what the latest matches say.

use std::collections::VecDeque;

use event_schemas::envelope::{Actor, Envelope, Event, Metadata};
use event_schemas::ids::{ChallengeId, CorrelationId, MatchRecordId, PoolKey, Position, Revision, Tenant};
use event_schemas::match_record::{AbandonReason, MatchAbandoned, MatchConfirmed, MatchResultReported, Side};
use event_schemas::player::{
    FreedReason, PlayerEngaged, PlayerFreed, PlayerQueued, QueueEntryCancelled, QueueEntryMatched,
    QueueEntryReleased, QueuedPool,
};
use event_schemas::rating::RatingSource;
use event_schemas::stream::StreamId;

use super::super::obligations::{Due, Obligations, Unfinished};
use super::super::pass::Pair;
use super::super::queues::{Queues, propose};
use super::super::statistics::{Recent, percentiles};
use super::*;
use crate::scenario::id;

pub(super) fn match_id(n: u128) -> MatchRecordId {
    MatchRecordId(Uuid::from_u128(0xa00 + n))
}

pub(super) fn entry_id(n: u128) -> EntryId {
    EntryId(Uuid::from_u128(n))
}

pub(super) fn envelope(stream: StreamId, second: f64, event: impl Into<Event>) -> Envelope {
    let event = event.into();
    Envelope {
        position: Position(1),
        recorded_at: at(second),
        id: EventId(Uuid::new_v5(&Uuid::nil(), format!("{stream}{second}{event:?}").as_bytes())),
        stream,
        revision: Revision(0),
        metadata: Metadata {
            schema_version: event.schema_version(),
            occurred_at: at(second),
            tenant: id("default"),
            actor: Actor::System(id("matchmaker")),
            correlation_id: CorrelationId(Uuid::nil()),
            causation_id: Uuid::nil(),
            subject: None,
            idempotency: None,
            traceparent: None,
        },
        event,
    }
}

pub(super) fn of_player<E: Into<event_schemas::player::PlayerEvent>>(
    n: u128,
    second: f64,
    event: E,
) -> Envelope {
    envelope(StreamId::player(&id("default"), player(n)), second, event.into())
}

fn of_match<E: Into<event_schemas::match_record::MatchRecordEvent>>(
    n: u128,
    second: f64,
    event: E,
) -> Envelope {
    envelope(StreamId::match_record(match_id(n)), second, event.into())
}

/// Player `n` joins with their entry `n`.
pub(super) fn queued(n: u128, second: f64, pools: &[&str]) -> Envelope {
    let pool = |key: &&str| QueuedPool {
        pool_key: id(key),
        rating: Rating::new(1500).unwrap(),
        rating_source: RatingSource::Default,
        skill: unproven(Rating::new(1500).unwrap()),
        side_balance: 0,
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

pub(super) fn freed(n: u128, second: f64, of: u128) -> Envelope {
    let freed =
        PlayerFreed { subject_id: player(n), match_id: match_id(of), reason: FreedReason::ResultReported };
    of_player(n, second, freed)
}

pub(super) fn proposed(of: u128, second: f64, players: [u128; 2]) -> Envelope {
    let [seed, partner] = players.map(|n| waiting(n, 0.0, 1500));
    let mut proposed = propose(&id("blitz"), &Pair { seed: &seed, partner: &partner });
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
        .map_or_else(Vec::new, |pool| pool.line().map(|waiting| waiting.entry_id.0.as_u128()).collect())
}

#[test]
fn an_entry_waits_in_all_its_pools_and_leaves_all_when_it_is_matched_in_one() {
    let mut events = vec![queued(1, 0.0, &["blitz", "rapid"]), queued(2, 1.0, &["rapid"])];
    assert_eq!(
        (in_pool(&queues(&events), "blitz"), in_pool(&queues(&events), "rapid")),
        (vec![1], vec![1, 2])
    );
    events.push(matched(1, 2.0, 1));
    assert_eq!((in_pool(&queues(&events), "blitz"), in_pool(&queues(&events), "rapid")), (vec![], vec![2]));
}

#[test]
fn a_released_entry_is_back_in_its_old_place() {
    let events = [
        queued(1, 0.0, &["blitz"]),
        queued(2, 1.0, &["blitz"]),
        matched(1, 2.0, 1),
        released(1, 3.0, 1, 8.0),
    ];
    let queues = queues(&events);
    assert_eq!(in_pool(&queues, "blitz"), [1, 2]);
    let waiting = queues.waiting(entry_id(1), &id("blitz")).unwrap();
    assert_eq!((waiting.queued_at, waiting.eligible_at, waiting.round), (at(0.0), at(8.0), 1));
    assert_eq!(waiting.turn, events[3].id);
}

#[test]
fn a_challenge_takes_an_entry_out_and_a_failed_one_puts_it_back() {
    let engaged = PlayerEngaged {
        subject_id: player(1),
        match_id: match_id(1),
        attempt: 1,
        challenge_id: ChallengeId(Uuid::nil()),
        pool_key: id("blitz"),
        opponent: player(2),
        left_entry: Some(entry_id(1)),
    };
    let mut events = vec![queued(1, 0.0, &["blitz"]), of_player(1, 1.0, engaged)];
    assert_eq!(in_pool(&queues(&events), "blitz"), [] as [u128; 0]);
    events.push(released(1, 2.0, 1, 2.0));
    assert_eq!(in_pool(&queues(&events), "blitz"), [1]);
}

#[test]
fn nobody_is_left_behind_in_memory_when_all_is_over() {
    let events = [
        queued(1, 0.0, &["blitz"]),
        queued(2, 0.0, &["blitz"]),
        queued(3, 0.0, &["blitz"]),
        proposed(1, 1.0, [1, 2]),
        matched(1, 1.0, 1),
        matched(2, 1.0, 1),
        confirmed(1, 1.0),
        of_match(1, 9.0, MatchResultReported { result: event_schemas::match_record::GameResult::Draw }),
        freed(1, 9.0, 1),
        freed(2, 9.0, 1),
        of_player(3, 9.0, QueueEntryCancelled { subject_id: player(3), entry_id: entry_id(3) }),
    ];
    let queues = queues(&events);
    assert!((1..4).all(|n| queues.entry(entry_id(n)).is_none() && queues.entry_of(player(n)).is_none()));
    let pool: (Tenant, PoolKey) = (id("default"), id("blitz"));
    let pool = queues.pool(&pool).unwrap();
    assert_eq!((pool.line().len(), pool.placing(), pool.recent().matches()), (0, 0, 1));
    let mut left = Obligations::default();
    events.iter().for_each(|event| left.apply(event));
    assert_eq!(left, Obligations::default());
}

#[test]
fn who_was_the_first_less_often_moves_first_and_both_matchmakers_find_the_same_match() {
    let a = Waiting { side_balance: 2, ..waiting(1, 0.0, 1500) };
    let b = Waiting { side_balance: -1, ..waiting(2, 0.0, 1500) };
    let one = propose(&id("blitz"), &Pair { seed: &a, partner: &b });
    assert_eq!(one.first.subject_id, b.player);
    assert_eq!(propose(&id("blitz"), &Pair { seed: &b, partner: &a }), one);
    let again = Waiting { turn: EventId(Uuid::from_u128(77)), round: 1, ..a.clone() };
    let other = propose(&id("blitz"), &Pair { seed: &again, partner: &b });
    assert_ne!(other.match_id, one.match_id, "another round is another match");
    let (c, d) = (waiting(3, 0.0, 1500), waiting(4, 0.0, 1500));
    let drawn = propose(&id("blitz"), &Pair { seed: &c, partner: &d });
    assert_eq!(propose(&id("blitz"), &Pair { seed: &d, partner: &c }), drawn);
}

#[test]
fn those_who_search_are_counted_once_each_however_often_they_are_taken_and_let_go() {
    let searching = |events: &[Envelope]| {
        let mut left = Obligations::default();
        events.iter().for_each(|event| left.apply(event));
        left.searching()
    };
    let mut events = vec![queued(1, 0.0, &["blitz", "rapid"]), queued(2, 0.0, &["blitz"])];
    assert_eq!(searching(&events), 2);
    events.push(matched(1, 1.0, 1));
    assert_eq!(searching(&events), 1);
    events.push(released(1, 2.0, 1, 2.0));
    assert_eq!(searching(&events), 2);
    events.extend([matched(1, 3.0, 1), freed(1, 4.0, 1)]);
    assert_eq!(searching(&events), 1);
}

fn left_to_do(events: &[Envelope]) -> Vec<Unfinished> {
    let mut left = Obligations::default();
    events.iter().for_each(|event| left.apply(event));
    left.unfinished().map(|(id, _)| id).collect()
}

#[test]
fn a_proposal_is_unfinished_until_it_is_decided_and_until_whoever_it_holds_for_nothing_is_let_go() {
    let ours = vec![Unfinished::Match(match_id(1))];
    let mut events = vec![queued(1, 0.0, &["blitz"]), proposed(1, 1.0, [1, 2])];
    assert_eq!(left_to_do(&events), ours);
    events.push(matched(1, 1.0, 1));
    assert_eq!(left_to_do(&events), ours);
    let confirmed: Vec<_> = events.iter().cloned().chain([confirmed(1, 2.0)]).collect();
    assert_eq!(left_to_do(&confirmed), []);
    events.push(abandoned(1, 2.0));
    assert_eq!(left_to_do(&events), ours, "the player is still held");
    events.push(released(1, 3.0, 1, 3.0));
    assert_eq!(left_to_do(&events), []);
    events.push(matched(1, 4.0, 1));
    assert_eq!(left_to_do(&events), ours, "a late taking for a match that is over");
}

#[test]
fn what_falls_due_does_so_once_and_not_while_it_is_taken() {
    let due = |events: &[Envelope], second: f64| {
        let mut left = Obligations::default();
        events.iter().for_each(|event| left.apply(event));
        left.due(at(second)).map(|(due, _)| due).collect::<Vec<_>>()
    };
    let ours = Due::Entry(player(1), entry_id(1));
    let mut events = vec![queued(1, 0.0, &["blitz"])];
    assert_eq!(due(&events, 599.9), []);
    assert_eq!(due(&events, 600.0), [ours]);
    events.push(matched(1, 1.0, 1));
    assert_eq!(due(&events, 600.0), []);
    events.push(released(1, 700.0, 1, 700.0));
    assert_eq!(due(&events, 700.0), [ours]);
    let confirmed = [proposed(2, 0.0, [3, 4]), confirmed(2, 0.0)];
    assert_eq!(due(&confirmed, 7199.9), []);
    assert_eq!(due(&confirmed, 7200.0), [Due::Match(match_id(2))]);
}

#[test]
fn percentiles_are_interpolated_as_postgresql_does() {
    let found = percentiles(vec![4.0, 1.0, 3.0, 2.0]).unwrap();
    assert!((found.p50 - 2.5).abs() < 1e-9 && (found.p90 - 3.7).abs() < 1e-9, "{found:?}");
    assert_eq!(percentiles(Vec::new()), None);
}

#[test]
fn an_estimate_rests_on_waits_near_the_rating_if_there_are_enough_and_says_so() {
    let mut recent = Recent::default();
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

/// Each player's own events in their order; the players in any.
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
    fn the_order_of_different_players_events_does_not_matter((histories, order) in histories()) {
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
