use event_schemas::player::{
    PlayerBlocked, PlayerEngaged, PlayerFreed, PlayerRated, PlayerUnblocked, QueueEntryCancelled,
    QueueEntryExpired, QueueEntryMatched, QueueEntryReleased,
};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::rating::{Score, unproven};
use crate::scenario::{at, decided, id};

const ANN: SubjectId = SubjectId(Uuid::from_u128(1));
const BOB: SubjectId = SubjectId(Uuid::from_u128(2));

fn entry(n: u128) -> EntryId {
    EntryId(Uuid::from_u128(0xe00 + n))
}

fn match_id(n: u128) -> MatchRecordId {
    MatchRecordId(Uuid::from_u128(0xa00 + n))
}

fn queue_in(n: u128, pools: &[&str]) -> Action {
    let wish = |key: &&str| Wish { pool_key: id(key), rating: None };
    Action::Queue(Queueing {
        entry_id: entry(n),
        pools: pools.iter().map(wish).collect(),
        max_rating_gap: None,
        expires_at: at(600.0),
        metadata: None,
    })
}

fn queue(n: u128) -> Action {
    queue_in(n, &["blitz"])
}

fn take(n: u128, round: u32, of: u128) -> Action {
    Action::Match(Taking {
        entry_id: entry(n),
        round,
        match_id: match_id(of),
        pool_key: id("blitz"),
        opponent: BOB,
        side: Side::First,
    })
}

fn release(of: u128) -> Action {
    Action::Release { match_id: match_id(of), reason: AbandonReason::GameServiceFailed, eligible_at: at(5.0) }
}

fn engage(of: u128, attempt: u32) -> Action {
    Action::Engage(Engaging {
        match_id: match_id(of),
        attempt,
        challenge_id: ChallengeId(Uuid::nil()),
        pool_key: id("blitz"),
        opponent: BOB,
    })
}

fn disengage(of: u128, attempt: u32) -> Action {
    let reason = AbandonReason::GameServiceFailed;
    Action::Disengage { match_id: match_id(of), attempt, reason, eligible_at: at(5.0) }
}

fn free(of: u128) -> Action {
    Action::Free { match_id: match_id(of), reason: FreedReason::ResultReported, game: None }
}

fn won(of: u128) -> Action {
    let before = unproven(rating::unknown());
    let game = Game { opponent: before, score: Score::Won };
    let game = Rated { pool_key: id("blitz"), before, game };
    Action::Free { match_id: match_id(of), reason: FreedReason::ResultReported, game: Some(game) }
}

const EXPIRE: Action = Action::Expire { entry_id: EntryId(Uuid::from_u128(0xe01)) };
const CANCEL: Action = Action::Cancel { entry_id: EntryId(Uuid::from_u128(0xe01)) };

/// A player to whom all this happened, second by second.
struct Story {
    second: f64,
    state: State,
    events: Vec<PlayerEvent>,
}

impl Story {
    fn of(actions: impl IntoIterator<Item = Action>) -> Self {
        let mut story = Self { second: 0.0, state: State::default(), events: Vec::new() };
        for action in actions {
            story.then(action).unwrap();
        }
        story
    }

    /// What the command records, or why it is refused; sent twice, it records nothing more.
    fn then(&mut self, action: Action) -> Result<Vec<PlayerEvent>, Refusal> {
        self.at(self.second + 1.0, action)
    }

    fn at(&mut self, second: f64, action: Action) -> Result<Vec<PlayerEvent>, Refusal> {
        self.second = second;
        let command = Command { subject_id: ANN, at: at(self.second), action };
        let new = Player::decide(&command, &self.state)?;
        let fold = |state, new: &Occurred<PlayerEvent>| Player::evolve(state, &new.event, new.at);
        self.state = new.iter().fold(self.state.clone(), fold);
        assert_eq!(Player::decide(&command, &self.state), Ok(Vec::new()), "the second time: {command:?}");
        let new: Vec<_> = new.into_iter().map(|new| new.event).collect();
        self.events.extend(new.iter().cloned());
        Ok(new)
    }

    fn names(&self) -> Vec<String> {
        self.events.iter().map(|event| event.event_type().to_string()).collect()
    }
}

