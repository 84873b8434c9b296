//! The write side: whatever changes something goes through here, and comes out as events in the log.
//!
//! A command is a call to one of the [`routes`], or what a [`process`] does by itself. Either way it becomes
//! [`Streams::execute`](execute::Streams::execute): load, decide, append. Start reading there, then at [`work`], which is
//! how work finds its worker.
//!
//! This crate refuses to know read models: it decides from the log alone, and what it keeps in memory it can fold anew.

mod cause;
pub mod claim;
pub mod client;
pub mod execute;
pub mod idempotency;
pub mod matchmaking;
pub mod process;
mod refusal;
pub mod routes;
#[cfg(test)]
mod soak;
pub mod vault;
pub mod work;

use futures_util::FutureExt;
use std::sync::{Arc, Mutex, PoisonError};

use domain::breaker::Phase;
use domain::job::{Job, Standing};
use domain::lease::LeaseTerms;
use domain::matching::Matching;
use domain::matching::found::Matches;
use domain::worker::Worker;
use event_log::clock::{Clock, Ids};
use event_log::{EventLog, Log};
use event_schemas::ids::{JobId, Position, Tenant};
use event_schemas::job::JobKind;
use event_schemas::stream::StreamId;
use tokio::task::JoinHandle;
use web::problem::Problem;

use client::live_game::LiveGame;
use client::rating_service::RatingService;
use execute::Streams;
use idempotency::KeyLocks;
use matchmaking::Matchmaking;
use matchmaking::games::{Desk, Maker};
use matchmaking::ratings::Ratings;
use vault::Vault;
use work::{Board, BoardStatus};

/// What can be set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a lease runs, and how long a worker may be silent before it counts as lost.
    pub leases: LeaseTerms,
    /// How many folded events' worth of states stay in memory, for each consistency boundary.
    pub cached_events_max: usize,
    /// How many analyses of videos a tenant may have under way.
    pub analyses_max: usize,
    /// Whether players are put together here; otherwise another process on the same log does it.
    pub puts_together: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            leases: LeaseTerms::default(),
            cached_events_max: 2_000_000,
            analyses_max: 100,
            puts_together: true,
        }
    }
}

/// The services that are not ours and that matchmaking asks. Each may be missing.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// Makes the games; without it matches are made and carry no game.
    pub games: Option<LiveGame>,
    /// Knows how strong players are; without it their own results say so.
    pub ratings: Option<RatingService>,
}

/// The write side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Commands(Arc<Parts>);

/// A job, as far as commands to its parts need to know it.
#[derive(Clone, Copy, Debug)]
struct JobSeen {
    kind: JobKind,
    standing: Standing,
    /// Of its latest event.
    position: Position,
}

#[derive(Debug)]
struct Parts {
    settings: Settings,
    log: Log,
    clock: Clock,
    ids: Ids,
    vault: Vault,
    jobs: Streams<Job>,
    matchings: Streams<Matching>,
    found: Streams<Matches>,
    workers: Streams<Worker>,
    matchmaking: Matchmaking,
    ratings: Ratings,
    board: Board,
    keys: KeyLocks,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Commands {
    /// The write side of a log. Nothing runs by itself before [`Self::start`].
    pub fn open(
        settings: Settings,
        log: Log,
        clock: Clock,
        ids: Ids,
        vault: Vault,
        outside: Outside,
    ) -> Self {
        let cached = settings.cached_events_max;
        let maker = match outside.games {
            Some(client) => Maker::Service { client, vault: vault.clone() },
            None => Maker::Nobody,
        };
        let desk = Desk::new(maker, clock.clone());
        Self(Arc::new(Parts {
            settings,
            jobs: Streams::new(log.clone(), clock.clone(), cached),
            matchings: Streams::new(log.clone(), clock.clone(), cached),
            found: Streams::new(log.clone(), clock.clone(), cached),
            workers: Streams::new(log.clone(), clock.clone(), cached),
            matchmaking: Matchmaking::new(log.clone(), clock.clone(), cached, desk),
            ratings: Ratings::new(outside.ratings, clock.clone()),
            board: Board::new(clock.clone(), settings.leases.term),
            keys: KeyLocks::default(),
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
            tokio::spawn(process::presence::run(self.clone()).boxed()),
            tokio::spawn(process::retries::run(self.clone()).boxed()),
        ];
        let mut running = self.tasks();
        running.extend(tasks);
        if self.0.settings.puts_together {
            running.extend(self.0.matchmaking.start());
        }
    }

    /// Ends the processes, and sends those home who wait for work. Commands in course are not touched.
    pub async fn shutdown(&self) {
        self.0.board.close();
        let tasks: Vec<_> = self.tasks().drain(..).collect();
        for task in tasks {
            // A process holds nothing that its restart would not find in the log.
            task.abort();
            let _ = task.await;
        }
    }

    /// Whether work can be claimed. Commands that need no board are taken before.
    pub fn is_ready(&self) -> bool {
        self.0.board.is_ready()
    }

    /// Waits until work can be claimed. False if it never will be.
    pub async fn ready(&self) -> bool {
        self.0.board.ready().await
    }

    /// For `/status`.
    pub fn status(&self) -> BoardStatus {
        self.0.board.status()
    }

    /// How matchmaking stands, for `/status`.
    pub fn matchmaking(&self) -> matchmaking::Status {
        let is_elsewhere = !self.0.settings.puts_together;
        matchmaking::Status { is_elsewhere, ..self.0.matchmaking.status() }
    }

    /// The services that are not ours by name: how each stands, and how often it was left alone in a row.
    pub fn services(&self) -> Vec<(&'static str, Phase, u32)> {
        let of_jobs = self.0.board.services().into_iter();
        let of_jobs = of_jobs.map(|(service, phase, openings)| (service.as_str(), phase, openings));
        of_jobs.chain(self.0.matchmaking.services()).chain(self.0.ratings.standing()).collect()
    }

    /// How the job stands.
    ///
    /// # Errors
    /// 404 if there is no such job, or it is another tenant's.
    async fn job(&self, tenant: &Tenant, job: JobId) -> Result<JobSeen, Problem> {
        let look = |folded: &execute::Folded<Job>| {
            let life = folded.state.life().filter(|_| folded.tenant() == Some(tenant))?;
            let standing = folded.state.standing();
            Some(JobSeen { kind: life.kind(), standing, position: folded.position() })
        };
        let seen = self.0.jobs.look(&StreamId::job(job), look).await.map_err(refusal::unreadable)?;
        seen.ok_or_else(refusal::no_such_job)
    }

    /// Everything that is in the log by now.
    fn head(&self) -> Position {
        *self.0.log.head().borrow()
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        // A list of handles is whole whatever happened to its last user.
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
