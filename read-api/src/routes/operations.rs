//! Health, status and metrics, in as much detail as the caller may see.

use std::collections::HashMap;
use std::sync::Arc;

use event_log::EventLog;
use event_schemas::ids::LogId;
use poem::http::{StatusCode, header};
use poem::{IntoResponse, Request, RequestBody, Response};
use poem_openapi::param::Header;
use poem_openapi::payload::Payload;
use poem_openapi::registry::{MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::{ToJSON, Type};
use poem_openapi::{ApiExtractor, ApiExtractorType, ApiResponse, Enum, ExtractParamOptions, Object, OpenApi};
use projections::status::ReportedState;
use web::caller::{Caller, Role};
use web::json::Json;
use web::problem::Problem;
use web::value::{ApiPosition, ApiTimestamp, UuidParam};

use super::Tag;
use super::projection::{ProjectionDto, ProjectionStateDto};
use crate::ReadApi;
use crate::latency::{self, Distribution};
use crate::server;

/// The media type of the Prometheus text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The process responds.
#[derive(Clone, Debug, Object)]
pub struct Live {
    pub live: bool,
}

/// One condition for readiness.
#[derive(Clone, Debug, Object)]
pub struct Check {
    pub name: String,
    pub ok: bool,
    /// A sentence for an operator.
    pub detail: String,
}

/// Server readiness.
#[derive(Clone, Debug, Object)]
pub struct Ready {
    pub ready: bool,
    pub checks: Vec<Check>,
}

/// The state of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub enum HealthStatus {
    Ok,
    /// It responds, but something is behind or stopped; see `checks`.
    Degraded,
}

/// Server health.
#[derive(Clone, Debug, Object)]
pub struct Health {
    pub status: HealthStatus,
    pub version: String,
    pub uptime_seconds: f64,
    pub checks: Vec<Check>,
}

/// How callers are authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", remote = "server::Access")]
pub enum Access {
    Open,
    Keys,
}

/// The event log.
#[derive(Clone, Debug, Object)]
pub struct LogStatus {
    /// The configured location.
    pub location: String,
    pub id: UuidParam<LogId>,
    /// Raised by a restore from a backup.
    pub epoch: u32,
    /// The position of the last durable event.
    pub head: ApiPosition,
    /// Whether it still accepts and serves events.
    pub open: bool,
}

/// A component of the server other than the log and the projections.
#[derive(Clone, Debug, Object)]
pub struct ComponentStatus {
    pub name: String,
    pub ready: bool,
    /// The log position that it has reached, if it follows the log.
    pub position: Option<ApiPosition>,
    pub detail: String,
}

/// The status of every component of the server.
#[derive(Clone, Debug, Object)]
pub struct Status {
    pub version: String,
    pub started_at: ApiTimestamp,
    pub uptime_seconds: f64,
    pub access: Access,
    /// Problems that an operator should look at first.
    pub warnings: Vec<String>,
    pub log: LogStatus,
    pub projections: Vec<ProjectionDto>,
    pub components: Vec<ComponentStatus>,
}

/// One distribution of latencies, in the unit that the metric's name gives.
#[derive(Clone, Debug, Object)]
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
#[derive(Clone, Debug, Object)]
pub struct Latencies {
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

/// `/ready`: 200, or 503 with the same body.
#[derive(Debug, ApiResponse)]
pub enum Readiness {
    /// Ready
    #[oai(status = 200)]
    Yes(Json<Ready>),
    /// Not ready; see `checks`
    #[oai(status = 503)]
    No(Json<Ready>),
}

/// `/metrics`, in the form that the caller accepts.
#[derive(Debug)]
pub enum Metrics {
    Text(String),
    Latencies(Latencies),
}

impl IntoResponse for Metrics {
    fn into_response(self) -> Response {
        let (media_type, body) = match self {
            Self::Text(text) => (EXPOSITION, text),
            Self::Latencies(latencies) => (Json::<Latencies>::CONTENT_TYPE, latencies.to_json_string()),
        };
        Response::builder()
            .content_type(media_type)
            .header(header::VARY, "accept")
            .header(header::CACHE_CONTROL, "no-store")
            .body(body)
    }
}

impl ApiResponse for Metrics {
    fn meta() -> MetaResponses {
        let text = MetaMediaType { content_type: "text/plain", schema: String::schema_ref() };
        let json =
            MetaMediaType { content_type: Json::<Latencies>::CONTENT_TYPE, schema: Latencies::schema_ref() };
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The Prometheus text format; for `Accept: application/json` the latencies only",
                status: Some(StatusCode::OK.as_u16()),
                status_range: None,
                content: vec![text, json],
                headers: vec![],
            }],
        }
    }

    fn register(registry: &mut Registry) {
        Latencies::register(registry);
    }
}

/// The caller of `/metrics`, for which the configuration may require no credentials.
#[derive(Debug)]
struct Scraper(Result<Caller, Problem>);

impl<'a> ApiExtractor<'a> for Scraper {
    const TYPES: &'static [ApiExtractorType] = <Caller as ApiExtractor<'a>>::TYPES;

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <Caller as ApiExtractor<'a>>::register(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        <Caller as ApiExtractor<'a>>::security_schemes()
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let caller = <Caller as ApiExtractor<'a>>::from_request(request, body, options).await;
        Ok(Self(caller.map_err(Problem::from_error)))
    }
}

