//! A history of players that queue, are paired, play and block, with only such events as the deciders allow.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::pool::DEFAULTS;
use domain::rating::unproven;
use event_schemas::envelope::Event;
use event_schemas::game_match::{
    AbandonReason, GameMatchEvent, GameResult, MatchAbandoned, MatchConfirmed, MatchPlayer, MatchProposed,
    MatchResultReported, Side,
};
use event_schemas::ids::{ChallengeId, EntryId, GameMatchId, Position, SubjectId, Tenant};
use event_schemas::player::{
    PlayerBlocked, PlayerEvent, PlayerQueued, PlayerReleased, PlayerReserved, PlayerUnblocked,
    QueueEntryCancelled, QueueEntryExpired, QueueEntryMatched, QueueEntryReleased, QueuedPool, ReleaseReason,
};
use event_schemas::pool::{PoolConfigured, PoolSettings};
use event_schemas::rating::{Rating, RatingSource};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use uuid::Uuid;

use super::history::{History, tenant};

/// The number of different actions.
pub(crate) const QUEUE_ACTIONS: u8 = 16;
const POOLS: [&[&str]; 3] = [&["blitz"], &["blitz", "rapid"], &["rapid"]];

pub(crate) fn player(n: u8) -> SubjectId {
    SubjectId(Uuid::from_u128(0x9000 + u128::from(n)))
}

pub(crate) fn entry_id(n: u32) -> EntryId {
    EntryId(Uuid::from_u128(0xe000 + u128::from(n)))
}

/// The last player is of another tenant.
pub(crate) fn tenant_of(n: u8) -> Tenant {
    if n == 5 { "other".parse().unwrap() } else { tenant() }
}

#[derive(Clone, Debug)]
struct WaitingEntry {
    number: u32,
    queued_at: Timestamp,
    pools: &'static [&'static str],
    release_count: u32,
}

#[derive(Clone, Debug)]
enum PlayerState {
    Waiting(WaitingEntry),
    /// Reserved for a match, possibly with a queue entry.
    Reserved(u32, Option<WaitingEntry>),
    Playing(u32),
}

/// The state after the appended events.
#[derive(Default)]
pub(crate) struct QueueHistory {
    players: BTreeMap<u8, PlayerState>,
    /// The players of each match, and whether it is confirmed.
    matches: BTreeMap<u32, ([u8; 2], bool)>,
    /// The number of all entries.
    pub(crate) entries: u32,
    counter: u32,
}

pub(crate) fn queued(n: u8, entry: u32, pools: &[&str], now: Timestamp) -> PlayerQueued {
    let rating = Rating::new(1400 + 40 * u16::from(n)).unwrap();
    let pool = |key: &&str| QueuedPool {
        pool_key: key.parse().unwrap(),
        rating,
        rating_source: RatingSource::Default,
        skill: unproven(rating),
        side_balance: 0,
        rating_call: None,
    };
    PlayerQueued {
        subject_id: player(n),
        entry_id: entry_id(entry),
        pools: pools.iter().map(pool).collect(),
        max_rating_gap: (n == 4).then_some(100),
        last_opponent: None,
        expires_at: now.after(Duration::from_secs(600)),
        metadata: None,
    }
}

fn match_id(number: u32) -> GameMatchId {
    GameMatchId(Uuid::from_u128(0xa000 + u128::from(number)))
}

impl QueueHistory {
    pub(crate) async fn act(&mut self, history: &History, action: u8, n: u8) {
        self.counter += 1;
        let (now, m) = (history.clock.now(), (n + 1) % 5);
        match (action, self.players.get(&n).cloned()) {
            (0..=4, None) => self.queue(history, n, POOLS[usize::from(action % 3)]).await,
            (5, Some(PlayerState::Waiting(entry))) => {
                self.players.remove(&n);
                let entry_id = entry_id(entry.number);
                self.append_player_event(history, n, QueueEntryCancelled { subject_id: player(n), entry_id })
                    .await;
            }
            (6, Some(PlayerState::Waiting(entry))) => {
                self.players.remove(&n);
                let entry_id = entry_id(entry.number);
                self.append_player_event(history, n, QueueEntryExpired { subject_id: player(n), entry_id })
                    .await;
            }
            (7..=9, Some(PlayerState::Waiting(_))) => self.pair(history, n).await,
            (10, Some(PlayerState::Reserved(of, _))) => self.confirm(history, of, now).await,
            (11, Some(PlayerState::Reserved(of, _))) => self.abandon(history, of, now).await,
            (12, Some(PlayerState::Playing(of))) => self.finish(history, of).await,
            (13, _) => {
                self.append_player_event(
                    history,
                    n,
                    PlayerBlocked { subject_id: player(n), blocked: player(m) },
                )
                .await;
            }
            (14, _) => {
                self.append_player_event(
                    history,
                    n,
                    PlayerUnblocked { subject_id: player(n), unblocked: player(m) },
                )
                .await;
            }
            (15, None) if n < 5 => self.challenge(history, n, m).await,
            (15, _) => {
                let settings = PoolSettings { window: 50 + u16::from(n), ..DEFAULTS };
                let event = PoolConfigured { pool_key: "rapid".parse().unwrap(), settings };
                let stream = StreamId::pool(&tenant_of(n), &event.pool_key);
                history.append_for(&tenant_of(n), stream, &[Event::Pool(event.into())]).await;
            }
            _ => {}
        }
    }

    async fn append_player_event(&self, history: &History, n: u8, event: impl Into<PlayerEvent>) {
        let stream = StreamId::player(&tenant_of(n), player(n));
        history.append_for(&tenant_of(n), stream, &[Event::Player(event.into())]).await;
    }

