//! Reports the results of games.

use std::sync::Arc;

use domain::matchmaking::status::GameMatchStatus;
use event_schemas::game_match::GameResult;
use event_schemas::ids::{GameMatchId, Position};
use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::Serialize;
use web::json::Json;
use web::problem::Problem;
use web::schema::Api;
use web::tag::Tag;

use crate::engine::command_context::CommandContext;
use crate::engine::problem;
use crate::engine::write_request::{Workers, WriteRequest};
use crate::matchmaking::Matchmaking;

/// The result of a game.
#[derive(Debug, Object)]
#[oai(example)]
struct ReportResult {
    result: Api<GameResult>,
}

impl Example for ReportResult {
    fn example() -> Self {
        Self { result: Api(GameResult::First) }
    }
}

/// A finished match.
#[derive(Debug, Serialize, JsonSchema)]
struct ReportedMatch {
    id: GameMatchId,
    match_id: GameMatchId,
    status: GameMatchStatus,
    result: GameResult,
    /// Log position from which both players are released, and their ratings updated.
    position: Position,
}

/// The write routes of results.
#[derive(Clone, Debug)]
pub struct ResultCommands(pub(super) Arc<Matchmaking>);

#[OpenApi(tag = "Tag::Matchmaking")]
impl ResultCommands {
    /// Report the result of a game
    ///
    /// Releases both players and, unless the game was aborted, updates their ratings. The same result again changes
    /// nothing; another one is refused.
    #[oai(path = "/internal/matches/:match_id/result", method = "post", operation_id = "report_result")]
    async fn report(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Workers>,
        match_id: Path<String>,
        body: Json<ReportResult>,
    ) -> Result<Json<Api<ReportedMatch>>, Problem> {
        let match_id = web::path::game_match_id(&match_id)?;
        let matchmaking = &self.0;
        if !matchmaking.has_match(&request.caller.tenant, match_id).await.map_err(problem::from_load_error)? {
            return Err(Problem::not_found("there is no such match"));
        }
        let route = format!("POST /internal/matches/{match_id}/result");
        let cause = request.cause(&self.0.engine, &route, &body.0).await?;
        let result = body.0.result.0;
        let reported = matchmaking.report(match_id, &cause, result).await;
        let reported = reported.map_err(problem::from_execute_error)?.position;
        let released = matchmaking.release_both(match_id, &CommandContext::of_caller(&cause)).await;
        Ok(Json(Api(ReportedMatch {
            id: match_id,
            match_id,
            status: GameMatchStatus::Finished,
            result,
            position: released.map_or(reported, |released| released.max(reported)),
        })))
    }
}