#[test]
fn a_player_waits_in_one_entry() {
    let mut story = Story::of([queue(1)]);
    assert_eq!(story.then(queue(2)), Err(Refusal::AlreadyQueued(entry(1))));
    assert_eq!(story.then(queue(1)), Ok(vec![]), "the same request again");
    story.then(CANCEL).unwrap();
    assert_eq!(story.then(queue(2)).unwrap().len(), 1);
}

#[test]
fn a_player_with_an_unfinished_match_does_not_queue() {
    for taken in [take(1, 0, 1), engage(1, 1)] {
        let mut story = Story::of([queue(1), taken]);
        assert_eq!(story.then(queue(2)), Err(Refusal::InMatch(match_id(1))));
        story.then(free(1)).unwrap();
        assert!(story.then(queue(2)).is_ok());
    }
}

#[test]
fn an_entry_names_different_pools_and_at_least_one() {
    assert_eq!(
        (Refusal::Pools.kind(), Refusal::Oneself.kind()),
        (RefusalKind::Invalid, RefusalKind::Invalid)
    );
    let many: Vec<String> = (0..=POOLS_MAX).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for pools in [&[][..], &["blitz", "rapid", "blitz"], &many] {
        assert_eq!(Story::of([]).then(queue_in(1, pools)), Err(Refusal::Pools));
    }
    let queued = Story::of([]).then(queue_in(1, &["rapid", "blitz"])).unwrap();
    let PlayerEvent::PlayerQueued(queued) = &queued[0] else { panic!("{queued:?}") };
    assert_eq!(
        queued.pools.iter().map(|pool| pool.pool_key.as_str()).collect::<Vec<_>>(),
        ["blitz", "rapid"]
    );
}

#[test]
fn a_waiting_entry_is_cancelled_once_and_a_matched_one_not_at_all() {
    let mut story = Story::of([queue(1)]);
    assert_eq!(
        story.then(CANCEL),
        Ok(vec![QueueEntryCancelled { subject_id: ANN, entry_id: entry(1) }.into()])
    );
    assert_eq!(story.then(Action::Cancel { entry_id: entry(9) }), Err(Refusal::NoSuchEntry));
    let mut story = Story::of([queue(1), take(1, 0, 1)]);
    assert_eq!(story.then(CANCEL), Err(Refusal::EntryMatched));
    assert_eq!(Refusal::EntryMatched.kind(), RefusalKind::Conflict);
    story.then(free(1)).unwrap();
    assert_eq!(story.then(CANCEL), Err(Refusal::EntryEnded(EntryEnd::Played)));
}

#[test]
fn an_entry_expires_when_it_is_due_if_it_still_waits() {
    let expired = QueueEntryExpired { subject_id: ANN, entry_id: entry(1) };
    let mut story = Story::of([queue(1)]);
    assert_eq!(story.at(599.9, EXPIRE), Ok(vec![]));
    assert_eq!(story.at(600.0, EXPIRE), Ok(vec![expired.into()]));
    assert_eq!(story.then(CANCEL), Err(Refusal::EntryEnded(EntryEnd::Expired)));
    let mut story = Story::of([queue(1), take(1, 0, 1)]);
    assert_eq!(story.at(600.0, EXPIRE), Ok(vec![]), "a matched entry does not expire");
}

#[test]
fn an_entry_is_taken_for_one_match_only() {
    let mut story = Story::of([queue(1)]);
    let matched = QueueEntryMatched {
        subject_id: ANN,
        entry_id: entry(1),
        match_id: match_id(1),
        pool_key: id("blitz"),
        opponent: BOB,
        side: Side::First,
    };
    assert_eq!(story.then(take(1, 0, 1)), Ok(vec![matched.into()]));
    assert_eq!(story.then(take(1, 0, 2)), Err(Refusal::NotThere));
    assert_eq!(Story::of([queue(1), CANCEL]).then(take(1, 0, 1)), Err(Refusal::NotThere));
    assert_eq!(Story::of([queue(1)]).then(take(2, 0, 1)), Err(Refusal::NotThere));
    assert_eq!(Story::of([queue_in(1, &["rapid"])]).then(take(1, 0, 1)), Err(Refusal::NotThere));
}

