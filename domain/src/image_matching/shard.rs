//! One shard of a job's image matches.
//!
//! Invariants: a match is recorded once, with the content of its first report; evidence belongs to a recorded
//! match; commands are refused once the job has ended.

mod known_matches;

use std::collections::HashSet;

use event_schemas::ids::ImageMatchId;
use event_schemas::image_match::{ImageMatchEvent, MatchEvidenceAttached, MatchFound};
use event_schemas::job::Phase;
use event_schemas::time::Timestamp;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};
use crate::job::JobAvailability;
use known_matches::{KnownMatches, id_digest};

/// A command to one shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// The availability of the job, read from its own stream.
    pub job: JobAvailability,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Matches, each with the time at which it was found. Known matches are ignored, so there may be fewer
    /// events than matches.
    Report(Vec<(MatchFound, Timestamp)>),
    AttachEvidence {
        match_id: ImageMatchId,
        evidence_path: String,
        at: Timestamp,
    },
}

/// The matches in a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State(KnownMatches);

impl State {
    /// The number of matches.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn contains(&self, id: &ImageMatchId) -> bool {
        self.0.find(id_digest(id.as_str())).is_some()
    }
}

/// The reason why a command to a shard is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such job; create it first")]
    NoJob,
    #[error(
        "the job has ended as {0} and accepts no more changes; retry a failed job, or create another one"
    )]
    JobEnded(Phase),
    #[error("the job has no match {0}; report it first")]
    NoMatch(ImageMatchId),
}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NoJob | Self::NoMatch(_) => RefusalKind::NotFound,
            Self::JobEnded(_) => RefusalKind::Conflict,
        }
    }
}

/// Decides for the streams `matching-<job>.<shard>`.
#[derive(Debug)]
pub enum ImageMatchShardDecider {}

impl Decider for ImageMatchShardDecider {
    type State = State;
    type Command = Command;
    type Event = ImageMatchEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<ImageMatchEvent>>, Refusal> {
        match command.job {
            JobAvailability::Missing => return Err(Refusal::NoJob),
            JobAvailability::Ended(phase) => return Err(Refusal::JobEnded(phase)),
            JobAvailability::Open => {}
        }
        match &command.action {
            Action::Report(matches) => {
                let mut in_batch = HashSet::with_capacity(matches.len());
                Ok(matches
                    .iter()
                    .filter(|(found, _)| {
                        let id = id_digest(found.match_id.as_str());
                        state.0.find(id).is_none() && in_batch.insert(id)
                    })
                    .map(|(found, at)| Occurred { at: *at, event: found.clone().into() })
                    .collect())
            }
            Action::AttachEvidence { match_id, evidence_path, at } => {
                let known = state.0.find(id_digest(match_id.as_str()));
                let known = known.ok_or_else(|| Refusal::NoMatch(match_id.clone()))?;
                if known.has_path(evidence_path) {
                    return Ok(Vec::new());
                }
                let attached = MatchEvidenceAttached {
                    match_id: match_id.clone(),
                    evidence_path: evidence_path.clone(),
                    replaces: known.has_evidence(),
                };
                Ok(vec![Occurred { at: *at, event: attached.into() }])
            }
        }
    }

    fn evolve(mut state: State, event: &ImageMatchEvent, _occurred_at: Timestamp) -> State {
        match event {
            ImageMatchEvent::MatchFound(found) => {
                state.0.add(id_digest(found.match_id.as_str()), found.evidence_path.as_deref());
            }
            ImageMatchEvent::MatchEvidenceAttached(attached) => {
                state.0.set_evidence(id_digest(attached.match_id.as_str()), &attached.evidence_path);
            }
            // All other events belong to the job's main matching stream.
            _ => {}
        }
        state
    }

    fn heap_bytes(state: &State, _event_bytes: usize) -> usize {
        state.0.heap_bytes()
    }
}

#[cfg(test)]
mod tests;
