//! The read models of players, challenges and game matches, over a history of events that the deciders produce.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::challenge::{self, ChallengeDecider};
use domain::decider::Decider;
use domain::game_match::{self, GameMatchDecider};
use domain::player::{self, JoinQueue, PlayerDecider, PoolRequest, ReserveForMatch};
use domain::rating::{Game, Score, unproven};
use event_schemas::challenge::{ChallengeCreated, Strength};
use event_schemas::envelope::Event;
use event_schemas::game_match::{AbandonReason, GameResult, MatchPlayer, MatchProposed, Side};
use event_schemas::ids::{ChallengeId, EntryId, GameMatchId, PoolKey, Position, SubjectId, Tenant};
use event_schemas::player::ReleaseReason;
use event_schemas::rating::{Rating, RatingSource};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use uuid::Uuid;

use super::history::{History, tenant};
use super::test_store::TestStore;
use super::{open, reach};
use crate::ReadModels;
use crate::challenge::{ChallengeStatus, Direction};
use crate::game_match::GameMatchStatus;

pub(super) fn subject(n: u8) -> SubjectId {
    SubjectId(Uuid::from_u128(0x5000 + u128::from(n)))
}

fn match_id(n: u8) -> GameMatchId {
    GameMatchId(Uuid::from_u128(0xa_0000 + u128::from(n)))
}

fn challenge_id(n: u8) -> ChallengeId {
    ChallengeId(Uuid::from_u128(0xc_0000 + u128::from(n)))
}

fn entry_id(n: u8, round: u32) -> EntryId {
    EntryId(Uuid::from_u128(0xe000 + (u128::from(round) << 32) + u128::from(n)))
}

fn pool() -> PoolKey {
    "blitz".parse().unwrap()
}

fn rating() -> Rating {
    Rating::new(1500).unwrap()
}

fn proposed(n: u8, first: u8, second: u8, queued_at: Option<Timestamp>) -> MatchProposed {
    let player = |n| MatchPlayer {
        subject_id: subject(n),
        entry_id: None,
        queued_at,
        release_count: 0,
        rating: rating(),
        skill: unproven(rating()),
    };
    MatchProposed {
        match_id: match_id(n),
        pool_key: pool(),
        challenge_id: None,
        first: player(first),
        second: player(second),
    }
}

fn challenge(n: u8, challenger: u8, challenged: u8, expires_at: Timestamp) -> ChallengeCreated {
    ChallengeCreated {
        challenge_id: challenge_id(n),
        pool_key: pool(),
        challenger: subject(challenger),
        challenged: subject(challenged),
        strength: strength(),
        expires_at,
        message: None,
    }
}

fn strength() -> Strength {
    Strength {
        rating: rating(),
        rating_source: RatingSource::Default,
        skill: unproven(rating()),
        rating_call: None,
    }
}

/// The states after all decided events, so that only events that the deciders allow are appended.
#[derive(Default)]
pub(super) struct MatchHistory {
    matches: BTreeMap<u8, game_match::State>,
    challenges: BTreeMap<u8, challenge::State>,
    players: BTreeMap<u8, player::State>,
    entries: u32,
}

