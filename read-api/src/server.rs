//! Facts about the running server that only the root knows and passes in.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use domain::breaker::CircuitState;
use domain::image_matching::blockers::Thresholds;
use domain::job::view::Parked;
use domain::recommend::experiment::Experiments;
use domain::user::ComputedList;
use event_schemas::envelope::Idempotency;
use event_schemas::ids::{ListId, Position, Tenant, UserId, WorkerId};
use event_schemas::time::Timestamp;
use futures_util::future::BoxFuture;
use projections::export::files::ExportFiles;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use web::caller::Caller;
use web::problem::Problem;
use web::request::TraceParent;

use crate::media::MediaFolder;
use crate::subjects::SubjectDirectory;

/// How callers are authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// No keys are configured: every caller has every role. Loopback only.
    Open,
    /// Callers send a token or an API key.
    Keys,
}

/// The health of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentHealth {
    pub ready: bool,
    /// The log position that it has reached, if it follows the log.
    pub position: Option<Position>,
    /// A sentence for an operator.
    pub detail: String,
}

/// A component of the server that this crate does not depend on, such as the work board.
#[derive(Clone)]
pub struct Component {
    name: &'static str,
    health: Arc<dyn Fn() -> ComponentHealth + Send + Sync>,
}

impl Component {
    /// `health` is called by every `/ready` and `/status`, so it must not block.
    pub fn new(name: &'static str, health: impl Fn() -> ComponentHealth + Send + Sync + 'static) -> Self {
        Self { name, health: Arc::new(health) }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn health(&self) -> ComponentHealth {
        (self.health)()
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Component").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The circuit breaker of an external service: the service's name, the state, and the number of openings in a row.
pub type BreakerStatus = (&'static str, CircuitState, u32);

type FindBreakers = dyn Fn(&Tenant) -> Vec<BreakerStatus> + Send + Sync;
type FindLastSeen = dyn Fn(&Tenant, &WorkerId) -> Option<Timestamp> + Send + Sync;

/// The circuit breakers of the external services, which each tenant has of its own.
#[derive(Clone)]
pub struct Breakers(Arc<FindBreakers>);

impl Breakers {
    /// `statuses` returns those of a tenant. It is called by reads, so it must not block.
    pub fn new(statuses: impl Fn(&Tenant) -> Vec<BreakerStatus> + Send + Sync + 'static) -> Self {
        Self(Arc::new(statuses))
    }

    pub fn statuses(&self, tenant: &Tenant) -> Vec<BreakerStatus> {
        (self.0)(tenant)
    }

    /// Why work of the tenant that needs these services does not start; none if all of their breakers allow calls. Of
    /// several open breakers the one that is open the longest counts.
    pub fn parked(&self, tenant: &Tenant, services: &[&str]) -> Option<Parked> {
        let open = self.statuses(tenant).into_iter().filter_map(|(service, state, _)| match state {
            CircuitState::Open { until } if services.contains(&service) => Some((until, service)),
            _ => None,
        });
        open.max().map(|(until, service)| Parked::new(service, until))
    }
}

impl fmt::Debug for Breakers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breakers").finish_non_exhaustive()
    }
}

/// The latest sign of life of each worker: a heartbeat is not an event.
#[derive(Clone)]
pub struct LastSeen(Arc<FindLastSeen>);

impl LastSeen {
    /// `find` returns none for a worker that is not present. It is called by reads, so it must not block.
    pub fn new(find: impl Fn(&Tenant, &WorkerId) -> Option<Timestamp> + Send + Sync + 'static) -> Self {
        Self(Arc::new(find))
    }

    pub fn find(&self, tenant: &Tenant, worker_id: &WorkerId) -> Option<Timestamp> {
        (self.0)(tenant, worker_id)
    }
}

impl fmt::Debug for LastSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastSeen").finish_non_exhaustive()
    }
}

/// Lists that are recorded as handed out.
#[derive(Clone, Debug)]
pub struct RecordedLists {
    /// Their ids, in their order.
    pub ids: Vec<ListId>,
    /// The position of the last one.
    pub position: Position,
    /// Whether an earlier request with the same key recorded them: then the lists in the log are answered.
    pub is_repeated: bool,
}

type Recording = BoxFuture<'static, Result<RecordedLists, Problem>>;
type ComputedLists = Vec<(UserId, ComputedList)>;
type RecordLists = dyn Fn(Caller, TraceParent, Option<Idempotency>, ComputedLists) -> Recording + Send + Sync;

/// Hands served lists to the write side: this crate computes them, and appends no events.
#[derive(Clone)]
pub struct ListRecorder(Arc<RecordLists>);

impl ListRecorder {
    pub fn new(
        record: impl Fn(Caller, TraceParent, Option<Idempotency>, ComputedLists) -> Recording
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self(Arc::new(record))
    }

    /// Records that the lists are handed out to these users.
    ///
    /// # Errors
    /// If one of them could not be recorded: then none may be handed out.
    pub async fn record(
        &self,
        caller: &Caller,
        trace: &TraceParent,
        idempotency: Option<Idempotency>,
        lists: ComputedLists,
    ) -> Result<RecordedLists, Problem> {
        (self.0)(caller.clone(), trace.clone(), idempotency, lists).await
    }
}

impl fmt::Debug for ListRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListRecorder").finish_non_exhaustive()
    }
}

/// The lags of a read model, in positions, beyond which the server reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LagLimits {
    /// Beyond this, `/status` and `/health` warn.
    pub warn: u64,
    /// Beyond this, the server is not ready.
    pub max: u64,
}

/// Facts about this run of the server.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    pub version: &'static str,
    pub started_at: Timestamp,
    pub access: Access,
    /// The configured location of the log, such as `embedded:./data/events`. Without credentials.
    pub log: String,
    /// Whether `/metrics` needs no credentials.
    pub open_metrics: bool,
    pub components: Vec<Component>,
    pub breakers: Breakers,
    pub last_seen: LastSeen,
    /// None on a server that only reads.
    pub lists: Option<ListRecorder>,
    pub subjects: SubjectDirectory,
    /// The ranking variants that are compared.
    pub experiments: Experiments,
    /// The waiting times after which a matching job reports a blocker.
    pub thresholds: Thresholds,
    pub lag_limits: LagLimits,
    /// The duration from which a query is slow.
    pub slow_query: Duration,
    /// The folder with the evidence images; none if they are not served.
    pub media: Option<MediaFolder>,
    /// The files of exports; none if this server cannot read them.
    pub exports: Option<ExportFiles>,
    /// The origins of product pictures that the console may show, besides this server's.
    pub image_origins: Vec<String>,
}
