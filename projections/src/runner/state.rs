//! The state of a runner, and its initial state.

use event_log::EventLog;
use event_schemas::time::Timestamp;

use super::RunnerContext;
use super::build::Build;
use crate::feed::PageSource;
use crate::projection::Projection;
use crate::status::ProjectionState;
use crate::store::StoreError;
use crate::writer::Writer;

#[derive(Debug)]
pub(super) enum RunnerState<P: Projection> {
    Running(Writer<P>, PageSource),
    Paused(Writer<P>),
    /// The projection is at an event that cannot be decoded, or the log has stopped.
    Stopped(Writer<P>),
    /// The file will be reopened at this instant.
    Closed {
        retry_at: Timestamp,
    },
}

pub(super) fn start_running<P: Projection>(context: &RunnerContext<P>, writer: Writer<P>) -> RunnerState<P> {
    let source = context.feed.follow(writer.position(), P::CATEGORIES);
    context.tracker.set_state(ProjectionState::CatchingUp);
    context.tracker.started(writer.position(), writer.recorded_at(), context.clock.now());
    RunnerState::Running(writer, source)
}

/// Continues with the live file, or creates the first one, and resumes an interrupted rebuild.
pub(super) async fn open_state<P: Projection>(
    context: &RunnerContext<P>,
) -> Result<(RunnerState<P>, Option<Build<P>>), StoreError> {
    let identity = context.log.identity();
    let found = context.generations.find::<P>(&context.log).await?;
    let (opened, unfinished) = match (found.live, found.unfinished) {
        (Some(live), unfinished) => (live, unfinished),
        (None, Some(unfinished)) => (unfinished, None),
        (None, None) => (context.generations.create::<P>(identity).await?, None),
    };
    let number = opened.number;
    let mut writer: Writer<P> = Writer::open(opened, &context.shared, context.clock.clone())
        .await
        .map_err(|source| context.generations.error(number, source))?;
    if writer.is_published() {
        writer.projection.on_published();
        context.slot.publish(&writer.generation);
        context.tracker.set_generation(Some(writer.generation.number));
    }
    context.tracker.rebuild_abandoned();
    let state = start_running(context, writer);
    Ok((state, unfinished.map(|opened| Build::start(context, opened))))
}
