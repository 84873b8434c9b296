//! Players' requests to create, accept and end challenges: what is checked, and looked up elsewhere, before the
//! challenge's own stream decides.

use std::time::Duration;

use domain::challenge::{Action, Challenge, Phase, Refusal};
use domain::player;
use event_schemas::challenge::{ChallengeCreated, ChallengePlacementStarted};
use event_schemas::envelope::Cause;
use event_schemas::game_match::AbandonReason;
use event_schemas::ids::{
    ChallengeId, CommandId, CorrelationId, GameId, PoolKey, Position, SubjectId, UserId,
};
use event_schemas::sealed::SealedField;
use uuid::Uuid;
use vault::Subject;
use web::caller::Caller;
use web::problem::Problem;

use super::Matchmaking;
use super::challenges::{Acceptance, CreatedChallenge, PairingObstacle, attempt_key, attempt_of_acceptance};
use super::ratings::{ClaimedRating, KnownRating};
use crate::engine::execute::ExecuteError;
use crate::engine::idempotency::KeyStatus;
use crate::engine::problem::{Step, after_step, from_execute_error, from_load_error, from_vault_error};

/// A challenge that a player wants to create.
#[derive(Debug)]
pub(crate) struct NewChallenge<'a> {
    pub(crate) opponent: &'a UserId,
    pub(crate) pool_key: &'a PoolKey,
    pub(crate) message: Option<&'a str>,
}

/// An accepted challenge.
#[derive(Debug)]
pub(crate) struct AcceptedChallenge {
    pub(crate) placing: ChallengePlacementStarted,
    pub(crate) game_id: Option<GameId>,
    pub(crate) position: Position,
}

impl Matchmaking {
    /// Creates a challenge. A repeated command gets its first result.
    ///
    /// # Errors
    /// 409 if one of the players blocks the other; 422 for a reused key.
    pub(crate) async fn create_challenge(
        &self,
        caller: &Caller,
        challenger: &Subject,
        cause: &Cause,
        new: NewChallenge<'_>,
    ) -> Result<CreatedChallenge, Problem> {
        let (tenant, pool) = (&caller.tenant, new.pool_key);
        // A repeated command gets the same id.
        let id = ChallengeId(match cause.idempotency {
            Some(idempotency) => Uuid::new_v5(&idempotency.key, b"challenge"),
            None => self.engine.ids.next(),
        });
        if let Some(idempotency) = cause.idempotency {
            match self.challenge_key_status(id, idempotency).await.map_err(from_load_error)? {
                KeyStatus::Unused => {}
                KeyStatus::BodyMismatch => return Err(Problem::idempotency_key_reused()),
                KeyStatus::Completed(_) => return self.challenge_as_created(id).await,
            }
        }
        let challenged = self.engine.vault.subject(tenant, new.opponent).await;
        let challenged = challenged.map_err(|error| from_vault_error(&error))?.id;
        if self.blocked(tenant, challenger.id, challenged).await.map_err(from_load_error)? {
            return Err(Problem::conflict(player::Refusal::Blocked.to_string()));
        }
        let claimed = ClaimedRating::from_caller(caller, pool, None);
        let known = self.ratings.known(tenant, caller.user()?, pool, claimed).await;
        let strength = self.strength(tenant, challenger.id, pool, known).await.map_err(from_load_error)?;
        let settings = self.settings(tenant, pool).await.map_err(from_load_error)?;
        let open_for = Duration::from_secs(settings.challenge_expires_after_seconds.into());
        let field = SealedField::ChallengeMessage(id);
        let message = new.message.map(|text| self.engine.vault.seal(tenant, challenger, field, text));
        let created = ChallengeCreated {
            challenge_id: id,
            pool_key: pool.clone(),
            challenger: challenger.id,
            challenged,
            strength,
            expires_at: self.engine.now().after(open_for),
            message: message.transpose().map_err(|error| from_vault_error(&error))?,
        };
        let executed = self.execute_challenge(id, cause, Action::Create(created)).await;
        let creation = Step { name: "creation", position: executed.map_err(from_execute_error)?.position };
        self.challenge_as_created(id).await.map_err(|problem| after_step(creation, "answer", problem))
    }

    async fn challenge_as_created(&self, id: ChallengeId) -> Result<CreatedChallenge, Problem> {
        let created = self.created_challenge(id).await.map_err(from_load_error)?;
        created
            .ok_or_else(|| Problem::internal(&"the stream of a challenge does not start with its creation"))
    }

