//! Challenges, as the routes use them: the obstacles between two players, and the outcome of an acceptance.

use std::time::Duration;

use domain::challenge::{self, Action, Challenge, ChallengeDecider, Phase, Refusal};
use domain::matchmaking::pending_work::UnfinishedSaga;
use domain::player::PlayerDecider;
use event_log::EventLog;
use event_schemas::challenge::{ChallengeCreated, ChallengeEvent, ChallengePlacementStarted, Strength};
use event_schemas::envelope::{Cause, Event, Idempotency, Recorded};
use event_schemas::game_match::AbandonReason;
use event_schemas::ids::{ChallengeId, GameId, PoolKey, Position, Revision, SubjectId, Tenant};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use uuid::Uuid;
use web::problem::Problem;

use super::Matchmaking;
use super::ratings::KnownRating;
use crate::engine::command_context::CommandContext;
use crate::engine::execute::{CachedStream, ExecuteError, Executed, LoadError};
use crate::engine::idempotency::KeyStatus;
use crate::engine::problem::{Step, after_step, from_execute_error};

/// The retry delay after a concurrent attempt.
const SOON: Duration = Duration::from_secs(1);

/// The reason why two players cannot be paired now. It is not recorded: the players' own streams decide about an
/// acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PairingObstacle {
    /// One of them blocks the other.
    Blocked,
    /// This player has an unfinished match.
    Busy(SubjectId),
}

/// A challenge as it was created.
#[derive(Clone, Debug)]
pub(crate) struct CreatedChallenge {
    pub(crate) created: ChallengeCreated,
    pub(crate) at: Timestamp,
    pub(crate) position: Position,
}

/// The outcome of an acceptance.
#[derive(Clone, Debug)]
pub(crate) enum Acceptance {
    Accepted {
        placing: ChallengePlacementStarted,
        game_id: Option<GameId>,
        position: Position,
    },
    /// No game was created, and the challenge is pending again.
    NoGame {
        reason: AbandonReason,
        retry_after: Duration,
    },
    /// A concurrent attempt failed, and the challenge is pending again.
    Superseded {
        retry_after: Duration,
    },
    /// The acceptance failed, and the challenge has ended in another way since.
    Ended(Refusal),
}

/// The idempotency key of one attempt of a challenge. An acceptance without a game is retried when it is repeated under
/// its key; one that created a game returns its first result.
pub(crate) fn attempt_key(idempotency: Idempotency, attempt: u32) -> Idempotency {
    Idempotency {
        key: Uuid::new_v5(&idempotency.key, format!("attempt {attempt}").as_bytes()),
        ..idempotency
    }
}

/// The number of the attempt that an acceptance starts, or has started.
pub(crate) fn attempt_of_acceptance(challenge: &Challenge) -> u32 {
    match challenge.phase {
        Phase::Placing(_) | Phase::Accepted { .. } => challenge.attempts,
        Phase::Pending | Phase::Declined | Phase::Cancelled | Phase::Expired => challenge.attempts + 1,
    }
}

impl Matchmaking {
    /// Executes a caller's command on a challenge.
    ///
    /// # Errors
    /// As [`Streams::execute`](crate::engine::execute::Streams::execute).
    pub(crate) async fn execute_challenge(
        &self,
        id: ChallengeId,
        cause: &Cause,
        action: Action,
    ) -> Result<Executed, ExecuteError<Refusal>> {
        let command = challenge::Command { at: self.engine.now(), action };
        self.challenges.execute(&StreamId::challenge(id), cause, command).await
    }

    /// The current state of a challenge of the tenant.
    ///
    /// # Errors
    /// [`LoadError`] if its events cannot be read.
    pub(crate) async fn challenge(
        &self,
        tenant: &Tenant,
        id: ChallengeId,
    ) -> Result<Option<Challenge>, LoadError> {
        let read = |folded: &CachedStream<ChallengeDecider>| {
            folded.state.details().filter(|_| folded.tenant() == Some(tenant)).cloned()
        };
        self.challenges.query(&StreamId::challenge(id), read).await
    }

    /// The status of a key that may have created the challenge.
    ///
    /// # Errors
    /// [`LoadError`] if its events cannot be read.
    pub(crate) async fn challenge_key_status(
        &self,
        id: ChallengeId,
        idempotency: Idempotency,
    ) -> Result<KeyStatus, LoadError> {
        self.challenges.query(&StreamId::challenge(id), |folded| folded.key_status(idempotency)).await
    }

