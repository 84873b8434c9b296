//! Creates, accepts, declines and cancels challenges.

use std::sync::Arc;
use std::time::Duration;

use domain::challenge::{Action, Challenge, Phase, Refusal, match_id};
use domain::player;
use event_schemas::challenge::ChallengeCreated;
use event_schemas::envelope::{Cause, Idempotency};
use event_schemas::game_match::AbandonReason;
use event_schemas::ids::{ChallengeId, GameId, GameMatchId, PoolKey, UserId};
use event_schemas::sealed::SealedField;
use futures_util::FutureExt;
use poem_openapi::param::{Header, Path};
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use serde_json::Value;
use uuid::Uuid;
use vault::Subject;
use web::caller::Caller;
use web::enums::{ChallengeStatus, RatingSource, Side, Tag};
use web::idempotency::IdempotencyKey;
use web::json::{Created, Json};
use web::problem::Problem;
use web::request::TraceParent;
use web::value::{ApiPosition, ApiTimestamp, TextId, UuidParam};

use super::player_roles;
use crate::engine::execute::ExecuteError;
use crate::engine::idempotency::KeyStatus;
use crate::engine::idempotency::idempotency_of;
use crate::engine::problem;
use crate::matchmaking::Matchmaking;
use crate::matchmaking::challenges::{self, Acceptance, PairingObstacle, attempt_key, attempt_of_acceptance};
use crate::matchmaking::ratings::ClaimedRating;

const CHALLENGES: &str = "/v1/matchmaking/challenges";

/// A challenge to create.
#[derive(Debug, Object)]
#[oai(example)]
struct CreateChallenge {
    opponent_id: TextId<UserId>,
    /// The pool to play in. Its settings determine how long the challenge can be answered.
    pool_key: TextId<PoolKey>,
    /// A message to the opponent. It is stored encrypted, and cannot be read any more once its writer is erased.
    #[oai(validator(min_length = 1, max_length = 500))]
    message: Option<String>,
}

impl Example for CreateChallenge {
    fn example() -> Self {
        Self {
            opponent_id: TextId("bob".parse().expect("a short text is an id")),
            pool_key: TextId("blitz".parse().expect("a short text is an id")),
            message: Some("a rematch?".to_owned()),
        }
    }
}

/// A challenge as it was created.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct CreatedChallenge {
    id: UuidParam<ChallengeId>,
    challenge_id: UuidParam<ChallengeId>,
    status: ChallengeStatus,
    pool_key: TextId<PoolKey>,
    challenger_id: TextId<UserId>,
    opponent_id: TextId<UserId>,
    message: Option<String>,
    /// The challenger's rating, from 0 to 10000.
    rating: u16,
    rating_source: RatingSource,
    created_at: ApiTimestamp,
    expires_at: ApiTimestamp,
    /// Log position of the challenge's creation. Send it as `X-Min-Position` to read your own write.
    position: ApiPosition,
}

/// An accepted challenge.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct ChallengeAccepted {
    id: UuidParam<ChallengeId>,
    challenge_id: UuidParam<ChallengeId>,
    status: ChallengeStatus,
    match_id: UuidParam<GameMatchId>,
    /// Missing if no game service is configured.
    game_id: Option<TextId<GameId>>,
    /// The side of the player who accepted.
    side: Side,
    position: ApiPosition,
}

/// A declined or cancelled challenge.
#[derive(Debug, Object)]
struct EndedChallenge {
    id: UuidParam<ChallengeId>,
    challenge_id: UuidParam<ChallengeId>,
    status: ChallengeStatus,
    position: ApiPosition,
}

/// The write routes of challenges.
#[derive(Clone, Debug)]
pub struct ChallengeCommands(pub(super) Arc<Matchmaking>);

#[OpenApi(tag = "Tag::Matchmaking")]
impl ChallengeCommands {
    /// Challenge a player
    ///
    /// A queued player stays in the queue until the challenge is accepted.
    #[oai(path = "/v1/matchmaking/challenges", method = "post", operation_id = "create_challenge")]
    async fn create(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        body: Json<CreateChallenge>,
    ) -> Result<Created<CreatedChallenge>, Problem> {
        caller.require(player_roles())?;
        if caller.user()? == &body.0.opponent_id.0 {
            return Err(Problem::invalid("opponent_id", Refusal::SelfChallenge.to_string()));
        }
        let subject = self.0.engine.subject(&caller).await?;
        let idempotency = idempotency_of(&caller, "POST", CHALLENGES, key.0, &body.0);
        let cause = self.0.engine.cause(&caller, trace, idempotency).await?;
        let cause = Cause { subject: Some(subject.id), ..cause };
        let challenge = self.create_challenge(&caller, &subject, &cause, body.0).await?;
        Ok(Created { location: format!("{CHALLENGES}/{}", *challenge.id), body: challenge })
    }

