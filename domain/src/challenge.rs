//! A challenge of one player to another.
//!
//! Invariants: only the challenged player accepts or declines, and only the challenger cancels. A challenge
//! is answered once, and not after it expires. While its game is being created it can be neither cancelled
//! nor expired. Each acceptance is a numbered attempt: the saga of a failed attempt cannot affect the next
//! one.

use event_schemas::challenge::{
    ChallengeAccepted, ChallengeCancelled, ChallengeCreated, ChallengeDeclined, ChallengeEvent,
    ChallengeExpired, ChallengePlacementFailed, ChallengePlacementStarted, Strength,
};
use event_schemas::game_match::{AbandonReason, Side};
use event_schemas::ids::{ChallengeId, GameId, GameMatchId, SubjectId};
use event_schemas::time::Timestamp;
use uuid::Uuid;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};

/// A command to a challenge, and its time.
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
    /// The game of this attempt was created.
    Confirm {
        attempt: u32,
        game_id: Option<GameId>,
    },
    /// The game of this attempt could not be created.
    FailPlacement {
        attempt: u32,
        reason: AbandonReason,
        detail: Option<String>,
    },
    /// No effect before the challenge is due to expire.
    Expire,
}

/// The phase of a challenge.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    Pending,
    /// The game is being created.
    Placing(ChallengePlacementStarted),
    Accepted {
        placing: ChallengePlacementStarted,
        game_id: Option<GameId>,
    },
    Declined,
    Cancelled,
    Expired,
}

/// A challenge that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct Challenge {
    pub created: ChallengeCreated,
    pub phase: Phase,
    /// The number of acceptances.
    pub attempts: u32,
}

/// The state of a challenge; empty before it is created.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State(Option<Challenge>);

impl State {
    pub fn details(&self) -> Option<&Challenge> {
        self.0.as_ref()
    }
}

/// The reason why a command to a challenge is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such challenge")]
    Missing,
    #[error("a challenge with this id exists with different content")]
    Exists,
    #[error("a player cannot challenge themselves")]
    SelfChallenge,
    #[error("only the challenged player can do this")]
    NotTheChallenged,
    #[error("only the challenger can cancel a challenge; decline it instead")]
    NotTheChallenger,
    #[error("the challenge is accepted, and its game is being created")]
    Placing,
    #[error("the challenge was already accepted")]
    Accepted,
    #[error("the challenge was already declined; create a new one")]
    Declined,
    #[error("the challenge was cancelled by the challenger")]
    Cancelled,
    #[error("the challenge has expired; create a new one")]
    Expired,
    #[error("this attempt to create the game is over")]
    AttemptOver,
}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::Missing => RefusalKind::NotFound,
            Self::SelfChallenge => RefusalKind::Invalid,
            Self::NotTheChallenged | Self::NotTheChallenger => RefusalKind::Forbidden,
            _ => RefusalKind::Conflict,
        }
    }
}

/// The id of the match that a challenge leads to. It is always the same, so that accepting twice creates one
/// game.
pub fn match_id(challenge: ChallengeId) -> GameMatchId {
    GameMatchId(Uuid::new_v5(&challenge.0, b"match"))
}

/// The match id decides who moves first: direct challenges do not count for the side balance.
fn challenger_side(id: GameMatchId) -> Side {
    if id.0.as_u128() & 1 == 0 { Side::First } else { Side::Second }
}

