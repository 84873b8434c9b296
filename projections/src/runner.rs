//! The task of one read model: takes in pages, stores, rebuilds beside, swaps, and says how it goes.
//!
//! Whatever goes wrong here concerns this read model alone.

mod build;
mod stage;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use event_log::clock::Clock;
use event_log::{EventLog, Log};
use event_schemas::time::Timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::feed::{Feed, Page, SourceError};
use crate::generation::Slot;
use crate::projection::Projection;
use crate::rebuild::{Files, FilesError};
use crate::sql::SqlError;
use crate::status::{Board, Doing, Stop};
use crate::writer::{Halt, Rush, Writer};
use build::Build;
use stage::{Stage, open_stage, running};

/// How long after a failure of the store it is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What an operator asks of a projection.
#[derive(Debug)]
pub(crate) enum Control {
    /// Answers with the number of the new generation; with that of the one on its way, if there is one.
    Rebuild(oneshot::Sender<Result<u64, FilesError>>),
    Pause(oneshot::Sender<()>),
    Resume(oneshot::Sender<()>),
    /// Stores what is pending and ends.
    Shutdown(oneshot::Sender<()>),
}

/// What a runner works with.
#[derive(Debug)]
pub(crate) struct Parts<P: Projection> {
    pub(crate) files: Files,
    pub(crate) log: Log,
    pub(crate) feed: Feed,
    pub(crate) clock: Clock,
    pub(crate) shared: P::Shared,
    pub(crate) slot: Arc<Slot<P::View>>,
    pub(crate) board: Arc<Board>,
}

