//! That what events say of players and pools reaches those who put players together, and nobody else's.

use event_schemas::challenge::{
    ChallengeAccepted, ChallengeCreated, ChallengePlacing, ChallengePlacingFailed, Strength,
};
use event_schemas::envelope::Envelope;
use event_schemas::ids::ChallengeId;
use event_schemas::match_record::{AbandonReason, Side};
use event_schemas::player::{PlayerBlocked, PlayerEvent, PlayerUnblocked, QueueEntryExpired};
use event_schemas::pool::PoolConfigured;
use event_schemas::rating::RatingSource;
use event_schemas::stream::StreamId;

use super::super::obligations::{Due, Obligations};
use super::super::pass::Pair;
use super::super::queues::{PoolId, Queues, propose};
use super::folds::{entry_id, envelope, match_id, matched, of_player, queued};
use super::*;
use crate::scenario::id;

/// A fold, and the pool that its players wait in.
fn folded(events: &[Envelope]) -> Queues {
    let mut queues = Queues::default();
    events.iter().for_each(|event| queues.apply(event));
    queues
}

fn blitz() -> PoolId {
    (id("default"), id("blitz"))
}

/// Who is put together in the pool at a second, as the matchmaker does it.
fn found(queues: &Queues, second: f64) -> usize {
    let pool = queues.pool(&blitz()).unwrap();
    pool.pass(queues.blocks(), at(second), |_| false).finish().len()
}

/// The same entry, as it says something else of its player.
fn saying(mut envelope: Envelope, say: impl Fn(&mut event_schemas::player::PlayerQueued)) -> Envelope {
    let event_schemas::envelope::Event::Player(PlayerEvent::PlayerQueued(queued)) = &mut envelope.event
    else {
        panic!("{envelope:?}")
    };
    say(queued);
    envelope
}

fn two() -> [Envelope; 2] {
    [queued(1, 0.0, &["blitz"]), queued(2, 0.0, &["blitz"])]
}

#[test]
fn players_of_two_tenants_or_two_pools_are_never_put_together() {
    assert_eq!(found(&folded(&two()), 0.0), 1);
    let [one, mut other] = two();
    other.metadata.tenant = id("elsewhere");
    assert_eq!(found(&folded(&[one.clone(), other]), 0.0), 0);
    let in_another = queued(2, 0.0, &["rapid"]);
    assert_eq!(found(&folded(&[one, in_another]), 0.0), 0);
}