    /// A challenge as it was created, unaffected by later events.
    ///
    /// # Errors
    /// [`LoadError`] if it cannot be read.
    pub(crate) async fn created_challenge(
        &self,
        id: ChallengeId,
    ) -> Result<Option<CreatedChallenge>, LoadError> {
        let first = self.engine.log.read_stream(&StreamId::challenge(id), Revision(0), 1).await?;
        let Some(first) = first.first().map(Recorded::decode).transpose()? else { return Ok(None) };
        let Event::Challenge(ChallengeEvent::ChallengeCreated(created)) = first.event else {
            return Ok(None);
        };
        Ok(Some(CreatedChallenge { created, at: first.metadata.occurred_at, position: first.position }))
    }

    /// A player's strength in a pool: by the `known` rating, or else by the player's results.
    ///
    /// # Errors
    /// [`LoadError`] if the player's events cannot be read.
    pub(crate) async fn strength(
        &self,
        tenant: &Tenant,
        player: SubjectId,
        pool: &PoolKey,
        known: KnownRating,
    ) -> Result<Strength, LoadError> {
        let read = |folded: &CachedStream<PlayerDecider>| folded.state.strength(pool, known.rating);
        let (rating, rating_source, skill) =
            self.players.query(&StreamId::player(tenant, player), read).await?;
        Ok(Strength { rating, rating_source, skill, rating_call: known.call })
    }

    /// True if one of the two players blocks the other.
    ///
    /// # Errors
    /// [`LoadError`] if the players' events cannot be read.
    pub(crate) async fn blocked(
        &self,
        tenant: &Tenant,
        one: SubjectId,
        other: SubjectId,
    ) -> Result<bool, LoadError> {
        for (player, other) in [(one, other), (other, one)] {
            let read = |folded: &CachedStream<PlayerDecider>| folded.state.blocks(other);
            if self.players.query(&StreamId::player(tenant, player), read).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The current obstacle between the two players of a challenge.
    ///
    /// # Errors
    /// [`LoadError`] if the players' events cannot be read.
    pub(crate) async fn obstacle(
        &self,
        tenant: &Tenant,
        challenge: &Challenge,
    ) -> Result<Option<PairingObstacle>, LoadError> {
        let ChallengeCreated { challenge_id, challenger, challenged, .. } = challenge.created;
        if self.blocked(tenant, challenger, challenged).await? {
            return Ok(Some(PairingObstacle::Blocked));
        }
        for player in [challenged, challenger] {
            let read = |folded: &CachedStream<PlayerDecider>| folded.state.match_id();
            let held = self.players.query(&StreamId::player(tenant, player), read).await?;
            // The next attempt takes over players that an earlier attempt still holds.
            if held.is_some_and(|held| held != challenge::match_id(challenge_id)) {
                return Ok(Some(PairingObstacle::Busy(player)));
            }
        }
        Ok(None)
    }

    /// Accepts a challenge and runs its saga, until there is a match or the challenge is pending again.
    ///
    /// # Errors
    /// If a rule forbids it, or the log fails. The reconciler completes a started saga later.
    pub(crate) async fn accept(
        &self,
        id: ChallengeId,
        cause: &Cause,
        by: SubjectId,
        strength: Strength,
    ) -> Result<Acceptance, Problem> {
        // Locked before the saga exists, so that the reconciler does not start it while the game is being created. If
        // the lock is taken, two tasks run the saga, which the streams tolerate.
        let _saga = self.try_lock(UnfinishedSaga::Challenge(id));
        let accepted = self.execute_challenge(id, cause, Action::Accept { by, strength }).await;
        let accepted = Step { name: "acceptance", position: accepted.map_err(from_execute_error)?.position };
        let outcome = self.finish_challenge(id, &CommandContext::of_caller(cause)).await;
        let outcome = outcome.map_err(|error| after_step(accepted, "match", error.into()))?;
        Ok(match (outcome.phase, outcome.failed) {
            (Phase::Accepted { placing, game_id }, _) => {
                Acceptance::Accepted { placing, game_id, position: outcome.position }
            }
            (Phase::Declined, _) => Acceptance::Ended(Refusal::Declined),
            (Phase::Cancelled, _) => Acceptance::Ended(Refusal::Cancelled),
            (Phase::Expired, _) => Acceptance::Ended(Refusal::Expired),
            (Phase::Pending | Phase::Placing(_), Some((reason, retry_after))) => {
                Acceptance::NoGame { reason, retry_after: retry_after.max(SOON) }
            }
            (Phase::Pending | Phase::Placing(_), None) => Acceptance::Superseded { retry_after: SOON },
        })
    }
}