impl Challenge {
    /// Checks that one of the two players acts on a challenge that is pending and not due to expire. To all
    /// other players the challenge does not exist.
    fn authorize(
        &self,
        by: SubjectId,
        actor: SubjectId,
        not_authorized: Refusal,
        at: Timestamp,
    ) -> Result<(), Refusal> {
        if by != self.created.challenger && by != self.created.challenged {
            return Err(Refusal::Missing);
        }
        if by != actor {
            return Err(not_authorized);
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

    /// The current attempt, which must be this one.
    fn placing(&self, attempt: u32) -> Result<&ChallengePlacementStarted, Refusal> {
        match &self.phase {
            Phase::Placing(placing) if placing.attempt == attempt => Ok(placing),
            _ => Err(Refusal::AttemptOver),
        }
    }
}

/// Decides for the streams `challenge-<uuid>`.
#[derive(Debug)]
pub enum ChallengeDecider {}

impl Decider for ChallengeDecider {
    type State = State;
    type Command = Command;
    type Event = ChallengeEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<ChallengeEvent>>, Refusal> {
        let event = match (&command.action, &state.0) {
            (Action::Create(created), _) if created.challenger == created.challenged => {
                return Err(Refusal::SelfChallenge);
            }
            (Action::Create(created), None) => Some(created.clone().into()),
            (Action::Create(created), Some(challenge)) if challenge.created == *created => None,
            (Action::Create(_), Some(_)) => return Err(Refusal::Exists),
            (_, None) => return Err(Refusal::Missing),
            (action, Some(challenge)) => decide(action, challenge, command.at)?,
        };
        Ok(event.into_iter().map(|event| Occurred { at: command.at, event }).collect())
    }

    fn evolve(state: State, event: &ChallengeEvent, _occurred_at: Timestamp) -> State {
        if let ChallengeEvent::ChallengeCreated(created) = event {
            return State(Some(Challenge { created: created.clone(), phase: Phase::Pending, attempts: 0 }));
        }
        State(state.0.map(|challenge| evolve(challenge, event)))
    }
}

fn evolve(mut challenge: Challenge, event: &ChallengeEvent) -> Challenge {
    challenge.phase = match (event, challenge.phase) {
        (ChallengeEvent::ChallengePlacementStarted(placing), _) => {
            challenge.attempts = placing.attempt;
            Phase::Placing(placing.clone())
        }
        (ChallengeEvent::ChallengePlacementFailed(_), _) => Phase::Pending,
        (ChallengeEvent::ChallengeAccepted(accepted), Phase::Placing(placing)) => {
            Phase::Accepted { placing, game_id: accepted.game_id.clone() }
        }
        (ChallengeEvent::ChallengeDeclined(_), _) => Phase::Declined,
        (ChallengeEvent::ChallengeCancelled(_), _) => Phase::Cancelled,
        (ChallengeEvent::ChallengeExpired(_), _) => Phase::Expired,
        // Never decided: creation is the first event, and only a current attempt is accepted.
        (ChallengeEvent::ChallengeCreated(_) | ChallengeEvent::ChallengeAccepted(_), phase) => phase,
    };
    challenge
}

fn decide(action: &Action, challenge: &Challenge, at: Timestamp) -> Result<Option<ChallengeEvent>, Refusal> {
    let created = &challenge.created;
    Ok(match action {
        Action::Create(_) => None,
        Action::Accept { by, strength } => {
            challenge.authorize(*by, created.challenged, Refusal::NotTheChallenged, at)?;
            let match_id = match_id(created.challenge_id);
            Some(
                ChallengePlacementStarted {
                    match_id,
                    attempt: challenge.attempts + 1,
                    strength: *strength,
                    challenger_side: challenger_side(match_id),
                }
                .into(),
            )
        }
        Action::Decline { by } => {
            challenge.authorize(*by, created.challenged, Refusal::NotTheChallenged, at)?;
            Some(ChallengeDeclined {}.into())
        }
        Action::Cancel { by } => {
            challenge.authorize(*by, created.challenger, Refusal::NotTheChallenger, at)?;
            Some(ChallengeCancelled {}.into())
        }
        Action::Confirm { attempt, game_id } => match &challenge.phase {
            Phase::Accepted { placing, .. } if placing.attempt == *attempt => None,
            _ => {
                let match_id = challenge.placing(*attempt)?.match_id;
                Some(ChallengeAccepted { match_id, game_id: game_id.clone() }.into())
            }
        },
        Action::FailPlacement { attempt, reason, detail } => match &challenge.phase {
            Phase::Accepted { placing, .. } if placing.attempt == *attempt => return Err(Refusal::Accepted),
            Phase::Placing(placing) if placing.attempt == *attempt => Some(
                ChallengePlacementFailed {
                    match_id: placing.match_id,
                    reason: *reason,
                    detail: detail.clone(),
                }
                .into(),
            ),
            _ => None,
        },
        Action::Expire => (challenge.phase == Phase::Pending && created.expires_at <= at)
            .then(|| ChallengeExpired {}.into()),
    })
}

#[cfg(test)]
mod tests;
