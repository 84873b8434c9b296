//! A match of two players, from the proposal to the end.
//!
//! Invariants: a match is either confirmed or abandoned, never both, even with concurrent or late sagas; only
//! a confirmed match has a result; it ends once. This stream decides the outcome, and the streams of its
//! players follow.

use event_schemas::game_match::{
    AbandonReason, GameMatchEvent, GameResult, MatchAbandoned, MatchConfirmed, MatchExpired, MatchProposed,
    MatchResultReported,
};
use event_schemas::ids::GameId;
use event_schemas::time::Timestamp;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};

/// A command to a match, and its time.
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
        /// Before this time its players are not matched again.
        eligible_at: Timestamp,
    },
    Report(GameResult),
    /// No result was reported. No effect before the match is due to expire.
    Expire,
}

/// The phase of a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The players are being reserved, and the game is being created.
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
pub struct GameMatch {
    pub proposed: MatchProposed,
    pub phase: Phase,
}

/// The state of a match; empty before it is proposed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State(Option<GameMatch>);

impl State {
    pub fn details(&self) -> Option<&GameMatch> {
        self.0.as_ref()
    }
}

/// The reason why a command to a match is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such match")]
    Missing,
    #[error("a match with this id exists with other players")]
    Exists,
    #[error("the match is already confirmed")]
    Confirmed,
    #[error("the game of this match was not created, so it has no result")]
    Abandoned,
    #[error("the game of this match is still being created; report again after it has started")]
    NotConfirmed,
    #[error("another result was already reported for this match, and remains in force")]
    AlreadyReported,
    #[error("the match expired because no result was reported in time; it is not rated")]
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
pub enum GameMatchDecider {}

impl Decider for GameMatchDecider {
    type State = State;
    type Command = Command;
    type Event = GameMatchEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<GameMatchEvent>>, Refusal> {
        let event = match (&command.action, &state.0) {
            (Action::Propose(proposed), None) => Some(proposed.clone().into()),
            (Action::Propose(proposed), Some(game_match)) if is_same(proposed, &game_match.proposed) => None,
            (Action::Propose(_), Some(_)) => return Err(Refusal::Exists),
            (_, None) => return Err(Refusal::Missing),
            (action, Some(game_match)) => decide(action, &game_match.phase, command.at)?,
        };
        Ok(event.into_iter().map(|event| Occurred { at: command.at, event }).collect())
    }

    fn evolve(state: State, event: &GameMatchEvent, _occurred_at: Timestamp) -> State {
        let phase = match event {
            GameMatchEvent::MatchProposed(proposed) => {
                return State(Some(GameMatch { proposed: proposed.clone(), phase: Phase::Proposed }));
            }
            GameMatchEvent::MatchConfirmed(confirmed) => Phase::Confirmed {
                game_id: confirmed.game_id.clone(),
                result_due_at: confirmed.result_due_at,
            },
            GameMatchEvent::MatchAbandoned(abandoned) => {
                Phase::Abandoned { reason: abandoned.reason, eligible_at: abandoned.eligible_at }
            }
            GameMatchEvent::MatchResultReported(reported) => Phase::Ended(reported.result),
            GameMatchEvent::MatchExpired(_) => Phase::Expired,
        };
        State(state.0.map(|game_match| GameMatch { phase, ..game_match }))
    }
}

/// Whether two proposals are for the same match: the same entries, even with different ratings.
fn is_same(one: &MatchProposed, other: &MatchProposed) -> bool {
    let players = |proposed: &MatchProposed| {
        [&proposed.first, &proposed.second]
            .map(|player| (player.subject_id, player.entry_id, player.release_count))
    };
    let (mut one_players, mut other_players) = (players(one), players(other));
    one_players.sort_unstable();
    other_players.sort_unstable();
    one.pool_key == other.pool_key && one.challenge_id == other.challenge_id && one_players == other_players
}

fn decide(action: &Action, phase: &Phase, at: Timestamp) -> Result<Option<GameMatchEvent>, Refusal> {
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
        // Already done, or not due yet.
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
