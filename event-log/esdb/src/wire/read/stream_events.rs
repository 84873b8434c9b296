//! A limited read of one stream.

use std::sync::Arc;

use event_schemas::ids::Revision;
use event_schemas::stream::StreamId;
use tonic::Status;

use super::plan::{Direction, StartFrom};
use super::read_format::ReadFormat;
use super::{PageSize, Reader};
use crate::wire::event_conversion::{content, stream_identifier};
use crate::wire::node::Node;
use crate::wire::proto::event_store::client::streams::ReadResp;
use crate::wire::proto::event_store::client::streams::read_resp::{Content, StreamNotFound};
use crate::wire::refusal::Refusal;
use crate::wire::stream_metadata::VisibleRange;
use event_log::EventLog;

/// Reads a stream from a revision, inclusive.
#[derive(Debug)]
pub(in crate::wire) struct StreamEvents {
    node: Arc<Node>,
    stream: StreamId,
    direction: Direction,
    format: ReadFormat,
    reports_stream_ends: bool,
    progress: ReadProgress,
}

/// The progress of the read.
#[derive(Debug)]
enum ReadProgress {
    /// The stream does not exist.
    NotFound,
    Reading(RemainingRange),
    Finished,
}

/// The remaining events to read.
#[derive(Debug)]
struct RemainingRange {
    /// The next revision; `None` before the start of the stream.
    next: Option<Revision>,
    left: u64,
    page: PageSize,
    /// The visible events when the read started; later events are not included.
    visible: VisibleRange,
    found: bool,
}

impl RemainingRange {
    fn new(visible: VisibleRange, from: StartFrom<Revision>, direction: Direction, left: u64) -> Self {
        let VisibleRange { first, last, .. } = visible;
        let next = match (direction, from) {
            (Direction::Forwards, StartFrom::Start) => Some(first),
            (Direction::Forwards, StartFrom::At(revision)) => Some(revision.max(first)),
            (Direction::Forwards, StartFrom::End) => None,
            (Direction::Backwards, StartFrom::Start) => Some(Revision(0)),
            (Direction::Backwards, StartFrom::At(revision)) => Some(revision.min(last)),
            (Direction::Backwards, StartFrom::End) => Some(last),
        };
        Self { next, left, page: PageSize::new(), visible, found: false }
    }
}

impl Reader for StreamEvents {
    async fn next(&mut self) -> Result<Option<Vec<ReadResp>>, Status> {
        self.node.server_state.check()?;
        match &mut self.progress {
            ReadProgress::NotFound => {
                self.progress = ReadProgress::Finished;
                let stream_identifier = Some(stream_identifier(&self.stream));
                Ok(Some(vec![content(Content::StreamNotFound(StreamNotFound { stream_identifier }))]))
            }
            ReadProgress::Reading(_) => Ok(Some(self.read_on().await?)),
            ReadProgress::Finished => Ok(None),
        }
    }
}

impl StreamEvents {
    /// Looks up the visible events of the stream.
    ///
    /// # Errors
    /// The stream was deleted permanently. The call fails before any answer, as clients expect.
    pub(in crate::wire) async fn open(
        node: Arc<Node>,
        stream: StreamId,
        from: StartFrom<Revision>,
        direction: Direction,
        count: u64,
        format: ReadFormat,
        reports_stream_ends: bool,
    ) -> Result<Self, Refusal> {
        let progress = match node.visible(&stream).await? {
            Some(visible) => ReadProgress::Reading(RemainingRange::new(visible, from, direction, count)),
            None => ReadProgress::NotFound,
        };
        Ok(Self { node, stream, direction, format, reports_stream_ends, progress })
    }

    async fn read_on(&mut self) -> Result<Vec<ReadResp>, Refusal> {
        let ReadProgress::Reading(range) = &mut self.progress else { return Ok(Vec::new()) };
        let wanted = range
            .next
            .filter(|next| *next >= range.visible.first && *next <= range.visible.last && range.left > 0);
        let Some(next) = wanted else {
            let ends = if self.reports_stream_ends { stream_ends(range) } else { Vec::new() };
            self.progress = ReadProgress::Finished;
            return Ok(ends);
        };
        let log = &self.node.log;
        let events = match self.direction {
            Direction::Forwards => {
                let left = range.left.min(range.visible.last.0 - next.0 + 1);
                log.read_stream(&self.stream, next, range.page.events(left)).await?
            }
            Direction::Backwards => {
                let left = range.left.min(next.0 - range.visible.first.0 + 1);
                log.read_stream_backwards(&self.stream, next, range.page.events(left)).await?
            }
        };
        range.page.adapt(&events);
        range.next = match (self.direction, events.last()) {
            (Direction::Forwards, Some(event)) => Some(event.revision.next()),
            (Direction::Backwards, Some(event)) => event.revision.0.checked_sub(1).map(Revision),
            (_, None) => None,
        };
        let mut events = events;
        if let Some(from) = range.visible.recorded_from {
            events.retain(|event| event.recorded_at >= from);
        }
        range.left -= events.len() as u64;
        range.found |= !events.is_empty();
        self.format.convert_all(&self.node, events).await
    }
}

/// The last revision of the stream, and the first one if the read found no events.
fn stream_ends(range: &RemainingRange) -> Vec<ReadResp> {
    let first = (!range.found).then(|| content(Content::FirstStreamPosition(range.visible.first.0)));
    first.into_iter().chain([content(Content::LastStreamPosition(range.visible.last.0))]).collect()
}
