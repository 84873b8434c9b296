//! Health, status and metrics, in as much detail as the caller may see.

pub mod dto;

use std::sync::Arc;

use event_log::EventLog;
use poem::http::{StatusCode, header};
use poem::{IntoResponse, Request, RequestBody, Response};
use poem_openapi::param::Header;
use poem_openapi::registry::{MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::{ToJSON, Type};
use poem_openapi::{ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions, OpenApi};
use projections::VectorIndexStatus;
use web::caller::{Caller, Credential, Role, authenticate};
use web::json::Json;
use web::problem::Problem;
use web::schema::Api;

use super::Tag;
use crate::ReadApi;
use crate::latency;
use crate::server;
use dto::{Check, Health, HealthStatus, LatencyReport, Live, LogStatus, Ready, Status};

/// The media type of the Prometheus text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `/ready`: 200, or 503 with the same body.
#[derive(Debug, ApiResponse)]
pub enum Readiness {
    /// Ready
    #[oai(status = 200)]
    Yes(Json<Api<Ready>>),
    /// Not ready; see `checks`
    #[oai(status = 503)]
    No(Json<Api<Ready>>),
}

/// `/metrics`, in the form that the caller accepts.
#[derive(Debug)]
pub enum Metrics {
    Text(String),
    Latencies(LatencyReport),
}

impl IntoResponse for Metrics {
    fn into_response(self) -> Response {
        let (media_type, body) = match self {
            Self::Text(text) => (EXPOSITION, text),
            Self::Latencies(latencies) => ("application/json", Api(latencies).to_json_string()),
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
            MetaMediaType { content_type: "application/json", schema: Api::<LatencyReport>::schema_ref() };
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
        Api::<LatencyReport>::register(registry);
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
    async fn live(&self) -> Json<Api<Live>> {
        Json(Api(Live { live: true }))
    }

    /// Check readiness
    ///
    /// The server is ready when the log is open, everything that follows it has caught up after the start, and no read
    /// model is further behind than the settings allow.
    #[oai(path = "/ready", method = "get", operation_id = "ready")]
    async fn ready(&self, request: &Request) -> Readiness {
        let checks = self.checks_for(request);
        let ready = checks.iter().all(|check| check.ok);
        let body = Json(Api(Ready { ready, checks }));
        if ready { Readiness::Yes(body) } else { Readiness::No(body) }
    }

    /// Get the server health
    #[oai(path = "/health", method = "get", operation_id = "health")]
    async fn health(&self, request: &Request) -> Json<Api<Health>> {
        let checks = self.checks_for(request);
        let is_healthy = checks.iter().all(|check| check.ok && !check.warning);
        Json(Api(Health {
            status: if is_healthy { HealthStatus::Ok } else { HealthStatus::Degraded },
            version: self.api.server.version.to_owned(),
            uptime_seconds: self.uptime(),
            checks,
        }))
    }

    /// Get the status of every component
    #[oai(path = "/status", method = "get", operation_id = "status")]
    async fn status(&self, caller: Caller) -> Result<Json<Api<Status>>, Problem> {
        caller.require(Role::Admin | Role::Service)?;
        let server = &self.api.server;
        let identity = self.api.log.identity();
        Ok(Json(Api(Status {
            version: server.version.to_owned(),
            started_at: server.started_at,
            uptime_seconds: self.uptime(),
            access: server.access,
            warnings: self.warnings(),
            log: LogStatus {
                location: server.log.clone(),
                id: identity.id,
                epoch: identity.epoch,
                head: self.api.head(),
                open: self.api.log_is_open(),
            },
            projections: self.api.projections(),
            vector_indexes: self.vector_indexes(&caller).await?,
            components: server.components.iter().map(Into::into).collect(),
        })))
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
        // This updates the lag of each read model, also of one that has stopped.
        self.api.models.status();
        let text = self.api.metrics.render();
        let preferred = web::negotiation::preferred(accept.0.as_deref(), &["text/plain", "application/json"]);
        let wants_json = preferred == "application/json";
        if !wants_json {
            return Ok(Metrics::Text(text));
        }
        let latencies = latency::distributions(&text).into_iter().map(Into::into).collect();
        Ok(Metrics::Latencies(LatencyReport { latencies }))
    }
}

impl OperationRoutes {
    /// The vector indexes that the caller may see.
    async fn vector_indexes(&self, caller: &Caller) -> Result<Vec<VectorIndexStatus>, Problem> {
        let search = self.api.models.search().clone();
        // A large model takes some milliseconds.
        let indexes = tokio::task::spawn_blocking(move || search.vector_indexes()).await;
        let mut indexes = indexes.map_err(|error| Problem::internal(&error))?;
        if caller.via != Credential::Open && !caller.can_access_all_tenants() {
            indexes.retain(|index| index.tenant == caller.tenant);
        }
        Ok(indexes)
    }

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
        let notable = self.checks().into_iter().filter(|check| !check.ok || check.warning);
        warnings.extend(notable.map(|check| format!("{}: {}", check.name, check.detail)));
        warnings
    }

    /// The checks, in detail for an operator: a detail can contain a path, an error of the database, or a count over all
    /// tenants.
    fn checks_for(&self, request: &Request) -> Vec<Check> {
        let checks = self.checks();
        match authenticate(request) {
            Ok(caller) if caller.has(Role::Admin | Role::Service) => checks,
            _ => checks.into_iter().map(Check::without_details).collect(),
        }
    }

    fn checks(&self) -> Vec<Check> {
        let open = self.api.log_is_open();
        let detail = if open { "open" } else { "it has stopped permanently; restart the server" };
        let log = Check::new("log", open, detail.to_owned());
        let projections = self.api.projections().into_iter().map(Into::into);
        let components = self.api.server.components.iter().map(|component| {
            let health = component.health();
            Check::new(component.name(), health.ready, health.detail)
        });
        std::iter::once(log).chain(projections).chain(components).collect()
    }
}
