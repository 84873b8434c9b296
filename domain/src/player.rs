//! A player: at most one active queue entry or unfinished match at a time, ratings, and blocked players.
//!
//! Invariants: a player has at most one queue entry. An entry is reserved for at most one match at a time,
//! and only while its release count is the one at which it was paired. Only the match that reserved a player
//! releases them. A match changes the rating once, when it releases its player. A player is never reserved
//! for a match with a player whom they block.
//!
//! This stream resolves all races: two matchmakers, a match and a cancellation, a challenge and a queue. All
//! of them append here, and the expected revision lets one of them succeed.

mod decide;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use event_schemas::game_match::{AbandonReason, Side};
use event_schemas::ids::{ChallengeId, EntryId, GameMatchId, PoolKey, SubjectId};
use event_schemas::player::{PlayerEvent, PlayerQueued, QueuedPool, ReleaseReason};
use event_schemas::rating::{Rating, RatingCall, RatingSource, Skill};
use event_schemas::sealed::Sealed;
use event_schemas::time::Timestamp;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};
use crate::rating::{self, Game};

/// The maximum number of players that a player can block.
pub const BLOCKED_MAX: usize = 1_000;
/// The maximum number of pools of one entry.
pub const POOLS_MAX: usize = 16;
/// The limits of the side balance.
pub const BALANCE_MIN: i8 = -3;
pub const BALANCE_MAX: i8 = 5;
/// The number of ended entries that are remembered, so that a command about one of them reports how it ended.
const ENDED_MAX: usize = 16;

/// A command to a player, and its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub subject_id: SubjectId,
    pub at: Timestamp,
    pub action: Action,
}

/// A pool that a player asks to be queued in.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolRequest {
    pub pool_key: PoolKey,
    /// The rating from an external source. Without it the player's own results decide, and then the default.
    pub rating: Option<(Rating, RatingSource)>,
    /// The outcome of the call of the rating service, if it was called.
    pub rating_call: Option<RatingCall>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    JoinQueue(JoinQueue),
    Cancel {
        entry_id: EntryId,
    },
    /// No effect before the entry is due to expire, nor on an entry that no longer waits.
    Expire {
        entry_id: EntryId,
    },
    ReserveForMatch(ReserveForMatch),
    /// The match was abandoned; the entry searches again.
    ReleaseFromMatch {
        match_id: GameMatchId,
        reason: AbandonReason,
        eligible_at: Timestamp,
    },
    /// Reserves the player for the match of a challenge.
    ReserveForChallenge(ReserveForChallenge),
    /// This attempt and all earlier attempts of a challenge's match failed.
    ReleaseFromChallenge {
        match_id: GameMatchId,
        attempt: u32,
        reason: AbandonReason,
        eligible_at: Timestamp,
    },
    /// The match is over. A game that counts changes the rating.
    ReleaseAfterMatch {
        match_id: GameMatchId,
        reason: ReleaseReason,
        game: Option<Rated>,
    },
    Block {
        other: SubjectId,
    },
    Unblock {
        other: SubjectId,
    },
}

/// A request to join the queue.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinQueue {
    pub entry_id: EntryId,
    pub pools: Vec<PoolRequest>,
    pub max_rating_gap: Option<u16>,
    pub expires_at: Timestamp,
    pub metadata: Option<Sealed>,
}

/// The reservation of an entry for a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReserveForMatch {
    pub entry_id: EntryId,
    /// The entry's release count when it was paired.
    pub release_count: u32,
    pub match_id: GameMatchId,
    pub pool_key: PoolKey,
    pub opponent: SubjectId,
    pub side: Side,
}

/// The reservation of a player for a challenge's match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReserveForChallenge {
    pub match_id: GameMatchId,
    pub attempt: u32,
    pub challenge_id: ChallengeId,
    pub pool_key: PoolKey,
    pub opponent: SubjectId,
}

/// A game that changes the rating.
#[derive(Clone, Debug, PartialEq)]
pub struct Rated {
    pub pool_key: PoolKey,
    /// The player's own skill when the match was made.
    pub before: Skill,
    pub game: Game,
}

/// An entry that waits, or is reserved for a match.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub queued: PlayerQueued,
    pub queued_at: Timestamp,
    /// The number of times the entry was released.
    pub release_count: u32,
}

/// The current activity of a player.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum PlayerActivity {
    #[default]
    Idle,
    Searching(Entry),
    /// Reserved from the queue for a match.
    ReservedForMatch {
        entry: Entry,
        match_id: GameMatchId,
        /// The history to restore if the match is abandoned.
        before: PairingHistory,
    },
    /// Reserved for the match of a challenge, possibly out of the queue.
    ReservedForChallenge {
        match_id: GameMatchId,
        attempt: u32,
        left: Option<Entry>,
        before: PairingHistory,
    },
}

