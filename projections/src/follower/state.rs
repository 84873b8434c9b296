//! The state of a runner, and its initial state.

use event_schemas::time::Timestamp;

use super::RunnerContext;
use super::build::Build;
use super::writer::Writer;
use crate::feed::PageSource;
use crate::status::ProjectionState;
use crate::store::StoreError;

#[derive(Debug)]
pub(super) enum RunnerState {
    Running(Writer, PageSource),
    Paused(Writer),
    /// The projection is at an event that cannot be decoded, or the log has stopped.
    Stopped(Writer),
    /// The file will be reopened at this instant.
    Closed {
        retry_at: Timestamp,
    },
}

pub(super) fn start_running(context: &RunnerContext, writer: Writer) -> RunnerState {
    let source = context.feed.follow(writer.position(), context.followed.categories);
    context.tracker.set_state(ProjectionState::CatchingUp);
    context.tracker.started(writer.position(), writer.recorded_at(), context.clock.now());
    RunnerState::Running(writer, source)
}

/// Continues with the live generation, or creates the first one, and resumes an interrupted rebuild.
pub(super) async fn open_state(context: &RunnerContext) -> Result<(RunnerState, Option<Build>), StoreError> {
    let found = context.store.find().await?;
    let (opened, unfinished) = match (found.live, found.unfinished) {
        (Some(live), unfinished) => (live, unfinished),
        (None, Some(unfinished)) => (unfinished, None),
        (None, None) => (context.store.create().await?, None),
    };
    let mut writer = Writer::new(opened, context.followed, context.clock.clone());
    if writer.is_published() {
        writer.target.publish();
        context.tracker.published(writer.target.number());
    }
    context.tracker.rebuild_abandoned();
    let state = start_running(context, writer);
    Ok((state, unfinished.map(|opened| Build::start(context, opened))))
}
