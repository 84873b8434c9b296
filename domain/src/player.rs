//! A player: one active queue entry or unfinished match at a time, their ratings, and whom they block.
//!
//! Invariants: whoever waits, waits in one entry; an entry is taken for at most one match at a time, and only in the round
//! in which it was found; whoever was taken is let go by that match alone; a match moves the rating once, and only as it
//! lets its player go; nobody is taken for a match with someone whom they block.
//!
//! This stream is the judge of races: two matchmakers, a match and a cancellation, a challenge and a queue all meet here,
//! and the expected revision lets one of them through.

mod decide;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use event_schemas::ids::{ChallengeId, EntryId, MatchRecordId, PoolKey, SubjectId};
use event_schemas::match_record::{AbandonReason, Side};
use event_schemas::player::{FreedReason, PlayerEvent, PlayerQueued, QueuedPool};
use event_schemas::rating::{Rating, RatingSource, Skill};
use event_schemas::sealed::Sealed;
use event_schemas::time::Timestamp;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};
use crate::rating::{self, Game};

/// How many players one can block.
pub const BLOCKED_MAX: usize = 1_000;
/// How many pools one entry can wait in.
pub const POOLS_MAX: usize = 16;
/// How far the counter of who moves first goes.
pub const BALANCE_MIN: i8 = -3;
pub const BALANCE_MAX: i8 = 5;
/// How many entries that have ended are remembered, so that a command about one is told how it ended.
const ENDED_MAX: usize = 16;

/// What someone wants of a player, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub subject_id: SubjectId,
    pub at: Timestamp,
    pub action: Action,
}

/// A pool that someone wants to wait in.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    pub pool_key: PoolKey,
    /// What is known of the rating from outside; without it the player's own results hold, and then the default.
    pub rating: Option<(Rating, RatingSource)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Queue(Queueing),
    Cancel {
        entry_id: EntryId,
    },
    /// Nothing happens before it is due, nor to an entry that waits no more.
    Expire {
        entry_id: EntryId,
    },
    Match(Taking),
    /// The match came to nothing.
    Release {
        match_id: MatchRecordId,
        reason: AbandonReason,
        eligible_at: Timestamp,
    },
    /// For the match of a challenge.
    Engage(Engaging),
    /// This attempt of a challenge's match, and all before it, came to nothing.
    Disengage {
        match_id: MatchRecordId,
        attempt: u32,
        reason: AbandonReason,
        eligible_at: Timestamp,
    },
    /// The match is over. With a game that counts, it moves the rating.
    Free {
        match_id: MatchRecordId,
        reason: FreedReason,
        game: Option<Rated>,
    },
    Block {
        other: SubjectId,
    },
    Unblock {
        other: SubjectId,
    },
}

/// A wish to wait.
#[derive(Clone, Debug, PartialEq)]
pub struct Queueing {
    pub entry_id: EntryId,
    pub pools: Vec<Wish>,
    pub max_rating_gap: Option<u16>,
    pub expires_at: Timestamp,
    pub metadata: Option<Sealed>,
}

/// An entry's being taken for a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taking {
    pub entry_id: EntryId,
    /// How often the entry had been released when it was found.
    pub round: u32,
    pub match_id: MatchRecordId,
    pub pool_key: PoolKey,
    pub opponent: SubjectId,
    pub side: Side,
}

/// A player's being taken for a challenge's match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engaging {
    pub match_id: MatchRecordId,
    pub attempt: u32,
    pub challenge_id: ChallengeId,
    pub pool_key: PoolKey,
    pub opponent: SubjectId,
}

/// A game that moves the rating.
#[derive(Clone, Debug, PartialEq)]
pub struct Rated {
    pub pool_key: PoolKey,
    /// The player's own skill when the match was made.
    pub before: Skill,
    pub game: Game,
}

/// An entry that waits, or is taken for a match.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub queued: PlayerQueued,
    pub queued_at: Timestamp,
    /// How often it was released.
    pub round: u32,
}

/// Where a player is.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Whereabouts {
    #[default]
    Free,
    Searching(Entry),
    /// Taken from the queue for a match.
    Matched {
        entry: Entry,
        match_id: MatchRecordId,
        /// What holds again if the match comes to nothing.
        before: Past,
    },
    /// Taken for the match of a challenge, perhaps out of the queue.
    Engaged {
        match_id: MatchRecordId,
        attempt: u32,
        left: Option<Entry>,
        before: Past,
    },
}

/// What earlier matches left behind, as the next pairing needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    pub last_opponent: Option<SubjectId>,
    /// By pool, how much more often the player was the first than the second, within bounds.
    pub balance: BTreeMap<PoolKey, i8>,
}

/// How an entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryEnd {
    Cancelled,
    Expired,
    /// Its match is over.
    Played,
    /// Left for the match of a challenge.
    Left,
}

impl EntryEnd {
    fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Played => "matched",
            Self::Left => "left for a challenge",
        }
    }
}

/// A player as their decisions need it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    whereabouts: Whereabouts,
    past: Past,
    /// By pool, what results say, and when they last did.
    skills: BTreeMap<PoolKey, (Skill, Timestamp)>,
    blocked: BTreeSet<SubjectId>,
    /// Oldest first.
    ended: VecDeque<(EntryId, EntryEnd)>,
}

impl State {
    pub fn whereabouts(&self) -> &Whereabouts {
        &self.whereabouts
    }

    /// The entry that waits or is taken for a match, if there is one.
    pub fn entry(&self) -> Option<&Entry> {
        match &self.whereabouts {
            Whereabouts::Searching(entry) | Whereabouts::Matched { entry, .. } => Some(entry),
            Whereabouts::Free | Whereabouts::Engaged { .. } => None,
        }
    }

