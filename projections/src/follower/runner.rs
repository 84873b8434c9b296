//! The task of one read model: applies pages, stores, rebuilds alongside the live generation, and swaps.
//!
//! A failure here affects this read model only.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use event_log::clock::Clock;
use event_schemas::ids::JobId;
use event_schemas::time::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::build::{self, Build};
use super::damage::{self, Damage};
use super::state::{RunnerState, open_state, start_running};
use super::writer::{ApplyError, Mode, Writer};
use super::{Followed, TargetStore};
use crate::feed::{Feed, FeedPage, SourceError};
use crate::sql::SqlError;
use crate::status::{Failure, ProjectionState, StatusTracker};
use crate::store::StoreError;

/// The delay before the store is reopened after a storage failure.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// An operator's request to a projection.
#[derive(Debug)]
pub(crate) enum Control {
    /// Replies with the number of the new generation, or that of the rebuild in progress.
    Rebuild(oneshot::Sender<Result<u64, StoreError>>),
    Pause(oneshot::Sender<()>),
    Resume(oneshot::Sender<()>),
    /// See [`Target::recheck`](super::Target::recheck).
    Recheck(JobId, oneshot::Sender<bool>),
    /// Stores the pending changes and ends the task.
    Shutdown(oneshot::Sender<()>),
}

/// The environment of a runner.
#[derive(Clone, Debug)]
pub(crate) struct RunnerContext {
    pub(crate) followed: Followed,
    pub(crate) store: Arc<dyn TargetStore>,
    pub(crate) feed: Feed,
    pub(crate) clock: Clock,
    pub(crate) tracker: Arc<StatusTracker>,
    /// For rebuilds.
    pub(crate) runtime: tokio::runtime::Handle,
}

#[derive(Debug)]
pub(crate) struct Runner {
    pub(super) context: RunnerContext,
    pub(super) state: RunnerState,
    build: Option<Build>,
    pub(super) damage: Damage,
}

/// The next thing that a runner has to handle.
enum Wakeup {
    Control(Option<Control>),
    Pages(Result<Vec<Arc<FeedPage>>, SourceError>),
    Built(Result<Writer, Failure>),
    /// A reader has met damage.
    Damaged(String),
    Flush,
    Reopen,
}

impl Runner {
    /// Opens the generations that an earlier run left, or creates the first one.
    pub(crate) async fn open(context: RunnerContext) -> Result<Self, StoreError> {
        let (state, build) = match open_state(&context).await {
            // Other parts of the server do not need the store: it starts, and this read model is opened later.
            Err(error) if error.is_temporary() => (retry_later(&context, &error), None),
            opened => opened?,
        };
        let mut runner = Self { context, state, build, damage: Damage::default() };
        runner.publish_if_complete().await;
        Ok(runner)
    }

    /// Reports whether it only waits for new events.
    pub(crate) fn is_live(&self) -> bool {
        matches!(&self.state, RunnerState::Running(writer, source) if writer.is_published() && source.has_caught_up())
    }

    /// Runs until the end, or until it becomes live or has to catch up again: then it is returned.
    pub(crate) async fn run(
        mut self,
        mut controls: mpsc::Receiver<Control>,
    ) -> Option<(Self, mpsc::Receiver<Control>)> {
        let was_live = self.is_live();
        while self.is_live() == was_live {
            match self.next(&mut controls).await {
                Wakeup::Control(Some(Control::Shutdown(done))) => {
                    self.shut_down().await;
                    // The caller may have stopped waiting.
                    let _ = done.send(());
                    return None;
                }
                // All handles have been dropped, so there are no readers either.
                Wakeup::Control(None) => {
                    self.shut_down().await;
                    return None;
                }
                Wakeup::Control(Some(control)) => self.control(control).await,
                Wakeup::Pages(pages) => self.apply_pages(pages).await,
                Wakeup::Built(built) => self.swap(built).await,
                Wakeup::Damaged(reason) => self.replace_damaged(reason).await,
                Wakeup::Flush => self.store().await,
                Wakeup::Reopen => self.reopen().await,
            }
            self.publish_if_complete().await;
        }
        Some((self, controls))
    }

    async fn next(&mut self, controls: &mut mpsc::Receiver<Control>) -> Wakeup {
        let clock = self.context.clock.clone();
        let (flush_at, reopen_at, damage) = match &self.state {
            RunnerState::Running(writer, _) | RunnerState::Paused(writer) | RunnerState::Stopped(writer) => {
                (writer.flush_at(), None, self.build.is_none().then(|| writer.target.damage()))
            }
            RunnerState::Closed { retry_at } => (None, Some(*retry_at), None),
        };
        let build = &mut self.build;
        let state = &mut self.state;
        tokio::select! {
            biased;
            control = controls.recv() => Wakeup::Control(control),
            built = async { match build { Some(build) => build.done().await, None => pending().await } } => Wakeup::Built(built),
            reason = damage::met(damage) => Wakeup::Damaged(reason),
            () = until(&clock, flush_at) => Wakeup::Flush,
            () = until(&clock, reopen_at) => Wakeup::Reopen,
            pages = async { match state { RunnerState::Running(_, source) => source.next().await, _ => pending().await } } => Wakeup::Pages(pages),
        }
    }