#[test]
fn blocking_keeps_two_apart_until_it_is_taken_back_and_then_the_pool_is_looked_at_again() {
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
fn a_pools_settings_hold_from_their_event_on_and_the_pool_is_looked_at_again() {
    let configured = PoolConfigured {
        pool_key: id("blitz"),
        settings: PoolSettings { window: 0, widen_by: 0, window_max: 0, ..DEFAULTS },
    };
    let stream = StreamId::pool(&id("default"), &id("blitz"));
    let [one, other] = two();
    let other = saying(other, |queued| queued.pools[0].rating = Rating::new(1501).unwrap());
    let mut queues = folded(&[one, other]);
    assert_eq!(found(&queues, 0.0), 1);
    queues.take_changed();
    let event: event_schemas::pool::PoolEvent = configured.into();
    queues.apply(&envelope(stream, 1.0, event));
    assert_eq!(found(&queues, 1.0), 0);
    assert_eq!(queues.take_changed().into_iter().collect::<Vec<_>>(), [blitz()]);
}

#[test]
fn what_an_entry_says_of_its_player_reaches_those_who_pair() {
    let [one, other] = two();
    let far = saying(other.clone(), |queued| queued.pools[0].rating = Rating::new(1560).unwrap());
    let shy = saying(one.clone(), |queued| queued.max_rating_gap = Some(50));
    assert_eq!(found(&folded(&[one.clone(), far.clone()]), 0.0), 1);
    assert_eq!(found(&folded(&[shy, far]), 0.0), 0, "its own limit");
    let again = saying(one.clone(), |queued| queued.last_opponent = Some(player(2)));
    assert_eq!(found(&folded(&[again, other.clone()]), 0.0), 0, "whom it met last");
    let hasty = saying(one.clone(), |queued| queued.expires_at = at(5.0));
    assert_eq!(found(&folded(&[hasty, other.clone()]), 5.0), 0, "how long it waits");
    let balanced = saying(one, |queued| queued.pools[0].side_balance = 3);
    let queues = folded(&[balanced, other]);
    assert_eq!(queues.waiting(entry_id(1), &id("blitz")).unwrap().side_balance, 3);
    let pool = queues.pool(&blitz()).unwrap();
    let pairs = pool.pass(queues.blocks(), at(0.0), |_| false).finish();
    assert_eq!(propose(&id("blitz"), &pairs[0]).first.subject_id, player(2), "who was the first more often");
}

#[test]
fn an_entry_that_has_expired_waits_no_more() {
    let [one, other] = two();
    let expired = QueueEntryExpired { subject_id: player(1), entry_id: entry_id(1) };
    let queues = folded(&[one, other, of_player(1, 600.0, expired)]);
    assert_eq!(found(&queues, 1.0), 0);
    assert_eq!((queues.entry_of(player(1)), queues.searching()), (None, 1));
}

#[test]
fn between_two_who_were_the_first_equally_often_chance_decides_who_is_now() {
    let firsts = (0..200).filter(|n| {
        let (one, other) = (waiting(2 * n, 0.0, 1500), waiting(2 * n + 1, 0.0, 1500));
        let proposed = propose(&id("blitz"), &Pair { seed: &one, partner: &other });
        proposed.first.subject_id == one.player
    });
    assert!((70..130).contains(&firsts.count()));
}

#[test]
fn two_who_may_meet_at_once_wait_for_nothing_but_the_later_ones_arrival() {
    let found = meeting(&waiting(1, 0.0, 1500), &waiting(2, 5.0, 1500), &DEFAULTS, &Blocks::default());
    assert_eq!(found.map(|found| found.behind), Ok(Behind::Arrival));
}

const CHALLENGE: ChallengeId = ChallengeId(Uuid::from_u128(0xc0));

fn of_challenge<E: Into<event_schemas::challenge::ChallengeEvent>>(second: f64, event: E) -> Envelope {
    envelope(StreamId::challenge(CHALLENGE), second, event.into())
}

fn strength() -> Strength {
    let rating = Rating::new(1500).unwrap();
    Strength { rating, rating_source: RatingSource::Default, skill: unproven(rating) }
}

#[test]
fn a_challenge_falls_due_unless_its_game_is_being_made_and_again_once_that_has_failed() {
    let due = |events: &[Envelope]| {
        let mut left = Obligations::default();
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
    let placing =
        ChallengePlacing { match_id, attempt: 1, strength: strength(), challenger_side: Side::First };
    let reason = AbandonReason::GameServiceFailed;
    let mut events = vec![of_challenge(0.0, created)];
    assert_eq!(due(&events), Some(at(300.0)));
    events.push(of_challenge(1.0, placing));
    assert_eq!(due(&events), None);
    let accepted = of_challenge(2.0, ChallengeAccepted { match_id, game_id: None });
    assert_eq!(due(&[&events[..], &[accepted]].concat()), None);
    events.push(of_challenge(2.0, ChallengePlacingFailed { match_id, reason, detail: None }));
    assert_eq!(due(&events), Some(at(300.0)));
}

#[test]
fn an_entry_whose_player_is_engaged_for_a_challenge_does_not_fall_due() {
    let engaged = event_schemas::player::PlayerEngaged {
        subject_id: player(1),
        match_id: match_id(1),
        attempt: 1,
        challenge_id: CHALLENGE,
        pool_key: id("blitz"),
        opponent: player(2),
        left_entry: Some(entry_id(1)),
    };
    let mut left = Obligations::default();
    left.apply(&queued(1, 0.0, &["blitz"]));
    left.apply(&of_player(1, 1.0, engaged));
    assert_eq!((left.due(at(601.0)).count(), left.next_due()), (0, None));
    let mut searching = Obligations::default();
    searching.apply(&queued(1, 0.0, &["blitz"]));
    assert_eq!(searching.due(at(600.0)).map(|(due, _)| due).next(), Some(Due::Entry(player(1), entry_id(1))));
    searching.apply(&matched(1, 600.0, 1));
    assert_eq!(searching.next_due(), None);
}