    /// The match that the player is taken for, if there is one.
    pub fn match_id(&self) -> Option<MatchRecordId> {
        match &self.whereabouts {
            Whereabouts::Matched { match_id, .. } | Whereabouts::Engaged { match_id, .. } => Some(*match_id),
            Whereabouts::Free | Whereabouts::Searching(_) => None,
        }
    }

    pub fn blocks(&self, other: SubjectId) -> bool {
        self.blocked.contains(&other)
    }

    /// How strong the player is in a pool: as `known` from outside, else by their results, else as nobody knows.
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

    fn queued_pool(&self, wish: &Wish) -> QueuedPool {
        let (rating, rating_source, skill) = self.strength(&wish.pool_key, wish.rating);
        let side_balance = self.past.balance.get(&wish.pool_key).copied().unwrap_or(0);
        QueuedPool { pool_key: wish.pool_key.clone(), rating, rating_source, skill, side_balance }
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

/// Why a command about a player is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such queue entry")]
    NoSuchEntry,
    #[error("the player waits already, in the entry {0}; cancel it first")]
    AlreadyQueued(EntryId),
    #[error("the player has an unfinished match, {0}; it ends with its result, or by itself")]
    InMatch(MatchRecordId),
    #[error(
        "the entry is matched, and its game is being made or has begun; if no game comes of it, it searches again and can be cancelled"
    )]
    EntryMatched,
    #[error("the entry has ended: {how}; queue anew to wait again", how = .0.as_str())]
    EntryEnded(EntryEnd),
    #[error("an entry waits in 1 to {POOLS_MAX} different pools")]
    Pools,
    /// The entry was found in a state that has passed.
    #[error("the entry is not there to be matched any more")]
    NotThere,
    #[error("the players do not play each other")]
    Blocked,
    #[error("this attempt to make the game is over")]
    AttemptOver,
    #[error("nobody can block themselves")]
    Oneself,
    #[error("one can block {BLOCKED_MAX} players; unblock one first")]
    TooManyBlocked,
}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NoSuchEntry => RefusalKind::NotFound,
            Self::Pools | Self::Oneself => RefusalKind::Invalid,
            _ => RefusalKind::Conflict,
        }
    }
}

/// Decides for the streams `player-<tenant>.<subject>`.
#[derive(Debug)]
pub enum Player {}

impl Decider for Player {
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
                let entry = Entry { queued: queued.clone(), queued_at: occurred_at, round: 0 };
                state.whereabouts = Whereabouts::Searching(entry);
            }
            PlayerEvent::QueueEntryCancelled(event) => {
                state.whereabouts = Whereabouts::Free;
                state.end(event.entry_id, EntryEnd::Cancelled);
            }
            PlayerEvent::QueueEntryExpired(event) => {
                state.whereabouts = Whereabouts::Free;
                state.end(event.entry_id, EntryEnd::Expired);
            }
            PlayerEvent::QueueEntryMatched(event) => {
                if let Whereabouts::Searching(entry) = std::mem::take(&mut state.whereabouts) {
                    let before = state.past.clone();
                    state.past.last_opponent = Some(event.opponent);
                    let balance = state.past.balance.entry(event.pool_key.clone()).or_default();
                    *balance = moved(*balance, event.side);
                    state.whereabouts = Whereabouts::Matched { entry, match_id: event.match_id, before };
                }
            }
            PlayerEvent::QueueEntryReleased(_) => release(&mut state, true),
            PlayerEvent::PlayerEngaged(event) => {
                let (left, before) = match std::mem::take(&mut state.whereabouts) {
                    Whereabouts::Searching(entry) => (Some(entry), state.past.clone()),
                    Whereabouts::Engaged { left, before, .. } => (left, before),
                    Whereabouts::Free | Whereabouts::Matched { .. } => (None, state.past.clone()),
                };
                state.past.last_opponent = Some(event.opponent);
                let (match_id, attempt) = (event.match_id, event.attempt);
                state.whereabouts = Whereabouts::Engaged { match_id, attempt, left, before };
            }
            PlayerEvent::PlayerFreed(event) if event.reason == FreedReason::Abandoned => {
                release(&mut state, false);
            }
            PlayerEvent::PlayerFreed(_) => match std::mem::take(&mut state.whereabouts) {
                Whereabouts::Matched { entry, .. } => state.end(entry.queued.entry_id, EntryEnd::Played),
                Whereabouts::Engaged { left: Some(entry), .. } => {
                    state.end(entry.queued.entry_id, EntryEnd::Left);
                }
                Whereabouts::Free | Whereabouts::Searching(_) | Whereabouts::Engaged { left: None, .. } => {}
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
}

/// The counter after one more game on this side.
pub fn moved(balance: i8, side: Side) -> i8 {
    match side {
        Side::First => balance.saturating_add(1).min(BALANCE_MAX),
        Side::Second => balance.saturating_sub(1).max(BALANCE_MIN),
    }
}

/// No game came of the match, so nobody was met and no side was had.
fn release(state: &mut State, searches_again: bool) {
    let (entry, before) = match std::mem::take(&mut state.whereabouts) {
        Whereabouts::Matched { entry, before, .. } => (Some(entry), before),
        Whereabouts::Engaged { left, before, .. } => (left, before),
        other => {
            state.whereabouts = other;
            return;
        }
    };
    state.past = before;
    if let Some(entry) = entry.filter(|_| searches_again) {
        state.whereabouts = Whereabouts::Searching(Entry { round: entry.round + 1, ..entry });
    }
}

#[cfg(test)]
mod tests;
