//! Two players who are put together, from the proposal to the end.
//!
//! Invariants: a match is either confirmed or abandoned, and never both, whoever drives it and however late; only a confirmed
//! match has a result; it has one end. Here it is decided what becomes of the players: their own streams follow.

use event_schemas::ids::GameId;
use event_schemas::match_record::{
    AbandonReason, GameResult, MatchAbandoned, MatchConfirmed, MatchExpired, MatchProposed, MatchRecordEvent,
    MatchResultReported,
};
use event_schemas::time::Timestamp;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};

/// What someone wants of a match, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub at: Timestamp,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Propose(MatchProposed),
    Confirm {
        game_id: Option<GameId>,
        result_due_at: Timestamp,
    },
    Abandon {
        reason: AbandonReason,
        detail: Option<String>,
        /// Before this instant its players are not matched again.
        eligible_at: Timestamp,
    },
    Report(GameResult),
    /// No result came; nothing happens before it is due.
    Expire,
}

/// How far a match is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The players are being taken, and the game made.
    Proposed,
    Confirmed {
        game_id: Option<GameId>,
        result_due_at: Timestamp,
    },
    Abandoned {
        reason: AbandonReason,
        eligible_at: Timestamp,
    },
    Ended(GameResult),
    Expired,
}

/// A match that was proposed.
#[derive(Clone, Debug, PartialEq)]
pub struct Life {
    pub proposed: MatchProposed,
    pub phase: Phase,
}

/// A match as its decisions need it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State(Option<Life>);

impl State {
    pub fn life(&self) -> Option<&Life> {
        self.0.as_ref()
    }
}

/// Why a command to a match is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such match")]
    Missing,
    #[error("a match with this id exists, and is of other players")]
    Exists,
    #[error("the match is confirmed already")]
    Confirmed,
    #[error("no game came of this match, so it has no result")]
    Abandoned,
    #[error("the game of this match is still being made; report again once it has begun")]
    NotConfirmed,
    #[error("another result of this match was reported already, and holds")]
    AlreadyReported,
    #[error("the match has ended by itself because no result came in time; it counts for nobody")]
    Expired,
}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::Missing => RefusalKind::NotFound,
            _ => RefusalKind::Conflict,
        }
    }
}

/// Decides for the streams `match_record-<uuid>`.
#[derive(Debug)]
pub enum MatchRecord {}

impl Decider for MatchRecord {
    type State = State;
    type Command = Command;
    type Event = MatchRecordEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<MatchRecordEvent>>, Refusal> {
        let event = match (&command.action, &state.0) {
            (Action::Propose(proposed), None) => Some(proposed.clone().into()),
            (Action::Propose(proposed), Some(life)) if is_same(proposed, &life.proposed) => None,
            (Action::Propose(_), Some(_)) => return Err(Refusal::Exists),
            (_, None) => return Err(Refusal::Missing),
            (action, Some(life)) => decide(action, &life.phase, command.at)?,
        };
        Ok(event.into_iter().map(|event| Occurred { at: command.at, event }).collect())
    }

    fn evolve(state: State, event: &MatchRecordEvent, _occurred_at: Timestamp) -> State {
        let phase = match event {
            MatchRecordEvent::MatchProposed(proposed) => {
                return State(Some(Life { proposed: proposed.clone(), phase: Phase::Proposed }));
            }
            MatchRecordEvent::MatchConfirmed(confirmed) => Phase::Confirmed {
                game_id: confirmed.game_id.clone(),
                result_due_at: confirmed.result_due_at,
            },
            MatchRecordEvent::MatchAbandoned(abandoned) => {
                Phase::Abandoned { reason: abandoned.reason, eligible_at: abandoned.eligible_at }
            }
            MatchRecordEvent::MatchResultReported(reported) => Phase::Ended(reported.result),
            MatchRecordEvent::MatchExpired(_) => Phase::Expired,
        };
        State(state.0.map(|life| Life { phase, ..life }))
    }
}

/// Whether two proposals are of one match: of the same entries, whatever they knew of ratings.
fn is_same(one: &MatchProposed, other: &MatchProposed) -> bool {
    let players = |proposed: &MatchProposed| {
        [&proposed.first, &proposed.second].map(|player| (player.subject_id, player.entry_id, player.round))
    };
    let (mut one_players, mut other_players) = (players(one), players(other));
    one_players.sort_unstable();
    other_players.sort_unstable();
    one.pool_key == other.pool_key && one.challenge_id == other.challenge_id && one_players == other_players
}

fn decide(action: &Action, phase: &Phase, at: Timestamp) -> Result<Option<MatchRecordEvent>, Refusal> {
    Ok(match (action, phase) {
        (Action::Confirm { game_id, result_due_at }, Phase::Proposed) => {
            Some(MatchConfirmed { game_id: game_id.clone(), result_due_at: *result_due_at }.into())
        }
        (Action::Confirm { .. } | Action::Report(_), Phase::Abandoned { .. }) => {
            return Err(Refusal::Abandoned);
        }
        (Action::Abandon { reason, detail, eligible_at }, Phase::Proposed) => {
            Some(MatchAbandoned { reason: *reason, detail: detail.clone(), eligible_at: *eligible_at }.into())
        }
        (Action::Abandon { .. }, Phase::Confirmed { .. } | Phase::Ended(_) | Phase::Expired) => {
            return Err(Refusal::Confirmed);
        }
        (Action::Report(_), Phase::Proposed) => return Err(Refusal::NotConfirmed),
        (Action::Report(result), Phase::Confirmed { .. }) => {
            Some(MatchResultReported { result: *result }.into())
        }
        (Action::Report(result), Phase::Ended(reported)) if result != reported => {
            return Err(Refusal::AlreadyReported);
        }
        (Action::Report(_), Phase::Expired) => return Err(Refusal::Expired),
        (Action::Expire, Phase::Confirmed { result_due_at, .. }) if *result_due_at <= at => {
            Some(MatchExpired {}.into())
        }
        // It already is so, or is not yet to be.
        (
            Action::Propose(_)
            | Action::Confirm { .. }
            | Action::Abandon { .. }
            | Action::Report(_)
            | Action::Expire,
            _,
        ) => None,
    })
}

#[cfg(test)]
mod tests;
