//! Creates, accepts, declines and cancels challenges.

use std::sync::Arc;

use domain::challenge::{Action, Refusal, match_id};
use domain::matchmaking::status::ChallengeStatus;
use event_schemas::game_match::Side;
use event_schemas::ids::{ChallengeId, GameId, GameMatchId, PoolKey, Position, UserId};
use event_schemas::rating::RatingSource;
use event_schemas::time::Timestamp;
use futures_util::FutureExt;
use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use web::json::{Created, Json};
use web::problem::Problem;
use web::schema::Api;
use web::tag::Tag;
use web::value::TextId;

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
#[derive(Debug, Serialize, JsonSchema)]
struct CreatedChallenge {
    id: ChallengeId,
    challenge_id: ChallengeId,
    status: ChallengeStatus,
    pool_key: PoolKey,
    challenger_id: UserId,
    opponent_id: UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// The challenger's rating, from 0 to 10000.
    rating: u16,
    rating_source: RatingSource,
    created_at: Timestamp,
    expires_at: Timestamp,
    /// Log position of the challenge's creation. Send it as `X-Min-Position` to read your own write.
    position: Position,
}

/// An accepted challenge.
#[derive(Debug, Serialize, JsonSchema)]
struct ChallengeAccepted {
    id: ChallengeId,
    challenge_id: ChallengeId,
    status: ChallengeStatus,
    match_id: GameMatchId,
    /// Missing if no game service is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    game_id: Option<GameId>,
    /// The side of the player who accepted.
    side: Side,
    position: Position,
}

/// A declined or cancelled challenge.
#[derive(Debug, Serialize, JsonSchema)]
struct EndedChallenge {
    id: ChallengeId,
    challenge_id: ChallengeId,
    status: ChallengeStatus,
    position: Position,
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
    ) -> Result<Created<Api<CreatedChallenge>>, Problem> {
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
            id: created.challenge_id,
            challenge_id: created.challenge_id,
            status: ChallengeStatus::Pending,
            pool_key: created.pool_key,
            challenger_id: request.caller.user()?.clone(),
            opponent_id: opponent_id.0,
            message,
            rating: created.strength.rating.points(),
            rating_source: created.strength.rating_source,
            created_at: at,
            expires_at: created.expires_at,
            position,
        };
        Ok(Created { location: format!("{CHALLENGES}/{}", created.challenge_id), body: Api(body) })
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
    ) -> Result<Json<Api<ChallengeAccepted>>, Problem> {
        let id = web::path::challenge_id(&challenge_id)?;
        let route = format!("POST {CHALLENGES}/{id}/accept");
        let by = self.0.engine.subject(&request.caller).await?.id;
        let cause = request.cause_about(by, &self.0.engine, &route, &Value::Null).await?;
        // It ends in any case, so that the game is created, or else the players are released, even if the caller
        // disconnects.
        let (matchmaking, caller) = (self.0.clone(), request.caller);
        let accepting = async move { matchmaking.accept_challenge(&caller, by, &cause, id).await };
        let AcceptedChallenge { placing, game_id, position } =
            request.execution.run(accepting.boxed()).await?;
        Ok(Json(Api(ChallengeAccepted {
            id,
            challenge_id: id,
            status: ChallengeStatus::Accepted,
            match_id: match_id(id),
            game_id,
            side: placing.challenger_side.other(),
            position,
        })))
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
    ) -> Result<Json<Api<EndedChallenge>>, Problem> {
        self.end(&request, &challenge_id, End::Decline).await
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
    ) -> Result<Json<Api<EndedChallenge>>, Problem> {
        self.end(&request, &challenge_id, End::Cancel).await
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
    ) -> Result<Json<Api<EndedChallenge>>, Problem> {
        let id = web::path::challenge_id(challenge_id)?;
        let by = self.0.engine.subject(&request.caller).await?.id;
        let (verb, status, action) = match end {
            End::Decline => ("decline", ChallengeStatus::Declined, Action::Decline { by }),
            End::Cancel => ("cancel", ChallengeStatus::Cancelled, Action::Cancel { by }),
        };
        let route = format!("POST {CHALLENGES}/{id}/{verb}");
        let cause = request.cause_about(by, &self.0.engine, &route, &Value::Null).await?;
        let position = self.0.end_challenge(id, &cause, action).await?;
        Ok(Json(Api(EndedChallenge { id, challenge_id: id, status, position })))
    }
}
