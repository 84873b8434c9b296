//! The task of one read model: applies pages, stores, rebuilds alongside the live generation, and swaps.
//!
//! A failure here affects this read model only.

mod build;
mod state;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use event_log::clock::Clock;
use event_log::{EventLog, Log};
use event_schemas::time::Timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::feed::{Feed, FeedPage, SourceError};
use crate::generation::Slot;
use crate::projection::Projection;
use crate::sql::SqlError;
use crate::status::{Failure, ProjectionState, StatusTracker};
use crate::store::{Generations, StoreError};
use crate::writer::{ApplyError, Mode, Writer};
use build::Build;
use state::{RunnerState, open_state, start_running};

/// The delay before the store is reopened after a storage failure.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// An operator's request to a projection.
#[derive(Debug)]
pub(crate) enum Control {
    /// Replies with the number of the new generation, or that of the rebuild in progress.
    Rebuild(oneshot::Sender<Result<u64, StoreError>>),
    Pause(oneshot::Sender<()>),
    Resume(oneshot::Sender<()>),
    /// Stores the pending changes and ends the task.
    Shutdown(oneshot::Sender<()>),
}

/// The environment of a runner.
#[derive(Debug)]
pub(crate) struct RunnerContext<P: Projection> {
    pub(crate) generations: Generations,
    pub(crate) log: Log,
    pub(crate) feed: Feed,
    pub(crate) clock: Clock,
    pub(crate) shared: P::Shared,
    pub(crate) slot: Arc<Slot<P::View>>,
    pub(crate) tracker: Arc<StatusTracker>,
}

