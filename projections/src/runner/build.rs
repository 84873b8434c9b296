//! The build of a generation alongside the live one, in its own task.

use futures_util::FutureExt;
use tokio::task::{JoinError, JoinHandle};

use super::RunnerContext;
use crate::projection::Projection;
use crate::status::Failure;
use crate::store::OpenGeneration;
use crate::writer::{ApplyError, Mode, Writer};

/// The task, and the number of the generation that it builds.
#[derive(Debug)]
pub(crate) struct Build<P: Projection> {
    number: u64,
    task: JoinHandle<Result<Writer<P>, Failure>>,
}

impl<P: Projection> Build<P> {
    pub(crate) fn start(context: &RunnerContext<P>, opened: OpenGeneration) -> Self {
        let number = opened.number;
        context.tracker.rebuild_started(number, opened.checkpoint.position, context.clock.now());
        Self { number, task: tokio::spawn(build(context.clone(), opened).boxed()) }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Waits for the end. Cancel safe.
    pub(crate) async fn done(&mut self) -> Result<Writer<P>, Failure> {
        (&mut self.task).await.unwrap_or_else(|error| Err(panicked(&error)))
    }

    /// Aborts the build. Its file stays, and is continued when it is opened again.
    pub(crate) async fn abandon(mut self) {
        self.task.abort();
        // The file may be opened again only after the task has ended.
        let _ = (&mut self.task).await;
    }
}

impl<P: Projection> Drop for Build<P> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn panicked(error: &JoinError) -> Failure {
    Failure::storage(event_schemas::ids::Position::START, format!("the rebuild panicked: {error}"))
}

async fn build<P: Projection>(
    context: RunnerContext<P>,
    opened: OpenGeneration,
) -> Result<Writer<P>, Failure> {
    let from = opened.checkpoint.position;
    let writer = Writer::open(opened, &context.shared, context.clock.clone())
        .await
        .map_err(|error| Failure::storage(from, error.to_string()))?;
    let mut writer = catch_up(&context, writer).await?;
    if let Err(error) = writer.create_indexes(&context.slot).await {
        return Err(Failure::storage(writer.position(), error.to_string()));
    }
    // The events that were appended in the meantime, so that the runner has few to apply before it swaps.
    catch_up(&context, writer).await
}

/// Applies all events up to the log's head. A generation that cannot be finished is removed.
pub(crate) async fn catch_up<P: Projection>(
    context: &RunnerContext<P>,
    mut writer: Writer<P>,
) -> Result<Writer<P>, Failure> {
    let mut pages = context.feed.read(writer.position(), P::CATEGORIES);
    while let Some(page) = pages.recv().await {
        let applied = match page {
            Ok(page) => writer.apply(&[page], Mode::CatchUp, &context.slot).await,
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
        writer.generation.db.retire();
        return Err(failure);
    }
    match writer.store(&context.slot).await {
        Ok(()) => Ok(writer),
        Err(error) => Err(Failure::storage(writer.position(), error.to_string())),
    }
}
