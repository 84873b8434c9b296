//! Players, their challenges and their matches: what the read models say of them, and events of them as the deciders make
//! them.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::challenge::{self, Challenge};
use domain::decider::Decider;
use domain::match_record::{self, MatchRecord};
use domain::player::{self, Player, Queueing, Taking, Wish};
use domain::rating::{Game, Score, unproven};
use event_schemas::challenge::{ChallengeCreated, Strength};
use event_schemas::envelope::Event;
use event_schemas::ids::{ChallengeId, EntryId, MatchRecordId, PoolKey, Position, SubjectId, Tenant};
use event_schemas::match_record::{AbandonReason, GameResult, MatchPlayer, MatchProposed, Side};
use event_schemas::player::FreedReason;
use event_schemas::rating::{Rating, RatingSource};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use uuid::Uuid;

use super::history::{History, tenant};
use super::{open, reach};
use crate::ReadModels;
use crate::challenge::{ChallengeStatus, Direction};
use crate::match_record::MatchStatus;

fn subject(n: u8) -> SubjectId {
    SubjectId(Uuid::from_u128(0x5000 + u128::from(n)))
}

fn match_id(n: u8) -> MatchRecordId {
    MatchRecordId(Uuid::from_u128(0xa_0000 + u128::from(n)))
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
        round: 0,
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
    Strength { rating: rating(), rating_source: RatingSource::Default, skill: unproven(rating()) }
}

/// Everything that was decided so far, so that nothing happens that no decider would let happen.
#[derive(Default)]
pub(super) struct Meetings {
    matches: BTreeMap<u8, match_record::State>,
    challenges: BTreeMap<u8, challenge::State>,
    players: BTreeMap<u8, player::State>,
    entries: u32,
}

impl Meetings {
    /// Something happens to the match, challenge or player `of`; `n` varies it.
    pub(super) async fn happen(&mut self, history: &History, what: u8, of: u8, n: u8) {
        let at = history.clock.now();
        match what {
            0 => {
                let proposed = proposed(of, n, n + 1, Some(at));
                self.of_match(history, of, match_record::Action::Propose(proposed)).await;
            }
            1 => {
                let game_id = (n > 0).then(|| format!("game-{of}").parse().unwrap());
                let result_due_at = at.after(Duration::from_secs(10));
                self.of_match(history, of, match_record::Action::Confirm { game_id, result_due_at }).await;
            }
            2 => {
                let reason =
                    [AbandonReason::PlayerUnavailable, AbandonReason::GameRefused][usize::from(n % 2)];
                let detail = Some("no".to_owned());
                let abandon = match_record::Action::Abandon { reason, detail, eligible_at: at };
                self.of_match(history, of, abandon).await;
            }
            3 => self.of_match(history, of, match_record::Action::Report(GameResult::Draw)).await,
            4 => self.of_match(history, of, match_record::Action::Expire).await,
            5 => {
                self.entries += 1;
                let pools = vec![Wish { pool_key: pool(), rating: None }];
                let queueing = Queueing {
                    entry_id: entry_id(of, self.entries),
                    pools,
                    max_rating_gap: None,
                    expires_at: at.after(Duration::from_secs(600)),
                    metadata: None,
                };
                self.of_player(history, of, player::Action::Queue(queueing)).await;
            }
            6 => self.take(history, of, n).await,
            7 => {
                let before = unproven(rating());
                let game = Game { opponent: before, score: Score::Won };
                let rated = player::Rated { pool_key: pool(), before, game };
                let reason = FreedReason::ResultReported;
                let free = player::Action::Free { match_id: match_id(n), reason, game: Some(rated) };
                self.of_player(history, of, free).await;
            }
            8 => self.of_player(history, of, player::Action::Block { other: subject(n) }).await,
            9 => self.of_player(history, of, player::Action::Unblock { other: subject(n) }).await,
            10 => {
                let created = challenge(of, n, n + 1, at.after(Duration::from_secs(20)));
                self.of_challenge(history, of, challenge::Action::Create(created)).await;
            }
            11 => {
                let accept = challenge::Action::Accept { by: subject(n + 1), strength: strength() };
                self.of_challenge(history, of, accept).await;
            }
            12 => {
                let confirm = challenge::Action::Confirm { attempt: 1, game_id: None };
                self.of_challenge(history, of, confirm).await;
            }
            13 => {
                let reason = AbandonReason::GameServiceParked;
                let fail = challenge::Action::FailPlacing { attempt: 1, reason, detail: None };
                self.of_challenge(history, of, fail).await;
            }
            14 => {
                let decline = challenge::Action::Decline { by: subject(n + 1) };
                self.of_challenge(history, of, decline).await;
            }
            15 => {
                self.of_challenge(history, of, challenge::Action::Cancel { by: subject(n) }).await;
            }
            _ => self.of_challenge(history, of, challenge::Action::Expire).await,
        }
    }

