//! The write side: every change is a command that records events in the log.
//!
//! Four systems, [`jobs`], [`matchmaking`], [`catalogue`] and [`subjects`], share one [`engine`], and know nothing of each other. `cutout_sync` and `trained_models` join two of them. A command comes from
//! a write route or from a background process of a system. Both call [`Streams::execute`](engine::execute::Streams::execute):
//! load, decide, append. Start reading there, then at [`jobs::scheduler`], which assigns work to workers.
//!
//! This crate does not use read models: it decides from the log alone, and can rebuild its in-memory state from the
//! log.

pub mod catalogue;
pub mod cutout_sync;
pub mod engine;
pub mod exports;
pub mod jobs;
pub mod matchmaking;
mod processes;
#[cfg(test)]
mod soak;
pub mod subjects;
mod trained_models;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::breaker::CircuitState;
use domain::lease::LeaseTerms;
use domain::user::ComputedList;
use event_log::Log;
use event_log::clock::{Clock, Ids};
use event_schemas::envelope::Idempotency;
use event_schemas::ids::{ListId, Position, Tenant, UserId, WorkerId};
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkKind;
use serde_json::Value;
use tokio::task::JoinHandle;
use vault::Vault;
use web::caller::Caller;
use web::problem::Problem;
use web::request::TraceParent;
use web::routes::RouteLimits;

use catalogue::Catalogue;
use cutout_sync::CutoutSync;
use cutout_sync::upstream::CutoutUpstream;
use engine::Engine;
use engine::execute::StateCacheLimits;
use jobs::Jobs;
use jobs::scheduler::WorkBoardStatus;
use jobs::server_work::{self, ServerJob, WorkFailure};
use matchmaking::Matchmaking;
use matchmaking::game_service::{GameBackend, GameServiceClient};
use matchmaking::live_game::LiveGame;
use matchmaking::rating_service::RatingService;
use matchmaking::ratings::Ratings;
use subjects::Subjects;
use trained_models::TrainedModels;

/// The time for the snapshots at the end.
const SNAPSHOTS_WITHIN: Duration = Duration::from_secs(10);

/// The time that the server's own jobs have to give back their work at the end.
const WORK_ENDS_WITHIN: Duration = Duration::from_secs(2);

/// The settings of the write side.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The term of a lease, and the time after which a silent worker counts as lost.
    pub leases: LeaseTerms,
    /// The bounds of the cached states.
    pub state_cache: StateCacheLimits,
    /// The most video analyses that a tenant may have in progress.
    pub analyses_max: usize,
    /// True if this process runs the matchmaker; otherwise another process on the same log does.
    pub run_matchmaker: bool,
    /// The folder of the snapshots from which a start continues; none to read the whole log.
    pub snapshots: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            leases: LeaseTerms::default(),
            state_cache: StateCacheLimits::default(),
            analyses_max: 100,
            run_matchmaker: true,
            snapshots: None,
        }
    }
}

/// The external services that the server calls. Each is optional.
#[derive(Clone, Debug, Default)]
pub struct ExternalServices {
    /// Creates the games; without it matches have no game.
    pub games: Option<LiveGame>,
    /// Provides players' ratings; without it ratings come from their results.
    pub ratings: Option<RatingService>,
    /// Provides cutouts; without it they come by push only.
    pub cutouts: Option<CutoutUpstream>,
}

/// The write routes of all systems, for one OpenAPI document together with the read routes.
pub type Routes = (
    jobs::routes::Routes,
    matchmaking::routes::Routes,
    catalogue::routes::Routes,
    cutout_sync::routes::Routes,
    subjects::routes::Routes,
    exports::ExportCommands,
);

/// The paths with limits of their own, because they accept batches or wait.
pub fn route_limits() -> impl Iterator<Item = (&'static str, RouteLimits)> {
    jobs::routes::LIMITS.into_iter().chain(matchmaking::routes::LIMITS).chain(catalogue::routes::LIMITS)
}

