//! A making of a read model beside the live one, in a task of its own.

use futures_util::FutureExt;
use tokio::task::{JoinError, JoinHandle};

use super::Parts;
use crate::projection::Projection;
use crate::rebuild::Opened;
use crate::status::Stop;
use crate::writer::{Halt, Rush, Writer};

/// The task, and what it makes.
#[derive(Debug)]
pub(crate) struct Build<P: Projection> {
    number: u64,
    task: JoinHandle<Result<Writer<P>, Stop>>,
}

impl<P: Projection> Build<P> {
    pub(crate) fn start(parts: &Parts<P>, opened: Opened) -> Self {
        let number = opened.number;
        parts.board.rebuild_started(number, opened.checkpoint.position, parts.clock.now());
        Self { number, task: tokio::spawn(build(parts.clone(), opened).boxed()) }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Waits for the end. Cancel safe.
    pub(crate) async fn done(&mut self) -> Result<Writer<P>, Stop> {
        (&mut self.task).await.unwrap_or_else(|error| Err(broken_off(&error)))
    }

    /// Lets the file lie where it is, to be gone on with when it is opened again.
    pub(crate) async fn abandon(mut self) {
        self.task.abort();
        // Only once the task is gone may others open the file.
        let _ = (&mut self.task).await;
    }
}

impl<P: Projection> Drop for Build<P> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn broken_off(error: &JoinError) -> Stop {
    Stop::of_store(event_schemas::ids::Position::START, format!("the rebuild broke off: {error}"))
}

async fn build<P: Projection>(parts: Parts<P>, opened: Opened) -> Result<Writer<P>, Stop> {
    let from = opened.checkpoint.position;
    let writer = Writer::open(opened, &parts.shared, parts.clock.clone())
        .await
        .map_err(|error| Stop::of_store(from, error.to_string()))?;
    catch_up(&parts, writer).await
}

/// Takes in everything up to the log's head. What cannot be finished is removed.
pub(crate) async fn catch_up<P: Projection>(
    parts: &Parts<P>,
    mut writer: Writer<P>,
) -> Result<Writer<P>, Stop> {
    let mut pages = parts.feed.read(writer.position(), P::CATEGORIES);
    while let Some(page) = pages.recv().await {
        let applied = match page {
            Ok(page) => writer.apply(&[page], Rush::CatchingUp, &parts.slot).await,
            Err(error) => Err(Halt::Poison(Stop::of_log(writer.position(), error.to_string()))),
        };
        let stop = match applied {
            Ok(()) => {
                parts.board.rebuild_moved(writer.position(), writer.recorded_at(), parts.clock.now());
                continue;
            }
            Err(Halt::Poison(stop)) => stop,
            Err(Halt::Store(error)) => Stop::of_store(writer.position(), error.to_string()),
        };
        writer.generation.db.retire();
        return Err(stop);
    }
    match writer.store(&parts.slot).await {
        Ok(()) => Ok(writer),
        Err(error) => Err(Stop::of_store(writer.position(), error.to_string())),
    }
}