impl<P: Projection> Clone for Parts<P> {
    fn clone(&self) -> Self {
        Self {
            files: self.files.clone(),
            log: self.log.clone(),
            feed: self.feed.clone(),
            clock: self.clock.clone(),
            shared: self.shared.clone(),
            slot: Arc::clone(&self.slot),
            board: Arc::clone(&self.board),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Runner<P: Projection> {
    parts: Parts<P>,
    stage: Stage<P>,
    build: Option<Build<P>>,
}

enum Step<P: Projection> {
    Control(Option<Control>),
    Request(P::Request),
    Pages(Result<Vec<Arc<Page>>, SourceError>),
    Built(Result<Writer<P>, Stop>),
    Due,
    Retry,
}

impl<P: Projection> Runner<P> {
    /// Opens the files that an earlier run left, or begins one.
    pub(crate) async fn open(parts: Parts<P>) -> Result<Self, FilesError> {
        let (stage, build) = match open_stage(&parts).await {
            // What else the server does needs no room: it starts, and this read model follows.
            Err(error) if error.is_full() => (try_later(&parts, &error), None),
            opened => opened?,
        };
        let mut runner = Self { parts, stage, build };
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
                Step::Control(Some(Control::Shutdown(done))) => {
                    self.shut_down().await;
                    // Whoever asked may have given up waiting.
                    let _ = done.send(());
                    return;
                }
                // All handles are gone, so nobody reads either.
                Step::Control(None) => return self.shut_down().await,
                Step::Control(Some(control)) => self.control(control).await,
                Step::Request(request) => self.answer(request).await,
                Step::Pages(pages) => self.take_in(pages).await,
                Step::Built(built) => self.swap(built).await,
                Step::Due => self.store().await,
                Step::Retry => self.reopen().await,
            }
            self.publish_if_complete().await;
        }
    }

    async fn next(
        &mut self,
        controls: &mut mpsc::Receiver<Control>,
        requests: &mut mpsc::Receiver<P::Request>,
    ) -> Step<P> {
        let clock = self.parts.clock.clone();
        let (due, retry) = match &self.stage {
            Stage::Running(writer, _) | Stage::Paused(writer) | Stage::Stopped(writer) => {
                (writer.due_at(), None)
            }
            Stage::Closed { retry_at } => (None, Some(*retry_at)),
        };
        let build = &mut self.build;
        let stage = &mut self.stage;
        tokio::select! {
            biased;
            control = controls.recv() => Step::Control(control),
            Some(request) = requests.recv() => Step::Request(request),
            built = async { match build { Some(build) => build.done().await, None => pending().await } } => Step::Built(built),
            () = until(&clock, due) => Step::Due,
            () = until(&clock, retry) => Step::Retry,
            pages = async { match stage { Stage::Running(_, source) => source.next().await, _ => pending().await } } => Step::Pages(pages),
        }
    }

    async fn take_in(&mut self, pages: Result<Vec<Arc<Page>>, SourceError>) {
        let Stage::Running(writer, source) = &mut self.stage else { return };
        let applied = match pages {
            // The source has just caught up.
            Ok(pages) if pages.is_empty() => writer.store(&self.parts.slot).await.map_err(Halt::Store),
            Ok(pages) => {
                let rush = if source.has_caught_up() { Rush::Live } else { Rush::CatchingUp };
                writer.apply(&pages, rush, &self.parts.slot).await
            }
            Err(SourceError::Read(error)) => {
                tracing::error!(projection = %P::NAME, %error, "the log could not be read; trying again");
                self.parts.clock.sleep(Duration::from_secs(1)).await;
                *source = self.parts.feed.follow(writer.position(), P::CATEGORIES);
                Ok(())
            }
            Err(SourceError::Stopped) => {
                Err(Halt::Poison(Stop::of_log(writer.position(), "the log has stopped".to_owned())))
            }
        };
        self.parts.board.moved(writer.position(), writer.recorded_at(), self.parts.clock.now());
        match applied {
            Ok(()) => {}
            Err(Halt::Poison(stop)) => self.stop(stop),
            Err(Halt::Store(error)) => self.close(error).await,
        }
    }

    /// Stays at the event; what has been published can still be read.
    fn stop(&mut self, stop: Stop) {
        tracing::error!(
            projection = %P::NAME, position = %stop.position, error = stop.error, way_out = stop.way_out,
            "a projection has stopped"
        );
        self.parts.board.doing(Doing::Stopped(stop));
        self.change(|stage| match stage {
            Stage::Running(writer, _) | Stage::Paused(writer) | Stage::Stopped(writer) => {
                Stage::Stopped(writer)
            }
            closed @ Stage::Closed { .. } => closed,
        });
    }

    /// After a failure of the store, memory may be ahead of the rows: both begin anew from the file. A file that is
    /// damaged is not read any longer, and made again.
    async fn close(&mut self, error: SqlError) {
        let now = self.parts.clock.now();
        let stop = Stop::of_store(self.parts.board.position(), error.to_string());
        tracing::error!(projection = %P::NAME, %error, "a read model could not be stored; it is opened anew");
        self.parts.board.doing(Doing::Retrying(stop));
        let is_damaged = matches!(error, SqlError::Damaged(_));
        let retry_at = if is_damaged { now } else { now.after(RETRY_AFTER) };
        if let Stage::Running(writer, _) | Stage::Paused(writer) | Stage::Stopped(writer) = &self.stage
            && is_damaged
        {
            // At once, because the file is looked for before its last reader may be done with it.
            if let Err(error) = crate::sql::remove(writer.generation.db.path()) {
                tracing::error!(projection = %P::NAME, %error, "a damaged file could not be removed; delete it by hand");
            }
            self.parts.slot.withdraw();
            self.parts.board.published(None);
        }
        self.stage = Stage::Closed { retry_at };
    }

    async fn reopen(&mut self) {
        // A build in progress keeps its own file, which `find` would take for a leftover.
        if let Some(build) = self.build.take() {
            build.abandon().await;
        }
        match open_stage(&self.parts).await {
            Ok((stage, build)) => {
                self.stage = stage;
                self.build = build;
            }
            Err(error) => self.stage = try_later(&self.parts, &error),
        }
    }

    async fn store(&mut self) {
        if let Stage::Running(writer, _) | Stage::Paused(writer) | Stage::Stopped(writer) = &mut self.stage
            && let Err(error) = writer.store(&self.parts.slot).await
        {
            self.close(error).await;
        }
    }

    async fn answer(&mut self, request: P::Request) {
        let (Stage::Running(writer, _) | Stage::Paused(writer) | Stage::Stopped(writer)) = &mut self.stage
        else {
            return;
        };
        let position = writer.position();
        let db = &writer.generation.db;
        let answered = match writer.projection.answer(request, &self.parts.log, db, position).await {
            Ok(()) => writer.store(&self.parts.slot).await,
            Err(error) => Err(error),
        };
        if let Err(error) = answered {
            self.close(error).await;
        }
    }

    async fn control(&mut self, control: Control) {
        match control {
            Control::Rebuild(reply) => {
                let begun = self.rebuild().await;
                let _ = reply.send(begun);
            }
            Control::Pause(reply) => {
                if matches!(self.stage, Stage::Running(..)) {
                    self.change(|stage| match stage {
                        Stage::Running(writer, _) => Stage::Paused(writer),
                        other => other,
                    });
                    self.parts.board.doing(Doing::Paused);
                }
                let _ = reply.send(());
            }
            Control::Resume(reply) => {
                let parts = self.parts.clone();
                if matches!(self.stage, Stage::Closed { .. }) {
                    self.reopen().await;
                }
                self.change(|stage| match stage {
                    Stage::Paused(writer) | Stage::Stopped(writer) => running(&parts, writer),
                    other => other,
                });
                let _ = reply.send(());
            }
            // Taken by `run`, which alone can end the task.
            Control::Shutdown(reply) => drop(reply),
        }
    }

    fn change(&mut self, next: impl FnOnce(Stage<P>) -> Stage<P>) {
        let meanwhile = Stage::Closed { retry_at: Timestamp::EPOCH };
        self.stage = next(std::mem::replace(&mut self.stage, meanwhile));
    }

    async fn rebuild(&mut self) -> Result<u64, FilesError> {
        if let Some(build) = &self.build {
            return Ok(build.number());
        }
        let opened = self.parts.files.begin::<P>(self.parts.log.identity()).await?;
        let number = opened.number;
        tracing::info!(projection = %P::NAME, generation = number, "rebuilding beside the live read model");
        self.build = Some(Build::start(&self.parts, opened));
        Ok(number)
    }

    /// Puts a finished making in the place of the live one, once it has reached the live one's position.
    async fn swap(&mut self, built: Result<Writer<P>, Stop>) {
        self.build = None;
        let live = match &self.stage {
            Stage::Running(writer, _) | Stage::Paused(writer) | Stage::Stopped(writer) => {
                Some(writer.position())
            }
            Stage::Closed { .. } => None,
        };
        let caught_up = match built {
            Ok(writer) => build::catch_up(&self.parts, writer).await,
            Err(stop) => Err(stop),
        };
        let mut writer = match caught_up {
            Ok(writer) if live.is_none_or(|live| writer.position() >= live) => writer,
            Ok(writer) => {
                let error = "the rebuilt read model did not reach the live one".to_owned();
                let stop = Stop::of_log(writer.position(), error);
                writer.generation.db.retire();
                return self.parts.board.rebuild_failed(stop);
            }
            Err(stop) => {
                tracing::error!(projection = %P::NAME, error = stop.error, "a rebuild was given up; the live read model is untouched");
                return self.parts.board.rebuild_failed(stop);
            }
        };
        if let Err(error) = publish(&self.parts, &mut writer).await {
            let stop = Stop::of_store(writer.position(), error.to_string());
            return self.parts.board.rebuild_failed(stop);
        }
        self.parts.board.rebuild_ended();
        let parts = self.parts.clone();
        self.change(|stage| match stage {
            Stage::Paused(old) => {
                old.generation.db.retire();
                Stage::Paused(writer)
            }
            Stage::Running(old, _) | Stage::Stopped(old) => {
                old.generation.db.retire();
                running(&parts, writer)
            }
            Stage::Closed { .. } => running(&parts, writer),
        });
    }

    /// Lets readers see a making that has reached the log's head for the first time.
    async fn publish_if_complete(&mut self) {
        let Stage::Running(writer, source) = &mut self.stage else { return };
        if !source.has_caught_up() {
            return;
        }
        if !writer.is_published()
            && let Err(error) = publish(&self.parts, writer).await
        {
            return self.close(error).await;
        }
        self.parts.board.doing(Doing::Live);
    }

    async fn shut_down(&mut self) {
        if let Some(build) = self.build.take() {
            build.abandon().await;
        }
        let (Stage::Running(writer, _) | Stage::Paused(writer) | Stage::Stopped(writer)) = &mut self.stage
        else {
            return;
        };
        if let Err(error) = writer.store(&self.parts.slot).await {
            tracing::error!(projection = %P::NAME, %error, "a read model could not be stored at the end; the next start replays from its checkpoint");
        }
        writer.generation.db.close().await;
    }
}

/// Makes the generation the one that is read, and says so in its file first: after a crash it is the newest one.
async fn publish<P: Projection>(parts: &Parts<P>, writer: &mut Writer<P>) -> Result<(), SqlError> {
    writer.publish(&parts.slot).await?;
    let number = writer.generation.number;
    parts.slot.publish(&writer.generation);
    parts.board.published(Some(number));
    tracing::info!(projection = %P::NAME, generation = number, position = %writer.position(), "a read model is complete");
    Ok(())
}

fn try_later<P: Projection>(parts: &Parts<P>, error: &FilesError) -> Stage<P> {
    tracing::error!(projection = %P::NAME, %error, "a read model could not be opened; trying again");
    parts.board.doing(Doing::Retrying(Stop::of_store(parts.board.position(), error.to_string())));
    Stage::Closed { retry_at: parts.clock.now().after(RETRY_AFTER) }
}

async fn until(clock: &Clock, instant: Option<Timestamp>) {
    match instant {
        Some(instant) => clock.sleep_until(instant).await,
        None => pending().await,
    }
}