/// The write side: its systems, and the tasks of their processes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Commands {
    jobs: Arc<Jobs>,
    matchmaking: Arc<Matchmaking>,
    catalogue: Arc<Catalogue>,
    subjects: Arc<Subjects>,
    cutout_sync: CutoutSync,
    trained_models: TrainedModels,
    run_matchmaker: bool,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
    /// The tasks that perform jobs of the server; they end when the board closes.
    working: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Commands {
    /// The write side of a log. No background process runs before [`Self::start`].
    pub fn open(
        settings: Settings,
        log: Log,
        clock: Clock,
        ids: Ids,
        vault: Vault,
        external: ExternalServices,
    ) -> Self {
        let backend = match external.games {
            Some(client) => GameBackend::Service { client, vault: vault.clone() },
            None => GameBackend::None,
        };
        let game_service = GameServiceClient::new(backend, clock.clone());
        let ratings = Ratings::new(external.ratings, clock.clone());
        let engine = Engine::new(log, clock, ids, vault, settings.state_cache);
        let engine = Arc::new(engine.with_snapshots(settings.snapshots));
        let jobs = Arc::new(Jobs::new(engine.clone(), settings.leases, settings.analyses_max));
        let catalogue = Arc::new(Catalogue::new(engine.clone()));
        Self {
            cutout_sync: CutoutSync::new(jobs.clone(), catalogue.clone(), external.cutouts),
            trained_models: TrainedModels::new(jobs.clone(), catalogue.clone()),
            jobs,
            catalogue,
            subjects: Arc::new(Subjects::new(engine.clone())),
            matchmaking: Arc::new(Matchmaking::new(engine, game_service, ratings)),
            run_matchmaker: settings.run_matchmaker,
            tasks: Arc::default(),
            working: Arc::default(),
        }
    }

    /// Starts the work board, matchmaking and the processes. Called once, within a tokio runtime.
    ///
    /// Aborting a process loses nothing: it has no state that its restart would not find in the log.
    pub fn start(&self) {
        let mut running = locked(&self.tasks);
        running.extend(processes::of_jobs(&self.jobs).map(tokio::spawn));
        running.push(tokio::spawn(processes::of_subjects(&self.subjects)));
        running.push(tokio::spawn(self.trained_models.clone().run()));
        if self.run_matchmaker {
            running.extend(processes::of_matchmaking(&self.matchmaking).map(tokio::spawn));
        }
        drop(running);
        if let Some(work) = self.cutout_sync.work() {
            self.perform(WorkKind::CutoutSync, work);
        }
    }

    /// Performs the jobs of a kind of the server in this process, of each tenant at most one at a time, until
    /// [`Self::shutdown`]. Called once for each such kind, after [`Self::start`].
    pub fn perform<Perform, Performing>(&self, kind: WorkKind, perform: Perform)
    where
        Perform: Fn(ServerJob) -> Performing + Send + Sync + 'static,
        Performing: Future<Output = Result<Value, WorkFailure>> + Send + 'static,
    {
        let task = tokio::spawn(server_work::run(self.jobs.clone(), kind, perform));
        locked(&self.working).push(task);
    }

    /// Stops the processes after a snapshot of their folds, and cancels waiting claims. Commands in progress are not
    /// touched.
    pub async fn shutdown(&self) {
        self.jobs.board.close();
        let working: Vec<_> = locked(&self.working).drain(..).collect();
        for mut task in working {
            // A log that hangs does not stop the shutdown: the lease expires later.
            if tokio::time::timeout(WORK_ENDS_WITHIN, &mut task).await.is_err() {
                task.abort();
            }
        }
        let tasks: Vec<_> = locked(&self.tasks).drain(..).collect();
        if !tasks.is_empty() {
            let snapshots = async {
                self.jobs.snapshots.request().await;
                if self.run_matchmaker {
                    self.matchmaking.snapshots.request().await;
                }
            };
            // Snapshots only save time at the next start, so a disk that hangs does not stop the shutdown.
            let _ = tokio::time::timeout(SNAPSHOTS_WITHIN, snapshots).await;
        }
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
    }

    /// True if work can be claimed. Commands that do not need the board are accepted earlier.
    pub fn is_ready(&self) -> bool {
        self.jobs.board.is_ready()
    }

    /// Waits until work can be claimed. False if it never will be.
    pub async fn ready(&self) -> bool {
        self.jobs.board.ready().await
    }

    /// The status of the work board, for `/status`.
    pub fn status(&self) -> WorkBoardStatus {
        self.jobs.board.status()
    }

    /// The latest sign of life of a worker; none for one that is not present.
    pub fn last_seen(&self, tenant: &Tenant, worker_id: &WorkerId) -> Option<Timestamp> {
        self.jobs.board.last_seen(tenant, worker_id)
    }

    /// The status of matchmaking, for `/status`.
    pub fn matchmaking(&self) -> matchmaking::Status {
        matchmaking::Status { is_elsewhere: !self.run_matchmaker, ..self.matchmaking.status() }
    }

    /// The external services by name, with the state of the tenant's circuit breaker and the number of times in a row that
    /// it opened.
    pub fn services(&self, tenant: &Tenant) -> Vec<(&'static str, CircuitState, u32)> {
        let of_jobs = self.jobs.board.services(tenant).into_iter();
        let of_jobs = of_jobs.map(|(service, state, openings)| (service.into_str(), state, openings));
        of_jobs.chain(self.matchmaking.services(tenant)).chain(self.cutout_sync.services(tenant)).collect()
    }

    /// Records that lists of products are handed out to users. Returns their ids, the position of the last one, and whether
    /// an earlier request with the same key recorded them.
    ///
    /// # Errors
    /// If one of them could not be recorded: then none may be handed out.
    pub async fn record_lists(
        &self,
        caller: &Caller,
        trace: TraceParent,
        idempotency: Option<Idempotency>,
        lists: Vec<(UserId, ComputedList)>,
    ) -> Result<(Vec<ListId>, Position, bool), Problem> {
        self.catalogue.record_lists(caller, trace, idempotency, lists).await
    }

    /// The write routes over these commands.
    pub fn routes(&self) -> Routes {
        (
            jobs::routes::routes(&self.jobs, &self.trained_models),
            matchmaking::routes::routes(&self.matchmaking),
            catalogue::routes::routes(&self.catalogue),
            cutout_sync::routes::routes(&self.cutout_sync),
            subjects::routes::routes(&self.subjects),
            exports::ExportCommands { jobs: self.jobs.clone(), catalogue: self.catalogue.clone() },
        )
    }
}

fn locked(tasks: &Mutex<Vec<JoinHandle<()>>>) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
    // A list of handles stays valid whatever happened to its last user.
    tasks.lock().unwrap_or_else(PoisonError::into_inner)
}
