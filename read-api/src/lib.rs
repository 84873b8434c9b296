//! The read side of the HTTP interface: jobs, summaries, matches and workers as JSON, live streams, the console, and
//! what an operator sees.
//!
//! Start reading at [`ReadApi`], then at one of the routes, such as [`routes::matching`]. This crate never changes
//! anything: it appends no events and sends no commands. If a read finds a read model wrong, it asks the projection to
//! repair it.

mod as_of;
mod by_id;
mod console;
mod errors;
pub mod file_response;
mod job_access;
mod job_events;
mod latency;
pub mod media;
mod min_position;
pub mod routes;
pub mod server;
pub mod slow_queries;
mod stream;
pub mod subjects;

use std::sync::Arc;

use event_log::Log;
use event_log::clock::Clock;
use metrics_exporter_prometheus::PrometheusHandle;
use poem::{Route, get};
use projections::ReadModels;

pub use console::RootEndpoint;
use routes::job::SummaryPreviewCache;
use routes::matching::response_cache::SummaryResponseCache;
use routes::what_if::WhatIfRuns;
use server::{Access, ServerInfo};
use slow_queries::SlowQueries;
use stream::{ChangeNotifier, HistoricalSummaryCache, Socket, Topics};
use web::routes::RouteLimits;
use web::shutdown::Shutdown;

/// The state shared by all read routes.
#[derive(Debug)]
pub struct ReadApi {
    log: Log,
    clock: Clock,
    models: ReadModels,
    metrics: PrometheusHandle,
    server: ServerInfo,
    /// Ends live streams, which would otherwise keep the server from stopping.
    shutdown: Shutdown,
    notifier: Arc<ChangeNotifier>,
    /// The objects that clients follow live.
    topics: Topics,
    historical_summaries: HistoricalSummaryCache,
    previews: SummaryPreviewCache,
    summary_responses: SummaryResponseCache,
    slow_queries: SlowQueries,
    what_ifs: WhatIfRuns,
}

impl ReadApi {
    /// Must be called on the runtime that serves: it starts the tasks that notify the streams of changes.
    pub fn new(
        log: Log,
        clock: Clock,
        models: ReadModels,
        metrics: PrometheusHandle,
        server: ServerInfo,
        shutdown: Shutdown,
    ) -> Arc<Self> {
        let notifier = ChangeNotifier::start(models.matching_summary().changes(), log.clone());
        Arc::new(Self {
            log,
            clock,
            models,
            metrics,
            slow_queries: SlowQueries::new(server.slow_query),
            server,
            shutdown,
            notifier,
            topics: Topics::default(),
            historical_summaries: HistoricalSummaryCache::default(),
            previews: SummaryPreviewCache::default(),
            summary_responses: SummaryResponseCache::default(),
            what_ifs: WhatIfRuns::default(),
        })
    }

    /// Whether every caller has every role, because the server has no keys.
    pub fn is_open(&self) -> bool {
        self.server.access == Access::Open
    }

    /// Adds the routes that an OpenAPI document cannot describe: `/`, the console's files and the WebSocket. See
    /// [`RAW_PATHS`].
    ///
    /// The OpenAPI service may be nested at `/` in `routes`. poem would then pass it `/` as well, so this endpoint
    /// handles `/` first.
    pub fn mount(self: &Arc<Self>, routes: Route) -> RootEndpoint {
        let routes = routes
            .at("/console/:file", get(console::file))
            .at("/jobs/:job_id/matching/ws", get(Socket { api: Arc::clone(self) }));
        RootEndpoint { api: Arc::clone(self), routes }
    }
}

/// The paths of [`ReadApi::mount`], all for GET, in the form that [`web::routes::Routes::with`] expects.
pub const RAW_PATHS: [&str; 3] = ["/", "/console/{file}", "/jobs/{job_id}/matching/ws"];

/// The routes with other limits than the default ones: lists of an earlier instant are computed from the log.
pub const ROUTE_LIMITS: [(&str, RouteLimits); 3] = [
    ("/api/v1/recommend", RouteLimits::Costly),
    ("/api/v1/recommend/batch", RouteLimits::Costly),
    ("/api/v1/recommendations/{request_id}", RouteLimits::Costly),
];

#[cfg(test)]
mod tests;
