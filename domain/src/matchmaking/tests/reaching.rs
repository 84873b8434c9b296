//! Tests that the settings and attributes in the events of players and pools reach the pairing of their own
//! pool, and no other.

use event_schemas::challenge::{
    ChallengeAccepted, ChallengeCreated, ChallengePlacementFailed, ChallengePlacementStarted, Strength,
};
use event_schemas::envelope::Envelope;
use event_schemas::game_match::{AbandonReason, Side};
use event_schemas::ids::ChallengeId;
use event_schemas::player::{PlayerBlocked, PlayerEvent, PlayerUnblocked, QueueEntryExpired};
use event_schemas::pool::PoolConfigured;
use event_schemas::rating::RatingSource;
use event_schemas::stream::StreamId;

use super::super::pass::Pairing;
use super::super::pending_work::{Expiring, PendingSagas};
use super::super::queues::{PoolId, Queues, propose};
use super::folds::{entry_id, envelope, match_id, matched, of_player, queued};
use super::*;
use crate::scenario::id;

/// The queues after these events.
fn folded(events: &[Envelope]) -> Queues {
    let mut queues = Queues::default();
    events.iter().for_each(|event| queues.apply(event));
    queues
}

fn blitz() -> PoolId {
    (id("default"), id("blitz"))
}

/// The number of pairings in the pool at a second, as the matchmaker computes them.
fn found(queues: &Queues, second: f64) -> usize {
    let pool = queues.pool(&blitz()).unwrap();
    pool.pass(queues.blocks(), at(second), |_| false).finish().len()
}

/// The same event with changed data.
fn with_data(mut envelope: Envelope, change: impl Fn(&mut event_schemas::player::PlayerQueued)) -> Envelope {
    let event_schemas::envelope::Event::Player(PlayerEvent::PlayerQueued(queued)) = &mut envelope.event
    else {
        panic!("{envelope:?}")
    };
    change(queued);
    envelope
}

fn two() -> [Envelope; 2] {
    [queued(1, 0.0, &["blitz"]), queued(2, 0.0, &["blitz"])]
}

#[test]
fn players_of_other_tenants_or_pools_are_never_paired() {
    assert_eq!(found(&folded(&two()), 0.0), 1);
    let [one, mut other] = two();
    other.metadata.tenant = id("elsewhere");
    assert_eq!(found(&folded(&[one.clone(), other]), 0.0), 0);
    let in_another = queued(2, 0.0, &["rapid"]);
    assert_eq!(found(&folded(&[one, in_another]), 0.0), 0);
}

#[test]
fn unblocking_triggers_a_new_pass() {
    let blocked = PlayerBlocked { subject_id: player(2), blocked: player(1) };
    let [one, other] = two();
    let mut queues = folded(&[one, other, of_player(2, 1.0, blocked)]);
    assert_eq!(found(&queues, 2.0), 0);
    queues.take_changed();
    queues.apply(&of_player(2, 3.0, PlayerUnblocked { subject_id: player(2), unblocked: player(1) }));
    assert_eq!(found(&queues, 3.0), 1);
    assert_eq!(queues.take_changed().into_iter().collect::<Vec<_>>(), [blitz()]);
}

#[test]
fn new_pool_settings_apply_and_trigger_a_new_pass() {
    let configured = PoolConfigured {
        pool_key: id("blitz"),
        settings: PoolSettings { window: 0, widen_by: 0, window_max: 0, ..DEFAULTS },
    };
    let stream = StreamId::pool(&id("default"), &id("blitz"));
    let [one, other] = two();
    let other = with_data(other, |queued| queued.pools[0].rating = Rating::new(1501).unwrap());
    let mut queues = folded(&[one, other]);
    assert_eq!(found(&queues, 0.0), 1);
    queues.take_changed();
    let event: event_schemas::pool::PoolEvent = configured.into();
    queues.apply(&envelope(stream, 1.0, event));
    assert_eq!(found(&queues, 1.0), 0);
    assert_eq!(queues.take_changed().into_iter().collect::<Vec<_>>(), [blitz()]);
}