/// The outcome of earlier matches, as needed for the next pairing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairingHistory {
    pub last_opponent: Option<SubjectId>,
    /// By pool, how many more games the player moved first than second, within limits.
    pub balance: BTreeMap<PoolKey, i8>,
}

/// The end of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "snake_case")]
pub enum EntryEnd {
    Cancelled,
    Expired,
    /// Its match is over.
    #[strum(serialize = "matched")]
    Played,
    /// Its player left the queue for the match of a challenge.
    #[strum(serialize = "left for a challenge")]
    Left,
}

/// The state of a player.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    activity: PlayerActivity,
    pairing_history: PairingHistory,
    /// By pool, the skill after the latest result, and the time of that result.
    skills: BTreeMap<PoolKey, (Skill, Timestamp)>,
    blocked: BTreeSet<SubjectId>,
    /// Oldest first.
    ended: VecDeque<(EntryId, EntryEnd)>,
}

impl State {
    pub fn activity(&self) -> &PlayerActivity {
        &self.activity
    }

    /// The entry that waits or is reserved for a match, if any.
    pub fn entry(&self) -> Option<&Entry> {
        match &self.activity {
            PlayerActivity::Searching(entry) | PlayerActivity::ReservedForMatch { entry, .. } => Some(entry),
            PlayerActivity::Idle | PlayerActivity::ReservedForChallenge { .. } => None,
        }
    }

    /// The match for which the player is reserved, if any.
    pub fn match_id(&self) -> Option<GameMatchId> {
        match &self.activity {
            PlayerActivity::ReservedForMatch { match_id, .. }
            | PlayerActivity::ReservedForChallenge { match_id, .. } => Some(*match_id),
            PlayerActivity::Idle | PlayerActivity::Searching(_) => None,
        }
    }

    pub fn blocks(&self, other: SubjectId) -> bool {
        self.blocked.contains(&other)
    }

    /// The player's strength in a pool: from `known` if given, else from their own results, else the default.
    pub fn strength(
        &self,
        pool: &PoolKey,
        known: Option<(Rating, RatingSource)>,
    ) -> (Rating, RatingSource, Skill) {
        let own = self.skills.get(pool).map(|(skill, _)| *skill);
        let (rating, source) = known
            .or_else(|| own.map(|skill| (Rating::nearest(skill.rating), RatingSource::History)))
            .unwrap_or((rating::unknown(), RatingSource::Default));
        (rating, source, own.unwrap_or_else(|| rating::unproven(rating)))
    }

    fn queued_pool(&self, request: &PoolRequest) -> QueuedPool {
        let (rating, rating_source, skill) = self.strength(&request.pool_key, request.rating);
        let side_balance = self.pairing_history.balance.get(&request.pool_key).copied().unwrap_or(0);
        let (pool_key, rating_call) = (request.pool_key.clone(), request.rating_call);
        QueuedPool { pool_key, rating, rating_source, skill, side_balance, rating_call }
    }

    fn end(&mut self, entry: EntryId, how: EntryEnd) {
        self.ended.push_back((entry, how));
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_front();
        }
    }

    fn ended(&self, entry: EntryId) -> Option<EntryEnd> {
        self.ended.iter().find(|(id, _)| *id == entry).map(|(_, how)| *how)
    }
}

/// The reason why a command to a player is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such queue entry")]
    NoSuchEntry,
    #[error("the player is already queued in the entry {0}; cancel it first")]
    AlreadyQueued(EntryId),
    #[error("the player has an unfinished match, {0}; it ends with its result or expires")]
    InMatch(GameMatchId),
    #[error(
        "the entry is matched, and its game is being created or has started; if the game is not created, the entry searches again and can be cancelled"
    )]
    EntryMatched,
    #[error("the entry has ended: {0}; join the queue again")]
    EntryEnded(EntryEnd),
    #[error("an entry must have 1 to {POOLS_MAX} different pools")]
    Pools,
    /// The entry was paired in a state that has changed since.
    #[error("the entry has changed since it was paired")]
    EntryChanged,
    #[error("the players cannot be matched with each other")]
    Blocked,
    #[error("this attempt to create the game is over")]
    AttemptOver,
    #[error("a player cannot block themselves")]
    SelfBlock,
    #[error("a player can block at most {BLOCKED_MAX} players; unblock one first")]
    TooManyBlocked,
}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NoSuchEntry => RefusalKind::NotFound,
            Self::Pools | Self::SelfBlock => RefusalKind::Invalid,
            _ => RefusalKind::Conflict,
        }
    }
}

