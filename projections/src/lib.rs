//! The read side's making: folds of the log, stored as rows that can be thrown away and made again.
//!
//! Start reading at [`projection`], the contract of a read model, then at one of them, say [`job`], then at the runner
//! that drives them all. [`ReadModels`] is what a process holds. This crate refuses to know who asks, over what, and
//! whether they may; and it decides nothing: whoever decides reads the log.

pub mod challenge;
mod checkpoint;
mod feed;
pub mod found_match;
mod generation;
pub mod job;
mod kept;
pub mod match_record;
pub mod matching_summary;
pub mod player;
mod projection;
pub mod queue;
mod rebuild;
pub mod retry;
mod row;
mod runner;
mod sql;
pub mod status;
#[cfg(test)]
mod tests;
pub mod worker;
mod writer;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use event_log::clock::Clock;
use event_log::{EventLog, Log};
use event_schemas::ids::Position;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use generation::{QueryError, StillBehind};
pub use projection::{Name, NoSuchProjection};
pub use rebuild::{FilesError, delete_files};
pub use sql::SqlError;

use challenge::{ChallengeRows, Challenges};
use feed::Feed;
use found_match::{FoundMatches, Matches};
use generation::Slot;
use job::{JobRows, Jobs};
use match_record::{MatchRecordRows, MatchRecords};
use matching_summary::{Announcements, MatchingSummary, Summaries};
use player::{PlayerRows, Players};
use projection::Projection;
use queue::{QueueRows, Queues};
use rebuild::Files;
use retry::{Retries, RetryRows};
use runner::{Control, Parts, Runner};
use status::{Board, Doing, ProjectionStatus, Stop};
use worker::{WorkerRows, Workers};

/// How many requests of an operator wait for a runner.
const CONTROLS_MAX: usize = 16;
/// How long the end of all runners is waited for.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(5);

/// Where the read models live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The folder of their files. It is made if it is not there.
    pub folder: PathBuf,
}

/// Why the read models could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the read model {name} cannot be opened: {source}")]
pub struct OpenError {
    pub name: Name,
    pub source: FilesError,
}

/// A projection did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("the projection {0} does not run any more; restart the server")]
    Gone(Name),
    #[error(transparent)]
    Files(#[from] FilesError),
}

/// Why the read models do not answer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the read model {name} is being built and is at position {at} of {head}")]
pub struct NotReady {
    pub name: Name,
    pub at: Position,
    pub head: Position,
}

/// All read models of the process: their questions, and the tasks that keep them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReadModels(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    log: Log,
    clock: Clock,
    jobs: Jobs,
    matches: Matches,
    workers: Workers,
    queues: Queues,
    retries: Retries,
    match_records: MatchRecords,
    challenges: Challenges,
    players: Players,
    matching_summary: MatchingSummary,
    handles: BTreeMap<Name, Handle>,
    feed: Feed,
    feed_task: JoinHandle<()>,
}

/// How a runner is reached.
#[derive(Debug)]
struct Handle {
    controls: mpsc::Sender<Control>,
    board: Arc<Board>,
    position: watch::Receiver<Option<Position>>,
    /// Taken by whoever waits for the end.
    task: Mutex<Option<JoinHandle<()>>>,
}

