use event_schemas::player::{
    PlayerBlocked, PlayerRated, PlayerReleased, PlayerReserved, PlayerUnblocked, QueueEntryCancelled,
    QueueEntryExpired, QueueEntryMatched, QueueEntryReleased,
};
use uuid::Uuid;

use super::*;
use crate::rating::{Score, unproven};
use crate::scenario::{at, decided, id};

mod properties;

const ANN: SubjectId = SubjectId(Uuid::from_u128(1));
const BOB: SubjectId = SubjectId(Uuid::from_u128(2));

fn entry(n: u128) -> EntryId {
    EntryId(Uuid::from_u128(0xe00 + n))
}

fn match_id(n: u128) -> GameMatchId {
    GameMatchId(Uuid::from_u128(0xa00 + n))
}

fn queue_in(n: u128, pools: &[&str]) -> Action {
    let request = |key: &&str| PoolRequest { pool_key: id(key), rating: None, rating_call: None };
    Action::JoinQueue(JoinQueue {
        entry_id: entry(n),
        pools: pools.iter().map(request).collect(),
        max_rating_gap: None,
        expires_at: at(600.0),
        metadata: None,
    })
}

fn queue(n: u128) -> Action {
    queue_in(n, &["blitz"])
}

fn reserve(n: u128, release_count: u32, of: u128) -> Action {
    Action::ReserveForMatch(ReserveForMatch {
        entry_id: entry(n),
        release_count,
        match_id: match_id(of),
        pool_key: id("blitz"),
        opponent: BOB,
        side: Side::First,
    })
}

fn release(of: u128) -> Action {
    Action::ReleaseFromMatch {
        match_id: match_id(of),
        reason: AbandonReason::GameServiceFailed,
        eligible_at: at(5.0),
    }
}

fn reserve_for_challenge(of: u128, attempt: u32) -> Action {
    Action::ReserveForChallenge(ReserveForChallenge {
        match_id: match_id(of),
        attempt,
        challenge_id: ChallengeId(Uuid::nil()),
        pool_key: id("blitz"),
        opponent: BOB,
    })
}

fn release_from_challenge(of: u128, attempt: u32) -> Action {
    let reason = AbandonReason::GameServiceFailed;
    Action::ReleaseFromChallenge { match_id: match_id(of), attempt, reason, eligible_at: at(5.0) }
}

fn finish(of: u128) -> Action {
    Action::ReleaseAfterMatch { match_id: match_id(of), reason: ReleaseReason::ResultReported, game: None }
}

fn won(of: u128) -> Action {
    let before = unproven(rating::unknown());
    let game = Game { opponent: before, score: Score::Won };
    let game = Rated { pool_key: id("blitz"), before, game };
    Action::ReleaseAfterMatch {
        match_id: match_id(of),
        reason: ReleaseReason::ResultReported,
        game: Some(game),
    }
}

const EXPIRE: Action = Action::Expire { entry_id: EntryId(Uuid::from_u128(0xe01)) };
const CANCEL: Action = Action::Cancel { entry_id: EntryId(Uuid::from_u128(0xe01)) };

/// A player with a sequence of actions, one per second.
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

    /// The recorded events or the refusal. Checks that the same command a second time records nothing more.
    fn then(&mut self, action: Action) -> Result<Vec<PlayerEvent>, Refusal> {
        self.at(self.second + 1.0, action)
    }

    fn at(&mut self, second: f64, action: Action) -> Result<Vec<PlayerEvent>, Refusal> {
        self.second = second;
        let command = Command { subject_id: ANN, at: at(self.second), action };
        let new = PlayerDecider::decide(&command, &self.state)?;
        let fold = |state, new: &Occurred<PlayerEvent>| PlayerDecider::evolve(state, &new.event, new.at);
        self.state = new.iter().fold(self.state.clone(), fold);
        assert_eq!(
            PlayerDecider::decide(&command, &self.state),
            Ok(Vec::new()),
            "the second time: {command:?}"
        );
        let new: Vec<_> = new.into_iter().map(|new| new.event).collect();
        self.events.extend(new.iter().cloned());
        Ok(new)
    }

    fn names(&self) -> Vec<String> {
        self.events.iter().map(|event| event.event_type().to_string()).collect()
    }
}

#[test]
fn player_has_one_queue_entry_at_a_time() {
    let mut story = Story::of([queue(1)]);
    assert_eq!(story.then(queue(2)), Err(Refusal::AlreadyQueued(entry(1))));
    assert_eq!(story.then(queue(1)), Ok(vec![]), "the same request again");
    story.then(CANCEL).unwrap();
    assert_eq!(story.then(queue(2)).unwrap().len(), 1);
}