impl<P: Projection> Clone for RunnerContext<P> {
    fn clone(&self) -> Self {
        Self {
            generations: self.generations.clone(),
            log: self.log.clone(),
            feed: self.feed.clone(),
            clock: self.clock.clone(),
            shared: self.shared.clone(),
            slot: Arc::clone(&self.slot),
            tracker: Arc::clone(&self.tracker),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Runner<P: Projection> {
    context: RunnerContext<P>,
    state: RunnerState<P>,
    build: Option<Build<P>>,
}

/// The next thing that a runner has to handle.
enum Wakeup<P: Projection> {
    Control(Option<Control>),
    Request(P::Request),
    Pages(Result<Vec<Arc<FeedPage>>, SourceError>),
    Built(Result<Writer<P>, Failure>),
    Flush,
    Reopen,
}

impl<P: Projection> Runner<P> {
    /// Opens the generations that an earlier run left, or creates the first one.
    pub(crate) async fn open(context: RunnerContext<P>) -> Result<Self, StoreError> {
        let (state, build) = match open_state(&context).await {
            // Other parts of the server do not need the store: it starts, and this read model is opened later.
            Err(error) if error.is_temporary() => (retry_later(&context, &error), None),
            opened => opened?,
        };
        let mut runner = Self { context, state, build };
        runner.publish_if_complete().await;
        Ok(runner)
    }

    pub(crate) async fn run(
        mut self,
        mut controls: mpsc::Receiver<Control>,
        mut requests: mpsc::Receiver<P::Request>,
    ) {
        loop {
            match self.next(&mut controls, &mut requests).await {
                Wakeup::Control(Some(Control::Shutdown(done))) => {
                    self.shut_down().await;
                    // The caller may have stopped waiting.
                    let _ = done.send(());
                    return;
                }
                // All handles have been dropped, so there are no readers either.
                Wakeup::Control(None) => return self.shut_down().await,
                Wakeup::Control(Some(control)) => self.control(control).await,
                Wakeup::Request(request) => self.handle_request(request).await,
                Wakeup::Pages(pages) => self.apply_pages(pages).await,
                Wakeup::Built(built) => self.swap(built).await,
                Wakeup::Flush => self.store().await,
                Wakeup::Reopen => self.reopen().await,
            }
            self.publish_if_complete().await;
        }
    }

    async fn next(
        &mut self,
        controls: &mut mpsc::Receiver<Control>,
        requests: &mut mpsc::Receiver<P::Request>,
    ) -> Wakeup<P> {
        let clock = self.context.clock.clone();
        let (flush_at, reopen_at) = match &self.state {
            RunnerState::Running(writer, _) | RunnerState::Paused(writer) | RunnerState::Stopped(writer) => {
                (writer.flush_at(), None)
            }
            RunnerState::Closed { retry_at } => (None, Some(*retry_at)),
        };
        let build = &mut self.build;
        let state = &mut self.state;
        tokio::select! {
            biased;
            control = controls.recv() => Wakeup::Control(control),
            Some(request) = requests.recv() => Wakeup::Request(request),
            built = async { match build { Some(build) => build.done().await, None => pending().await } } => Wakeup::Built(built),
            () = until(&clock, flush_at) => Wakeup::Flush,
            () = until(&clock, reopen_at) => Wakeup::Reopen,
            pages = async { match state { RunnerState::Running(_, source) => source.next().await, _ => pending().await } } => Wakeup::Pages(pages),
        }
    }

    async fn apply_pages(&mut self, pages: Result<Vec<Arc<FeedPage>>, SourceError>) {
        let RunnerState::Running(writer, source) = &mut self.state else { return };
        let applied = match pages {
            // The source has just caught up.
            Ok(pages) if pages.is_empty() => {
                writer.store(&self.context.slot).await.map_err(ApplyError::Storage)
            }
            Ok(pages) => {
                let mode = if source.has_caught_up() { Mode::Live } else { Mode::CatchUp };
                writer.apply(&pages, mode, &self.context.slot).await
            }
            Err(SourceError::Read(error)) => {
                tracing::error!(projection = %P::NAME, %error, "the log could not be read; retrying");
                self.context.clock.sleep(Duration::from_secs(1)).await;
                *source = self.context.feed.follow(writer.position(), P::CATEGORIES);
                Ok(())
            }
            Err(SourceError::Stopped) => {
                Err(ApplyError::Unreadable(Failure::log(writer.position(), "the log has stopped".to_owned())))
            }
        };
        self.context.tracker.advance(writer.position(), writer.recorded_at(), self.context.clock.now());
        match applied {
            Ok(()) => {}
            Err(ApplyError::Unreadable(failure)) => self.stop(failure),
            Err(ApplyError::Storage(error)) => self.close(error).await,
        }
    }

    /// Stops the projection at its position. The live generation can still be read.
    fn stop(&mut self, failure: Failure) {
        tracing::error!(
            projection = %P::NAME, position = %failure.position, error = failure.error, remedy = failure.remedy,
            "a projection has stopped"
        );
        self.context.tracker.set_state(ProjectionState::Stopped(failure));
        self.change_state(|state| match state {
            RunnerState::Running(writer, _) | RunnerState::Paused(writer) | RunnerState::Stopped(writer) => {
                RunnerState::Stopped(writer)
            }
            closed @ RunnerState::Closed { .. } => closed,
        });
    }

    /// After a storage failure, memory may be ahead of the rows: both are reloaded from the store. Damaged rows are
    /// withdrawn from the readers, and the read model is rebuilt.
    async fn close(&mut self, error: SqlError) {
        let now = self.context.clock.now();
        let failure = Failure::storage(self.context.tracker.position(), error.to_string());
        tracing::error!(projection = %P::NAME, %error, "a read model could not be stored; it will be reopened");
        self.context.tracker.set_state(ProjectionState::Retrying(failure));
        let is_damaged = matches!(error, SqlError::Damaged(_));
        let retry_at = if is_damaged { now } else { now.after(RETRY_AFTER) };
        if let RunnerState::Running(writer, _) | RunnerState::Paused(writer) | RunnerState::Stopped(writer) =
            &self.state
        {
            let generation = Arc::clone(&writer.generation);
            generation.db.close_writer().await;
            if is_damaged {
                // Removed now, because it is reopened before its last reader may be done with it.
                if let Err(error) = generation.db.remove().await {
                    tracing::error!(projection = %P::NAME, %error, "a damaged generation could not be removed; delete it manually");
                }
                self.context.slot.withdraw();
                self.context.tracker.set_generation(None);
            }
        }
        self.state = RunnerState::Closed { retry_at };
    }

    async fn reopen(&mut self) {
        // A build in progress has its own generation, which `find` would treat as a leftover.
        if let Some(build) = self.build.take() {
            build.abandon().await;
        }
        match open_state(&self.context).await {
            Ok((state, build)) => {
                self.state = state;
                self.build = build;
            }
            Err(error) => self.state = retry_later(&self.context, &error),
        }
    }

    async fn store(&mut self) {
        if let RunnerState::Running(writer, _) | RunnerState::Paused(writer) | RunnerState::Stopped(writer) =
            &mut self.state
            && let Err(error) = writer.store(&self.context.slot).await
        {
            self.close(error).await;
        }
    }

    async fn handle_request(&mut self, request: P::Request) {
        let (RunnerState::Running(writer, _) | RunnerState::Paused(writer) | RunnerState::Stopped(writer)) =
            &mut self.state
        else {
            return;
        };
        let position = writer.position();
        let db = &writer.generation.db;
        let handled = match writer.projection.handle_request(request, &self.context.log, db, position).await {
            Ok(()) => writer.store(&self.context.slot).await,
            Err(error) => Err(error),
        };
        if let Err(error) = handled {
            self.close(error).await;
        }
    }

    async fn control(&mut self, control: Control) {
        match control {
            Control::Rebuild(reply) => {
                let started = self.rebuild().await;
                let _ = reply.send(started);
            }
            Control::Pause(reply) => {
                if matches!(self.state, RunnerState::Running(..)) {
                    self.change_state(|state| match state {
                        RunnerState::Running(writer, _) => RunnerState::Paused(writer),
                        other => other,
                    });
                    self.context.tracker.set_state(ProjectionState::Paused);
                }
                let _ = reply.send(());
            }
            Control::Resume(reply) => {
                let context = self.context.clone();
                if matches!(self.state, RunnerState::Closed { .. }) {
                    self.reopen().await;
                }
                self.change_state(|state| match state {
                    RunnerState::Paused(writer) | RunnerState::Stopped(writer) => {
                        start_running(&context, writer)
                    }
                    other => other,
                });
                let _ = reply.send(());
            }
            // Handled by `run`, because only it can end the task.
            Control::Shutdown(reply) => drop(reply),
        }
    }

    fn change_state(&mut self, next: impl FnOnce(RunnerState<P>) -> RunnerState<P>) {
        let placeholder = RunnerState::Closed { retry_at: Timestamp::EPOCH };
        self.state = next(std::mem::replace(&mut self.state, placeholder));
    }

    async fn rebuild(&mut self) -> Result<u64, StoreError> {
        if let Some(build) = &self.build {
            return Ok(build.number());
        }
        let opened = self.context.generations.create::<P>(self.context.log.identity()).await?;
        let number = opened.number;
        tracing::info!(projection = %P::NAME, generation = number, "rebuilding alongside the live generation");
        self.build = Some(Build::start(&self.context, opened));
        Ok(number)
    }

    /// Replaces the live generation by a finished one that has reached its position.
    async fn swap(&mut self, built: Result<Writer<P>, Failure>) {
        self.build = None;
        let live = match &self.state {
            RunnerState::Running(writer, _) | RunnerState::Paused(writer) | RunnerState::Stopped(writer) => {
                Some(writer.position())
            }
            RunnerState::Closed { .. } => None,
        };
        let caught_up = match built {
            Ok(writer) => build::catch_up(&self.context, writer).await,
            Err(failure) => Err(failure),
        };
        let mut writer = match caught_up {
            Ok(writer) if live.is_none_or(|live| writer.position() >= live) => writer,
            Ok(writer) => {
                let error = "the new generation did not reach the position of the live one".to_owned();
                let failure = Failure::log(writer.position(), error);
                writer.generation.db.retire();
                return self.context.tracker.rebuild_failed(failure);
            }
            Err(failure) => {
                tracing::error!(projection = %P::NAME, error = failure.error, "a rebuild failed; the live generation is unchanged");
                return self.context.tracker.rebuild_failed(failure);
            }
        };
        if let Err(error) = publish(&self.context, &mut writer).await {
            let failure = Failure::storage(writer.position(), error.to_string());
            return self.context.tracker.rebuild_failed(failure);
        }
        self.context.tracker.rebuild_finished();
        let context = self.context.clone();
        self.change_state(|state| match state {
            RunnerState::Paused(old) => {
                old.generation.db.retire();
                RunnerState::Paused(writer)
            }
            RunnerState::Running(old, _) | RunnerState::Stopped(old) => {
                old.generation.db.retire();
                start_running(&context, writer)
            }
            RunnerState::Closed { .. } => start_running(&context, writer),
        });
    }

    /// Publishes a generation that has reached the log's head for the first time.
    async fn publish_if_complete(&mut self) {
        let RunnerState::Running(writer, source) = &mut self.state else { return };
        if !source.has_caught_up() {
            return;
        }
        if !writer.is_published()
            && let Err(error) = publish(&self.context, writer).await
        {
            return self.close(error).await;
        }
        self.context.tracker.set_state(ProjectionState::Live);
    }

    async fn shut_down(&mut self) {
        if let Some(build) = self.build.take() {
            build.abandon().await;
        }
        let (RunnerState::Running(writer, _) | RunnerState::Paused(writer) | RunnerState::Stopped(writer)) =
            &mut self.state
        else {
            return;
        };
        if let Err(error) = writer.store(&self.context.slot).await {
            tracing::error!(projection = %P::NAME, %error, "a read model could not be stored at shutdown; the next start replays from its checkpoint");
        }
        writer.generation.db.close().await;
    }
}

/// Makes the generation live. Its file is marked first, so that after a crash it is the newest complete one.
async fn publish<P: Projection>(context: &RunnerContext<P>, writer: &mut Writer<P>) -> Result<(), SqlError> {
    writer.publish(&context.slot).await?;
    let number = writer.generation.number;
    context.slot.publish(&writer.generation);
    context.tracker.set_generation(Some(number));
    tracing::info!(projection = %P::NAME, generation = number, position = %writer.position(), "a read model is complete");
    Ok(())
}

fn retry_later<P: Projection>(context: &RunnerContext<P>, error: &StoreError) -> RunnerState<P> {
    tracing::error!(projection = %P::NAME, %error, "a read model could not be opened; retrying");
    context.tracker.set_state(ProjectionState::Retrying(Failure::storage(
        context.tracker.position(),
        error.to_string(),
    )));
    RunnerState::Closed { retry_at: context.clock.now().after(RETRY_AFTER) }
}

async fn until(clock: &Clock, instant: Option<Timestamp>) {
    match instant {
        Some(instant) => clock.sleep_until(instant).await,
        None => pending().await,
    }
}