/// Decides for the streams `player-<tenant>.<subject>`.
#[derive(Debug)]
pub enum PlayerDecider {}

impl Decider for PlayerDecider {
    type State = State;
    type Command = Command;
    type Event = PlayerEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<PlayerEvent>>, Refusal> {
        let events = decide::decide(command, state)?;
        Ok(events.into_iter().map(|event| Occurred { at: command.at, event }).collect())
    }

    fn evolve(mut state: State, event: &PlayerEvent, occurred_at: Timestamp) -> State {
        match event {
            PlayerEvent::PlayerQueued(queued) => {
                let entry = Entry { queued: queued.clone(), queued_at: occurred_at, release_count: 0 };
                state.activity = PlayerActivity::Searching(entry);
            }
            PlayerEvent::QueueEntryCancelled(event) => {
                state.activity = PlayerActivity::Idle;
                state.end(event.entry_id, EntryEnd::Cancelled);
            }
            PlayerEvent::QueueEntryExpired(event) => {
                state.activity = PlayerActivity::Idle;
                state.end(event.entry_id, EntryEnd::Expired);
            }
            PlayerEvent::QueueEntryMatched(event) => {
                if let PlayerActivity::Searching(entry) = std::mem::take(&mut state.activity) {
                    let before = state.pairing_history.clone();
                    state.pairing_history.last_opponent = Some(event.opponent);
                    let balance = state.pairing_history.balance.entry(event.pool_key.clone()).or_default();
                    *balance = updated_balance(*balance, event.side);
                    state.activity =
                        PlayerActivity::ReservedForMatch { entry, match_id: event.match_id, before };
                }
            }
            PlayerEvent::QueueEntryReleased(_) => release(&mut state, true),
            PlayerEvent::PlayerReserved(event) => {
                let (left, before) = match std::mem::take(&mut state.activity) {
                    PlayerActivity::Searching(entry) => (Some(entry), state.pairing_history.clone()),
                    PlayerActivity::ReservedForChallenge { left, before, .. } => (left, before),
                    PlayerActivity::Idle | PlayerActivity::ReservedForMatch { .. } => {
                        (None, state.pairing_history.clone())
                    }
                };
                state.pairing_history.last_opponent = Some(event.opponent);
                let (match_id, attempt) = (event.match_id, event.attempt);
                state.activity = PlayerActivity::ReservedForChallenge { match_id, attempt, left, before };
            }
            PlayerEvent::PlayerReleased(event) if event.reason == ReleaseReason::Abandoned => {
                release(&mut state, false);
            }
            PlayerEvent::PlayerReleased(_) => match std::mem::take(&mut state.activity) {
                PlayerActivity::ReservedForMatch { entry, .. } => {
                    state.end(entry.queued.entry_id, EntryEnd::Played);
                }
                PlayerActivity::ReservedForChallenge { left: Some(entry), .. } => {
                    state.end(entry.queued.entry_id, EntryEnd::Left);
                }
                PlayerActivity::Idle
                | PlayerActivity::Searching(_)
                | PlayerActivity::ReservedForChallenge { left: None, .. } => {}
            },
            PlayerEvent::PlayerRated(event) => {
                state.skills.insert(event.pool_key.clone(), (event.after, occurred_at));
            }
            PlayerEvent::PlayerBlocked(event) => {
                state.blocked.insert(event.blocked);
            }
            PlayerEvent::PlayerUnblocked(event) => {
                state.blocked.remove(&event.unblocked);
            }
        }
        state
    }

    fn heap_bytes(state: &State, event_bytes: usize) -> usize {
        // Of the past entries and results, little is left.
        event_bytes.min(4096 + state.blocked.len() * 48)
    }
}

/// The side balance after one more game on this side.
pub fn updated_balance(balance: i8, side: Side) -> i8 {
    match side {
        Side::First => balance.saturating_add(1).min(BALANCE_MAX),
        Side::Second => balance.saturating_sub(1).max(BALANCE_MIN),
    }
}

/// The game was not created, so the previous opponent and side balance are restored.
fn release(state: &mut State, searches_again: bool) {
    let (entry, before) = match std::mem::take(&mut state.activity) {
        PlayerActivity::ReservedForMatch { entry, before, .. } => (Some(entry), before),
        PlayerActivity::ReservedForChallenge { left, before, .. } => (left, before),
        other => {
            state.activity = other;
            return;
        }
    };
    state.pairing_history = before;
    if let Some(entry) = entry.filter(|_| searches_again) {
        state.activity = PlayerActivity::Searching(Entry { release_count: entry.release_count + 1, ..entry });
    }
}

#[cfg(test)]
mod tests;