    /// Accept a challenge
    ///
    /// Only the challenged player can accept. Both players leave their queues, and the game is created. If the game is
    /// not created, both return to their queues and the challenge is still pending: the same request may succeed later.
    #[oai(
        path = "/v1/matchmaking/challenges/:challenge_id/accept",
        method = "post",
        operation_id = "accept_challenge"
    )]
    async fn accept(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        challenge_id: Path<String>,
    ) -> Result<Json<ChallengeAccepted>, Problem> {
        caller.require(player_roles())?;
        let id = web::path::challenge_id(&challenge_id)?;
        let idempotency =
            idempotency_of(&caller, "POST", &format!("{CHALLENGES}/{id}/accept"), key.0, &Value::Null);
        // On a task of its own, so that the game is created, or else the players are released, even if the caller
        // disconnects.
        let commands = self.clone();
        let accepting = tokio::spawn(
            async move { commands.accept_challenge(&caller, trace, idempotency, id).await }.boxed(),
        );
        accepting.await.map_err(|error| Problem::internal(&error))?.map(Json)
    }

    /// Decline a challenge
    ///
    /// Only the challenged player can decline.
    #[oai(
        path = "/v1/matchmaking/challenges/:challenge_id/decline",
        method = "post",
        operation_id = "decline_challenge"
    )]
    async fn decline(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        challenge_id: Path<String>,
    ) -> Result<Json<EndedChallenge>, Problem> {
        self.end_challenge(&caller, trace, key.0, &challenge_id, End::Decline).await.map(Json)
    }

    /// Cancel a challenge
    ///
    /// Only the challenger can cancel.
    #[oai(
        path = "/v1/matchmaking/challenges/:challenge_id/cancel",
        method = "post",
        operation_id = "cancel_challenge"
    )]
    async fn cancel(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        challenge_id: Path<String>,
    ) -> Result<Json<EndedChallenge>, Problem> {
        self.end_challenge(&caller, trace, key.0, &challenge_id, End::Cancel).await.map(Json)
    }
}

/// The ways in which a player can end a challenge.
#[derive(Clone, Copy, Debug)]
enum End {
    Decline,
    Cancel,
}

impl ChallengeCommands {
    async fn create_challenge(
        &self,
        caller: &Caller,
        challenger: &Subject,
        cause: &Cause,
        body: CreateChallenge,
    ) -> Result<CreatedChallenge, Problem> {
        let (tenant, pool) = (&caller.tenant, &body.pool_key.0);
        // A repeated command gets the same id.
        let id = ChallengeId(match cause.idempotency {
            Some(idempotency) => Uuid::new_v5(&idempotency.key, b"challenge"),
            None => self.0.engine.ids.next(),
        });
        let matchmaking = &self.0;
        if let Some(idempotency) = cause.idempotency {
            match matchmaking.challenge_key_status(id, idempotency).await.map_err(problem::from_load_error)? {
                KeyStatus::Unused => {}
                KeyStatus::BodyMismatch => return Err(Problem::idempotency_key_reused()),
                KeyStatus::Completed(_) => return self.challenge_as_created(caller, id, body).await,
            }
        }
        let challenged = self.0.engine.vault.subject(tenant, &body.opponent_id.0).await;
        let challenged = challenged.map_err(|error| problem::from_vault_error(&error))?.id;
        if matchmaking.blocked(tenant, challenger.id, challenged).await.map_err(problem::from_load_error)? {
            return Err(Problem::conflict(player::Refusal::Blocked.to_string()));
        }
        let known = self
            .0
            .ratings
            .known(tenant, caller.user()?, pool, ClaimedRating::from_caller(caller, pool, None))
            .await;
        let strength = matchmaking.strength(tenant, challenger.id, pool, known).await;
        let settings = matchmaking.settings(tenant, pool).await.map_err(problem::from_load_error)?;
        let open_for = Duration::from_secs(settings.challenge_expires_after_seconds.into());
        let field = SealedField::ChallengeMessage(id);
        let message =
            body.message.as_ref().map(|text| self.0.engine.vault.seal(tenant, challenger, field, text));
        let created = ChallengeCreated {
            challenge_id: id,
            pool_key: pool.clone(),
            challenger: challenger.id,
            challenged,
            strength: strength.map_err(problem::from_load_error)?,
            expires_at: self.0.engine.now().after(open_for),
            message: message.transpose().map_err(|error| problem::from_vault_error(&error))?,
        };
        let executed = matchmaking.execute_challenge(id, cause, Action::Create(created)).await;
        executed.map_err(problem::from_execute_error)?;
        self.challenge_as_created(caller, id, body).await
    }

    /// The challenge as it was created, so that a repeated command gets its first result. The body is the same, too.
    async fn challenge_as_created(
        &self,
        caller: &Caller,
        id: ChallengeId,
        body: CreateChallenge,
    ) -> Result<CreatedChallenge, Problem> {
        let challenge = self.0.created_challenge(id).await.map_err(problem::from_load_error)?;
        let Some(challenges::CreatedChallenge { created, at, position }) = challenge else {
            return Err(Problem::internal(&"the stream of a challenge does not start with its creation"));
        };
        Ok(CreatedChallenge {
            id: id.into(),
            challenge_id: id.into(),
            status: ChallengeStatus::Pending,
            pool_key: created.pool_key.into(),
            challenger_id: caller.user()?.clone().into(),
            opponent_id: body.opponent_id,
            message: body.message,
            rating: created.strength.rating.points(),
            rating_source: created.strength.rating_source.into(),
            created_at: at.into(),
            expires_at: created.expires_at.into(),
            position: position.into(),
        })
    }

