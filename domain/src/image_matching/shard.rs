//! One shard of a job's image matches.
//!
//! Invariants: a match is recorded once, with the content of its first report; evidence belongs to a recorded
//! match; commands are refused once the job has ended.
//!
//! A job may have millions of matches, and the state of its shards is kept in memory while it runs. So for
//! each match the state contains only the UUIDv5 of its id (16 bytes, while the text and its heap allocation
//! would take 40 to 180) and a digest of its evidence path. The probability that two different ids collide is
//! n²/2¹²³: never.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;

use event_schemas::ids::ImageMatchId;
use event_schemas::image_match::{ImageMatchEvent, MatchEvidenceAttached, MatchFound};
use event_schemas::job::Phase;
use event_schemas::time::Timestamp;
use uuid::Uuid;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};
use crate::job::JobAvailability;

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
pub struct State {
    /// The digest of the evidence path, if any, by the digest of the match id.
    seen: HashMap<u128, Option<NonZeroU64>>,
}

impl State {
    /// The number of matches.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    pub fn contains(&self, id: &ImageMatchId) -> bool {
        self.seen.contains_key(&digest(id.as_str()))
    }
}

/// The digest of a text is the same on every machine and in every version, which the hashes of the standard
/// library do not guarantee.
fn digest(text: &str) -> u128 {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).as_u128()
}

fn short_digest(text: &str) -> NonZeroU64 {
    // The last bit is sacrificed so that the number is never zero.
    NonZeroU64::MIN | (digest(text) as u64)
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

    fn evolve(mut state: State, event: &ImageMatchEvent, _occurred_at: Timestamp) -> State {
        match event {
            ImageMatchEvent::MatchFound(found) => {
                let evidence = found.evidence_path.as_deref().map(short_digest);
                state.seen.entry(digest(found.match_id.as_str())).or_insert(evidence);
            }
            ImageMatchEvent::MatchEvidenceAttached(attached) => {
                state
                    .seen
                    .insert(digest(attached.match_id.as_str()), Some(short_digest(&attached.evidence_path)));
            }
            // All other events belong to the job's main matching stream.
            _ => {}
        }
        state
    }
}

#[cfg(test)]
mod tests;