    async fn take(&mut self, history: &History, of: u8, n: u8) {
        let Some(entry) = self.players.get(&of).and_then(player::State::entry) else { return };
        let taking = Taking {
            entry_id: entry.queued.entry_id,
            round: entry.round,
            match_id: match_id(n),
            pool_key: pool(),
            opponent: subject(n + 1),
            side: Side::First,
        };
        self.of_player(history, of, player::Action::Match(taking)).await;
    }

    pub(super) async fn of_match(&mut self, history: &History, n: u8, action: match_record::Action) {
        let command = match_record::Command { at: history.clock.now(), action };
        let stream = StreamId::match_record(match_id(n));
        decide::<MatchRecord>(history, stream, self.matches.entry(n).or_default(), &command).await;
    }

    pub(super) async fn of_challenge(&mut self, history: &History, n: u8, action: challenge::Action) {
        let command = challenge::Command { at: history.clock.now(), action };
        let stream = StreamId::challenge(challenge_id(n));
        decide::<Challenge>(history, stream, self.challenges.entry(n).or_default(), &command).await;
    }

    pub(super) async fn of_player(&mut self, history: &History, n: u8, action: player::Action) {
        let command = player::Command { subject_id: subject(n), at: history.clock.now(), action };
        let stream = StreamId::player(&tenant(), subject(n));
        decide::<Player>(history, stream, self.players.entry(n).or_default(), &command).await;
    }
}

/// Appends what is decided; nothing, if it is refused.
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

async fn caught_up(folder: &tempfile::TempDir, history: &History) -> ReadModels {
    let models = open(folder, history).await;
    reach(&models, history.head()).await;
    models
}

#[tokio::test]
async fn a_match_is_shown_from_its_proposal_to_what_its_result_made_of_the_ratings() {
    let (folder, history) = (tempfile::tempdir().unwrap(), History::new());
    let models = open(&folder, &history).await;
    let mut meetings = Meetings::default();
    let queued_at = history.clock.now();
    meetings.happen(&history, 5, 1, 0).await;
    meetings.of_match(&history, 7, match_record::Action::Propose(proposed(7, 1, 2, Some(queued_at)))).await;
    let seen = async || {
        reach(&models, history.head()).await;
        models.match_records().get(&tenant(), match_id(7)).await.unwrap().unwrap()
    };
    let placing = seen().await;
    assert_eq!((placing.status, placing.side_of(subject(2))), (MatchStatus::Placing, Some(Side::Second)));
    assert_eq!(placing.created_at, queued_at.after(Duration::from_secs(1)));
    meetings.happen(&history, 6, 1, 7).await;
    meetings.happen(&history, 1, 7, 1).await;
    let playing = seen().await;
    assert_eq!((playing.status, playing.ended_at), (MatchStatus::Playing, None));
    assert_eq!(playing.game_id, Some("game-7".parse().unwrap()));
    meetings.happen(&history, 3, 7, 0).await;
    meetings.happen(&history, 7, 1, 7).await;
    let finished = seen().await;
    assert_eq!((finished.status, finished.result), (MatchStatus::Finished, Some(GameResult::Draw)));
    let (before, after) = finished.first.rated.unwrap();
    assert!(before == 1500.0 && after > before && finished.second.rated.is_none());
    let other: Tenant = "other".parse().unwrap();
    assert_eq!(models.match_records().get(&other, match_id(7)).await.unwrap(), None);
    let (ratings, _) = models.players().ratings(&tenant(), subject(1), None, 10).await.unwrap();
    assert_eq!((ratings[0].games, ratings[0].skill.rating), (1, after));
}