#[test]
fn player_in_a_match_cannot_join_the_queue() {
    for taken in [reserve(1, 0, 1), reserve_for_challenge(1, 1)] {
        let mut story = Story::of([queue(1), taken]);
        assert_eq!(story.then(queue(2)), Err(Refusal::InMatch(match_id(1))));
        story.then(finish(1)).unwrap();
        assert!(story.then(queue(2)).is_ok());
    }
}

#[test]
fn entry_needs_at_least_one_pool_without_duplicates() {
    assert_eq!(
        (Refusal::Pools.kind(), Refusal::SelfBlock.kind()),
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
fn only_a_waiting_entry_can_be_cancelled() {
    let mut story = Story::of([queue(1)]);
    assert_eq!(
        story.then(CANCEL),
        Ok(vec![QueueEntryCancelled { subject_id: ANN, entry_id: entry(1) }.into()])
    );
    assert_eq!(story.then(Action::Cancel { entry_id: entry(9) }), Err(Refusal::NoSuchEntry));
    let mut story = Story::of([queue(1), reserve(1, 0, 1)]);
    assert_eq!(story.then(CANCEL), Err(Refusal::EntryMatched));
    assert_eq!(Refusal::EntryMatched.kind(), RefusalKind::Conflict);
    story.then(finish(1)).unwrap();
    assert_eq!(story.then(CANCEL), Err(Refusal::EntryEnded(EntryEnd::Played)));
}

#[test]
fn only_a_due_and_waiting_entry_expires() {
    let expired = QueueEntryExpired { subject_id: ANN, entry_id: entry(1) };
    let mut story = Story::of([queue(1)]);
    assert_eq!(story.at(599.9, EXPIRE), Ok(vec![]));
    assert_eq!(story.at(600.0, EXPIRE), Ok(vec![expired.into()]));
    assert_eq!(story.then(CANCEL), Err(Refusal::EntryEnded(EntryEnd::Expired)));
    let mut story = Story::of([queue(1), reserve(1, 0, 1)]);
    assert_eq!(story.at(600.0, EXPIRE), Ok(vec![]), "a matched entry does not expire");
}

#[test]
fn entry_is_reserved_for_one_match_only() {
    let mut story = Story::of([queue(1)]);
    let matched = QueueEntryMatched {
        subject_id: ANN,
        entry_id: entry(1),
        match_id: match_id(1),
        pool_key: id("blitz"),
        opponent: BOB,
        side: Side::First,
    };
    assert_eq!(story.then(reserve(1, 0, 1)), Ok(vec![matched.into()]));
    assert_eq!(story.then(reserve(1, 0, 2)), Err(Refusal::EntryChanged));
    assert_eq!(Story::of([queue(1), CANCEL]).then(reserve(1, 0, 1)), Err(Refusal::EntryChanged));
    assert_eq!(Story::of([queue(1)]).then(reserve(2, 0, 1)), Err(Refusal::EntryChanged));
    assert_eq!(Story::of([queue_in(1, &["rapid"])]).then(reserve(1, 0, 1)), Err(Refusal::EntryChanged));
}

#[test]
fn released_entry_searches_again_and_keeps_its_waiting_time() {
    let mut story = Story::of([queue(1), reserve(1, 0, 1)]);
    let released = story.then(release(1)).unwrap();
    assert!(
        matches!(&released[..], [PlayerEvent::QueueEntryReleased(released)] if released.eligible_at == at(5.0))
    );
    let PlayerActivity::Searching(entry) = story.state.activity() else { panic!("{:?}", story.state) };
    assert_eq!((entry.queued_at, entry.release_count), (at(1.0), 1));
}

#[test]
fn reservation_with_an_old_release_count_is_refused() {
    let mut story = Story::of([queue(1), reserve(1, 0, 1), release(1)]);
    assert_eq!(story.then(reserve(1, 0, 2)), Err(Refusal::EntryChanged));
    assert_eq!(story.then(reserve(1, 1, 2)).unwrap().len(), 1);
}

#[test]
fn only_the_reserving_match_releases_a_player() {
    let mut story = Story::of([queue(1), reserve(1, 0, 1)]);
    for other in [release(2), finish(2), release_from_challenge(1, 1)] {
        assert_eq!(story.then(other), Ok(vec![]));
    }
    assert_eq!(story.state.match_id(), Some(match_id(1)));
}

#[test]
fn failed_challenge_returns_the_player_to_the_queue() {
    let mut story = Story::of([queue(1)]);
    let reserved = story.then(reserve_for_challenge(1, 1)).unwrap();
    let [PlayerEvent::PlayerReserved(PlayerReserved { left_entry, .. })] = &reserved[..] else {
        panic!("{reserved:?}")
    };
    assert_eq!(*left_entry, Some(entry(1)));
    assert_eq!(story.then(CANCEL), Err(Refusal::EntryEnded(EntryEnd::Left)));
    let released = story.then(release_from_challenge(1, 1)).unwrap();
    assert!(matches!(&released[..], [PlayerEvent::QueueEntryReleased(QueueEntryReleased { .. })]));
    assert_eq!(story.state.entry().unwrap().queued_at, at(1.0));
    let mut idle = Story::of([reserve_for_challenge(1, 1)]);
    let released =
        PlayerReleased { subject_id: ANN, match_id: match_id(1), reason: ReleaseReason::Abandoned };
    assert_eq!(idle.then(release_from_challenge(1, 1)), Ok(vec![released.into()]));
}

#[test]
fn failed_attempt_does_not_release_the_next_reservation() {
    let mut story = Story::of([queue(1), reserve_for_challenge(1, 1), reserve_for_challenge(1, 2)]);
    assert_eq!(story.then(release_from_challenge(1, 1)), Ok(vec![]));
    assert_eq!(story.then(reserve_for_challenge(1, 1)), Err(Refusal::AttemptOver));
    story.then(release_from_challenge(1, 2)).unwrap();
    assert_eq!(story.state.entry().unwrap().queued.entry_id, entry(1), "the entry is kept");
}

#[test]
fn player_is_in_one_match_at_a_time() {
    assert_eq!(
        Story::of([reserve_for_challenge(1, 1)]).then(reserve_for_challenge(2, 1)),
        Err(Refusal::InMatch(match_id(1)))
    );
    assert_eq!(
        Story::of([queue(1), reserve(1, 0, 1)]).then(reserve_for_challenge(2, 1)),
        Err(Refusal::InMatch(match_id(1)))
    );
    assert_eq!(
        Story::of([queue(1), reserve_for_challenge(1, 1)]).then(reserve(1, 0, 2)),
        Err(Refusal::EntryChanged)
    );
}

#[test]
fn reservation_with_a_blocked_opponent_is_refused() {
    let block = || Action::Block { other: BOB };
    assert_eq!(Story::of([queue(1), block()]).then(reserve(1, 0, 1)), Err(Refusal::Blocked));
    assert_eq!(Story::of([block()]).then(reserve_for_challenge(1, 1)), Err(Refusal::Blocked));
    let mut story = Story::of([queue(1), block(), Action::Unblock { other: BOB }]);
    assert!(story.then(reserve(1, 0, 1)).is_ok());
}

#[test]
fn blocking_or_unblocking_twice_records_nothing_more() {
    let mut story = Story::of([]);
    assert_eq!(story.then(Action::Unblock { other: BOB }), Ok(vec![]));
    let blocked = PlayerBlocked { subject_id: ANN, blocked: BOB };
    assert_eq!(story.then(Action::Block { other: BOB }), Ok(vec![blocked.into()]));
    let unblocked = PlayerUnblocked { subject_id: ANN, unblocked: BOB };
    assert_eq!(story.then(Action::Unblock { other: BOB }), Ok(vec![unblocked.into()]));
    assert_eq!(story.then(Action::Block { other: ANN }), Err(Refusal::SelfBlock));
}

#[test]
fn number_of_blocks_is_limited() {
    let given: Vec<PlayerEvent> = (0..BLOCKED_MAX as u128)
        .map(|n| PlayerBlocked { subject_id: ANN, blocked: SubjectId(Uuid::from_u128(100 + n)) }.into())
        .collect();
    let command = Command { subject_id: ANN, at: at(0.0), action: Action::Block { other: BOB } };
    assert_eq!(decided::<PlayerDecider>(&given, &command), Err(Refusal::TooManyBlocked));
}

#[test]
fn result_changes_the_rating_once() {
    let mut story = Story::of([queue(1), reserve(1, 0, 1)]);
    let events = story.then(won(1)).unwrap();
    let [PlayerEvent::PlayerRated(PlayerRated { before, after, .. }), PlayerEvent::PlayerReleased(_)] =
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
fn rating_starts_from_the_latest_skill_not_that_of_the_match() {
    let mut story = Story::of([queue(1), reserve(1, 0, 1), won(1), queue(2), reserve(2, 0, 2)]);
    let first = story.state.strength(&id("blitz"), None).2;
    // The match was created before the first result was known, as with two concurrent matches of two servers.
    let events = story.then(won(2)).unwrap();
    let [PlayerEvent::PlayerRated(PlayerRated { before, .. }), PlayerEvent::PlayerReleased(_)] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(*before, first);
    assert!(*before != unproven(rating::unknown()));
}

#[test]
fn opponent_of_a_challenge_is_remembered() {
    let mut story = Story::of([queue(1), reserve_for_challenge(1, 1), finish(1)]);
    let queued = story.then(queue(2)).unwrap();
    let [PlayerEvent::PlayerQueued(queued)] = &queued[..] else { panic!("{queued:?}") };
    assert_eq!(queued.last_opponent, Some(BOB));
}

#[test]
fn strength_prefers_external_then_own_results_then_default() {
    let mut story = Story::of([]);
    let pool = id("blitz");
    let (rating, source, _) = story.state.strength(&pool, None);
    assert_eq!((rating.points(), source), (1500, RatingSource::Default));
    story.then(reserve_for_challenge(1, 1)).unwrap();
    story.then(won(1)).unwrap();
    assert_eq!(story.state.strength(&pool, None).1, RatingSource::History);
    let known = (Rating::nearest(1900.0), RatingSource::Token);
    let (rating, source, skill) = story.state.strength(&pool, Some(known));
    assert_eq!((rating, source), known);
    assert!(skill.deviation < rating::DEVIATION_MAX, "results still count from the player's own skill");
}

#[test]
fn pairing_history_is_restored_if_the_game_is_not_created() {
    let mut story = Story::of([queue(1), reserve(1, 0, 1)]);
    assert_eq!(
        (story.state.pairing_history.balance[&id("blitz")], story.state.pairing_history.last_opponent),
        (1, Some(BOB))
    );
    story.then(release(1)).unwrap();
    assert_eq!(
        (story.state.pairing_history.balance.get(&id("blitz")), story.state.pairing_history.last_opponent),
        (None, None)
    );
    story.then(reserve(1, 1, 2)).unwrap();
    story.then(finish(2)).unwrap();
    let queued = story.then(queue(2)).unwrap();
    let [PlayerEvent::PlayerQueued(queued)] = &queued[..] else { panic!("{queued:?}") };
    assert_eq!((queued.pools[0].side_balance, queued.last_opponent), (1, Some(BOB)));
    let challenged = Story::of([reserve_for_challenge(1, 1)]);
    assert_eq!(challenged.state.pairing_history.last_opponent, Some(BOB));
    let in_vain = Story::of([reserve_for_challenge(1, 1), release_from_challenge(1, 1)]);
    assert_eq!(in_vain.state.pairing_history.last_opponent, None, "the previous opponent is restored");
}

#[test]
fn ends_of_the_latest_16_entries_are_remembered() {
    let cancel = |n| Action::Cancel { entry_id: entry(n) };
    let mut story = Story::of((1..=17).flat_map(|n| [queue(n), cancel(n)]));
    let cancelled = [PlayerEvent::from(QueueEntryCancelled { subject_id: ANN, entry_id: entry(2) })];
    assert!(story.events.contains(&cancelled[0]));
    assert_eq!(story.then(cancel(2)), Ok(vec![]), "it was cancelled");
    assert_eq!(story.then(cancel(1)), Err(Refusal::NoSuchEntry), "too long ago");
    assert_eq!(Refusal::NoSuchEntry.kind(), RefusalKind::NotFound);
}

#[test]
fn refusal_names_how_the_entry_ended() {
    let ends = [EntryEnd::Cancelled, EntryEnd::Expired, EntryEnd::Played, EntryEnd::Left];
    let messages = ends.map(|end| Refusal::EntryEnded(end).to_string());
    let how = ["cancelled", "expired", "matched", "left for a challenge"];
    assert_eq!(messages, how.map(|how| format!("the entry has ended: {how}; join the queue again")));
}

#[test]
fn side_balance_stays_between_minus_three_and_five() {
    let run = |side: Side| (0..20).fold(0, |balance, _| updated_balance(balance, side));
    assert_eq!((run(Side::First), run(Side::Second)), (5, -3));
}