    async fn append_match_event(
        &self,
        history: &History,
        of: u32,
        event: impl Into<GameMatchEvent>,
    ) -> Position {
        history.append(StreamId::game_match(match_id(of)), &[Event::GameMatch(event.into())]).await
    }

    async fn queue(&mut self, history: &History, n: u8, pools: &'static [&'static str]) {
        self.entries += 1;
        let now = history.clock.now();
        let entry = WaitingEntry { number: self.entries, queued_at: now, pools, release_count: 0 };
        self.append_player_event(history, n, queued(n, entry.number, pools, now)).await;
        self.players.insert(n, PlayerState::Waiting(entry));
    }

    /// Pairs the player with another one that waits in one of the same pools.
    async fn pair(&mut self, history: &History, n: u8) {
        let Some(PlayerState::Waiting(entry)) = self.players.get(&n).cloned() else { return };
        let other = self.players.iter().find_map(|(other, state)| match state {
            PlayerState::Waiting(theirs) if *other != n && tenant_of(*other) == tenant_of(n) => {
                let shared = theirs.pools.iter().find(|pool| entry.pools.contains(pool))?;
                Some((*other, theirs.clone(), *shared))
            }
            _ => None,
        });
        let Some((other, theirs, pool)) = other else { return };
        let of = self.counter;
        let proposed = MatchProposed {
            match_id: match_id(of),
            pool_key: pool.parse().unwrap(),
            challenge_id: None,
            first: in_match(n, Some(&entry)),
            second: in_match(other, Some(&theirs)),
        };
        self.append_match_event(history, of, proposed).await;
        self.matches.insert(of, ([n, other], false));
        for (who, entry, opponent, side) in [(n, entry, other, Side::First), (other, theirs, n, Side::Second)]
        {
            let matched = QueueEntryMatched {
                subject_id: player(who),
                entry_id: entry_id(entry.number),
                match_id: match_id(of),
                pool_key: pool.parse().unwrap(),
                opponent: player(opponent),
                side,
            };
            self.append_player_event(history, who, matched).await;
            self.players.insert(who, PlayerState::Reserved(of, Some(entry)));
        }
    }

    /// Challenges another player, which leaves the queue for it.
    async fn challenge(&mut self, history: &History, n: u8, m: u8) {
        let left = match self.players.get(&m).cloned() {
            None => None,
            Some(PlayerState::Waiting(entry)) => Some(entry),
            Some(_) => return,
        };
        let of = self.counter;
        let challenge_id = ChallengeId(Uuid::from_u128(0xc000 + u128::from(of)));
        for (who, opponent, entry) in [(n, m, None), (m, n, left)] {
            let reserved = PlayerReserved {
                subject_id: player(who),
                match_id: match_id(of),
                attempt: 1,
                challenge_id,
                pool_key: "chess960".parse().unwrap(),
                opponent: player(opponent),
                left_entry: entry.as_ref().map(|entry| entry_id(entry.number)),
            };
            self.append_player_event(history, who, reserved).await;
            self.players.insert(who, PlayerState::Reserved(of, entry));
        }
        let proposed = MatchProposed {
            match_id: match_id(of),
            pool_key: "chess960".parse().unwrap(),
            challenge_id: Some(challenge_id),
            first: in_match(n, None),
            second: in_match(m, None),
        };
        self.matches.insert(of, ([n, m], false));
        self.append_match_event(history, of, proposed).await;
    }

    async fn confirm(&mut self, history: &History, of: u32, now: Timestamp) {
        let Some((players, confirmed)) = self.matches.get_mut(&of) else { return };
        *confirmed = true;
        for n in players {
            self.players.insert(*n, PlayerState::Playing(of));
        }
        self.append_match_event(history, of, MatchConfirmed { game_id: None, result_due_at: now }).await;
    }

    async fn abandon(&mut self, history: &History, of: u32, now: Timestamp) {
        let Some((players, _)) = self.matches.remove(&of) else { return };
        let (reason, eligible_at) = (AbandonReason::GameServiceFailed, now.after(Duration::from_secs(5)));
        self.append_match_event(history, of, MatchAbandoned { reason, detail: None, eligible_at }).await;
        for n in players {
            let Some(PlayerState::Reserved(_, entry)) = self.players.remove(&n) else { continue };
            let (subject_id, match_id) = (player(n), match_id(of));
            let Some(mut entry) = entry else {
                let reason = ReleaseReason::Abandoned;
                self.append_player_event(history, n, PlayerReleased { subject_id, match_id, reason }).await;
                continue;
            };
            entry.release_count += 1;
            let entry_id = entry_id(entry.number);
            let released = QueueEntryReleased { subject_id, entry_id, match_id, reason, eligible_at };
            self.append_player_event(history, n, released).await;
            self.players.insert(n, PlayerState::Waiting(entry));
        }
    }

    async fn finish(&mut self, history: &History, of: u32) {
        let Some((players, _)) = self.matches.remove(&of) else { return };
        self.append_match_event(history, of, MatchResultReported { result: GameResult::Draw }).await;
        for n in players {
            self.players.remove(&n);
            let (subject_id, match_id) = (player(n), match_id(of));
            let reason = ReleaseReason::ResultReported;
            self.append_player_event(history, n, PlayerReleased { subject_id, match_id, reason }).await;
        }
    }
}

fn in_match(n: u8, entry: Option<&WaitingEntry>) -> MatchPlayer {
    let rating = Rating::new(1400 + 40 * u16::from(n)).unwrap();
    MatchPlayer {
        subject_id: player(n),
        entry_id: entry.map(|entry| entry_id(entry.number)),
        queued_at: entry.map(|entry| entry.queued_at),
        release_count: entry.map_or(0, |entry| entry.release_count),
        rating,
        skill: unproven(rating),
    }
}