/// Routes for operators and monitoring.
#[derive(Clone, Debug)]
pub struct OperationRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Operations")]
impl OperationRoutes {
    /// Check that the process responds
    #[oai(path = "/live", method = "get", operation_id = "live")]
    async fn live(&self) -> Json<Live> {
        Json(Live { live: true })
    }

    /// Check readiness
    ///
    /// The server is ready when the log is open and everything that follows it has caught up.
    #[oai(path = "/ready", method = "get", operation_id = "ready")]
    async fn ready(&self) -> Readiness {
        let checks = self.checks();
        let ready = checks.iter().all(|check| check.ok);
        let body = Json(Ready { ready, checks });
        if ready { Readiness::Yes(body) } else { Readiness::No(body) }
    }

    /// Get the server health
    #[oai(path = "/health", method = "get", operation_id = "health")]
    async fn health(&self) -> Json<Health> {
        let checks = self.checks();
        let paused = self.api.models.status().into_iter().any(|status| status.state == ReportedState::Paused);
        let is_healthy = checks.iter().all(|check| check.ok) && !paused;
        Json(Health {
            status: if is_healthy { HealthStatus::Ok } else { HealthStatus::Degraded },
            version: self.api.server.version.to_owned(),
            uptime_seconds: self.uptime(),
            checks,
        })
    }

    /// Get the status of every component
    #[oai(path = "/status", method = "get", operation_id = "status")]
    async fn status(&self, caller: Caller) -> Result<Json<Status>, Problem> {
        caller.require(Role::Admin | Role::Service)?;
        let server = &self.api.server;
        let identity = self.api.log.identity();
        let projections = self.api.models.status();
        Ok(Json(Status {
            version: server.version.to_owned(),
            started_at: ApiTimestamp(server.started_at),
            uptime_seconds: self.uptime(),
            access: server.access.into(),
            warnings: self.warnings(),
            log: LogStatus {
                location: server.log.clone(),
                id: UuidParam(identity.id),
                epoch: identity.epoch,
                head: ApiPosition(self.api.head()),
                open: self.api.log_is_open(),
            },
            projections: projections.into_iter().map(Into::into).collect(),
            components: server.components.iter().map(component_status).collect(),
        }))
    }

    /// Get the metrics
    ///
    /// In the Prometheus text format, or the latencies as JSON for `Accept: application/json`.
    #[oai(path = "/metrics", method = "get", operation_id = "metrics")]
    async fn metrics(
        &self,
        caller: Scraper,
        #[oai(name = "Accept")] accept: Header<Option<String>>,
    ) -> Result<Metrics, Problem> {
        if !self.api.server.open_metrics {
            caller.0?.require(Role::Admin | Role::Service)?;
        }
        let text = self.api.metrics.render();
        let wants_json = accept.0.is_some_and(|accept| accept.contains("application/json"));
        if !wants_json {
            return Ok(Metrics::Text(text));
        }
        let latencies = latency::distributions(&text).into_iter().map(Into::into).collect();
        Ok(Metrics::Latencies(Latencies { latencies }))
    }
}

impl OperationRoutes {
    fn uptime(&self) -> f64 {
        self.api.clock.now().seconds_since(self.api.server.started_at)
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.api.server.access == server::Access::Open {
            warnings.push(
                "no keys are configured: every caller that reaches this address has every role; set MATCHBOOK_JWT_SECRET \
                 to require credentials"
                    .to_owned(),
            );
        }
        let failed = self.checks().into_iter().filter(|check| !check.ok);
        warnings.extend(failed.map(|check| format!("{}: {}", check.name, check.detail)));
        warnings
    }

    fn checks(&self) -> Vec<Check> {
        let open = self.api.log_is_open();
        let log = Check {
            name: "log".to_owned(),
            ok: open,
            detail: if open {
                "open".to_owned()
            } else {
                "it has stopped permanently; restart the server".to_owned()
            },
        };
        let projections = self.api.models.status().into_iter().map(|status| {
            let status = ProjectionDto::from(status);
            // A pause is an operator's decision, which a restart would not undo.
            let ok = status.generation.is_some()
                && matches!(status.state, ProjectionStateDto::Live | ProjectionStateDto::Paused);
            Check { ok, detail: describe(&status), name: status.name }
        });
        let components = self.api.server.components.iter().map(|component| {
            let health = component.health();
            Check { name: component.name().to_owned(), ok: health.ready, detail: health.detail }
        });
        std::iter::once(log).chain(projections).chain(components).collect()
    }
}

/// The state of a projection in one sentence.
fn describe(status: &ProjectionDto) -> String {
    if let Some(stop) = &status.stop {
        return format!("stopped at position {}: {}; {}", stop.position.0, stop.error, stop.remedy);
    }
    match (status.state, status.generation) {
        (ProjectionStateDto::Paused, _) => "paused by an operator; resume it to continue".to_owned(),
        (_, None) => format!("being built, {} events to go", status.lag_events),
        (ProjectionStateDto::CatchingUp, _) => format!("catching up, {} events to go", status.lag_events),
        (_, Some(_)) => "up to date".to_owned(),
    }
}

fn component_status(component: &server::Component) -> ComponentStatus {
    let health = component.health();
    ComponentStatus {
        name: component.name().to_owned(),
        ready: health.ready,
        position: health.position.map(ApiPosition),
        detail: health.detail,
    }
}
