//! How the games of matches ended.

use event_schemas::ids::MatchRecordId;
use poem_openapi::param::{Header, Path};
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use web::caller::Caller;
use web::idempotency::IdempotencyKey;
use web::json::Json;
use web::problem::Problem;
use web::request::TraceParent;
use web::value::{Pos, Uid};
use web::vocabulary::{GameResult, MatchStatus, Tag};

use super::{keyed, reporters};
use crate::matchmaking::Chain;
use crate::{Commands, refusal};

/// How a game ended.
#[derive(Debug, Object)]
#[oai(example)]
struct ReportResult {
    result: GameResult,
}

impl Example for ReportResult {
    fn example() -> Self {
        Self { result: GameResult::First }
    }
}

/// A match that is over.
#[derive(Debug, Object)]
struct ReportedMatch {
    id: Uid<MatchRecordId>,
    match_id: Uid<MatchRecordId>,
    status: MatchStatus,
    result: GameResult,
    /// By here both players are free, and their ratings moved.
    position: Pos,
}

/// Commands about results.
#[derive(Clone, Debug)]
pub struct ResultCommands(pub(super) Commands);

#[OpenApi(tag = "Tag::Matchmaking")]
impl ResultCommands {
    /// Report how a game ended
    ///
    /// Both players are free then, and unless the game was aborted, their ratings have moved. The same result again changes
    /// nothing; another one is refused.
    #[oai(path = "/internal/matches/:match_id/result", method = "post", operation_id = "report_result")]
    async fn report(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        match_id: Path<String>,
        body: Json<ReportResult>,
    ) -> Result<Json<ReportedMatch>, Problem> {
        caller.require(reporters())?;
        let match_id = web::path::match_record_id(&match_id)?;
        let matchmaking = &self.0.0.matchmaking;
        if !matchmaking.has_match(&caller.tenant, match_id).await.map_err(refusal::unreadable)? {
            return Err(Problem::not_found("there is no such match"));
        }
        let path = format!("/internal/matches/{match_id}/result");
        let cause = self.0.cause(&caller, trace, keyed(&caller, "POST", &path, key.0, &body.0)).await?;
        let result = body.0.result;
        let reported = matchmaking.report(match_id, &cause, result.into()).await;
        let reported = reported.map_err(refusal::single)?.position;
        let freed = matchmaking.free_both(match_id, &Chain::of_caller(&cause)).await;
        Ok(Json(ReportedMatch {
            id: match_id.into(),
            match_id: match_id.into(),
            status: MatchStatus::Finished,
            result,
            position: freed.unwrap_or(reported).into(),
        }))
    }
}
