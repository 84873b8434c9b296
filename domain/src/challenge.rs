//! One player's asking another for a match.
//!
//! Invariants: only the challenged accepts or declines, only the challenger cancels; nobody acts on it twice, nor after its
//! time; while the game is being made it can neither be withdrawn nor expire. Each acceptance is an attempt with a number:
//! what drives an attempt that has failed cannot touch the next one.

use event_schemas::challenge::{
    ChallengeAccepted, ChallengeCancelled, ChallengeCreated, ChallengeDeclined, ChallengeEvent,
    ChallengeExpired, ChallengePlacing, ChallengePlacingFailed, Strength,
};
use event_schemas::ids::{ChallengeId, GameId, MatchRecordId, SubjectId};
use event_schemas::match_record::{AbandonReason, Side};
use event_schemas::time::Timestamp;
use uuid::Uuid;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};

/// What someone wants of a challenge, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub at: Timestamp,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Create(ChallengeCreated),
    Accept {
        by: SubjectId,
        strength: Strength,
    },
    Decline {
        by: SubjectId,
    },
    Cancel {
        by: SubjectId,
    },
    /// The game of this attempt is there.
    Confirm {
        attempt: u32,
        game_id: Option<GameId>,
    },
    /// The game of this attempt could not be made.
    FailPlacing {
        attempt: u32,
        reason: AbandonReason,
        detail: Option<String>,
    },
    /// Nothing happens before it is due.
    Expire,
}

/// How a challenge stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    Pending,
    /// The game is being made.
    Placing(ChallengePlacing),
    Accepted {
        placing: ChallengePlacing,
        game_id: Option<GameId>,
    },
    Declined,
    Cancelled,
    Expired,
}

/// A challenge that was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Life {
    pub created: ChallengeCreated,
    pub phase: Phase,
    /// How often it was accepted.
    pub attempts: u32,
}

/// A challenge as its decisions need it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State(Option<Life>);

impl State {
    pub fn life(&self) -> Option<&Life> {
        self.0.as_ref()
    }
}

/// Why a command to a challenge is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such challenge")]
    Missing,
    #[error("a challenge with this id exists and says something else")]
    Exists,
    #[error("nobody can challenge themselves")]
    Oneself,
    #[error("only the player who is challenged can do this")]
    NotTheChallenged,
    #[error("only the challenger can cancel a challenge; decline it instead")]
    NotTheChallenger,
    #[error("the challenge was accepted, and its game is being made")]
    Placing,
    #[error("the challenge was accepted already")]
    Accepted,
    #[error("the challenge was declined already; make a new one")]
    Declined,
    #[error("the challenge was cancelled by the challenger")]
    Cancelled,
    #[error("the challenge has expired; make a new one")]
    Expired,
    #[error("this attempt to make the game is over")]
    AttemptOver,
}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::Missing => RefusalKind::NotFound,
            Self::Oneself => RefusalKind::Invalid,
            Self::NotTheChallenged | Self::NotTheChallenger => RefusalKind::Forbidden,
            _ => RefusalKind::Conflict,
        }
    }
}

/// The id of the match that a challenge leads to: always the same, so that accepting twice makes one game.
pub fn match_id(challenge: ChallengeId) -> MatchRecordId {
    MatchRecordId(Uuid::new_v5(&challenge.0, b"match"))
}

/// Who moves first is drawn by the match id: direct challenges do not count for the balance.
fn challenger_side(id: MatchRecordId) -> Side {
    if id.0.as_u128() & 1 == 0 { Side::First } else { Side::Second }
}

impl Life {
    /// A challenge is acted on by one of its two, while it is pending and not due to expire. Anybody else does not see it.
    fn may_act(
        &self,
        by: SubjectId,
        actor: SubjectId,
        not_theirs: Refusal,
        at: Timestamp,
    ) -> Result<(), Refusal> {
        if by != self.created.challenger && by != self.created.challenged {
            return Err(Refusal::Missing);
        }
        if by != actor {
            return Err(not_theirs);
        }
        match self.phase {
            Phase::Pending if self.created.expires_at <= at => Err(Refusal::Expired),
            Phase::Pending => Ok(()),
            Phase::Placing(_) => Err(Refusal::Placing),
            Phase::Accepted { .. } => Err(Refusal::Accepted),
            Phase::Declined => Err(Refusal::Declined),
            Phase::Cancelled => Err(Refusal::Cancelled),
            Phase::Expired => Err(Refusal::Expired),
        }
    }

