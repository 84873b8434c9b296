//! Blocks and unblocks players.

use std::sync::Arc;

use domain::player::Action;
use event_schemas::envelope::Cause;
use event_schemas::ids::{Position, SubjectId, UserId};
use poem_openapi::OpenApi;
use poem_openapi::param::Path;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use web::json::Json;
use web::problem::Problem;
use web::schema::Api;
use web::tag::Tag;

use crate::engine::problem;
use crate::engine::write_request::{Users, WriteRequest};
use crate::matchmaking::Matchmaking;

/// The state of a block.
#[derive(Debug, Serialize, JsonSchema)]
struct BlockedUser {
    user_id: UserId,
    blocked: bool,
    position: Position,
}

/// The write routes of blocks.
#[derive(Clone, Debug)]
pub struct BlockCommands(pub(super) Arc<Matchmaking>);

#[OpenApi(tag = "Tag::Matchmaking")]
impl BlockCommands {
    /// Block a player
    ///
    /// The two players are no longer paired, and cannot challenge each other. Blocking again changes nothing. The other
    /// player is not notified, and need not be known yet.
    #[oai(path = "/v1/matchmaking/blocks/:user_id", method = "put", operation_id = "block_user")]
    async fn block(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        user_id: Path<String>,
    ) -> Result<Json<Api<BlockedUser>>, Problem> {
        let user = web::path::user_id(&user_id)?;
        if user == *request.caller.user()? {
            return Err(Problem::invalid("user_id", "a player cannot block themselves"));
        }
        let player = self.0.engine.subject(&request.caller).await?.id;
        let other = self.0.engine.vault.subject(&request.caller.tenant, &user).await;
        let other = other.map_err(|error| problem::from_vault_error(&error))?.id;
        let cause = request.cause_about(player, &self.0.engine, &route("PUT", &user), &Value::Null).await?;
        let position = self.execute(player, &cause, Action::Block { other }).await?;
        Ok(Json(Api(BlockedUser { user_id: user, blocked: true, position })))
    }

    /// Unblock a player
    ///
    /// Unblocking a player who is not blocked changes nothing.
    #[oai(path = "/v1/matchmaking/blocks/:user_id", method = "delete", operation_id = "unblock_user")]
    async fn unblock(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        user_id: Path<String>,
    ) -> Result<Json<Api<BlockedUser>>, Problem> {
        let user = web::path::user_id(&user_id)?;
        let player = self.0.engine.subject(&request.caller).await?.id;
        let other = self.0.engine.vault.find_subject(&request.caller.tenant, &user).await;
        let cause =
            request.cause_about(player, &self.0.engine, &route("DELETE", &user), &Value::Null).await?;
        let position = match other.map_err(|error| problem::from_vault_error(&error))? {
            Some(other) => self.execute(player, &cause, Action::Unblock { other }).await?,
            // A user without a subject was never blocked.
            None => match self.0.engine.record_answer(&cause, None).await? {
                Some(answer) => answer.position,
                None => {
                    let position = self.0.player_position(&request.caller.tenant, player).await;
                    position.map_err(problem::from_load_error)?
                }
            },
        };
        Ok(Json(Api(BlockedUser { user_id: user, blocked: false, position })))
    }
}

impl BlockCommands {
    async fn execute(&self, player: SubjectId, cause: &Cause, action: Action) -> Result<Position, Problem> {
        let executed = self.0.execute_player(player, cause, action).await;
        Ok(executed.map_err(problem::from_execute_error)?.position)
    }
}

fn route(method: &str, user: &UserId) -> String {
    format!("{method} /v1/matchmaking/blocks/{user}")
}
