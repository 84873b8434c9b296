//! Starts the task of each read model: a runner, or a replica on a server that only reads.

use std::sync::{Arc, Mutex};

use event_log::Log;
use event_log::clock::Clock;
use event_schemas::ids::Position;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::feed::Feed;
use crate::follower::{Control, Followed, Runner, RunnerContext, TargetStore};
use crate::generation::Slot;
use crate::live_thread::{AbortOnDrop, LiveThread};
use crate::projection::Projection;
use crate::replica::{Replica, ReplicaContext};
use crate::sql_target::SqlTargets;
use crate::status::{Failure, ProjectionState, StatusTracker};
use crate::store::{Generations, OpenStore, Tables};
use crate::{Name, OpenError};

/// The number of requests that a runner's queue holds.
const REQUESTS_MAX: usize = 16;

/// The process's side of a runner.
#[derive(Debug)]
pub(crate) struct RunnerHandle {
    pub(crate) controls: mpsc::Sender<Control>,
    pub(crate) tracker: Arc<StatusTracker>,
    pub(crate) position: watch::Receiver<Option<Position>>,
    /// Empty after a shutdown.
    pub(crate) task: Mutex<Option<JoinHandle<()>>>,
}

/// Starts the runners; holds what all of them share.
pub(crate) struct RunnerStarter {
    pub(crate) store: OpenStore,
    pub(crate) log: Log,
    pub(crate) clock: Clock,
    pub(crate) feed: Feed,
    pub(crate) thread: LiveThread,
    pub(crate) read_only: bool,
    pub(crate) recommend: domain::recommend::settings::Settings,
}

/// What a started projection gives to the queries of its read model.
pub(crate) struct Served<P: Projection> {
    /// Where readers find the live generation.
    pub(crate) slot: Arc<Slot<P::View>>,
    pub(crate) shared: P::Shared,
    pub(crate) controls: mpsc::Sender<Control>,
    pub(crate) log: Log,
    pub(crate) clock: Clock,
}

impl RunnerStarter {
    pub(crate) async fn start<P: Projection>(&self) -> Result<(Served<P>, RunnerHandle), OpenError> {
        let interactions = &self.recommend.interactions;
        let (shared, slot) = (P::shared(interactions), Arc::new(Slot::new(P::NAME)));
        let revision = P::revision(interactions);
        let generations = Generations::new(&self.store, P::NAME);
        let handle = if self.read_only {
            self.replicate::<P>(generations, shared.clone(), Arc::clone(&slot))
        } else {
            let (shared, slot, log) = (shared.clone(), Arc::clone(&slot), self.log.clone());
            let position = slot.watch();
            let store = Arc::new(SqlTargets::<P> { generations, shared, slot, log, revision });
            let followed = Followed { name: P::NAME, categories: P::CATEGORIES, policy: P::STORE };
            self.follow(followed, revision, store, position).await?
        };
        let controls = handle.controls.clone();
        let served = Served { slot, shared, controls, log: self.log.clone(), clock: self.clock.clone() };
        Ok((served, handle))
    }

    /// Follows the generations that another server writes.
    fn replicate<P: Projection>(
        &self,
        generations: Generations,
        shared: P::Shared,
        slot: Arc<Slot<P::View>>,
    ) -> RunnerHandle {
        let revision = P::revision(&self.recommend.interactions);
        let tracker = Arc::new(StatusTracker::new(P::NAME, revision, self.clock.now()));
        let (controls, control_receiver) = mpsc::channel(REQUESTS_MAX);
        let position = slot.watch();
        let context = ReplicaContext {
            generations,
            shared,
            tables: Tables { revision, ddl: P::DDL },
            slot,
            log: self.log.clone(),
            feed: self.feed.clone(),
            clock: self.clock.clone(),
            tracker: Arc::clone(&tracker),
        };
        let run = Replica::<P>::new(context).run(control_receiver).boxed();
        RunnerHandle::spawn(run, P::NAME, controls, tracker, position)
    }

    pub(crate) async fn follow(
        &self,
        followed: Followed,
        revision: u32,
        store: Arc<dyn TargetStore>,
        position: watch::Receiver<Option<Position>>,
    ) -> Result<RunnerHandle, OpenError> {
        let name = followed.name;
        let tracker = Arc::new(StatusTracker::new(name, revision, self.clock.now()));
        let context = RunnerContext {
            followed,
            store,
            feed: self.feed.clone(),
            clock: self.clock.clone(),
            tracker: Arc::clone(&tracker),
            runtime: tokio::runtime::Handle::current(),
        };
        let runner = Runner::open(context).await.map_err(|source| OpenError { name, source })?;
        let (controls, control_receiver) = mpsc::channel(REQUESTS_MAX);
        let run = run(runner, control_receiver, self.thread.clone()).boxed();
        Ok(RunnerHandle::spawn(run, name, controls, tracker, position))
    }
}

/// Runs a runner to its end: on the thread of the live read models while it is live.
async fn run(runner: Runner, controls: mpsc::Receiver<Control>, thread: LiveThread) {
    let mut running = Some((runner, controls));
    while let Some((runner, controls)) = running {
        let is_live = runner.is_live();
        let run = runner.run(controls).boxed();
        running = if is_live { thread.run(run).await } else { run.await };
    }
}

impl RunnerHandle {
    fn spawn(
        run: BoxFuture<'static, ()>,
        name: Name,
        controls: mpsc::Sender<Control>,
        tracker: Arc<StatusTracker>,
        position: watch::Receiver<Option<Position>>,
    ) -> Self {
        let task = Mutex::new(Some(tokio::spawn(supervise(run, name, Arc::clone(&tracker)))));
        Self { controls, tracker, position, task }
    }
}

/// Runs a runner. If it panics, the status reports it.
pub(crate) async fn supervise(run: BoxFuture<'static, ()>, name: Name, tracker: Arc<StatusTracker>) {
    let mut run = AbortOnDrop(tokio::spawn(run));
    if let Err(error) = (&mut run.0).await
        && error.is_panic()
    {
        tracing::error!(projection = %name, %error, "a projection panicked");
        let failure = Failure::panicked(tracker.position());
        // A rebuild in progress ended with its runner.
        tracker.rebuild_failed(failure.clone());
        tracker.set_state(ProjectionState::Stopped(failure));
    }
}