    /// Of the attempt in course, which must be this one.
    fn placing(&self, attempt: u32) -> Result<&ChallengePlacing, Refusal> {
        match &self.phase {
            Phase::Placing(placing) if placing.attempt == attempt => Ok(placing),
            _ => Err(Refusal::AttemptOver),
        }
    }
}

/// Decides for the streams `challenge-<uuid>`.
#[derive(Debug)]
pub enum Challenge {}

impl Decider for Challenge {
    type State = State;
    type Command = Command;
    type Event = ChallengeEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<ChallengeEvent>>, Refusal> {
        let event = match (&command.action, &state.0) {
            (Action::Create(created), _) if created.challenger == created.challenged => {
                return Err(Refusal::Oneself);
            }
            (Action::Create(created), None) => Some(created.clone().into()),
            (Action::Create(created), Some(life)) if life.created == *created => None,
            (Action::Create(_), Some(_)) => return Err(Refusal::Exists),
            (_, None) => return Err(Refusal::Missing),
            (action, Some(life)) => decide(action, life, command.at)?,
        };
        Ok(event.into_iter().map(|event| Occurred { at: command.at, event }).collect())
    }

    fn evolve(state: State, event: &ChallengeEvent, _occurred_at: Timestamp) -> State {
        if let ChallengeEvent::ChallengeCreated(created) = event {
            return State(Some(Life { created: created.clone(), phase: Phase::Pending, attempts: 0 }));
        }
        State(state.0.map(|life| evolve(life, event)))
    }
}

fn evolve(mut life: Life, event: &ChallengeEvent) -> Life {
    life.phase = match (event, life.phase) {
        (ChallengeEvent::ChallengePlacing(placing), _) => {
            life.attempts = placing.attempt;
            Phase::Placing(placing.clone())
        }
        (ChallengeEvent::ChallengePlacingFailed(_), _) => Phase::Pending,
        (ChallengeEvent::ChallengeAccepted(accepted), Phase::Placing(placing)) => {
            Phase::Accepted { placing, game_id: accepted.game_id.clone() }
        }
        (ChallengeEvent::ChallengeDeclined(_), _) => Phase::Declined,
        (ChallengeEvent::ChallengeCancelled(_), _) => Phase::Cancelled,
        (ChallengeEvent::ChallengeExpired(_), _) => Phase::Expired,
        // Neither is decided: a creation comes first, and only an attempt in course is accepted.
        (ChallengeEvent::ChallengeCreated(_) | ChallengeEvent::ChallengeAccepted(_), phase) => phase,
    };
    life
}

fn decide(action: &Action, life: &Life, at: Timestamp) -> Result<Option<ChallengeEvent>, Refusal> {
    let created = &life.created;
    Ok(match action {
        Action::Create(_) => None,
        Action::Accept { by, strength } => {
            life.may_act(*by, created.challenged, Refusal::NotTheChallenged, at)?;
            let match_id = match_id(created.challenge_id);
            Some(
                ChallengePlacing {
                    match_id,
                    attempt: life.attempts + 1,
                    strength: *strength,
                    challenger_side: challenger_side(match_id),
                }
                .into(),
            )
        }
        Action::Decline { by } => {
            life.may_act(*by, created.challenged, Refusal::NotTheChallenged, at)?;
            Some(ChallengeDeclined {}.into())
        }
        Action::Cancel { by } => {
            life.may_act(*by, created.challenger, Refusal::NotTheChallenger, at)?;
            Some(ChallengeCancelled {}.into())
        }
        Action::Confirm { attempt, game_id } => match &life.phase {
            Phase::Accepted { placing, .. } if placing.attempt == *attempt => None,
            _ => {
                let match_id = life.placing(*attempt)?.match_id;
                Some(ChallengeAccepted { match_id, game_id: game_id.clone() }.into())
            }
        },
        Action::FailPlacing { attempt, reason, detail } => match &life.phase {
            Phase::Accepted { placing, .. } if placing.attempt == *attempt => return Err(Refusal::Accepted),
            Phase::Placing(placing) if placing.attempt == *attempt => Some(
                ChallengePlacingFailed {
                    match_id: placing.match_id,
                    reason: *reason,
                    detail: detail.clone(),
                }
                .into(),
            ),
            _ => None,
        },
        Action::Expire => {
            (life.phase == Phase::Pending && created.expires_at <= at).then(|| ChallengeExpired {}.into())
        }
    })
}

#[cfg(test)]
mod tests;
