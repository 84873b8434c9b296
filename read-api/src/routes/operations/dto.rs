//! The response objects of health, status and metrics. The command line parses the same types.

use std::collections::HashMap;

use event_schemas::ids::{LogId, Position};
use event_schemas::time::Timestamp;
use projections::VectorIndexStatus;
use projections::status::{Condition, Progress, ProjectionStatus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::latency::Distribution;
use crate::server::{Access, Component};

/// The process responds.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Live {
    pub live: bool,
}

/// One condition for readiness.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    pub name: String,
    pub ok: bool,
    /// It is fulfilled, but an operator should look at it.
    pub warning: bool,
    /// A sentence for an operator; without the role `admin` or `service` only the kind of the cause.
    pub detail: String,
    /// For a read model, the number of positions that it is behind the head of the log. Only for these roles.
    pub lag_events: Option<u64>,
    /// The progress of a read model that catches up or is behind. Only for these roles.
    pub progress: Option<Progress>,
}

/// Server readiness.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Ready {
    pub ready: bool,
    pub checks: Vec<Check>,
}

/// The state of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    Ok,
    /// It responds, but something is behind or stopped; see `checks`.
    Degraded,
}

/// Server health.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    pub status: HealthStatus,
    pub version: String,
    pub uptime_seconds: f64,
    pub checks: Vec<Check>,
}

/// The event log.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LogStatus {
    /// The configured location.
    pub location: String,
    pub id: LogId,
    /// Raised by a restore from a backup.
    pub epoch: u32,
    /// The position of the last durable event.
    pub head: Position,
    /// Whether it still accepts and serves events.
    pub open: bool,
}

/// A component of the server other than the log and the projections.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ComponentStatus {
    pub name: String,
    pub ready: bool,
    /// The log position that it has reached, if it follows the log.
    pub position: Option<Position>,
    pub detail: String,
}

/// The status of every component of the server.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    pub version: String,
    pub started_at: Timestamp,
    pub uptime_seconds: f64,
    pub access: Access,
    /// Problems that an operator should look at first.
    pub warnings: Vec<String>,
    pub log: LogStatus,
    pub projections: Vec<ProjectionStatus>,
    /// The vector indexes of the models of the caller's tenant; for an operator of all tenants those of all.
    pub vector_indexes: Vec<VectorIndexStatus>,
    pub components: Vec<ComponentStatus>,
}

/// One distribution of latencies, in the unit that the metric's name gives.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Latency {
    pub metric: String,
    pub labels: HashMap<String, String>,
    pub count: u64,
    pub mean: Option<f64>,
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
    pub max: Option<f64>,
}

/// The latencies among the metrics.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LatencyReport {
    pub latencies: Vec<Latency>,
}

impl From<Distribution> for Latency {
    fn from(found: Distribution) -> Self {
        Self {
            metric: found.metric,
            labels: found.labels.into_iter().collect(),
            count: found.count,
            mean: found.mean,
            p50: found.p50,
            p95: found.p95,
            p99: found.p99,
            max: found.max,
        }
    }
}

impl Check {
    pub(crate) fn new(name: &str, ok: bool, detail: String) -> Self {
        Self { name: name.to_owned(), ok, warning: false, detail, lag_events: None, progress: None }
    }

    /// What a caller without credentials sees: whether it is fulfilled, and the kind of the cause.
    pub(crate) fn without_details(self) -> Self {
        let kind = match (self.ok, self.warning) {
            (true, false) => "ready",
            (true, true) => "ready, with a warning",
            (false, _) if self.progress.is_some() => "catching up",
            (false, _) => "not ready",
        };
        Self { detail: kind.to_owned(), lag_events: None, progress: None, ..self }
    }
}

impl From<ProjectionStatus> for Check {
    fn from(projection: ProjectionStatus) -> Self {
        let condition = projection.condition();
        let detail = match projection.remedy() {
            Some(remedy) => format!("{}; {remedy}", projection.detail()),
            None => projection.detail(),
        };
        Self {
            name: projection.name,
            ok: matches!(condition, Condition::Ok | Condition::Warning),
            warning: condition == Condition::Warning,
            detail,
            lag_events: Some(projection.lag_events),
            progress: projection.progress,
        }
    }
}

impl From<&Component> for ComponentStatus {
    fn from(component: &Component) -> Self {
        let health = component.health();
        Self {
            name: component.name().to_owned(),
            ready: health.ready,
            position: health.position,
            detail: health.detail,
        }
    }
}