impl ReadModels {
    /// Opens all read models, makes those anew whose files are missing, damaged, or of another log or revision, and
    /// starts to follow the log. Returns before they have caught up: see [`ReadModels::ready`].
    ///
    /// # Errors
    /// [`OpenError`] if the folder or a file cannot be used.
    pub fn open(settings: Settings, log: Log, clock: Clock) -> BoxFuture<'static, Result<Self, OpenError>> {
        // Boxed, so that the crate that opens the read models does not compile all their runners again.
        Self::start(settings, log, clock).boxed()
    }

    async fn start(settings: Settings, log: Log, clock: Clock) -> Result<Self, OpenError> {
        metrics::counter!(matching_summary::REPAIRS).increment(0);
        let head = *log.head().borrow();
        let (feed, feed_task) = Feed::start(log.clone(), head);
        let start = Start { settings, log, clock, feed };
        let announcements = Announcements::default();
        let (jobs, jobs_handle, _) = start.projection::<JobRows>(()).await?;
        let (matches, matches_handle, _) = start.projection::<FoundMatches>(()).await?;
        let (workers, workers_handle, _) = start.projection::<WorkerRows>(()).await?;
        let (retries, retries_handle, _) = start.projection::<RetryRows>(()).await?;
        let waiting = queue::Announcements::default();
        let (queues, queues_handle, _) = start.projection::<QueueRows>(waiting.clone()).await?;
        let (match_records, match_records_handle, _) = start.projection::<MatchRecordRows>(()).await?;
        let (challenges, challenges_handle, _) = start.projection::<ChallengeRows>(()).await?;
        let (players, players_handle, _) = start.projection::<PlayerRows>(()).await?;
        let (summaries, summaries_handle, requests) =
            start.projection::<Summaries>(announcements.clone()).await?;
        let matches = Matches { slot: matches };
        let handles = BTreeMap::from([
            (Name::Jobs, jobs_handle),
            (Name::Matches, matches_handle),
            (Name::Workers, workers_handle),
            (Name::Queues, queues_handle),
            (Name::Retries, retries_handle),
            (Name::MatchRecords, match_records_handle),
            (Name::Challenges, challenges_handle),
            (Name::Players, players_handle),
            (Name::MatchingSummary, summaries_handle),
        ]);
        let Start { log, clock, feed, .. } = start;
        Ok(Self(Arc::new(Inner {
            jobs: Jobs { slot: jobs, clock: clock.clone() },
            matching_summary: MatchingSummary {
                slot: summaries,
                requests,
                announcements,
                log: log.clone(),
                clock: clock.clone(),
                matches: matches.clone(),
            },
            matches,
            workers: Workers { slot: workers },
            queues: Queues { slot: queues, announcements: waiting, clock: clock.clone() },
            retries: Retries { slot: retries },
            match_records: MatchRecords { slot: match_records },
            challenges: Challenges { slot: challenges, clock: clock.clone() },
            players: Players { slot: players },
            log,
            clock,
            handles,
            feed,
            feed_task,
        })))
    }

    pub fn jobs(&self) -> &Jobs {
        &self.0.jobs
    }

    pub fn matches(&self) -> &Matches {
        &self.0.matches
    }

    pub fn workers(&self) -> &Workers {
        &self.0.workers
    }

    pub fn queues(&self) -> &Queues {
        &self.0.queues
    }

    pub fn retries(&self) -> &Retries {
        &self.0.retries
    }

    pub fn match_records(&self) -> &MatchRecords {
        &self.0.match_records
    }

    pub fn challenges(&self) -> &Challenges {
        &self.0.challenges
    }

    pub fn players(&self) -> &Players {
        &self.0.players
    }

    pub fn matching_summary(&self) -> &MatchingSummary {
        &self.0.matching_summary
    }

    /// How each read model is doing, by name.
    pub fn status(&self) -> Vec<ProjectionStatus> {
        let (head, now) = (*self.0.log.head().borrow(), self.0.clock.now());
        let status: Vec<ProjectionStatus> =
            self.0.handles.values().map(|handle| handle.board.status(&self.0.feed, head, now)).collect();
        for projection in &status {
            metrics::gauge!("projection_lag_seconds", "projection" => projection.name)
                .set(projection.lag_seconds);
        }
        status
    }

    /// Whether every read model can be read. One that has stopped at an event still can: see its status.
    ///
    /// # Errors
    /// [`NotReady`] names the first one that is still being built for the first time.
    pub fn ready(&self) -> Result<(), NotReady> {
        let head = *self.0.log.head().borrow();
        for (name, handle) in &self.0.handles {
            if !handle.board.is_published() {
                return Err(NotReady { name: *name, at: handle.board.position(), head });
            }
        }
        Ok(())
    }

    /// Waits until the named read models reflect everything up to `position`.
    ///
    /// # Errors
    /// [`StillBehind`] names one that did not get there within `timeout`.
    pub async fn wait_for(
        &self,
        names: &[Name],
        position: Position,
        timeout: Duration,
    ) -> Result<(), StillBehind> {
        // One deadline for all of them.
        let deadline = tokio::time::Instant::now() + timeout;
        for name in names {
            let Some(handle) = self.0.handles.get(name) else { continue };
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            generation::wait_for(*name, &mut handle.position.clone(), position, left).await?;
        }
        Ok(())
    }

    /// Begins to make the read model anew beside the live one, and answers the number of the new generation. If it is
    /// being made already, that goes on.
    ///
    /// # Errors
    /// [`ControlError`] if no new file can be made.
    pub async fn rebuild(&self, name: Name) -> Result<u64, ControlError> {
        Ok(self.control(name, Control::Rebuild).await??)
    }

    /// Lets the projection rest where it is. Reads go on.
    ///
    /// # Errors
    /// [`ControlError::Gone`] if it does not run any more.
    pub async fn pause(&self, name: Name) -> Result<(), ControlError> {
        self.control(name, Control::Pause).await
    }

    /// Goes on after a pause, or tries again the event or the file at which the projection stopped.
    ///
    /// # Errors
    /// [`ControlError::Gone`] if it does not run any more.
    pub async fn resume(&self, name: Name) -> Result<(), ControlError> {
        self.control(name, Control::Resume).await
    }

    async fn control<T>(
        &self,
        name: Name,
        control: impl FnOnce(oneshot::Sender<T>) -> Control,
    ) -> Result<T, ControlError> {
        let gone = || ControlError::Gone(name);
        let handle = self.0.handles.get(&name).ok_or_else(gone)?;
        let (reply, answer) = oneshot::channel();
        handle.controls.send(control(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// Stores everything and closes the files, within a few seconds. What does not get done is made up for from the
    /// log at the next start.
    pub async fn shutdown(&self) {
        let all = async {
            let asked: Vec<_> = Name::ALL.map(|name| self.control(name, Control::Shutdown)).into();
            for (name, stored) in Name::ALL.into_iter().zip(futures_util::future::join_all(asked).await) {
                if let Err(error) = stored {
                    tracing::warn!(projection = %name, %error, "a projection had ended before");
                }
            }
        };
        if tokio::time::timeout(SHUTDOWN_WITHIN, all).await.is_err() {
            tracing::warn!("not all read models were stored in time; the next start replays the rest");
        }
        self.0.feed_task.abort();
        for handle in self.0.handles.values() {
            let task = handle.task.lock().unwrap_or_else(PoisonError::into_inner).take();
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

/// What all projections start with.
struct Start {
    settings: Settings,
    log: Log,
    clock: Clock,
    feed: Feed,
}

type Started<P> = (Arc<Slot<<P as Projection>::View>>, Handle, mpsc::Sender<<P as Projection>::Request>);

impl Start {
    async fn projection<P: Projection>(&self, shared: P::Shared) -> Result<Started<P>, OpenError> {
        let name = P::NAME;
        let slot = Arc::new(Slot::new(name));
        let board = Arc::new(Board::new(name, P::REVISION, self.clock.now()));
        let parts = Parts {
            files: Files::new(&self.settings.folder, name),
            log: self.log.clone(),
            feed: self.feed.clone(),
            clock: self.clock.clone(),
            shared,
            slot: Arc::clone(&slot),
            board: Arc::clone(&board),
        };
        let runner = Runner::<P>::open(parts).await.map_err(|source| OpenError { name, source })?;
        let (controls, controlled) = mpsc::channel(CONTROLS_MAX);
        let (requests, requested) = mpsc::channel(CONTROLS_MAX);
        let task =
            tokio::spawn(watch_over(runner.run(controlled, requested).boxed(), name, Arc::clone(&board)));
        let handle = Handle { controls, board, position: slot.watch(), task: Mutex::new(Some(task)) };
        Ok((slot, handle, requests))
    }
}

/// A projection that breaks off must be seen to have done so.
async fn watch_over(run: BoxFuture<'static, ()>, name: Name, board: Arc<Board>) {
    let mut run = AbortOnDrop(tokio::spawn(run));
    if let Err(error) = (&mut run.0).await
        && error.is_panic()
    {
        tracing::error!(projection = %name, %error, "a projection broke off");
        board.doing(Doing::Stopped(Stop::of_panic(board.position())));
    }
}

/// The task ends with whoever watches over it.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
