//! What another configuration would have done with the recorded history. Runs are kept in memory.

mod run;

use std::collections::BTreeMap;
use std::sync::Arc;

use event_schemas::ids::Position;
use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use projections::matching_summary::UpTo;
use projections::what_if::Replayed;
use serde_json::{Map, Value};
use uuid::Uuid;
use web::caller::{Caller, CostlyReads, Role};
use web::json::{Accepted, Json};
use web::path;
use web::problem::Problem;
use web::schema::Api;

use super::Tag;
use crate::ReadApi;
use crate::as_of::AsOf;
use crate::errors::from_replay_error;

pub(crate) use run::WhatIfRuns;
pub use run::{WhatIf, WhatIfKind, WhatIfPool, WhatIfRanking, WhatIfRetry, WhatIfStatus};

/// A question about the recorded history.
#[derive(Debug, Object)]
#[oai(example)]
struct NewWhatIf {
    kind: Api<WhatIfKind>,
    /// What is to be different. Of `pool`: `pool_key`, and the `settings` of the pool that differ. Of `retry`: a policy
    /// (`retries`, `base_seconds`, `cap_seconds`, `backoff`) for each category of error that differs. Of
    /// `ranking`: the `context` of the lists, and their `weights`.
    configuration: BTreeMap<String, Value>,
    /// The point after which things count: a log position or an RFC 3339 instant. Default: the start of the log.
    from: Option<AsOf>,
    /// The last point that counts. Default: now.
    to: Option<AsOf>,
}

impl Example for NewWhatIf {
    fn example() -> Self {
        let settings = serde_json::json!({"window": 200, "window_policy": "both"});
        Self {
            kind: Api(WhatIfKind::Pool),
            configuration: BTreeMap::from([
                ("pool_key".to_owned(), "blitz".into()),
                ("settings".to_owned(), settings),
            ]),
            from: None,
            to: None,
        }
    }
}

/// Routes for what-if runs.
#[derive(Clone, Debug)]
pub struct WhatIfRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Operations")]
impl WhatIfRoutes {
    /// Ask what another configuration would have done
    ///
    /// Replays the tenant's history of a range of the log. `location` reports the progress and the result, until the server is
    /// restarted or a hundred later runs have ended. This is a costly read. Needs the role `admin`.
    #[oai(path = "/internal/what-if", method = "post", operation_id = "start_what_if")]
    async fn start(
        &self,
        caller: Caller,
        budget: CostlyReads,
        body: Json<NewWhatIf>,
    ) -> Result<Accepted<Api<WhatIf>>, Problem> {
        caller.require(Role::Admin)?;
        let NewWhatIf { kind, configuration, from, to } = body.0;
        let configuration: Map<String, Value> = configuration.into_iter().collect();
        let question = run::Question::parse(kind.0, configuration.clone())?;
        let from = self.position(from, "from", Position::START).await?;
        let to = self.position(to, "to", self.api.head()).await?;
        if from > to {
            return Err(Problem::invalid("from", format!("is position {from}, after `to`, position {to}")));
        }
        // It counts as a costly read, and does not keep others from theirs.
        drop(budget.turn().await?);
        let run = self.api.what_ifs.start(
            &self.api,
            caller.tenant,
            question,
            configuration,
            Replayed::new(from, to),
        )?;
        let view = run.view(self.api.clock.now());
        Ok(Accepted::New { location: format!("/internal/what-if/{}", view.id), body: Api(view) })
    }

    /// Get a what-if run, with its progress and its result
    ///
    /// Needs the role `admin`.
    #[oai(path = "/internal/what-if/:id", method = "get", operation_id = "read_what_if")]
    async fn read(&self, caller: Caller, id: Path<String>) -> Result<Json<Api<WhatIf>>, Problem> {
        caller.require(Role::Admin)?;
        let id: Uuid = path::uuid("what-if run", &id)?;
        let run = self.api.what_ifs.find(&caller.tenant, id);
        let no_such_run = || Problem::not_found("no such what-if run: a restart of the server forgets them");
        Ok(Json(Api(run.ok_or_else(no_such_run)?.view(self.api.clock.now()))))
    }

    async fn position(&self, of: Option<AsOf>, field: &str, default: Position) -> Result<Position, Problem> {
        let Some(of) = of else { return Ok(default) };
        let (head, now) = (self.api.head(), self.api.clock.now());
        of.check_not_future_as(field, head, now)?;
        let upto: UpTo = of.up_to();
        self.api.models.position(upto).await.map_err(|error| from_replay_error(&error))
    }
}
