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
mod moment;
pub mod people;
pub mod routes;
pub mod server;
mod stream;

use std::sync::Arc;

use event_log::Log;
use event_log::clock::Clock;
use metrics_exporter_prometheus::PrometheusHandle;
use poem::{Route, get};
use projections::ReadModels;

pub use console::Front;
use routes::analysis::AnalysisRoutes;
use routes::audit::AuditRoutes;
use routes::challenge::ChallengeRoutes;
use routes::entry_stream::EntryStreamRoutes;
use routes::history::HistoryRoutes;
use routes::job::{Glances, JobRoutes};
use routes::match_record::MatchRecordRoutes;
use routes::matching::MatchingRoutes;
use routes::operations::OperationRoutes;
use routes::player::PlayerRoutes;
use routes::projection::ProjectionRoutes;
use routes::queue::QueueRoutes;
use routes::retry::RetryRoutes;
use routes::stream::StreamRoutes;
use routes::worker::WorkerRoutes;
use server::{Access, Server};
use stream::{Past, Pulses, Socket};
use web::shutdown::Shutdown;

/// What every read route works with.
#[derive(Debug)]
pub struct ReadApi {
    log: Log,
    clock: Clock,
    models: ReadModels,
    metrics: PrometheusHandle,
    server: Server,
    /// Live streams would otherwise keep the server from stopping.
    shutdown: Shutdown,
    pulses: Arc<Pulses>,
    past: Past,
    glances: Glances,
}

/// The typed routes, as the root combines them with those of the write side into one OpenAPI document.
pub type Routes = (
    JobRoutes,
    AnalysisRoutes,
    HistoryRoutes,
    MatchingRoutes,
    StreamRoutes,
    QueueRoutes,
    EntryStreamRoutes,
    MatchRecordRoutes,
    ChallengeRoutes,
    PlayerRoutes,
    WorkerRoutes,
    ProjectionRoutes,
    RetryRoutes,
    OperationRoutes,
    AuditRoutes,
);

impl ReadApi {
    /// To be called on the runtime that serves: it starts the task that wakes the readers of streams.
    pub fn new(
        log: Log,
        clock: Clock,
        models: ReadModels,
        metrics: PrometheusHandle,
        server: Server,
        shutdown: Shutdown,
    ) -> Arc<Self> {
        let pulses = Pulses::start(models.matching_summary().changes(), log.clone());
        Arc::new(Self {
            log,
            clock,
            models,
            metrics,
            server,
            shutdown,
            pulses,
            past: Past::default(),
            glances: Glances::default(),
        })
    }

    /// Whether every caller has every role, because the server has no keys.
    pub fn is_open(&self) -> bool {
        self.server.access == Access::Open
    }

    /// The routes of the OpenAPI document.
    pub fn routes(self: &Arc<Self>) -> Routes {
        let api = || Arc::clone(self);
        (
            JobRoutes { api: api() },
            AnalysisRoutes { api: api() },
            HistoryRoutes { api: api() },
            MatchingRoutes { api: api() },
            StreamRoutes { api: api() },
            QueueRoutes { api: api() },
            EntryStreamRoutes { api: api() },
            MatchRecordRoutes { api: api() },
            ChallengeRoutes { api: api() },
            PlayerRoutes { api: api() },
            WorkerRoutes { api: api() },
            ProjectionRoutes { api: api() },
            RetryRoutes { api: api() },
            OperationRoutes { api: api() },
            AuditRoutes { api: api() },
        )
    }

    /// Adds to the root's routes what no OpenAPI document can describe: `/`, the console's files and the WebSocket. See [`RAW_PATHS`].
    ///
    /// The OpenAPI service may be nested at `/` in `routes`: poem would then give it `/` as well, so this endpoint looks
    /// first.
    pub fn mount(self: &Arc<Self>, routes: Route) -> Front {
        let routes = routes
            .at("/console/:file", get(console::file))
            .at("/jobs/:job_id/matching/ws", get(Socket { api: Arc::clone(self) }));
        Front { api: Arc::clone(self), routes }
    }
}

/// The paths of [`ReadApi::mount`], all for GET, as [`web::routes::Routes::with`] takes them.
pub const RAW_PATHS: [&str; 3] = ["/", "/console/{file}", "/jobs/{job_id}/matching/ws"];

#[cfg(test)]
mod tests;
