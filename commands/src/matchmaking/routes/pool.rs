//! Configures pools.

use std::sync::Arc;

use domain::pool::DEFAULTS;
use event_schemas::ids::{PoolKey, Position};
use event_schemas::pool::{PoolSettings, WindowPolicy};
use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::Serialize;
use web::json::Json;
use web::problem::Problem;
use web::schema::Api;
use web::tag::Tag;

use crate::engine::problem;
use crate::engine::write_request::{Admins, WriteRequest};
use crate::matchmaking::Matchmaking;

/// The settings of a pool. Missing members get their default. Rating windows are in points to either side.
#[derive(Debug, Object)]
#[oai(example)]
struct ConfigurePool {
    /// The rating window of a new entry. Default: 100.
    #[oai(validator(minimum(value = "0"), maximum(value = "10000")))]
    window: Option<u16>,
    /// The points by which the window widens for every full `widen_every_seconds` waited. Default: 25.
    #[oai(validator(minimum(value = "0"), maximum(value = "10000")))]
    widen_by: Option<u16>,
    /// The interval at which the window widens. Default: 10.
    #[oai(validator(minimum(value = "1"), maximum(value = "86400")))]
    widen_every_seconds: Option<u32>,
    /// The largest window. Default: 1000.
    #[oai(validator(minimum(value = "0"), maximum(value = "10000")))]
    window_max: Option<u16>,
    /// The player whose window decides. Default: `longest_waiting`.
    window_policy: Option<Api<WindowPolicy>>,
    /// The time after which an unmatched entry expires. Default: 600.
    #[oai(validator(minimum(value = "1"), maximum(value = "86400")))]
    entry_expires_after_seconds: Option<u32>,
    /// The time before the last two opponents may be paired again. Default: 60.
    #[oai(validator(minimum(value = "0"), maximum(value = "86400")))]
    rematch_after_seconds: Option<u32>,
    /// The time after which a match without a result expires automatically. Default: 7200.
    #[oai(validator(minimum(value = "1"), maximum(value = "86400")))]
    result_expires_after_seconds: Option<u32>,
    /// The time after which an unanswered challenge expires. Default: 300.
    #[oai(validator(minimum(value = "1"), maximum(value = "86400")))]
    challenge_expires_after_seconds: Option<u32>,
}

impl Example for ConfigurePool {
    fn example() -> Self {
        Self {
            window: Some(50),
            widen_by: Some(50),
            widen_every_seconds: Some(5),
            window_max: None,
            window_policy: Some(Api(WindowPolicy::Both)),
            entry_expires_after_seconds: None,
            rematch_after_seconds: None,
            result_expires_after_seconds: None,
            challenge_expires_after_seconds: None,
        }
    }
}

impl ConfigurePool {
    fn settings(&self) -> PoolSettings {
        let seconds = |asked: Option<u32>, default| asked.unwrap_or(default);
        PoolSettings {
            window: self.window.unwrap_or(DEFAULTS.window),
            widen_by: self.widen_by.unwrap_or(DEFAULTS.widen_by),
            widen_every_seconds: seconds(self.widen_every_seconds, DEFAULTS.widen_every_seconds),
            window_max: self.window_max.unwrap_or(DEFAULTS.window_max),
            window_policy: self.window_policy.map_or(DEFAULTS.window_policy, |policy| policy.0),
            entry_expires_after_seconds: seconds(
                self.entry_expires_after_seconds,
                DEFAULTS.entry_expires_after_seconds,
            ),
            rematch_after_seconds: seconds(self.rematch_after_seconds, DEFAULTS.rematch_after_seconds),
            result_expires_after_seconds: seconds(
                self.result_expires_after_seconds,
                DEFAULTS.result_expires_after_seconds,
            ),
            challenge_expires_after_seconds: seconds(
                self.challenge_expires_after_seconds,
                DEFAULTS.challenge_expires_after_seconds,
            ),
        }
    }
}

/// The new settings of a pool.
#[derive(Debug, Serialize, JsonSchema)]
struct ConfiguredPool {
    pool_key: PoolKey,
    settings: PoolSettings,
    position: Position,
}

/// The write routes of pools.
#[derive(Clone, Debug)]
pub struct PoolCommands(pub(super) Arc<Matchmaking>);

#[OpenApi(tag = "Tag::Matchmaking")]
impl PoolCommands {
    /// Configure a pool
    ///
    /// Replaces all of its settings. They apply at once, also to queued players; the expiry of an entry or a challenge
    /// is fixed when it is created. Requires the role `admin`.
    #[oai(path = "/internal/pools/:pool_key", method = "put", operation_id = "configure_pool")]
    async fn configure(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Admins>,
        pool_key: Path<String>,
        body: Json<ConfigurePool>,
    ) -> Result<Json<Api<ConfiguredPool>>, Problem> {
        let pool_key = web::path::pool_key(&pool_key)?;
        let route = format!("PUT /internal/pools/{pool_key}");
        let cause = request.cause(&self.0.engine, &route, &body.0).await?;
        let settings = body.0.settings();
        let configured = self.0.configure(&pool_key, &cause, settings).await;
        let position = configured.map_err(problem::from_execute_error)?.position;
        Ok(Json(Api(ConfiguredPool { pool_key, settings, position })))
    }
}