#[test]
fn an_entry_that_is_released_searches_again_and_has_waited_since_it_was_queued() {
    let mut story = Story::of([queue(1), take(1, 0, 1)]);
    let released = story.then(release(1)).unwrap();
    assert!(
        matches!(&released[..], [PlayerEvent::QueueEntryReleased(released)] if released.eligible_at == at(5.0))
    );
    let Whereabouts::Searching(entry) = story.state.whereabouts() else { panic!("{:?}", story.state) };
    assert_eq!((entry.queued_at, entry.round), (at(1.0), 1));
}

#[test]
fn an_entry_is_taken_only_in_the_round_in_which_it_was_found() {
    let mut story = Story::of([queue(1), take(1, 0, 1), release(1)]);
    assert_eq!(story.then(take(1, 0, 2)), Err(Refusal::NotThere));
    assert_eq!(story.then(take(1, 1, 2)).unwrap().len(), 1);
}

#[test]
fn a_match_lets_go_only_of_whom_it_holds() {
    let mut story = Story::of([queue(1), take(1, 0, 1)]);
    for other in [release(2), free(2), disengage(1, 1)] {
        assert_eq!(story.then(other), Ok(vec![]));
    }
    assert_eq!(story.state.match_id(), Some(match_id(1)));
}

#[test]
fn a_challenge_takes_a_player_out_of_the_queue_and_puts_them_back_if_it_fails() {
    let mut story = Story::of([queue(1)]);
    let engaged = story.then(engage(1, 1)).unwrap();
    let [PlayerEvent::PlayerEngaged(PlayerEngaged { left_entry, .. })] = &engaged[..] else {
        panic!("{engaged:?}")
    };
    assert_eq!(*left_entry, Some(entry(1)));
    assert_eq!(story.then(CANCEL), Err(Refusal::EntryEnded(EntryEnd::Left)));
    let released = story.then(disengage(1, 1)).unwrap();
    assert!(matches!(&released[..], [PlayerEvent::QueueEntryReleased(QueueEntryReleased { .. })]));
    assert_eq!(story.state.entry().unwrap().queued_at, at(1.0));
    let mut idle = Story::of([engage(1, 1)]);
    let freed = PlayerFreed { subject_id: ANN, match_id: match_id(1), reason: FreedReason::Abandoned };
    assert_eq!(idle.then(disengage(1, 1)), Ok(vec![freed.into()]));
}

#[test]
fn an_attempt_that_is_over_does_not_let_go_of_who_is_engaged_for_the_next() {
    let mut story = Story::of([queue(1), engage(1, 1), engage(1, 2)]);
    assert_eq!(story.then(disengage(1, 1)), Ok(vec![]));
    assert_eq!(story.then(engage(1, 1)), Err(Refusal::AttemptOver));
    story.then(disengage(1, 2)).unwrap();
    assert_eq!(story.state.entry().unwrap().queued.entry_id, entry(1), "the entry was not lost on the way");
}

#[test]
fn a_player_is_in_one_match_at_a_time() {
    assert_eq!(Story::of([engage(1, 1)]).then(engage(2, 1)), Err(Refusal::InMatch(match_id(1))));
    assert_eq!(Story::of([queue(1), take(1, 0, 1)]).then(engage(2, 1)), Err(Refusal::InMatch(match_id(1))));
    assert_eq!(Story::of([queue(1), engage(1, 1)]).then(take(1, 0, 2)), Err(Refusal::NotThere));
}

#[test]
fn nobody_is_taken_for_a_match_with_someone_whom_they_block() {
    let block = || Action::Block { other: BOB };
    assert_eq!(Story::of([queue(1), block()]).then(take(1, 0, 1)), Err(Refusal::Blocked));
    assert_eq!(Story::of([block()]).then(engage(1, 1)), Err(Refusal::Blocked));
    let mut story = Story::of([queue(1), block(), Action::Unblock { other: BOB }]);
    assert!(story.then(take(1, 0, 1)).is_ok());
}

