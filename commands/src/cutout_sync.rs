//! Takes over the cutouts of the configured upstream: a job of [`jobs`](crate::jobs), whose work records cutouts of the
//! [`catalogue`](crate::catalogue).

mod item;
pub mod routes;
mod run;
pub mod upstream;

use std::sync::Arc;

use domain::breaker::CircuitState;
use event_log::clock::Clock;
use event_schemas::ids::Tenant;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::catalogue::Catalogue;
use crate::engine::circuit_breaker::CircuitBreakers;
use crate::jobs::Jobs;
use crate::jobs::server_work::{ServerJob, WorkFailure};
use upstream::{CutoutUpstream, PageSource};

/// The name of the upstream in the list of breakers.
const NAME: &str = "cutout_upstream";

/// The work of one job.
type SyncWork = BoxFuture<'static, Result<Value, WorkFailure>>;

/// The upstream behind its circuit breakers.
#[derive(Debug)]
struct Source<S> {
    upstream: S,
    breakers: CircuitBreakers,
}

impl<S: PageSource> Source<S> {
    fn new(upstream: S, clock: Clock) -> Self {
        Self { upstream, breakers: CircuitBreakers::new(clock) }
    }
}

/// The syncs of cutouts. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct CutoutSync {
    jobs: Arc<Jobs>,
    catalogue: Arc<Catalogue>,
    /// None if no upstream is configured.
    source: Option<Arc<Source<CutoutUpstream>>>,
}

impl CutoutSync {
    pub(crate) fn new(jobs: Arc<Jobs>, catalogue: Arc<Catalogue>, upstream: Option<CutoutUpstream>) -> Self {
        let source = upstream.map(|upstream| Arc::new(Source::new(upstream, jobs.engine.clock.clone())));
        Self { jobs, catalogue, source }
    }

    /// The work of a job; none if no upstream is configured.
    pub(crate) fn work(&self) -> Option<impl Fn(ServerJob) -> SyncWork + Send + Sync + 'static> {
        let (catalogue, clock) = (self.catalogue.clone(), self.jobs.engine.clock.clone());
        let source = self.source.clone()?;
        Some(move |job| run::sync(catalogue.clone(), clock.clone(), source.clone(), job).boxed())
    }

    /// The upstream's name, with the state of the tenant's circuit breaker and the number of times in a row that it opened.
    pub(crate) fn services(&self, tenant: &Tenant) -> Option<(&'static str, CircuitState, u32)> {
        let (state, openings) = self.source.as_ref()?.breakers.state(tenant);
        Some((NAME, state, openings))
    }
}
