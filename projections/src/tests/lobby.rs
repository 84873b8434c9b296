//! Players who queue, meet, play and block, as no decider would refuse it.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::pool::DEFAULTS;
use domain::rating::unproven;
use event_schemas::envelope::Event;
use event_schemas::ids::{ChallengeId, EntryId, MatchRecordId, Position, SubjectId, Tenant};
use event_schemas::match_record::{
    AbandonReason, GameResult, MatchAbandoned, MatchConfirmed, MatchPlayer, MatchProposed, MatchRecordEvent,
    MatchResultReported, Side,
};
use event_schemas::player::{
    FreedReason, PlayerBlocked, PlayerEngaged, PlayerEvent, PlayerFreed, PlayerQueued, PlayerUnblocked,
    QueueEntryCancelled, QueueEntryExpired, QueueEntryMatched, QueueEntryReleased, QueuedPool,
};
use event_schemas::pool::{PoolConfigured, PoolSettings};
use event_schemas::rating::{Rating, RatingSource};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use uuid::Uuid;

use super::history::{History, tenant};

/// How many different things can happen.
pub(crate) const HAPPENINGS: u8 = 16;
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
struct Seat {
    entry: u32,
    queued_at: Timestamp,
    pools: &'static [&'static str],
    round: u32,
}

#[derive(Clone, Debug)]
enum Doing {
    Waiting(Seat),
    /// Taken for a match, perhaps out of the queue.
    Taken(u32, Option<Seat>),
    Playing(u32),
}