#[test]
fn entry_attributes_are_used_for_pairing() {
    let [one, other] = two();
    let far = with_data(other.clone(), |queued| queued.pools[0].rating = Rating::new(1560).unwrap());
    let strict = with_data(one.clone(), |queued| queued.max_rating_gap = Some(50));
    assert_eq!(found(&folded(&[one.clone(), far.clone()]), 0.0), 1);
    assert_eq!(found(&folded(&[strict, far]), 0.0), 0, "max_rating_gap");
    let again = with_data(one.clone(), |queued| queued.last_opponent = Some(player(2)));
    assert_eq!(found(&folded(&[again, other.clone()]), 0.0), 0, "last_opponent");
    let hasty = with_data(one.clone(), |queued| queued.expires_at = at(5.0));
    assert_eq!(found(&folded(&[hasty, other.clone()]), 5.0), 0, "expires_at");
    let balanced = with_data(one, |queued| queued.pools[0].side_balance = 3);
    let queues = folded(&[balanced, other]);
    assert_eq!(queues.waiting(entry_id(1), &id("blitz")).unwrap().side_balance, 3);
    let pool = queues.pool(&blitz()).unwrap();
    let pairs = pool.pass(queues.blocks(), at(0.0), |_| false).finish();
    assert_eq!(propose(&id("blitz"), &pairs[0]).first.subject_id, player(2), "side_balance");
}

#[test]
fn expired_entry_leaves_the_queue() {
    let [one, other] = two();
    let expired = QueueEntryExpired { subject_id: player(1), entry_id: entry_id(1) };
    let queues = folded(&[one, other, of_player(1, 600.0, expired)]);
    assert_eq!(found(&queues, 1.0), 0);
    assert_eq!((queues.entry_of(player(1)), queues.searching()), (None, 1));
}

#[test]
fn match_id_decides_sides_of_equally_balanced_players() {
    let firsts = (0..200).filter(|n| {
        let (one, other) = (waiting(2 * n, 0.0, 1500), waiting(2 * n + 1, 0.0, 1500));
        let proposed = propose(&id("blitz"), &Pairing { first: &one, second: &other });
        proposed.first.subject_id == one.player
    });
    assert!((70..130).contains(&firsts.count()));
}

#[test]
fn immediate_pairing_is_delayed_by_arrival_only() {
    let found =
        earliest_pairing(&waiting(1, 0.0, 1500), &waiting(2, 5.0, 1500), &DEFAULTS, &Blocks::default());
    assert_eq!(found.map(|found| found.delayed_by), Ok(DelayedBy::Arrival));
}

const CHALLENGE: ChallengeId = ChallengeId(Uuid::from_u128(0xc0));

fn of_challenge<E: Into<event_schemas::challenge::ChallengeEvent>>(second: f64, event: E) -> Envelope {
    envelope(StreamId::challenge(CHALLENGE), second, event.into())
}

fn strength() -> Strength {
    let rating = Rating::new(1500).unwrap();
    Strength { rating, rating_source: RatingSource::Default, skill: unproven(rating), rating_call: None }
}

#[test]
fn challenge_expiry_is_suspended_during_placement() {
    let due = |events: &[Envelope]| {
        let mut left = PendingSagas::default();
        events.iter().for_each(|event| left.apply(event));
        left.next_due()
    };
    let created = ChallengeCreated {
        challenge_id: CHALLENGE,
        pool_key: id("blitz"),
        challenger: player(1),
        challenged: player(2),
        strength: strength(),
        expires_at: at(300.0),
        message: None,
    };
    let match_id = crate::challenge::match_id(CHALLENGE);
    let placing = ChallengePlacementStarted {
        match_id,
        attempt: 1,
        strength: strength(),
        challenger_side: Side::First,
    };
    let reason = AbandonReason::GameServiceFailed;
    let mut events = vec![of_challenge(0.0, created)];
    assert_eq!(due(&events), Some(at(300.0)));
    events.push(of_challenge(1.0, placing));
    assert_eq!(due(&events), None);
    let accepted = of_challenge(2.0, ChallengeAccepted { match_id, game_id: None });
    assert_eq!(due(&[&events[..], &[accepted]].concat()), None);
    events.push(of_challenge(2.0, ChallengePlacementFailed { match_id, reason, detail: None }));
    assert_eq!(due(&events), Some(at(300.0)));
}

#[test]
fn entry_of_a_player_in_a_challenge_does_not_expire() {
    let reserved = event_schemas::player::PlayerReserved {
        subject_id: player(1),
        match_id: match_id(1),
        attempt: 1,
        challenge_id: CHALLENGE,
        pool_key: id("blitz"),
        opponent: player(2),
        left_entry: Some(entry_id(1)),
    };
    let mut left = PendingSagas::default();
    left.apply(&queued(1, 0.0, &["blitz"]));
    left.apply(&of_player(1, 1.0, reserved));
    assert_eq!((left.due(at(601.0)).count(), left.next_due()), (0, None));
    let mut searching = PendingSagas::default();
    searching.apply(&queued(1, 0.0, &["blitz"]));
    assert_eq!(
        searching.due(at(600.0)).map(|(due, _)| due).next(),
        Some(Expiring::Entry(player(1), entry_id(1)))
    );
    searching.apply(&matched(1, 600.0, 1));
    assert_eq!(searching.next_due(), None);
}