impl MatchHistory {
    /// Sends a command to the match, challenge or player `of`; `n` varies it.
    pub(super) async fn act(&mut self, history: &History, action: u8, of: u8, n: u8) {
        let at = history.clock.now();
        match action {
            0 => {
                let proposed = proposed(of, n, n + 1, Some(at));
                self.decide_match(history, of, game_match::Action::Propose(proposed)).await;
            }
            1 => {
                let game_id = (n > 0).then(|| format!("game-{of}").parse().unwrap());
                let result_due_at = at.after(Duration::from_secs(10));
                self.decide_match(history, of, game_match::Action::Confirm { game_id, result_due_at }).await;
            }
            2 => {
                let reason =
                    [AbandonReason::PlayerUnavailable, AbandonReason::GameRefused][usize::from(n % 2)];
                let detail = Some("no".to_owned());
                let abandon = game_match::Action::Abandon { reason, detail, eligible_at: at };
                self.decide_match(history, of, abandon).await;
            }
            3 => self.decide_match(history, of, game_match::Action::Report(GameResult::Draw)).await,
            4 => self.decide_match(history, of, game_match::Action::Expire).await,
            5 => {
                self.entries += 1;
                let pools = vec![PoolRequest { pool_key: pool(), rating: None, rating_call: None }];
                let join = JoinQueue {
                    entry_id: entry_id(of, self.entries),
                    pools,
                    max_rating_gap: None,
                    expires_at: at.after(Duration::from_secs(600)),
                    metadata: None,
                };
                self.decide_player(history, of, player::Action::JoinQueue(join)).await;
            }
            6 => self.reserve(history, of, n).await,
            7 => {
                let before = unproven(rating());
                let game = Game { opponent: before, score: Score::Won };
                let rated = player::Rated { pool_key: pool(), before, game };
                let reason = ReleaseReason::ResultReported;
                let release =
                    player::Action::ReleaseAfterMatch { match_id: match_id(n), reason, game: Some(rated) };
                self.decide_player(history, of, release).await;
            }
            8 => self.decide_player(history, of, player::Action::Block { other: subject(n) }).await,
            9 => self.decide_player(history, of, player::Action::Unblock { other: subject(n) }).await,
            10 => {
                let created = challenge(of, n, n + 1, at.after(Duration::from_secs(20)));
                self.decide_challenge(history, of, challenge::Action::Create(created)).await;
            }
            11 => {
                let accept = challenge::Action::Accept { by: subject(n + 1), strength: strength() };
                self.decide_challenge(history, of, accept).await;
            }
            12 => {
                let confirm = challenge::Action::Confirm { attempt: 1, game_id: None };
                self.decide_challenge(history, of, confirm).await;
            }
            13 => {
                let reason = AbandonReason::GameServiceParked;
                let fail = challenge::Action::FailPlacement { attempt: 1, reason, detail: None };
                self.decide_challenge(history, of, fail).await;
            }
            14 => {
                let decline = challenge::Action::Decline { by: subject(n + 1) };
                self.decide_challenge(history, of, decline).await;
            }
            15 => {
                self.decide_challenge(history, of, challenge::Action::Cancel { by: subject(n) }).await;
            }
            _ => self.decide_challenge(history, of, challenge::Action::Expire).await,
        }
    }

    async fn reserve(&mut self, history: &History, of: u8, n: u8) {
        let Some(entry) = self.players.get(&of).and_then(player::State::entry) else { return };
        let reservation = ReserveForMatch {
            entry_id: entry.queued.entry_id,
            release_count: entry.release_count,
            match_id: match_id(n),
            pool_key: pool(),
            opponent: subject(n + 1),
            side: Side::First,
        };
        self.decide_player(history, of, player::Action::ReserveForMatch(reservation)).await;
    }

    pub(super) async fn decide_match(&mut self, history: &History, n: u8, action: game_match::Action) {
        let command = game_match::Command { at: history.clock.now(), action };
        let stream = StreamId::game_match(match_id(n));
        decide::<GameMatchDecider>(history, stream, self.matches.entry(n).or_default(), &command).await;
    }

    pub(super) async fn decide_challenge(&mut self, history: &History, n: u8, action: challenge::Action) {
        let command = challenge::Command { at: history.clock.now(), action };
        let stream = StreamId::challenge(challenge_id(n));
        decide::<ChallengeDecider>(history, stream, self.challenges.entry(n).or_default(), &command).await;
    }

    pub(super) async fn decide_player(&mut self, history: &History, n: u8, action: player::Action) {
        let command = player::Command { subject_id: subject(n), at: history.clock.now(), action };
        let stream = StreamId::player(&tenant(), subject(n));
        decide::<PlayerDecider>(history, stream, self.players.entry(n).or_default(), &command).await;
    }
}

