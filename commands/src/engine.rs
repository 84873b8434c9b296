//! The engine that all systems share: it executes commands on streams, and records who sent them.

pub(crate) mod answers;
pub(crate) mod batch_parts;
pub(crate) mod circuit_breaker;
pub(crate) mod command_context;
pub mod execute;
pub(crate) mod execution;
pub(crate) mod http;
pub mod idempotency;
pub(crate) mod problem;
pub(crate) mod snapshot;
pub(crate) mod write_request;

use std::path::PathBuf;

use domain::decider::Decider;
use event_log::clock::{Clock, Ids};
use event_log::{EventLog, Log};
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;
use vault::{Subject, Vault};
use web::caller::Caller;
use web::problem::Problem;

use execute::{StateCache, StateCacheLimits, Streams};
use idempotency::KeyLocks;
use snapshot::Snapshots;

/// The log, the clock and the callers' subjects.
#[derive(Debug)]
pub struct Engine {
    pub(crate) log: Log,
    pub(crate) clock: Clock,
    pub(crate) ids: Ids,
    pub(crate) vault: Vault,
    pub(crate) key_locks: KeyLocks,
    states: StateCache,
    snapshot_folder: Option<PathBuf>,
}

impl Engine {
    /// An engine on a log, with a cache of states of all streams, and without snapshots.
    pub(crate) fn new(log: Log, clock: Clock, ids: Ids, vault: Vault, limits: StateCacheLimits) -> Self {
        Self {
            log,
            clock,
            ids,
            vault,
            key_locks: KeyLocks::default(),
            states: StateCache::new(limits),
            snapshot_folder: None,
        }
    }

    /// With snapshots of the folds in this folder.
    pub(crate) fn with_snapshots(self, folder: Option<PathBuf>) -> Self {
        Self { snapshot_folder: folder, ..self }
    }

    /// The snapshots of the fold with this name.
    pub(crate) fn snapshots(&self, name: &str) -> Snapshots {
        let file = self.snapshot_folder.as_ref().map(|folder| folder.join(format!("{name}.snapshot")));
        Snapshots::new(file, self.log.clone())
    }

    /// The streams of one consistency boundary.
    pub(crate) fn streams<D>(&self) -> Streams<D>
    where
        D: Decider,
    {
        Streams::over(self.log.clone(), self.clock.clone(), self.states.clone())
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The position of the newest event in the log.
    pub(crate) fn head(&self) -> Position {
        *self.log.head().borrow()
    }

    /// The subject of the caller.
    ///
    /// # Errors
    /// 403 for credentials without a user; an error of the vault.
    pub(crate) async fn subject(&self, caller: &Caller) -> Result<Subject, Problem> {
        let subject = self.vault.subject(&caller.tenant, caller.user()?).await;
        subject.map_err(|error| problem::from_vault_error(&error))
    }
}

#[cfg(test)]
impl Engine {
    /// An engine for simulations, whose vault no task uses, so that none waits for the vault's thread.
    pub(crate) fn simulated(log: Log, clock: Clock, ids: Ids) -> Self {
        static VAULT: std::sync::LazyLock<(tokio::runtime::Runtime, Vault)> =
            std::sync::LazyLock::new(|| {
                // On a thread of its own, because a test's thread may run a runtime already.
                let open = std::thread::spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    let vault = runtime.block_on(Vault::in_memory()).unwrap();
                    (runtime, vault)
                });
                open.join().unwrap()
            });
        Self::new(log, clock, ids, VAULT.1.clone(), StateCacheLimits::default())
    }
}
