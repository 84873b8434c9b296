//! Projections: folds of the log, stored as read models that can be deleted and rebuilt.
//!
//! Start with [`projection`], the contract of a projection, then read one of them, for example [`job`], then the runner
//! that drives them all. A process holds [`ReadModels`]. This crate knows no callers, no protocol and no permissions,
//! and it makes no decisions: deciders read the log.

pub mod challenge;
mod checkpoint;
pub mod cutout;
pub mod experiment;
pub mod export;
mod feed;
mod follower;
pub mod game_match;
mod generation;
pub mod image_match;
pub mod job;
mod live_thread;
pub mod matching_summary;
pub mod merchandising;
pub mod player;
pub mod product;
mod projection;
pub mod queue;
mod registry;
mod replica;
pub mod retry;
mod row;
mod rows;
pub mod search;
pub mod served_list;
mod sql;
mod sql_target;
mod starter;
pub mod status;
mod store;
#[cfg(test)]
pub(crate) mod tests;
pub mod text_encoder;
pub mod user;
pub mod what_if;
pub mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use event_log::clock::Clock;
use event_log::{EventLog, Log};
use event_schemas::ids::Position;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use generation::{QueryError, StillBehind};
pub use registry::NoSuchProjection;
pub use sql::SqlError;
pub use sql::lease::{Standby, WriterLease};
pub use sql::postgres::PostgresUrl;
pub use store::{ReadStore, StoreError};

use feed::Feed;
use follower::Control;
use live_thread::LiveThread;
use search::ProductSearch;
pub use search::encoding::EncoderStatus;
pub use search::graphs::{VectorIndexState, VectorIndexStatus, VectorsOf};
use starter::{RunnerHandle, RunnerStarter};
use status::ProjectionStatus;
use store::OpenStore;
pub use text_encoder::TextEncoder;

registry::read_models! {
    // Variant         name                 projection                           queries
    Challenges      = "challenges":       challenge::ChallengeRows        => challenges: Challenges { slot, log, clock },
    Cutouts         = "cutouts":          cutout::CutoutRows              => cutouts: Cutouts { slot },
    Experiments     = "experiments":      experiment::ExperimentRows      => experiments: Experiments { slot },
    Jobs            = "jobs":             job::JobRows                    => jobs: Jobs { slot, clock },
    GameMatches     = "match_records":    game_match::GameMatchRows       => game_matches: GameMatches { slot, log },
    ImageMatches    = "matches":          image_match::ImageMatchRows     => image_matches: ImageMatches { slot },
    MatchingSummary = "matching_summary": matching_summary::SummaryRows   => matching_summary: MatchingSummary { slot, shared, controls, log, clock; image_matches },
    MerchandisingRules = "merchandising_rules": merchandising::RuleRows  => merchandising_rules: MerchandisingRules { slot },
    Players         = "players":          player::PlayerRows              => players: Players { slot },
    Products        = "products":         product::ProductRows            => products: Products { slot },
    Queues          = "queues":           queue::QueueRows                => queues: Queues { slot, shared, clock },
    Retries         = "retries":          retry::RetryRows                => retries: Retries { slot },
    ServedLists     = "served_lists":     served_list::ServedListRows     => served_lists: ServedLists { slot },
    Users           = "users":            user::UserRows                  => users: Users { slot, clock, shared },
    Workers         = "workers":          worker::WorkerRows              => workers: Workers { slot },
    ; in memory: Search = "search"
}

/// The longest time for which a writer waits for the read models.
const SLOWED_FOR_MAX: Duration = Duration::from_secs(1);
/// The time that all runners together have for a shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// The settings of the read models.
#[derive(Clone, Debug)]
pub struct Settings {
    pub store: ReadStore,
    /// Another server maintains the read models in the same database, and this one only reads them.
    pub read_only: bool,
    /// The memory for answers to searches and for lists that are kept.
    pub answer_cache_bytes: usize,
    /// The folder in which vector indexes and computed vectors are kept for the next start, of this process alone; none if they are
    /// not kept.
    pub vectors: Option<PathBuf>,
    /// The encoder of texts; only the built-in one if absent.
    pub encoder: Option<TextEncoder>,
    /// How interactions and co-visits count.
    pub recommend: domain::recommend::settings::Settings,
}