/// Appends the decided events; none if the command is refused.
async fn decide<D: Decider<Event: Into<Event>>>(
    history: &History,
    stream: StreamId,
    state: &mut D::State,
    command: &D::Command,
) {
    let Ok(occurred) = D::decide(command, state) else { return };
    let mut events: Vec<Event> = Vec::with_capacity(occurred.len());
    for new in occurred {
        *state = D::evolve(std::mem::take(state), &new.event, new.at);
        events.push(new.event.into());
    }
    if !events.is_empty() {
        history.append(stream, &events).await;
    }
}

async fn caught_up(store: &TestStore, history: &History) -> ReadModels {
    let models = open(store, history).await;
    reach(&models, history.head()).await;
    models
}

#[tokio::test]
async fn match_view_follows_match_from_proposal_to_new_ratings() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    let mut match_history = MatchHistory::default();
    let queued_at = history.clock.now();
    match_history.act(&history, 5, 1, 0).await;
    match_history
        .decide_match(&history, 7, game_match::Action::Propose(proposed(7, 1, 2, Some(queued_at))))
        .await;
    let view_now = async || {
        reach(&models, history.head()).await;
        models.game_matches().get(&tenant(), match_id(7)).await.unwrap().unwrap()
    };
    let placing = view_now().await;
    assert_eq!((placing.status, placing.side_of(subject(2))), (GameMatchStatus::Placing, Some(Side::Second)));
    assert_eq!(placing.created_at, queued_at.after(Duration::from_secs(1)));
    match_history.act(&history, 6, 1, 7).await;
    match_history.act(&history, 1, 7, 1).await;
    let playing = view_now().await;
    assert_eq!((playing.status, playing.ended_at), (GameMatchStatus::Playing, None));
    assert_eq!(playing.game_id, Some("game-7".parse().unwrap()));
    match_history.act(&history, 3, 7, 0).await;
    match_history.act(&history, 7, 1, 7).await;
    let finished = view_now().await;
    assert_eq!((finished.status, finished.result), (GameMatchStatus::Finished, Some(GameResult::Draw)));
    let (before, after) = finished.first.rated.unwrap();
    assert!(before == 1500.0 && after > before && finished.second.rated.is_none());
    let other: Tenant = "other".parse().unwrap();
    assert_eq!(models.game_matches().get(&other, match_id(7)).await.unwrap(), None);
    let (ratings, _) = models.players().ratings(&tenant(), subject(1), None, 10).await.unwrap();
    assert_eq!((ratings[0].games, ratings[0].skill.rating), (1, after));
}