#[tokio::test]
async fn a_players_matches_of_both_sides_come_the_newest_first_page_by_page() {
    let (folder, history) = (tempfile::tempdir().unwrap(), History::new());
    let mut meetings = Meetings::default();
    for n in 0..20_u8 {
        let (first, second) = if n % 3 == 0 { (1, 2) } else { (2 + n % 2, 1) };
        // Some at the same instant, so that the id decides.
        let action = match_record::Action::Propose(proposed(n, first, second, None));
        meetings.of_match(&history, n, action).await;
        if n % 4 == 0 {
            meetings.happen(&history, 2, n, 1).await;
        }
    }
    meetings.of_match(&history, 99, match_record::Action::Propose(proposed(99, 8, 9, None))).await;
    let models = caught_up(&folder, &history).await;
    let listed = async |status: Option<MatchStatus>| {
        let (mut ids, mut after) = (Vec::new(), None);
        loop {
            let page = models.match_records().list(&tenant(), subject(1), status, after, 3).await.unwrap();
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
    assert_eq!(listed(Some(MatchStatus::Abandoned)).await, abandoned);
    assert!(listed(Some(MatchStatus::Playing)).await.is_empty());
    let (mut everybodys, mut after) = (Vec::new(), None);
    loop {
        let page = models.match_records().list_all(&tenant(), None, after, 3).await.unwrap();
        everybodys.extend(page.items.iter().map(|view| view.match_id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(everybodys, [vec![match_id(99)], all].concat());
    let other = "other".parse().unwrap();
    assert!(models.match_records().list_all(&other, None, None, 3).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn a_challenge_whose_time_is_over_is_expired_before_anybody_records_it() {
    let (folder, history) = (tempfile::tempdir().unwrap(), History::new());
    let mut meetings = Meetings::default();
    let expires_at = history.clock.now().after(Duration::from_secs(60));
    for n in 0..3 {
        let create = challenge::Action::Create(challenge(n, 1, 2, expires_at));
        meetings.of_challenge(&history, n, create).await;
    }
    // Whose game is being made does not expire meanwhile.
    meetings.happen(&history, 11, 1, 1).await;
    meetings.happen(&history, 14, 2, 1).await;
    let models = caught_up(&folder, &history).await;
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
    // The expiry, once it is recorded, changes nothing but that.
    meetings.happen(&history, 16, 0, 0).await;
    reach(&models, history.head()).await;
    assert_eq!(listed(Direction::Incoming, Some(ChallengeStatus::Expired)).await, [expired]);
    assert_eq!(ended_at, Some(expires_at));
}

#[tokio::test]
async fn a_challenge_shows_why_its_game_could_not_be_made() {
    let (folder, history) = (tempfile::tempdir().unwrap(), History::new());
    let mut meetings = Meetings::default();
    meetings.happen(&history, 10, 4, 1).await;
    meetings.happen(&history, 11, 4, 1).await;
    meetings.happen(&history, 13, 4, 1).await;
    let models = caught_up(&folder, &history).await;
    let shown = models.challenges().get(&tenant(), challenge_id(4)).await.unwrap().unwrap();
    assert_eq!((shown.status, shown.placing, shown.attempts), (ChallengeStatus::Pending, false, 1));
    assert_eq!(shown.last_failure.unwrap().reason, AbandonReason::GameServiceParked);
    assert_eq!(shown.match_id, None);
}

#[tokio::test]
async fn blocks_come_the_newest_first_and_go_when_they_are_lifted() {
    let (folder, history) = (tempfile::tempdir().unwrap(), History::new());
    let mut meetings = Meetings::default();
    for other in 2..7 {
        meetings.happen(&history, 8, 1, other).await;
    }
    meetings.happen(&history, 9, 1, 3).await;
    meetings.happen(&history, 9, 1, 5).await;
    meetings.happen(&history, 8, 1, 3).await;
    let models = caught_up(&folder, &history).await;
    let (first, next) = models.players().blocks(&tenant(), subject(1), None, 3).await.unwrap();
    let (rest, end) = models.players().blocks(&tenant(), subject(1), next, 3).await.unwrap();
    let blocked: Vec<_> = first.iter().chain(&rest).map(|block| block.blocked).collect();
    assert_eq!(blocked, [3, 6, 4, 2].map(subject));
    assert!(next.is_some() && end.is_none());
    assert!(history.head() > Position::START);
}
