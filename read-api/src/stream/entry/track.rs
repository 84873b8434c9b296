//! Where a queue entry stands, event by event.

use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{ChallengeId, EntryId, MatchRecordId, PoolKey, Position, SubjectId};
use event_schemas::match_record::{AbandonReason, MatchConfirmed, MatchProposed, Side};
use event_schemas::player::{PlayerEvent, PlayerQueued};
use event_schemas::time::Timestamp;

/// For which match the entry is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) match_id: MatchRecordId,
    pub(super) pool_key: PoolKey,
    pub(super) opponent: SubjectId,
    /// The challenge that took the player out of the queue, if one did.
    pub(super) challenge_id: Option<ChallengeId>,
}

/// Where the entry stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Searching {
        /// Why the latest match came to nothing, and from when on another one may be found.
        released: Option<(AbandonReason, Timestamp)>,
    },
    Placing(Taken),
    Matched(Taken, Game),
    Cancelled,
    Expired,
}

/// What a match's own stream says of it once its game is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Game {
    pub(super) confirmed: MatchConfirmed,
    /// That of the entry's player.
    pub(super) side: Side,
    pub(super) position: Position,
    pub(super) at: Timestamp,
}

/// A change of where the entry stands, at the event that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) state: State,
    pub(super) position: Position,
    pub(super) at: Timestamp,
}

impl Change {
    pub(super) fn is_end(&self) -> bool {
        matches!(self.state, State::Matched(..) | State::Cancelled | State::Expired)
    }
}

/// An entry from its joining on.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) queued: PlayerQueued,
    pub(super) queued_at: Timestamp,
    state: State,
    /// The player waits in another entry since: nothing more is said of this one.
    is_past: bool,
}

impl Track {
    /// None if the event is not the entry's joining.
    pub(super) fn begin(entry: EntryId, envelope: &Envelope) -> Option<(Self, Change)> {
        let Event::Player(PlayerEvent::PlayerQueued(queued)) = &envelope.event else { return None };
        if queued.entry_id != entry {
            return None;
        }
        let state = State::Searching { released: None };
        let at = envelope.metadata.occurred_at;
        let change = Change { state: state.clone(), position: envelope.position, at };
        Some((Self { queued: queued.clone(), queued_at: at, state, is_past: false }, change))
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn is_past(&self) -> bool {
        self.is_past
    }

    /// The match whose game is being made, if the entry is taken for one.
    pub(super) fn placing(&self) -> Option<&Taken> {
        match &self.state {
            State::Placing(taken) => Some(taken),
            _ => None,
        }
    }

    /// Takes in the next event of the player's stream.
    pub(super) fn see(&mut self, envelope: &Envelope) -> Option<Change> {
        let Event::Player(event) = &envelope.event else { return None };
        let entry = self.queued.entry_id;
        let state = match event {
            PlayerEvent::QueueEntryCancelled(event) if event.entry_id == entry => State::Cancelled,
            PlayerEvent::QueueEntryExpired(event) if event.entry_id == entry => State::Expired,
            PlayerEvent::QueueEntryReleased(event) if event.entry_id == entry => {
                State::Searching { released: Some((event.reason, event.eligible_at)) }
            }
            PlayerEvent::QueueEntryMatched(event) if event.entry_id == entry => State::Placing(Taken {
                match_id: event.match_id,
                pool_key: event.pool_key.clone(),
                opponent: event.opponent,
                challenge_id: None,
            }),
            PlayerEvent::PlayerEngaged(event) if event.left_entry == Some(entry) => State::Placing(Taken {
                match_id: event.match_id,
                pool_key: event.pool_key.clone(),
                opponent: event.opponent,
                challenge_id: Some(event.challenge_id),
            }),
            PlayerEvent::PlayerQueued(queued) if queued.entry_id != entry => {
                self.is_past = true;
                return None;
            }
            _ => return None,
        };
        // A challenge that is accepted again, while its players are still held by it, is the same match.
        if state == self.state {
            return None;
        }
        self.state = state;
        Some(self.change(envelope.position, envelope.metadata.occurred_at))
    }

    /// The game of the match that the entry is taken for is there: that is the end.
    pub(super) fn confirm(&mut self, game: Game) -> Option<Change> {
        let taken = self.placing()?.clone();
        let (position, at) = (game.position, game.at);
        self.state = State::Matched(taken, game);
        Some(self.change(position, at))
    }

    fn change(&self, position: Position, at: Timestamp) -> Change {
        Change { state: self.state.clone(), position, at }
    }
}

/// On which side the player is.
pub(super) fn side(proposed: &MatchProposed, player: SubjectId) -> Side {
    if proposed.first.subject_id == player { Side::First } else { Side::Second }
}
