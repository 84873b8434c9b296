//! The build of a generation alongside the live one, in its own task.

use futures_util::FutureExt;
use tokio::task::{JoinError, JoinHandle};

use super::writer::{ApplyError, Mode, Writer};
use super::{OpenTarget, RunnerContext};
use crate::status::Failure;

/// The task, and the number of the generation that it builds.
#[derive(Debug)]
pub(crate) struct Build {
    number: u64,
    task: JoinHandle<Result<Writer, Failure>>,
}

impl Build {
    pub(crate) fn start(context: &RunnerContext, opened: OpenTarget) -> Self {
        let number = opened.target.number();
        context.tracker.rebuild_started(number, opened.checkpoint.position, context.clock.now());
        // On all cores, not on the thread of the live read models.
        let task = context.runtime.spawn(build(context.clone(), opened).boxed());
        Self { number, task }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Waits for the end. Cancel safe.
    pub(crate) async fn done(&mut self) -> Result<Writer, Failure> {
        (&mut self.task).await.unwrap_or_else(|error| Err(panicked(&error)))
    }

    /// Aborts the build. Its file stays, and is continued when it is opened again.
    pub(crate) async fn abandon(mut self) {
        self.task.abort();
        // The file may be opened again only after the task has ended.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn panicked(error: &JoinError) -> Failure {
    Failure::storage(event_schemas::ids::Position::START, format!("the rebuild panicked: {error}"))
}

async fn build(context: RunnerContext, opened: OpenTarget) -> Result<Writer, Failure> {
    let writer = Writer::new(opened, context.followed, context.clock.clone());
    let mut writer = catch_up(&context, writer).await?;
    if let Err(error) = writer.finish().await {
        return Err(Failure::storage(writer.position(), error.to_string()));
    }
    // The events that were appended in the meantime, so that the runner has few to apply before it swaps.
    catch_up(&context, writer).await
}

/// Applies all events up to the log's head. A generation that cannot be finished is removed.
pub(crate) async fn catch_up(context: &RunnerContext, mut writer: Writer) -> Result<Writer, Failure> {
    let mut pages = context.feed.read(writer.position(), context.followed.categories);
    while let Some(page) = pages.recv().await {
        let applied = match page {
            Ok(page) => writer.apply(&[page], Mode::CatchUp).await,
            Err(error) => Err(ApplyError::Unreadable(Failure::log(writer.position(), error.to_string()))),
        };
        let failure = match applied {
            Ok(()) => {
                context.tracker.rebuild_advanced(
                    writer.position(),
                    writer.recorded_at(),
                    context.clock.now(),
                );
                continue;
            }
            Err(ApplyError::Unreadable(failure)) => failure,
            Err(ApplyError::Storage(error)) => Failure::storage(writer.position(), error.to_string()),
        };
        writer.target.retire();
        return Err(failure);
    }
    match writer.store().await {
        Ok(()) => Ok(writer),
        Err(error) => Err(Failure::storage(writer.position(), error.to_string())),
    }
}