    /// Accepts a challenge, and creates its game.
    ///
    /// # Errors
    /// 404 if the tenant has no such challenge; 409 or 503 if no game can be created: then the challenge is still
    /// pending.
    pub(crate) async fn accept_challenge(
        &self,
        caller: &Caller,
        by: SubjectId,
        cause: &Cause,
        id: ChallengeId,
    ) -> Result<AcceptedChallenge, Problem> {
        let tenant = &caller.tenant;
        // One at a time, so that a second acceptance finds the challenge decided and does not call the game service.
        let _guard = self.engine.key_locks.acquire(id.0).await;
        let challenge = self.challenge(tenant, id).await.map_err(from_load_error)?;
        let challenge = challenge.ok_or_else(no_such_challenge)?;
        let may_accept =
            challenge.created.challenged == by && challenge.created.expires_at > self.engine.now();
        let pool = &challenge.created.pool_key;
        // Otherwise it is refused, or was done before.
        let known = if may_accept && challenge.phase == Phase::Pending {
            self.check_obstacles(caller, &challenge).await?;
            let claimed = ClaimedRating::from_caller(caller, pool, None);
            self.ratings.known(tenant, caller.user()?, pool, claimed).await
        } else {
            KnownRating::default()
        };
        let cause = cause_of_attempt(cause, attempt_of_acceptance(&challenge));
        let strength = self.strength(tenant, by, pool, known).await.map_err(from_load_error)?;
        match self.accept(id, &cause, by, strength).await? {
            Acceptance::Accepted { placing, game_id, position } => {
                Ok(AcceptedChallenge { placing, game_id, position })
            }
            Acceptance::NoGame { reason, retry_after } => Err(game_not_created(reason, retry_after)),
            Acceptance::Superseded { retry_after } => Err(Problem::unavailable(
                "another acceptance of this challenge has just failed; it is still pending, accept it again",
                retry_after,
            )),
            Acceptance::Ended(refusal) => Err(from_execute_error(ExecuteError::from_refusal(refusal))),
        }
    }

    /// Refuses an acceptance that would fail now, before anything is recorded.
    async fn check_obstacles(&self, caller: &Caller, challenge: &Challenge) -> Result<(), Problem> {
        match self.obstacle(&caller.tenant, challenge).await.map_err(from_load_error)? {
            Some(PairingObstacle::Blocked) => {
                return Err(Problem::conflict(player::Refusal::Blocked.to_string()));
            }
            Some(PairingObstacle::Busy(player)) if player == challenge.created.challenged => {
                return Err(Problem::conflict(
                    "you have an unfinished match; the challenge can be accepted once that has ended",
                ));
            }
            Some(PairingObstacle::Busy(_)) => {
                return Err(Problem::conflict(
                    "the challenger has an unfinished match; the challenge can be accepted once that has ended",
                ));
            }
            None => {}
        }
        match self.game_service.capacity(&caller.tenant) {
            Ok(_) => Ok(()),
            Err(until) => {
                Err(game_not_created(AbandonReason::GameServiceParked, until.since(self.engine.now())))
            }
        }
    }

    /// Declines or cancels a challenge. Returns the position of its end.
    ///
    /// # Errors
    /// 404 if the tenant has no such challenge; a refusal.
    pub(crate) async fn end_challenge(
        &self,
        id: ChallengeId,
        cause: &Cause,
        action: Action,
    ) -> Result<Position, Problem> {
        if self.challenge(&cause.tenant, id).await.map_err(from_load_error)?.is_none() {
            return Err(no_such_challenge());
        }
        let ended = self.execute_challenge(id, cause, action).await.map_err(from_execute_error)?;
        Ok(ended.position)
    }
}

/// The cause of one attempt to accept a challenge: each attempt under a key is a command of its own.
fn cause_of_attempt(cause: &Cause, attempt: u32) -> Cause {
    let Some(idempotency) = cause.idempotency else { return cause.clone() };
    let idempotency = attempt_key(idempotency, attempt);
    Cause {
        command_id: CommandId(idempotency.key),
        correlation_id: CorrelationId(idempotency.key),
        idempotency: Some(idempotency),
        ..cause.clone()
    }
}

/// 404, with the same text for a missing challenge, another tenant's, and one between other players.
fn no_such_challenge() -> Problem {
    from_execute_error(ExecuteError::from_refusal(Refusal::Missing))
}

fn game_not_created(reason: AbandonReason, retry_after: Duration) -> Problem {
    match reason {
        AbandonReason::GameServiceFailed | AbandonReason::GameServiceParked => Problem::unavailable(
            "the game service creates no games at present; the challenge is still pending, accept it again later",
            retry_after,
        ),
        AbandonReason::PlayerUnavailable => Problem::conflict(
            "one of the players was reserved for another match, or blocks the other; the challenge is still pending",
        ),
        AbandonReason::GameRefused => Problem::conflict(
            "the game service refuses to create this game; the challenge is still pending, and can be declined or cancelled",
        ),
    }
}
