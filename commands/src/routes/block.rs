//! Whom a player does not want to meet.

use domain::player::Action;
use event_schemas::envelope::Cause;
use event_schemas::ids::{Position, SubjectId, UserId};
use poem_openapi::param::{Header, Path};
use poem_openapi::{Object, OpenApi};
use serde_json::Value;
use web::caller::Caller;
use web::idempotency::IdempotencyKey;
use web::json::Json;
use web::problem::Problem;
use web::request::TraceParent;
use web::value::{Pos, Text};
use web::vocabulary::Tag;

use super::{keyed, players};
use crate::{Commands, refusal};

/// Whether a player blocks another.
#[derive(Debug, Object)]
struct BlockedUser {
    user_id: Text<UserId>,
    blocked: bool,
    position: Pos,
}

/// Commands about whom a player blocks.
#[derive(Clone, Debug)]
pub struct BlockCommands(pub(super) Commands);

#[OpenApi(tag = "Tag::Matchmaking")]
impl BlockCommands {
    /// Never meet a player again
    ///
    /// The two are not put together from now on, whoever of them queues first, and cannot challenge each other to a game.
    /// Blocking again changes nothing. The other one is not told, and need not have been here yet.
    #[oai(path = "/v1/matchmaking/blocks/:user_id", method = "put", operation_id = "block_user")]
    async fn block(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        user_id: Path<String>,
    ) -> Result<Json<BlockedUser>, Problem> {
        caller.require(players())?;
        let user = web::path::user_id(&user_id)?;
        if user == *caller.user()? {
            return Err(Problem::invalid("user_id", "nobody can block themselves"));
        }
        let player = self.0.player(&caller).await?.id;
        let other = self.0.0.vault.subject(&caller.tenant, &user).await;
        let other = other.map_err(|error| refusal::vault(&error))?.id;
        let cause = self.cause(&caller, trace, "PUT", &user, key.0, player).await?;
        let position = self.ask(player, &cause, Action::Block { other }).await?;
        Ok(Json(BlockedUser { user_id: user.into(), blocked: true, position: position.into() }))
    }

    /// Meet a player again
    ///
    /// Somebody who was not blocked stays so, and nothing changes.
    #[oai(path = "/v1/matchmaking/blocks/:user_id", method = "delete", operation_id = "unblock_user")]
    async fn unblock(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        user_id: Path<String>,
    ) -> Result<Json<BlockedUser>, Problem> {
        caller.require(players())?;
        let user = web::path::user_id(&user_id)?;
        let player = self.0.player(&caller).await?.id;
        let other = self.0.0.vault.known(&caller.tenant, &user).await;
        let position = match other.map_err(|error| refusal::vault(&error))? {
            Some(other) => {
                let cause = self.cause(&caller, trace, "DELETE", &user, key.0, player).await?;
                self.ask(player, &cause, Action::Unblock { other }).await?
            }
            // Whom nobody ever named, nobody blocks.
            None => {
                let position = self.0.0.matchmaking.player_position(&caller.tenant, player).await;
                position.map_err(refusal::unreadable)?
            }
        };
        Ok(Json(BlockedUser { user_id: user.into(), blocked: false, position: position.into() }))
    }
}

impl BlockCommands {
    async fn cause(
        &self,
        caller: &Caller,
        trace: TraceParent,
        method: &str,
        user: &UserId,
        key: Option<IdempotencyKey>,
        player: SubjectId,
    ) -> Result<Cause, Problem> {
        let path = format!("/v1/matchmaking/blocks/{user}");
        let cause = self.0.cause(caller, trace, keyed(caller, method, &path, key, &Value::Null)).await?;
        Ok(Cause { subject: Some(player), ..cause })
    }

    async fn ask(&self, player: SubjectId, cause: &Cause, action: Action) -> Result<Position, Problem> {
        let asked = self.0.0.matchmaking.ask_of_player(player, cause, action).await;
        Ok(asked.map_err(refusal::single)?.position)
    }
}