/// Why the read models could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the read model {name} cannot be opened: {source}")]
pub struct OpenError {
    pub name: Name,
    pub source: StoreError,
}

/// A request to a projection failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("the projection {0} is not running; restart the server")]
    NotRunning(Name),
    #[error("this server only reads the read models; send the request to the one that maintains them")]
    ReadOnly,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A read model cannot be read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the read model {name} is being built and is at position {at} of {head}")]
pub struct NotReady {
    pub name: Name,
    pub at: Position,
    pub head: Position,
}

/// All read models of the process: their queries, and the tasks that maintain them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReadModels(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    log: Log,
    clock: Clock,
    queries: Queries,
    search: ProductSearch,
    runners: BTreeMap<Name, RunnerHandle>,
    feed: Feed,
    feed_task: JoinHandle<()>,
    read_only: bool,
}

impl ReadModels {
    /// Opens all read models and starts to follow the log. A read model whose rows are missing, damaged, or of another
    /// log or revision is rebuilt. Returns before they have caught up: see [`ReadModels::ready`].
    ///
    /// # Errors
    /// [`OpenError`] if the store cannot be used.
    pub fn open(settings: Settings, log: Log, clock: Clock) -> BoxFuture<'static, Result<Self, OpenError>> {
        // Boxed, so that the crate that opens the read models does not compile all their runners again.
        Self::start(settings, log, clock).boxed()
    }

    async fn start(settings: Settings, log: Log, clock: Clock) -> Result<Self, OpenError> {
        metrics::counter!(matching_summary::REPAIRS).increment(0);
        for name in Name::NAMES {
            metrics::counter!(store::DAMAGE, "projection" => name).increment(0);
        }
        let head = *log.head().borrow();
        let thread = LiveThread::start()
            .map_err(|error| OpenError { name: Name::ALL[0], source: StoreError::Thread(error) })?;
        let (feed, feed_task) = Feed::start(log.clone(), head, &thread);
        let read_only = settings.read_only;
        let store = OpenStore::new(&settings.store);
        let recommend = settings.recommend;
        let starter = RunnerStarter { store, log, clock, feed, thread, read_only, recommend };
        let (queries, mut runners) = starter.start_all().await?;
        let (search, runner) =
            starter.start_search(settings.encoder, settings.vectors, settings.answer_cache_bytes).await?;
        runners.insert(Name::Search, runner);
        let RunnerStarter { log, clock, feed, .. } = starter;
        Ok(Self(Arc::new(Inner { log, clock, queries, search, runners, feed, feed_task, read_only })))
    }

    /// The queries of `search`.
    pub fn search(&self) -> &ProductSearch {
        &self.0.search
    }

    /// The status of each read model, by name.
    pub fn status(&self) -> Vec<ProjectionStatus> {
        let (head, now) = (*self.0.log.head().borrow(), self.0.clock.now());
        let status: Vec<ProjectionStatus> =
            self.0.runners.values().map(|runner| runner.tracker.status(&self.0.feed, head, now)).collect();
        for projection in &status {
            metrics::gauge!("matchbook_projection_lag_seconds", "projection" => projection.name.clone())
                .set(projection.lag_seconds);
        }
        status
    }

    /// Checks that every read model with rows can be read; the search index is built after each start. One that has stopped
    /// at an event still can: see its status.
    ///
    /// # Errors
    /// [`NotReady`] names the first one that is still being built for the first time.
    pub fn ready(&self) -> Result<(), NotReady> {
        let head = *self.0.log.head().borrow();
        for (name, runner) in &self.0.runners {
            if *name != Name::Search && !runner.tracker.is_published() {
                return Err(NotReady { name: *name, at: runner.tracker.position(), head });
            }
        }
        Ok(())
    }

    /// Reports whether the read model has a complete generation.
    pub fn can_be_read(&self, name: Name) -> bool {
        self.0.runners.get(&name).is_some_and(|runner| runner.tracker.is_published())
    }

    /// Waits until the named read models reflect everything up to `position`.
    ///
    /// # Errors
    /// [`StillBehind`] names one that did not reach the position within `timeout`.
    pub async fn wait_for(
        &self,
        names: &[Name],
        position: Position,
        timeout: Duration,
    ) -> Result<(), StillBehind> {
        // A position beyond the head must not end the gathering of later events.
        self.0.feed.want(position.min(*self.0.log.head().borrow()));
        // One deadline for all of them.
        let deadline = tokio::time::Instant::now() + timeout;
        for name in names {
            let Some(runner) = self.0.runners.get(name) else { continue };
            let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
            generation::wait_for(*name, &mut runner.position.clone(), position, remaining).await?;
        }
        Ok(())
    }

    /// Waits until no live read model is more than `lag_max` events behind the head, at most for a short time: a writer
    /// that calls it before each write is slowed down to the speed of the read models, but is not stopped by one that
    /// makes no progress.
    pub async fn slow_down(&self, lag_max: u64) {
        let oldest = Position(self.0.log.head().borrow().0.saturating_sub(lag_max));
        let all = async {
            for runner in self.0.runners.values().filter(|runner| runner.tracker.is_live()) {
                // An error means that the runner has ended, so it will not move.
                let _ = runner.position.clone().wait_for(|at| at.is_none_or(|at| at >= oldest)).await;
            }
        };
        let _ = tokio::time::timeout(SLOWED_FOR_MAX, all).await;
    }

    /// Starts to rebuild the read model alongside the live generation (blue/green), and returns the number of the new
    /// generation. A rebuild in progress continues, and its number is returned.
    ///
    /// # Errors
    /// [`ControlError`] if no new generation can be created.
    pub async fn rebuild(&self, name: Name) -> Result<u64, ControlError> {
        Ok(self.control(name, Control::Rebuild).await??)
    }

    /// Pauses the projection. The read model can still be read.
    ///
    /// # Errors
    /// [`ControlError::NotRunning`] if its task has ended.
    pub async fn pause(&self, name: Name) -> Result<(), ControlError> {
        self.control(name, Control::Pause).await
    }

    /// Resumes the projection after a pause, or retries the event or the file at which it stopped.
    ///
    /// # Errors
    /// [`ControlError::NotRunning`] if its task has ended.
    pub async fn resume(&self, name: Name) -> Result<(), ControlError> {
        self.control(name, Control::Resume).await
    }

    async fn control<T>(
        &self,
        name: Name,
        control: impl FnOnce(oneshot::Sender<T>) -> Control,
    ) -> Result<T, ControlError> {
        if self.0.read_only {
            return Err(ControlError::ReadOnly);
        }
        self.send_control(name, control).await
    }

    async fn send_control<T>(
        &self,
        name: Name,
        control: impl FnOnce(oneshot::Sender<T>) -> Control,
    ) -> Result<T, ControlError> {
        let not_running = || ControlError::NotRunning(name);
        let runner = self.0.runners.get(&name).ok_or_else(not_running)?;
        let (reply, response) = oneshot::channel();
        runner.controls.send(control(reply)).await.map_err(|_| not_running())?;
        response.await.map_err(|_| not_running())
    }

    /// Stores everything and closes the files, within a few seconds. What was not stored in time is replayed from the
    /// log at the next start.
    pub async fn shutdown(&self) {
        let all = async {
            let shutdowns: Vec<_> = Name::ALL.map(|name| self.send_control(name, Control::Shutdown)).into();
            let results = futures_util::future::join_all(shutdowns).await;
            for (name, result) in Name::ALL.into_iter().zip(results) {
                if let Err(error) = result {
                    tracing::warn!(projection = %name, %error, "a projection had already ended before the shutdown");
                }
            }
        };
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, all).await.is_err() {
            tracing::warn!("not all read models were stored in time; the next start replays the rest");
        }
        self.0.feed_task.abort();
        for runner in self.0.runners.values() {
            let task = runner.task.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(task) = task {
                task.abort();
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.feed_task.abort();
    }
}
