//! The read side of the HTTP interface: jobs, summaries, matches and workers as JSON, live streams, the console, and
//! what an operator sees.
//!
//! Start reading at [`ReadApi`], then at one of the routes, say [`routes::matching`]. This crate refuses to know how
//! anything is changed: it appends no event and sends no command. Where a read finds a read model wrong, it asks the
//! projector to repair it.

mod answer;
mod console;
mod history;
mod latency;
pub mod routes;
pub mod server;

use std::sync::Arc;

use event_log::Log;
use event_log::clock::Clock;
use metrics_exporter_prometheus::PrometheusHandle;
use poem::{Route, get};
use projections::ReadModels;

pub use console::Front;
use routes::history::HistoryRoutes;
use routes::job::JobRoutes;
use routes::matching::MatchingRoutes;
use routes::operations::OperationRoutes;
use routes::projection::ProjectionRoutes;
use routes::worker::WorkerRoutes;
use server::Server;

/// What every read route works with.
#[derive(Debug)]
pub struct ReadApi {
    log: Log,
    clock: Clock,
    models: ReadModels,
    metrics: PrometheusHandle,
    server: Server,
}

/// The typed routes, as the root combines them with those of the write side into one OpenAPI document.
pub type Routes = (JobRoutes, HistoryRoutes, MatchingRoutes, WorkerRoutes, ProjectionRoutes, OperationRoutes);

impl ReadApi {
    pub fn new(
        log: Log,
        clock: Clock,
        models: ReadModels,
        metrics: PrometheusHandle,
        server: Server,
    ) -> Arc<Self> {
        Arc::new(Self { log, clock, models, metrics, server })
    }

    /// The routes of the OpenAPI document.
    pub fn routes(self: &Arc<Self>) -> Routes {
        let api = || Arc::clone(self);
        (
            JobRoutes { api: api() },
            HistoryRoutes { api: api() },
            MatchingRoutes { api: api() },
            WorkerRoutes { api: api() },
            ProjectionRoutes { api: api() },
            OperationRoutes { api: api() },
        )
    }

    /// Adds to the root's routes what no OpenAPI document can describe: `/` and the console's files. See [`RAW_PATHS`].
    ///
    /// The OpenAPI service may be nested at `/` in `routes`: poem would then give it `/` as well, so this endpoint looks
    /// first.
    pub fn mount(self: &Arc<Self>, routes: Route) -> Front {
        Front { api: Arc::clone(self), routes: routes.at("/console/:file", get(console::file)) }
    }
}

/// The paths of [`ReadApi::mount`], all for GET, as [`web::routes::Routes::with`] takes them.
pub const RAW_PATHS: [&str; 2] = ["/", "/console/{file}"];

#[cfg(test)]
mod tests;
