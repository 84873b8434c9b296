//! Whether the server is well, in as much detail as the caller may see.

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
use projections::status::State;
use web::caller::{Caller, Role};
use web::json::Json;
use web::problem::Problem;
use web::value::{At, Pos, Uid};

use super::Tag;
use super::projection::{ProjectionObject, StateWord};
use crate::ReadApi;
use crate::latency::{self, Distribution};
use crate::server;

/// The media type of Prometheus' text.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The process answers.
#[derive(Clone, Debug, Object)]
pub struct Live {
    pub live: bool,
}

/// One thing that has to be so before the server can do its work.
#[derive(Clone, Debug, Object)]
pub struct Check {
    pub name: String,
    pub ok: bool,
    /// A sentence for an operator.
    pub detail: String,
}

/// Whether the server can do its work.
#[derive(Clone, Debug, Object)]
pub struct Ready {
    pub ready: bool,
    pub checks: Vec<Check>,
}

/// How the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub enum HealthWord {
    Ok,
    /// It answers, and something is behind or stopped; `checks` says what.
    Degraded,
}

/// How the server is, at a glance.
#[derive(Clone, Debug, Object)]
pub struct Health {
    pub status: HealthWord,
    pub version: String,
    pub uptime_seconds: f64,
    pub checks: Vec<Check>,
}

/// Who may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", remote = "server::Access")]
pub enum Access {
    Open,
    Keys,
}

/// The event log.
#[derive(Clone, Debug, Object)]
pub struct LogStatus {
    /// As configured.
    pub location: String,
    pub id: Uid<LogId>,
    /// Raised by a restore from a backup.
    pub epoch: u32,
    /// The position of the last durable event.
    pub head: Pos,
    /// Whether it still takes and gives events.
    pub open: bool,
}

/// A part of the server beside the log and the read models.
#[derive(Clone, Debug, Object)]
pub struct PartStatus {
    pub name: String,
    pub ready: bool,
    /// How far it has followed the log, if it does.
    pub position: Option<Pos>,
    pub detail: String,
}

/// Every part of the server.
#[derive(Clone, Debug, Object)]
pub struct Status {
    pub version: String,
    pub started_at: At,
    pub uptime_seconds: f64,
    pub access: Access,
    /// What an operator should know before anything else.
    pub warnings: Vec<String>,
    pub log: LogStatus,
    pub projections: Vec<ProjectionObject>,
    pub parts: Vec<PartStatus>,
}

/// One distribution of latencies, in the unit that the metric's name says.
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
    /// It can do its work
    #[oai(status = 200)]
    Yes(Json<Ready>),
    /// Not yet, or not any more; `checks` says why
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
                description: "Prometheus' text; for `Accept: application/json` the latencies alone",
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

/// The caller of `/metrics`, who may be anyone if the configuration says so.
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

/// Routes for operators and for whatever watches over the process.
#[derive(Clone, Debug)]
pub struct OperationRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Operations")]
impl OperationRoutes {
    /// Whether the process answers at all.
    #[oai(path = "/live", method = "get", operation_id = "live")]
    async fn live(&self) -> Json<Live> {
        Json(Live { live: true })
    }

    /// Whether the server can do its work: the log is open, and everything that follows it has caught up.
    #[oai(path = "/ready", method = "get", operation_id = "ready")]
    async fn ready(&self) -> Readiness {
        let checks = self.checks();
        let ready = checks.iter().all(|check| check.ok);
        let body = Json(Ready { ready, checks });
        if ready { Readiness::Yes(body) } else { Readiness::No(body) }
    }

    /// How the server is, at a glance.
    #[oai(path = "/health", method = "get", operation_id = "health")]
    async fn health(&self) -> Json<Health> {
        let checks = self.checks();
        let paused = self.api.models.status().into_iter().any(|status| status.state == State::Paused);
        let well = checks.iter().all(|check| check.ok) && !paused;
        Json(Health {
            status: if well { HealthWord::Ok } else { HealthWord::Degraded },
            version: self.api.server.version.to_owned(),
            uptime_seconds: self.uptime(),
            checks,
        })
    }

    /// Every part of the server, with how far it is.
    #[oai(path = "/status", method = "get", operation_id = "status")]
    async fn status(&self, caller: Caller) -> Result<Json<Status>, Problem> {
        caller.require(Role::Admin | Role::Service)?;
        let server = &self.api.server;
        let identity = self.api.log.identity();
        let projections = self.api.models.status();
        Ok(Json(Status {
            version: server.version.to_owned(),
            started_at: At(server.started_at),
            uptime_seconds: self.uptime(),
            access: server.access.into(),
            warnings: self.warnings(),
            log: LogStatus {
                location: server.log.clone(),
                id: Uid(identity.id),
                epoch: identity.epoch,
                head: Pos(self.api.head()),
                open: self.api.log_is_open(),
            },
            projections: projections.into_iter().map(Into::into).collect(),
            parts: server.parts.iter().map(part_status).collect(),
        }))
    }

    /// Counters and latencies: Prometheus' text, or for `Accept: application/json` the latencies.
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
                "no keys are configured: whoever reaches this address has every role; set MATCHBOOK_JWT_SECRET to close it"
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
                "it has stopped for good; restart the server".to_owned()
            },
        };
        let projections = self.api.models.status().into_iter().map(|status| {
            let status = ProjectionObject::from(status);
            // A pause is an operator's decision, which a restart or another node would not mend.
            let ok =
                status.generation.is_some() && matches!(status.state, StateWord::Live | StateWord::Paused);
            Check { ok, detail: describe(&status), name: status.name }
        });
        let parts = self.api.server.parts.iter().map(|part| {
            let standing = part.standing();
            Check { name: part.name().to_owned(), ok: standing.ready, detail: standing.detail }
        });
        std::iter::once(log).chain(projections).chain(parts).collect()
    }
}

/// What a read model is doing, in a sentence.
fn describe(status: &ProjectionObject) -> String {
    if let Some(stop) = &status.stop {
        return format!("stopped at position {}: {}; {}", stop.position.0, stop.error, stop.way_out);
    }
    match (status.state, status.generation) {
        (StateWord::Paused, _) => "paused by an operator; resume it".to_owned(),
        (_, None) => format!("being built, {} events to go", status.lag_events),
        (StateWord::CatchingUp, _) => format!("catching up, {} events to go", status.lag_events),
        (_, Some(_)) => "up to date".to_owned(),
    }
}

fn part_status(part: &server::Part) -> PartStatus {
    let standing = part.standing();
    PartStatus {
        name: part.name().to_owned(),
        ready: standing.ready,
        position: standing.position.map(Pos),
        detail: standing.detail,
    }
}