    async fn apply_pages(&mut self, pages: Result<Vec<Arc<FeedPage>>, SourceError>) {
        let RunnerState::Running(writer, source) = &mut self.state else { return };
        let applied = match pages {
            // The source has just caught up.
            Ok(pages) if pages.is_empty() => writer.store().await.map_err(ApplyError::Storage),
            Ok(pages) => {
                let mode = if source.has_caught_up() { Mode::Live } else { Mode::CatchUp };
                writer.apply(&pages, mode).await
            }
            Err(SourceError::Read(error)) => {
                tracing::error!(projection = %self.context.followed.name, %error, "the log could not be read; retrying");
                self.context.clock.sleep(Duration::from_secs(1)).await;
                *source = self.context.feed.follow(writer.position(), self.context.followed.categories);
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
            projection = %self.context.followed.name, position = %failure.position, error = failure.error, remedy = &*failure.remedy,
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
    pub(super) async fn close(&mut self, error: SqlError) {
        let (now, name) = (self.context.clock.now(), self.context.followed.name);
        let failure = Failure::storage(self.context.tracker.position(), error.to_string());
        self.context.tracker.set_state(ProjectionState::Retrying(failure));
        let is_damaged = matches!(error, SqlError::Damaged(_));
        let mut retry_at = now.after(RETRY_AFTER);
        if is_damaged {
            if !self.report_damage(&error) {
                retry_at = now;
            }
        } else {
            tracing::error!(projection = %name, %error, "a read model could not be stored; it will be reopened");
        }
        if let RunnerState::Running(writer, _) | RunnerState::Paused(writer) | RunnerState::Stopped(writer) =
            &self.state
        {
            writer.target.close_writer().await;
            if is_damaged {
                if let Err(error) = writer.target.withdraw().await {
                    tracing::error!(projection = %name, %error, "a damaged generation could not be removed; delete it manually");
                }
                self.context.tracker.unpublished();
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
            && let Err(error) = writer.store().await
        {
            self.close(error).await;
        }
    }

    async fn recheck(&mut self, job: JobId, reply: oneshot::Sender<bool>) {
        let (RunnerState::Running(writer, _) | RunnerState::Paused(writer) | RunnerState::Stopped(writer)) =
            &mut self.state
        else {
            return;
        };
        let position = writer.position();
        let handled = match writer.target.recheck(job, position).await {
            Ok(differed) => {
                // The caller may have stopped waiting.
                let _ = differed.map(|differed| reply.send(differed));
                writer.store().await
            }
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
            Control::Recheck(job, reply) => self.recheck(job, reply).await,
            // Handled by `run`, because only it can end the task.
            Control::Shutdown(reply) => drop(reply),
        }
    }

    fn change_state(&mut self, next: impl FnOnce(RunnerState) -> RunnerState) {
        // `next` takes the state by value, so another one stands in the field until it returns.
        let meanwhile = RunnerState::Closed { retry_at: Timestamp::EPOCH };
        self.state = next(std::mem::replace(&mut self.state, meanwhile));
    }

    pub(super) async fn rebuild(&mut self) -> Result<u64, StoreError> {
        if let Some(build) = &self.build {
            return Ok(build.number());
        }
        let opened = self.context.store.create().await?;
        let number = opened.target.number();
        tracing::info!(projection = %self.context.followed.name, generation = number, "rebuilding alongside the live generation");
        self.build = Some(Build::start(&self.context, opened));
        Ok(number)
    }

    /// Replaces the live generation by a finished one that has reached its position.
    async fn swap(&mut self, built: Result<Writer, Failure>) {
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
                writer.target.retire();
                return self.context.tracker.rebuild_failed(failure);
            }
            Err(failure) => {
                tracing::error!(projection = %self.context.followed.name, error = failure.error, "a rebuild failed; the live generation is unchanged");
                return self.context.tracker.rebuild_failed(failure);
            }
        };
        if let Err(error) = publish(&self.context, &mut writer).await {
            let failure = Failure::storage(writer.position(), error.to_string());
            return self.context.tracker.rebuild_failed(failure);
        }
        let context = self.context.clone();
        self.change_state(|state| match state {
            RunnerState::Paused(old) => {
                old.target.retire();
                RunnerState::Paused(writer)
            }
            RunnerState::Running(old, _) | RunnerState::Stopped(old) => {
                old.target.retire();
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
        if let Err(error) = writer.store().await {
            tracing::error!(projection = %self.context.followed.name, %error, "a read model could not be stored at shutdown; the next start replays from its checkpoint");
        }
        writer.target.close().await;
    }
}

/// Makes the generation live. Its file is marked first, so that after a crash it is the newest complete one.
async fn publish(context: &RunnerContext, writer: &mut Writer) -> Result<(), SqlError> {
    writer.publish().await?;
    let number = writer.target.number();
    context.tracker.published(number);
    tracing::info!(projection = %context.followed.name, generation = number, position = %writer.position(), "a read model is complete");
    Ok(())
}

fn retry_later(context: &RunnerContext, error: &StoreError) -> RunnerState {
    tracing::error!(projection = %context.followed.name, %error, "a read model could not be opened; retrying");
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