    async fn accept_challenge(
        &self,
        caller: &Caller,
        trace: TraceParent,
        idempotency: Option<Idempotency>,
        id: ChallengeId,
    ) -> Result<ChallengeAccepted, Problem> {
        let (tenant, by) = (&caller.tenant, self.0.engine.subject(caller).await?.id);
        let matchmaking = &self.0;
        // One at a time, so that a second acceptance finds the challenge decided and does not call the game service.
        let _guard = self.0.engine.key_locks.acquire(id.0).await;
        let challenge = matchmaking.challenge(tenant, id).await.map_err(problem::from_load_error)?;
        let challenge = challenge.ok_or_else(no_such_challenge)?;
        let may_accept =
            challenge.created.challenged == by && challenge.created.expires_at > self.0.engine.now();
        let pool = &challenge.created.pool_key;
        // Otherwise it is refused, or was done before.
        let known = if may_accept && challenge.phase == Phase::Pending {
            self.check_obstacles(caller, &challenge).await?;
            self.0
                .ratings
                .known(tenant, caller.user()?, pool, ClaimedRating::from_caller(caller, pool, None))
                .await
        } else {
            None
        };
        let idempotency =
            idempotency.map(|idempotency| attempt_key(idempotency, attempt_of_acceptance(&challenge)));
        let cause = self.0.engine.cause(caller, trace, idempotency).await?;
        let cause = Cause { subject: Some(by), ..cause };
        let strength =
            matchmaking.strength(tenant, by, pool, known).await.map_err(problem::from_load_error)?;
        match matchmaking.accept(id, &cause, by, strength).await.map_err(Problem::from)? {
            Acceptance::Accepted { placing, game_id, position } => Ok(ChallengeAccepted {
                id: id.into(),
                challenge_id: id.into(),
                status: ChallengeStatus::Accepted,
                match_id: match_id(id).into(),
                game_id: game_id.map(TextId),
                side: placing.challenger_side.other().into(),
                position: position.into(),
            }),
            Acceptance::NoGame { reason, retry_after } => Err(game_not_created(reason, retry_after)),
            Acceptance::Superseded { retry_after } => Err(Problem::unavailable(
                "another acceptance of this challenge has just failed; it is still pending, accept it again",
                retry_after,
            )),
            Acceptance::Ended(refusal) => {
                Err(problem::from_execute_error(ExecuteError::from_refusal(refusal)))
            }
        }
    }

    /// Refuses an acceptance that would fail now, before anything is recorded.
    async fn check_obstacles(&self, caller: &Caller, challenge: &Challenge) -> Result<(), Problem> {
        let matchmaking = &self.0;
        match matchmaking.obstacle(&caller.tenant, challenge).await.map_err(problem::from_load_error)? {
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
        match matchmaking.game_service.capacity() {
            Ok(_) => Ok(()),
            Err(until) => {
                Err(game_not_created(AbandonReason::GameServiceParked, until.since(self.0.engine.now())))
            }
        }
    }

    async fn end_challenge(
        &self,
        caller: &Caller,
        trace: TraceParent,
        key: Option<IdempotencyKey>,
        challenge_id: &str,
        end: End,
    ) -> Result<EndedChallenge, Problem> {
        caller.require(player_roles())?;
        let id = web::path::challenge_id(challenge_id)?;
        let by = self.0.engine.subject(caller).await?.id;
        let (verb, status, action) = match end {
            End::Decline => ("decline", ChallengeStatus::Declined, Action::Decline { by }),
            End::Cancel => ("cancel", ChallengeStatus::Cancelled, Action::Cancel { by }),
        };
        let matchmaking = &self.0;
        let challenge = matchmaking.challenge(&caller.tenant, id).await.map_err(problem::from_load_error)?;
        if challenge.is_none() {
            return Err(no_such_challenge());
        }
        let path = format!("{CHALLENGES}/{id}/{verb}");
        let cause = self
            .0
            .engine
            .cause(caller, trace, idempotency_of(caller, "POST", &path, key, &Value::Null))
            .await?;
        let cause = Cause { subject: Some(by), ..cause };
        let ended =
            matchmaking.execute_challenge(id, &cause, action).await.map_err(problem::from_execute_error)?;
        let position = ended.position.into();
        Ok(EndedChallenge { id: id.into(), challenge_id: id.into(), status, position })
    }
}

/// 404, with the same text for a missing challenge, another tenant's, and one between other players.
fn no_such_challenge() -> Problem {
    problem::from_execute_error(ExecuteError::from_refusal(Refusal::Missing))
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