/// What has happened so far.
#[derive(Default)]
pub(crate) struct Lobby {
    players: BTreeMap<u8, Doing>,
    /// Its players, and whether it is confirmed.
    matches: BTreeMap<u32, ([u8; 2], bool)>,
    /// How many entries there ever were.
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

fn match_id(number: u32) -> MatchRecordId {
    MatchRecordId(Uuid::from_u128(0xa000 + u128::from(number)))
}

impl Lobby {
    pub(crate) async fn happen(&mut self, history: &History, what: u8, n: u8) {
        self.counter += 1;
        let (now, m) = (history.clock.now(), (n + 1) % 5);
        match (what, self.players.get(&n).cloned()) {
            (0..=4, None) => self.queue(history, n, POOLS[usize::from(what % 3)]).await,
            (5, Some(Doing::Waiting(seat))) => {
                self.players.remove(&n);
                let entry_id = entry_id(seat.entry);
                self.tell(history, n, QueueEntryCancelled { subject_id: player(n), entry_id }).await;
            }
            (6, Some(Doing::Waiting(seat))) => {
                self.players.remove(&n);
                let entry_id = entry_id(seat.entry);
                self.tell(history, n, QueueEntryExpired { subject_id: player(n), entry_id }).await;
            }
            (7..=9, Some(Doing::Waiting(_))) => self.pair(history, n).await,
            (10, Some(Doing::Taken(of, _))) => self.confirm(history, of, now).await,
            (11, Some(Doing::Taken(of, _))) => self.abandon(history, of, now).await,
            (12, Some(Doing::Playing(of))) => self.finish(history, of).await,
            (13, _) => {
                self.tell(history, n, PlayerBlocked { subject_id: player(n), blocked: player(m) }).await;
            }
            (14, _) => {
                self.tell(history, n, PlayerUnblocked { subject_id: player(n), unblocked: player(m) }).await;
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

    async fn tell(&self, history: &History, n: u8, event: impl Into<PlayerEvent>) {
        let stream = StreamId::player(&tenant_of(n), player(n));
        history.append_for(&tenant_of(n), stream, &[Event::Player(event.into())]).await;
    }

    async fn tell_match(&self, history: &History, of: u32, event: impl Into<MatchRecordEvent>) -> Position {
        history.append(StreamId::match_record(match_id(of)), &[Event::MatchRecord(event.into())]).await
    }

    async fn queue(&mut self, history: &History, n: u8, pools: &'static [&'static str]) {
        self.entries += 1;
        let now = history.clock.now();
        let seat = Seat { entry: self.entries, queued_at: now, pools, round: 0 };
        self.tell(history, n, queued(n, seat.entry, pools, now)).await;
        self.players.insert(n, Doing::Waiting(seat));
    }

    /// The player and another one who waits in one of the same pools.
    async fn pair(&mut self, history: &History, n: u8) {
        let Some(Doing::Waiting(seat)) = self.players.get(&n).cloned() else { return };
        let other = self.players.iter().find_map(|(other, doing)| match doing {
            Doing::Waiting(theirs) if *other != n && tenant_of(*other) == tenant_of(n) => {
                let shared = theirs.pools.iter().find(|pool| seat.pools.contains(pool))?;
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
            first: in_match(n, Some(&seat)),
            second: in_match(other, Some(&theirs)),
        };
        self.tell_match(history, of, proposed).await;
        self.matches.insert(of, ([n, other], false));
        for (who, seat, opponent, side) in [(n, seat, other, Side::First), (other, theirs, n, Side::Second)] {
            let matched = QueueEntryMatched {
                subject_id: player(who),
                entry_id: entry_id(seat.entry),
                match_id: match_id(of),
                pool_key: pool.parse().unwrap(),
                opponent: player(opponent),
                side,
            };
            self.tell(history, who, matched).await;
            self.players.insert(who, Doing::Taken(of, Some(seat)));
        }
    }

    /// The player challenges another one, who leaves the queue for it.
    async fn challenge(&mut self, history: &History, n: u8, m: u8) {
        let left = match self.players.get(&m).cloned() {
            None => None,
            Some(Doing::Waiting(seat)) => Some(seat),
            Some(_) => return,
        };
        let of = self.counter;
        let challenge_id = ChallengeId(Uuid::from_u128(0xc000 + u128::from(of)));
        for (who, opponent, seat) in [(n, m, None), (m, n, left)] {
            let engaged = PlayerEngaged {
                subject_id: player(who),
                match_id: match_id(of),
                attempt: 1,
                challenge_id,
                pool_key: "chess960".parse().unwrap(),
                opponent: player(opponent),
                left_entry: seat.as_ref().map(|seat| entry_id(seat.entry)),
            };
            self.tell(history, who, engaged).await;
            self.players.insert(who, Doing::Taken(of, seat));
        }
        let proposed = MatchProposed {
            match_id: match_id(of),
            pool_key: "chess960".parse().unwrap(),
            challenge_id: Some(challenge_id),
            first: in_match(n, None),
            second: in_match(m, None),
        };
        self.matches.insert(of, ([n, m], false));
        self.tell_match(history, of, proposed).await;
    }

    async fn confirm(&mut self, history: &History, of: u32, now: Timestamp) {
        let Some((players, confirmed)) = self.matches.get_mut(&of) else { return };
        *confirmed = true;
        for n in players {
            self.players.insert(*n, Doing::Playing(of));
        }
        self.tell_match(history, of, MatchConfirmed { game_id: None, result_due_at: now }).await;
    }

    async fn abandon(&mut self, history: &History, of: u32, now: Timestamp) {
        let Some((players, _)) = self.matches.remove(&of) else { return };
        let (reason, eligible_at) = (AbandonReason::GameServiceFailed, now.after(Duration::from_secs(5)));
        self.tell_match(history, of, MatchAbandoned { reason, detail: None, eligible_at }).await;
        for n in players {
            let Some(Doing::Taken(_, seat)) = self.players.remove(&n) else { continue };
            let (subject_id, match_id) = (player(n), match_id(of));
            let Some(mut seat) = seat else {
                let reason = FreedReason::Abandoned;
                self.tell(history, n, PlayerFreed { subject_id, match_id, reason }).await;
                continue;
            };
            seat.round += 1;
            let entry_id = entry_id(seat.entry);
            let released = QueueEntryReleased { subject_id, entry_id, match_id, reason, eligible_at };
            self.tell(history, n, released).await;
            self.players.insert(n, Doing::Waiting(seat));
        }
    }

    async fn finish(&mut self, history: &History, of: u32) {
        let Some((players, _)) = self.matches.remove(&of) else { return };
        self.tell_match(history, of, MatchResultReported { result: GameResult::Draw }).await;
        for n in players {
            self.players.remove(&n);
            let (subject_id, match_id) = (player(n), match_id(of));
            let reason = FreedReason::ResultReported;
            self.tell(history, n, PlayerFreed { subject_id, match_id, reason }).await;
        }
    }
}

fn in_match(n: u8, seat: Option<&Seat>) -> MatchPlayer {
    let rating = Rating::new(1400 + 40 * u16::from(n)).unwrap();
    MatchPlayer {
        subject_id: player(n),
        entry_id: seat.map(|seat| entry_id(seat.entry)),
        queued_at: seat.map(|seat| seat.queued_at),
        round: seat.map_or(0, |seat| seat.round),
        rating,
        skill: unproven(rating),
    }
}