#[tokio::test]
async fn matches_of_both_sides_are_paged_newest_first() {
    let (store, history) = (TestStore::new(), History::new());
    let mut match_history = MatchHistory::default();
    for n in 0..20_u8 {
        let (first, second) = if n % 3 == 0 { (1, 2) } else { (2 + n % 2, 1) };
        let action = game_match::Action::Propose(proposed(n, first, second, None));
        match_history.decide_match(&history, n, action).await;
        if n % 4 == 0 {
            match_history.act(&history, 2, n, 1).await;
        }
    }
    match_history.decide_match(&history, 99, game_match::Action::Propose(proposed(99, 8, 9, None))).await;
    let models = caught_up(&store, &history).await;
    let listed = async |status: Option<GameMatchStatus>| {
        let (mut ids, mut after) = (Vec::new(), None);
        loop {
            let page = models.game_matches().list(&tenant(), subject(1), status, after, 3).await.unwrap();
            assert!(page.items.len() <= 3);
            ids.extend(page.items.iter().map(|view| view.match_id));
            after = page.next;
            if after.is_none() {
                return ids;
            }
        }
    };
    let all: Vec<_> = (0..20).rev().map(match_id).collect();
    assert_eq!(listed(None).await, all);
    let abandoned: Vec<_> = (0..20).rev().filter(|n| n % 4 == 0).map(match_id).collect();
    assert_eq!(listed(Some(GameMatchStatus::Abandoned)).await, abandoned);
    assert!(listed(Some(GameMatchStatus::Playing)).await.is_empty());
    let (mut all_pages, mut after) = (Vec::new(), None);
    loop {
        let page = models.game_matches().list_all(&tenant(), None, after, 3).await.unwrap();
        all_pages.extend(page.items.iter().map(|view| view.match_id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(all_pages, [vec![match_id(99)], all].concat());
    let other = "other".parse().unwrap();
    assert!(models.game_matches().list_all(&other, None, None, 3).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn overdue_challenge_is_expired_before_its_expiry_event() {
    let (store, history) = (TestStore::new(), History::new());
    let mut match_history = MatchHistory::default();
    let expires_at = history.clock.now().after(Duration::from_secs(60));
    for n in 0..3 {
        let create = challenge::Action::Create(challenge(n, 1, 2, expires_at));
        match_history.decide_challenge(&history, n, create).await;
    }
    // A challenge whose game is being created does not expire.
    match_history.act(&history, 11, 1, 1).await;
    match_history.act(&history, 14, 2, 1).await;
    let models = caught_up(&store, &history).await;
    let listed = async |direction, status| {
        let challenges = models.challenges();
        let page = challenges.list(&tenant(), subject(2), direction, status, None, 10).await.unwrap();
        page.items.iter().map(|view| (view.challenge_id, view.status)).collect::<Vec<_>>()
    };
    let pending = |n| (challenge_id(n), ChallengeStatus::Pending);
    let declined = (challenge_id(2), ChallengeStatus::Declined);
    assert_eq!(listed(Direction::Incoming, None).await, [declined, pending(1), pending(0)]);
    assert!(listed(Direction::Outgoing, None).await.is_empty());
    history.clock.advance(Duration::from_secs(60));
    let expired = (challenge_id(0), ChallengeStatus::Expired);
    assert_eq!(listed(Direction::Incoming, None).await, [declined, pending(1), expired]);
    assert_eq!(listed(Direction::Incoming, Some(ChallengeStatus::Pending)).await, [pending(1)]);
    assert_eq!(listed(Direction::Incoming, Some(ChallengeStatus::Expired)).await, [expired]);
    let shown = models.challenges().get(&tenant(), challenge_id(0)).await.unwrap().unwrap();
    let ended_at = shown.ended_at;
    // The expiry event does not change the view.
    match_history.act(&history, 16, 0, 0).await;
    reach(&models, history.head()).await;
    assert_eq!(listed(Direction::Incoming, Some(ChallengeStatus::Expired)).await, [expired]);
    assert_eq!(ended_at, Some(expires_at));
}

#[tokio::test]
async fn challenge_shows_why_its_game_was_not_created() {
    let (store, history) = (TestStore::new(), History::new());
    let mut match_history = MatchHistory::default();
    match_history.act(&history, 10, 4, 1).await;
    match_history.act(&history, 11, 4, 1).await;
    match_history.act(&history, 13, 4, 1).await;
    let models = caught_up(&store, &history).await;
    let shown = models.challenges().get(&tenant(), challenge_id(4)).await.unwrap().unwrap();
    assert_eq!((shown.status, shown.placing, shown.attempts), (ChallengeStatus::Pending, false, 1));
    assert_eq!(shown.last_failure.unwrap().reason, AbandonReason::GameServiceParked);
    assert_eq!(shown.match_id, None);
}

#[tokio::test]
async fn blocks_are_paged_newest_first_without_lifted_ones() {
    let (store, history) = (TestStore::new(), History::new());
    let mut match_history = MatchHistory::default();
    for other in 2..7 {
        match_history.act(&history, 8, 1, other).await;
    }
    match_history.act(&history, 9, 1, 3).await;
    match_history.act(&history, 9, 1, 5).await;
    match_history.act(&history, 8, 1, 3).await;
    let models = caught_up(&store, &history).await;
    let (first, next) = models.players().blocks(&tenant(), subject(1), None, 3).await.unwrap();
    let (rest, end) = models.players().blocks(&tenant(), subject(1), next, 3).await.unwrap();
    let blocked: Vec<_> = first.iter().chain(&rest).map(|block| block.blocked).collect();
    assert_eq!(blocked, [3, 6, 4, 2].map(subject));
    assert!(next.is_some() && end.is_none());
    assert!(history.head() > Position::START);
}
