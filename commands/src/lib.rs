//! The write side: every change is a command that records events in the log.
//!
//! A command comes from one of the [`routes`] or from a background [`process`]. Both call
//! [`Streams::execute`](execute::Streams::execute): load, decide, append. Start reading there, then at [`work`], which
//! assigns work to workers.
//!
//! This crate does not use read models: it decides from the log alone, and can rebuild its in-memory state from the
//! log.

pub mod claim;
pub mod client;
mod command_context;
pub mod execute;
pub mod idempotency;
pub mod matchmaking;
mod problem;
pub mod process;
pub mod routes;
#[cfg(test)]
mod soak;
pub mod work;

use std::sync::{Arc, Mutex, PoisonError};

use domain::breaker::CircuitState;
use domain::image_matching::ImageMatchingDecider;
use domain::image_matching::shard::ImageMatchShardDecider;
use domain::job::{JobAvailability, JobDecider};
use domain::lease::LeaseTerms;
use domain::worker::WorkerDecider;
use event_log::clock::{Clock, Ids};
use event_log::{EventLog, Log};
use event_schemas::ids::{JobId, Position, Tenant};
use event_schemas::job::JobKind;
use event_schemas::stream::StreamId;
use futures_util::FutureExt;
use tokio::task::JoinHandle;
use web::problem::Problem;

use client::live_game::LiveGame;
use client::rating_service::RatingService;
use execute::Streams;
use idempotency::KeyLocks;
use matchmaking::Matchmaking;
use matchmaking::games::{GameBackend, GameServiceClient};
use matchmaking::ratings::Ratings;
use vault::Vault;
use work::{WorkBoard, WorkBoardStatus};

/// The settings of the write side.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The term of a lease, and the time after which a silent worker counts as lost.
    pub leases: LeaseTerms,
    /// The cache size of each consistency boundary, in folded events.
    pub cached_events_max: usize,
    /// The most video analyses that a tenant may have in progress.
    pub analyses_max: usize,
    /// True if this process runs the matchmaker; otherwise another process on the same log does.
    pub run_matchmaker: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            leases: LeaseTerms::default(),
            cached_events_max: 2_000_000,
            analyses_max: 100,
            run_matchmaker: true,
        }
    }
}

/// The external services that matchmaking calls. Each is optional.
#[derive(Clone, Debug, Default)]
pub struct ExternalServices {
    /// Creates the games; without it matches have no game.
    pub games: Option<LiveGame>,
    /// Provides players' ratings; without it ratings come from their results.
    pub ratings: Option<RatingService>,
}

/// The write side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Commands(Arc<Parts>);

/// The facts about a job that commands on its parts need.
#[derive(Clone, Copy, Debug)]
struct JobRef {
    kind: JobKind,
    availability: JobAvailability,
    /// The position of its latest event.
    position: Position,
}

#[derive(Debug)]
struct Parts {
    settings: Settings,
    log: Log,
    clock: Clock,
    ids: Ids,
    vault: Vault,
    jobs: Streams<JobDecider>,
    image_matchings: Streams<ImageMatchingDecider>,
    image_matches: Streams<ImageMatchShardDecider>,
    workers: Streams<WorkerDecider>,
    matchmaking: Matchmaking,
    ratings: Ratings,
    board: WorkBoard,
    key_locks: KeyLocks,
    tasks: Mutex<Vec<JoinHandle<()>>>,
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
        let cached = settings.cached_events_max;
        let backend = match external.games {
            Some(client) => GameBackend::Service { client, vault: vault.clone() },
            None => GameBackend::None,
        };
        let game_service = GameServiceClient::new(backend, clock.clone());
        Self(Arc::new(Parts {
            settings,
            jobs: Streams::new(log.clone(), clock.clone(), cached),
            image_matchings: Streams::new(log.clone(), clock.clone(), cached),
            image_matches: Streams::new(log.clone(), clock.clone(), cached),
            workers: Streams::new(log.clone(), clock.clone(), cached),
            matchmaking: Matchmaking::new(log.clone(), clock.clone(), cached, game_service),
            ratings: Ratings::new(external.ratings, clock.clone()),
            board: WorkBoard::new(clock.clone(), settings.leases.term),
            key_locks: KeyLocks::default(),
            tasks: Mutex::default(),
            log,
            clock,
            ids,
            vault,
        }))
    }

    /// Starts the work board, matchmaking and the processes. Called once, within a tokio runtime.
    pub fn start(&self) {
        let tasks = [
            tokio::spawn(work::follow(self.0.board.clone(), self.0.log.clone()).boxed()),
            tokio::spawn(process::leases::run(self.clone()).boxed()),
            tokio::spawn(process::worker_timeout::run(self.clone()).boxed()),
            tokio::spawn(process::retries::run(self.clone()).boxed()),
        ];
        let mut running = self.tasks();
        running.extend(tasks);
        if self.0.settings.run_matchmaker {
            running.extend(self.0.matchmaking.start());
        }
    }

    /// Stops the processes and cancels waiting claims. Commands in progress are not touched.
    pub async fn shutdown(&self) {
        self.0.board.close();
        let tasks: Vec<_> = self.tasks().drain(..).collect();
        for task in tasks {
            // A process has no state that its restart would not find in the log.
            task.abort();
            let _ = task.await;
        }
    }

    /// True if work can be claimed. Commands that do not need the board are accepted earlier.
    pub fn is_ready(&self) -> bool {
        self.0.board.is_ready()
    }

    /// Waits until work can be claimed. False if it never will be.
    pub async fn ready(&self) -> bool {
        self.0.board.ready().await
    }

    /// The status of the work board, for `/status`.
    pub fn status(&self) -> WorkBoardStatus {
        self.0.board.status()
    }

    /// The status of matchmaking, for `/status`.
    pub fn matchmaking(&self) -> matchmaking::Status {
        let is_elsewhere = !self.0.settings.run_matchmaker;
        matchmaking::Status { is_elsewhere, ..self.0.matchmaking.status() }
    }

    /// The external services by name, with the state of each circuit breaker and the number of times in a row that it
    /// opened.
    pub fn services(&self) -> Vec<(&'static str, CircuitState, u32)> {
        let of_jobs = self.0.board.services().into_iter();
        let of_jobs = of_jobs.map(|(service, state, openings)| (service.into_str(), state, openings));
        of_jobs.chain(self.0.matchmaking.services()).chain(self.0.ratings.breaker_state()).collect()
    }

    /// The facts about a job of the tenant.
    ///
    /// # Errors
    /// 404 if there is no such job, or it is another tenant's.
    async fn job(&self, tenant: &Tenant, job: JobId) -> Result<JobRef, Problem> {
        let project = |stream: &execute::CachedStream<JobDecider>| {
            let details = stream.state.details().filter(|_| stream.tenant() == Some(tenant))?;
            let availability = stream.state.availability();
            Some(JobRef { kind: details.kind(), availability, position: stream.position() })
        };
        let found =
            self.0.jobs.query(&StreamId::job(job), project).await.map_err(problem::from_load_error)?;
        found.ok_or_else(problem::no_such_job)
    }

    /// The position of the newest event in the log.
    fn head(&self) -> Position {
        *self.0.log.head().borrow()
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        // A list of handles stays valid whatever happened to its last user.
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
