//! The state of a queue entry, event by event.

use event_schemas::envelope::{Envelope, Event};
use event_schemas::game_match::{AbandonReason, MatchConfirmed, MatchProposed, Side};
use event_schemas::ids::{ChallengeId, EntryId, GameMatchId, PoolKey, Position, SubjectId};
use event_schemas::player::{PlayerEvent, PlayerQueued};
use event_schemas::time::Timestamp;

/// The match that the entry is reserved for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reservation {
    pub(super) match_id: GameMatchId,
    pub(super) pool_key: PoolKey,
    pub(super) opponent: SubjectId,
    /// The challenge that reserved the player, if it was not the queue.
    pub(super) challenge_id: Option<ChallengeId>,
}

/// The state of the entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EntryState {
    Searching {
        /// Why the previous match failed, and when the cooldown ends.
        released: Option<(AbandonReason, Timestamp)>,
    },
    Placing(Reservation),
    Matched(Reservation, ConfirmedGame),
    Cancelled,
    Expired,
}

/// The confirmation from a match's own stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConfirmedGame {
    pub(super) confirmed: MatchConfirmed,
    /// The side of the entry's player.
    pub(super) side: Side,
    pub(super) position: Position,
    pub(super) at: Timestamp,
}

/// A change of the entry's state, with the event that caused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntryChange {
    pub(super) state: EntryState,
    pub(super) position: Position,
    pub(super) at: Timestamp,
}

impl EntryChange {
    pub(super) fn is_end(&self) -> bool {
        matches!(self.state, EntryState::Matched(..) | EntryState::Cancelled | EntryState::Expired)
    }
}

/// Folds the events of an entry.
#[derive(Debug)]
pub(super) struct EntryTracker {
    pub(super) queued: PlayerQueued,
    pub(super) queued_at: Timestamp,
    state: EntryState,
    /// The player has queued again: this entry gets no more events.
    is_superseded: bool,
}

impl EntryTracker {
    /// None if the event did not queue the entry.
    pub(super) fn start(entry: EntryId, envelope: &Envelope) -> Option<(Self, EntryChange)> {
        let Event::Player(PlayerEvent::PlayerQueued(queued)) = &envelope.event else { return None };
        if queued.entry_id != entry {
            return None;
        }
        let state = EntryState::Searching { released: None };
        let at = envelope.metadata.occurred_at;
        let change = EntryChange { state: state.clone(), position: envelope.position, at };
        Some((Self { queued: queued.clone(), queued_at: at, state, is_superseded: false }, change))
    }

    pub(super) fn state(&self) -> &EntryState {
        &self.state
    }

    pub(super) fn is_superseded(&self) -> bool {
        self.is_superseded
    }

    /// The match whose game is being created, if there is one.
    pub(super) fn reservation(&self) -> Option<&Reservation> {
        match &self.state {
            EntryState::Placing(reservation) => Some(reservation),
            _ => None,
        }
    }

    /// Applies the next event of the player's stream.
    pub(super) fn apply(&mut self, envelope: &Envelope) -> Option<EntryChange> {
        let Event::Player(event) = &envelope.event else { return None };
        let entry = self.queued.entry_id;
        let state = match event {
            PlayerEvent::QueueEntryCancelled(event) if event.entry_id == entry => EntryState::Cancelled,
            PlayerEvent::QueueEntryExpired(event) if event.entry_id == entry => EntryState::Expired,
            PlayerEvent::QueueEntryReleased(event) if event.entry_id == entry => {
                EntryState::Searching { released: Some((event.reason, event.eligible_at)) }
            }
            PlayerEvent::QueueEntryMatched(event) if event.entry_id == entry => {
                EntryState::Placing(Reservation {
                    match_id: event.match_id,
                    pool_key: event.pool_key.clone(),
                    opponent: event.opponent,
                    challenge_id: None,
                })
            }
            PlayerEvent::PlayerReserved(event) if event.left_entry == Some(entry) => {
                EntryState::Placing(Reservation {
                    match_id: event.match_id,
                    pool_key: event.pool_key.clone(),
                    opponent: event.opponent,
                    challenge_id: Some(event.challenge_id),
                })
            }
            PlayerEvent::PlayerQueued(queued) if queued.entry_id != entry => {
                self.is_superseded = true;
                return None;
            }
            _ => return None,
        };
        // A challenge that is accepted again while its players are still reserved leads to the same match.
        if state == self.state {
            return None;
        }
        self.state = state;
        Some(self.change(envelope.position, envelope.metadata.occurred_at))
    }

    /// Applies the confirmation of the match, which ends the entry.
    pub(super) fn confirm(&mut self, game: ConfirmedGame) -> Option<EntryChange> {
        let reservation = self.reservation()?.clone();
        let (position, at) = (game.position, game.at);
        self.state = EntryState::Matched(reservation, game);
        Some(self.change(position, at))
    }

    fn change(&self, position: Position, at: Timestamp) -> EntryChange {
        EntryChange { state: self.state.clone(), position, at }
    }
}

/// The side of the player.
pub(super) fn side(proposed: &MatchProposed, player: SubjectId) -> Side {
    if proposed.first.subject_id == player { Side::First } else { Side::Second }
}
