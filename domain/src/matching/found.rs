//! One shard of what was found for a job.
//!
//! Invariants: a match is recorded once, as its first report said; evidence belongs to a match that was recorded; nothing
//! is taken once the job has ended.
//!
//! A job may have millions of matches, and the state of its shards is kept in memory while it runs. So the state holds
//! of every match only the UUIDv5 of its id (16 bytes, where the text and its place on the heap would take 40 to 180)
//! and a digest of its evidence path. Two different ids meet with a probability of n²/2¹²³: never.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;

use event_schemas::ids::MatchId;
use event_schemas::job::Phase;
use event_schemas::matching::{MatchEvidenceAttached, MatchFound, MatchingEvent};
use event_schemas::time::Timestamp;
use uuid::Uuid;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};
use crate::job::Standing;

/// What is said about the matches of one shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// How the job stands, looked up in its own stream.
    pub job: Standing,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Matches, each with the instant at which it was found; those that are known already are passed over, so that
    /// fewer events than matches come out.
    Report(Vec<(MatchFound, Timestamp)>),
    AttachEvidence {
        match_id: MatchId,
        evidence_path: String,
        at: Timestamp,
    },
}

/// Which matches a shard holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// By the digest of the id, that of the evidence path, if there is one.
    seen: HashMap<u128, Option<NonZeroU64>>,
}

impl State {
    /// How many matches there are.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    pub fn contains(&self, id: &MatchId) -> bool {
        self.seen.contains_key(&digest(id.as_str()))
    }
}

/// The same text has the same digest on every machine and in every version, which the standard library's hashes do not
/// promise.
fn digest(text: &str) -> u128 {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).as_u128()
}

fn short_digest(text: &str) -> NonZeroU64 {
    // The last bit is given up to keep the number from being zero.
    NonZeroU64::MIN | (digest(text) as u64)
}

/// Why a command to a shard of matches is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such job; create it first")]
    NoJob,
    #[error("the job has ended as {0} and takes nothing more; retry a failed job, or create another one")]
    JobEnded(Phase),
    #[error("the job has no match {0}; report it first")]
    NoMatch(MatchId),
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
pub enum Matches {}

impl Decider for Matches {
    type State = State;
    type Command = Command;
    type Event = MatchingEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<MatchingEvent>>, Refusal> {
        match command.job {
            Standing::Missing => return Err(Refusal::NoJob),
            Standing::Ended(phase) => return Err(Refusal::JobEnded(phase)),
            Standing::Open => {}
        }
        match &command.action {
            Action::Report(matches) => {
                let mut in_batch = HashSet::with_capacity(matches.len());
                Ok(matches
                    .iter()
                    .filter(|(found, _)| {
                        let id = digest(found.match_id.as_str());
                        !state.seen.contains_key(&id) && in_batch.insert(id)
                    })
                    .map(|(found, at)| Occurred { at: *at, event: found.clone().into() })
                    .collect())
            }
            Action::AttachEvidence { match_id, evidence_path, at } => {
                let known = state
                    .seen
                    .get(&digest(match_id.as_str()))
                    .ok_or_else(|| Refusal::NoMatch(match_id.clone()))?;
                if *known == Some(short_digest(evidence_path)) {
                    return Ok(Vec::new());
                }
                let attached = MatchEvidenceAttached {
                    match_id: match_id.clone(),
                    evidence_path: evidence_path.clone(),
                    replaces: known.is_some(),
                };
                Ok(vec![Occurred { at: *at, event: attached.into() }])
            }
        }
    }

    fn evolve(mut state: State, event: &MatchingEvent, _occurred_at: Timestamp) -> State {
        match event {
            MatchingEvent::MatchFound(found) => {
                let evidence = found.evidence_path.as_deref().map(short_digest);
                state.seen.entry(digest(found.match_id.as_str())).or_insert(evidence);
            }
            MatchingEvent::MatchEvidenceAttached(attached) => {
                state
                    .seen
                    .insert(digest(attached.match_id.as_str()), Some(short_digest(&attached.evidence_path)));
            }
            // The rest is in the stream of the job's matching itself.
            _ => {}
        }
        state
    }
}

#[cfg(test)]
mod tests;
