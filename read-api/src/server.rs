//! What only the root knows about the running server, and hands over.

use std::fmt;
use std::sync::Arc;

use domain::breaker::Phase;
use domain::matching::blockers::Thresholds;
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

use crate::people::People;

/// Who may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No keys are configured: every caller has every role. Loopback only.
    Open,
    /// Callers show a token or an API key.
    Keys,
}

/// How a part of the server stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether it can do its work.
    pub ready: bool,
    /// How far it has followed the log, if it does.
    pub position: Option<Position>,
    /// A sentence for an operator.
    pub detail: String,
}

/// A part of the server that this crate cannot see, as the board of claimable work: its name, and how it stands now.
#[derive(Clone)]
pub struct Part {
    name: &'static str,
    standing: Arc<dyn Fn() -> Standing + Send + Sync>,
}

impl Part {
    /// `standing` is asked at every `/ready` and `/status`, so it must not wait.
    pub fn new(name: &'static str, standing: impl Fn() -> Standing + Send + Sync + 'static) -> Self {
        Self { name, standing: Arc::new(standing) }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn standing(&self) -> Standing {
        (self.standing)()
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A service that is not ours, as the write side knows it: its name, how it stands, how often it was left alone in a row.
pub type ServiceStanding = (&'static str, Phase, u32);

/// How the services stand that are not ours.
#[derive(Clone)]
pub struct Services(Arc<dyn Fn() -> Vec<ServiceStanding> + Send + Sync>);

impl Services {
    /// `standing` is asked at every `/internal/retries`, so it must not wait.
    pub fn new(standing: impl Fn() -> Vec<ServiceStanding> + Send + Sync + 'static) -> Self {
        Self(Arc::new(standing))
    }

    pub fn standing(&self) -> Vec<ServiceStanding> {
        (self.0)()
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

/// Facts of this run of the server.
#[derive(Clone, Debug)]
pub struct Server {
    pub version: &'static str,
    pub started_at: Timestamp,
    pub access: Access,
    /// Where the log is, as configured: `embedded:./data/events`. Without credentials.
    pub log: String,
    /// Whether anyone may read `/metrics`.
    pub open_metrics: bool,
    pub parts: Vec<Part>,
    pub services: Services,
    pub people: People,
    /// From when on waiting is a blocker of a matching job.
    pub thresholds: Thresholds,
}
