//! Creates, accepts, declines and cancels challenges.

use std::sync::Arc;

use domain::challenge::{Action, Refusal, match_id};
use domain::matchmaking::status::ChallengeStatus;
use event_schemas::game_match::Side;
use event_schemas::ids::{ChallengeId, GameId, GameMatchId, PoolKey, UserId};
use event_schemas::rating::RatingSource;
use futures_util::FutureExt;
use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use serde_json::Value;
use web::json::{Created, Json};
use web::problem::Problem;
use web::schema::Api;
use web::tag::Tag;
use web::value::{ApiPosition, ApiTimestamp, TextId, UuidParam};

use crate::engine::write_request::{Users, WriteRequest};
use crate::matchmaking::challenge_requests::{AcceptedChallenge, NewChallenge};
use crate::matchmaking::{Matchmaking, challenges};

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
    status: Api<ChallengeStatus>,
    pool_key: TextId<PoolKey>,
    challenger_id: TextId<UserId>,
    opponent_id: TextId<UserId>,
    message: Option<String>,
    /// The challenger's rating, from 0 to 10000.
    rating: u16,
    rating_source: Api<RatingSource>,
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
    status: Api<ChallengeStatus>,
    match_id: UuidParam<GameMatchId>,
    /// Missing if no game service is configured.
    game_id: Option<TextId<GameId>>,
    /// The side of the player who accepted.
    side: Api<Side>,
    position: ApiPosition,
}

/// A declined or cancelled challenge.
#[derive(Debug, Object)]
struct EndedChallenge {
    id: UuidParam<ChallengeId>,
    challenge_id: UuidParam<ChallengeId>,
    status: Api<ChallengeStatus>,
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
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        body: Json<CreateChallenge>,
    ) -> Result<Created<CreatedChallenge>, Problem> {
        if request.caller.user()? == &body.0.opponent_id.0 {
            return Err(Problem::invalid("opponent_id", Refusal::SelfChallenge.to_string()));
        }
        let subject = self.0.engine.subject(&request.caller).await?;
        let cause =
            request.cause_about(subject.id, &self.0.engine, &format!("POST {CHALLENGES}"), &body.0).await?;
        let CreateChallenge { opponent_id, pool_key, message } = body.0;
        let new = NewChallenge { opponent: &opponent_id, pool_key: &pool_key, message: message.as_deref() };
        let challenge = self.0.create_challenge(&request.caller, &subject, &cause, new).await?;
        let challenges::CreatedChallenge { created, at, position } = challenge;
        let body = CreatedChallenge {
            id: created.challenge_id.into(),
            challenge_id: created.challenge_id.into(),
            status: Api(ChallengeStatus::Pending),
            pool_key: created.pool_key.into(),
            challenger_id: request.caller.user()?.clone().into(),
            opponent_id,
            message,
            rating: created.strength.rating.points(),
            rating_source: created.strength.rating_source.into(),
            created_at: at.into(),
            expires_at: created.expires_at.into(),
            position: position.into(),
        };
        Ok(Created { location: format!("{CHALLENGES}/{}", created.challenge_id), body })
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
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        challenge_id: Path<String>,
    ) -> Result<Json<ChallengeAccepted>, Problem> {
        let id = web::path::challenge_id(&challenge_id)?;
        let route = format!("POST {CHALLENGES}/{id}/accept");
        let by = self.0.engine.subject(&request.caller).await?.id;
        let cause = request.cause_about(by, &self.0.engine, &route, &Value::Null).await?;
        // On a task of its own, so that the game is created, or else the players are released, even if the caller
        // disconnects.
        let (matchmaking, caller) = (self.0.clone(), request.caller);
        let accepting =
            tokio::spawn(async move { matchmaking.accept_challenge(&caller, by, &cause, id).await }.boxed());
        let AcceptedChallenge { placing, game_id, position } =
            accepting.await.map_err(|error| Problem::internal(&error))??;
        Ok(Json(ChallengeAccepted {
            id: id.into(),
            challenge_id: id.into(),
            status: Api(ChallengeStatus::Accepted),
            match_id: match_id(id).into(),
            game_id: game_id.map(TextId),
            side: placing.challenger_side.other().into(),
            position: position.into(),
        }))
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
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        challenge_id: Path<String>,
    ) -> Result<Json<EndedChallenge>, Problem> {
        self.end(&request, &challenge_id, End::Decline).await.map(Json)
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
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        challenge_id: Path<String>,
    ) -> Result<Json<EndedChallenge>, Problem> {
        self.end(&request, &challenge_id, End::Cancel).await.map(Json)
    }
}

/// The ways in which a player can end a challenge.
#[derive(Clone, Copy, Debug)]
enum End {
    Decline,
    Cancel,
}

impl ChallengeCommands {
    async fn end(
        &self,
        request: &WriteRequest<Users>,
        challenge_id: &str,
        end: End,
    ) -> Result<EndedChallenge, Problem> {
        let id = web::path::challenge_id(challenge_id)?;
        let by = self.0.engine.subject(&request.caller).await?.id;
        let (verb, status, action) = match end {
            End::Decline => ("decline", ChallengeStatus::Declined, Action::Decline { by }),
            End::Cancel => ("cancel", ChallengeStatus::Cancelled, Action::Cancel { by }),
        };
        let route = format!("POST {CHALLENGES}/{id}/{verb}");
        let cause = request.cause_about(by, &self.0.engine, &route, &Value::Null).await?;
        let position = self.0.end_challenge(id, &cause, action).await?.into();
        Ok(EndedChallenge { id: id.into(), challenge_id: id.into(), status: Api(status), position })
    }
}