#[test]
fn blocking_and_unblocking_twice_records_nothing_more() {
    let mut story = Story::of([]);
    assert_eq!(story.then(Action::Unblock { other: BOB }), Ok(vec![]));
    let blocked = PlayerBlocked { subject_id: ANN, blocked: BOB };
    assert_eq!(story.then(Action::Block { other: BOB }), Ok(vec![blocked.into()]));
    let unblocked = PlayerUnblocked { subject_id: ANN, unblocked: BOB };
    assert_eq!(story.then(Action::Unblock { other: BOB }), Ok(vec![unblocked.into()]));
    assert_eq!(story.then(Action::Block { other: ANN }), Err(Refusal::Oneself));
}

#[test]
fn a_list_of_blocks_ends_somewhere() {
    let given: Vec<PlayerEvent> = (0..BLOCKED_MAX as u128)
        .map(|n| PlayerBlocked { subject_id: ANN, blocked: SubjectId(Uuid::from_u128(100 + n)) }.into())
        .collect();
    let command = Command { subject_id: ANN, at: at(0.0), action: Action::Block { other: BOB } };
    assert_eq!(decided::<Player>(&given, &command), Err(Refusal::TooManyBlocked));
}

#[test]
fn a_result_moves_the_rating_once_and_the_next_entry_starts_from_it() {
    let mut story = Story::of([queue(1), take(1, 0, 1)]);
    let events = story.then(won(1)).unwrap();
    let [PlayerEvent::PlayerRated(PlayerRated { before, after, .. }), PlayerEvent::PlayerFreed(_)] =
        &events[..]
    else {
        panic!("{events:?}")
    };
    assert!(after.rating > before.rating);
    assert_eq!(story.then(won(1)), Ok(vec![]));
    let queued = story.then(queue(2)).unwrap();
    let [PlayerEvent::PlayerQueued(queued)] = &queued[..] else { panic!("{queued:?}") };
    assert_eq!((queued.pools[0].rating_source, queued.pools[0].skill), (RatingSource::History, *after));
    assert_eq!(queued.pools[0].rating, Rating::nearest(after.rating));
}

#[test]
fn a_later_result_counts_from_what_earlier_ones_made_of_the_player_and_not_from_what_the_match_says() {
    let mut story = Story::of([queue(1), take(1, 0, 1), won(1), queue(2), take(2, 0, 2)]);
    let first = story.state.strength(&id("blitz"), None).2;
    // Made before the first result was known, as two matches at once of two servers may be.
    let events = story.then(won(2)).unwrap();
    let [PlayerEvent::PlayerRated(PlayerRated { before, .. }), PlayerEvent::PlayerFreed(_)] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(*before, first);
    assert!(*before != unproven(rating::unknown()));
}

#[test]
fn whom_one_met_by_a_challenge_is_remembered_too() {
    let mut story = Story::of([queue(1), engage(1, 1), free(1)]);
    let queued = story.then(queue(2)).unwrap();
    let [PlayerEvent::PlayerQueued(queued)] = &queued[..] else { panic!("{queued:?}") };
    assert_eq!(queued.last_opponent, Some(BOB));
}

#[test]
fn what_is_known_from_outside_goes_before_the_players_own_results_and_those_before_the_default() {
    let mut story = Story::of([]);
    let pool = id("blitz");
    let (rating, source, _) = story.state.strength(&pool, None);
    assert_eq!((rating.points(), source), (1500, RatingSource::Default));
    story.then(engage(1, 1)).unwrap();
    story.then(won(1)).unwrap();
    assert_eq!(story.state.strength(&pool, None).1, RatingSource::History);
    let known = (Rating::nearest(1900.0), RatingSource::Token);
    let (rating, source, skill) = story.state.strength(&pool, Some(known));
    assert_eq!((rating, source), known);
    assert!(skill.deviation < rating::DEVIATION_MAX, "results still count from the player's own skill");
}

