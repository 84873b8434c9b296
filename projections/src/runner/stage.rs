//! Where a projector stands, and how it gets there when it starts.

use event_log::EventLog;
use event_schemas::time::Timestamp;

use super::Parts;
use super::build::Build;
use crate::feed::Source;
use crate::projection::Projection;
use crate::rebuild::FilesError;
use crate::status::Doing;
use crate::writer::Writer;

#[derive(Debug)]
pub(super) enum Stage<P: Projection> {
    Running(Writer<P>, Source),
    Paused(Writer<P>),
    /// At an event that cannot be read, or at the end of the log's life.
    Stopped(Writer<P>),
    /// The file has to be opened anew at this instant.
    Closed {
        retry_at: Timestamp,
    },
}

pub(super) fn running<P: Projection>(parts: &Parts<P>, writer: Writer<P>) -> Stage<P> {
    let source = parts.feed.follow(writer.position(), P::CATEGORIES);
    parts.board.doing(Doing::CatchingUp);
    parts.board.started(writer.position(), writer.recorded_at(), parts.clock.now());
    Stage::Running(writer, source)
}

/// Goes on with the live file, or makes the first one; and goes on with a rebuild that was broken off.
pub(super) async fn open_stage<P: Projection>(
    parts: &Parts<P>,
) -> Result<(Stage<P>, Option<Build<P>>), FilesError> {
    let identity = parts.log.identity();
    let found = parts.files.find::<P>(&parts.log).await?;
    let (opened, begun) = match (found.live, found.begun) {
        (Some(live), begun) => (live, begun),
        (None, Some(begun)) => (begun, None),
        (None, None) => (parts.files.begin::<P>(identity).await?, None),
    };
    let path = opened.db.path().to_owned();
    let mut writer: Writer<P> = Writer::open(opened, &parts.shared, parts.clock.clone())
        .await
        .map_err(|source| FilesError::File { path, source })?;
    if writer.is_published() {
        writer.projection.published();
        parts.slot.publish(&writer.generation);
        parts.board.published(Some(writer.generation.number));
    }
    let stage = running(parts, writer);
    Ok((stage, begun.map(|begun| Build::start(parts, begun))))
}