#[test]
fn who_moves_first_and_whom_one_met_is_remembered_unless_no_game_came_of_it() {
    let mut story = Story::of([queue(1), take(1, 0, 1)]);
    assert_eq!((story.state.past.balance[&id("blitz")], story.state.past.last_opponent), (1, Some(BOB)));
    story.then(release(1)).unwrap();
    assert_eq!((story.state.past.balance.get(&id("blitz")), story.state.past.last_opponent), (None, None));
    story.then(take(1, 1, 2)).unwrap();
    story.then(free(2)).unwrap();
    let queued = story.then(queue(2)).unwrap();
    let [PlayerEvent::PlayerQueued(queued)] = &queued[..] else { panic!("{queued:?}") };
    assert_eq!((queued.pools[0].side_balance, queued.last_opponent), (1, Some(BOB)));
    let challenged = Story::of([engage(1, 1)]);
    assert_eq!(challenged.state.past.last_opponent, Some(BOB));
    let in_vain = Story::of([engage(1, 1), disengage(1, 1)]);
    assert_eq!(in_vain.state.past.last_opponent, None, "nobody was met");
}

#[test]
fn of_the_latest_sixteen_entries_it_is_known_how_each_ended() {
    let cancel = |n| Action::Cancel { entry_id: entry(n) };
    let mut story = Story::of((1..=17).flat_map(|n| [queue(n), cancel(n)]));
    let cancelled = [PlayerEvent::from(QueueEntryCancelled { subject_id: ANN, entry_id: entry(2) })];
    assert!(story.events.contains(&cancelled[0]));
    assert_eq!(story.then(cancel(2)), Ok(vec![]), "it was cancelled");
    assert_eq!(story.then(cancel(1)), Err(Refusal::NoSuchEntry), "too long ago");
    assert_eq!(Refusal::NoSuchEntry.kind(), RefusalKind::NotFound);
}

#[test]
fn a_refusal_says_how_an_entry_has_ended() {
    let ends = [EntryEnd::Cancelled, EntryEnd::Expired, EntryEnd::Played, EntryEnd::Left];
    let told = ends.map(|end| Refusal::EntryEnded(end).to_string());
    let how = ["cancelled", "expired", "matched", "left for a challenge"];
    assert_eq!(told, how.map(|how| format!("the entry has ended: {how}; queue anew to wait again")));
}

#[test]
fn the_counter_of_sides_stays_between_minus_three_and_five() {
    let run = |side: Side| (0..20).fold(0, |balance, _| moved(balance, side));
    assert_eq!((run(Side::First), run(Side::Second)), (5, -3));
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (1_u128..4).prop_map(queue),
        (1_u128..4).prop_map(|n| Action::Cancel { entry_id: entry(n) }),
        (1_u128..4, 0_u32..3, 1_u128..4).prop_map(|(n, round, of)| take(n, round, of)),
        (1_u128..4).prop_map(release),
        (1_u128..4, 1_u32..3).prop_map(|(of, attempt)| engage(of, attempt)),
        (1_u128..4, 1_u32..3).prop_map(|(of, attempt)| disengage(of, attempt)),
        (1_u128..4).prop_map(free),
        (1_u128..4).prop_map(won),
    ]
}

proptest! {
    /// Whatever is sent, in whatever order, and each command twice.
    #[test]
    fn a_player_is_never_in_two_matches_and_every_taking_is_followed_by_one_letting_go(
        actions in proptest::collection::vec(action(), 0..60),
    ) {
        let mut story = Story::of([]);
        for action in actions {
            let _ = story.then(action);
        }
        let (mut held, mut waits) = (false, false);
        for name in story.names() {
            match name.as_str() {
                "PlayerQueued" => {
                    prop_assert!(!held && !waits);
                    waits = true;
                }
                "QueueEntryMatched" => {
                    prop_assert!(!held && waits);
                    (held, waits) = (true, false);
                }
                "PlayerEngaged" => (held, waits) = (true, false),
                "QueueEntryReleased" => {
                    prop_assert!(held);
                    (held, waits) = (false, true);
                }
                "PlayerFreed" => {
                    prop_assert!(held);
                    held = false;
                }
                "QueueEntryCancelled" | "QueueEntryExpired" => {
                    prop_assert!(waits);
                    waits = false;
                }
                _ => {}
            }
        }
        prop_assert_eq!(held, story.state.match_id().is_some());
    }
}
