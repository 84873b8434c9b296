//! A number of events of one stream.

use std::sync::Arc;

use event_schemas::ids::Revision;
use event_schemas::stream::StreamId;
use tonic::Status;

use super::plan::{Direction, From};
use super::{PageSize, Reader};
use crate::EventLog;
use crate::wire::message::{IdForm, content, event, stream_identifier};
use crate::wire::node::Node;
use crate::wire::proto::event_store::client::streams::ReadResp;
use crate::wire::proto::event_store::client::streams::read_resp::{Content, StreamNotFound};
use crate::wire::refusal::Refusal;
use crate::wire::stream_state::Visible;

/// Reads a stream from an event on, that one included.
#[derive(Debug)]
pub(in crate::wire) struct StreamEvents {
    pub(in crate::wire) node: Arc<Node>,
    pub(in crate::wire) stream: StreamId,
    pub(in crate::wire) from: From<Revision>,
    pub(in crate::wire) direction: Direction,
    pub(in crate::wire) count: u64,
    pub(in crate::wire) ids: IdForm,
    pub(in crate::wire) tells_ends: bool,
    pub(in crate::wire) stage: Stage,
}

/// How far the reading is.
#[derive(Debug)]
pub(in crate::wire) enum Stage {
    New,
    Reading(Span),
    Over,
}

/// What is left to read.
#[derive(Debug)]
pub(in crate::wire) struct Span {
    /// The next event; none if the stream's start was passed.
    next: Option<Revision>,
    left: u64,
    page: PageSize,
    /// When the reading began: what comes later is not part of it.
    visible: Visible,
    found: bool,
}

impl Reader for StreamEvents {
    async fn next(&mut self) -> Result<Option<Vec<ReadResp>>, Status> {
        self.node.observer.check()?;
        match &mut self.stage {
            Stage::New => match self.begin().await? {
                Some(span) => {
                    self.stage = Stage::Reading(span);
                    Ok(Some(Vec::new()))
                }
                None => {
                    self.stage = Stage::Over;
                    let stream_identifier = Some(stream_identifier(&self.stream));
                    Ok(Some(vec![content(Content::StreamNotFound(StreamNotFound { stream_identifier }))]))
                }
            },
            Stage::Reading(_) => Ok(Some(self.read_on().await?)),
            Stage::Over => Ok(None),
        }
    }
}

impl StreamEvents {
    /// Where to begin; none if there is no such stream.
    async fn begin(&self) -> Result<Option<Span>, Refusal> {
        let Some(visible) = self.node.visible(&self.stream).await? else { return Ok(None) };
        let Visible { first, last, .. } = visible;
        let next = match (self.direction, self.from) {
            (Direction::Forwards, From::Start) => Some(first),
            (Direction::Forwards, From::At(revision)) => Some(revision.max(first)),
            (Direction::Forwards, From::End) => None,
            (Direction::Backwards, From::Start) => Some(Revision(0)),
            (Direction::Backwards, From::At(revision)) => Some(revision.min(last)),
            (Direction::Backwards, From::End) => Some(last),
        };
        Ok(Some(Span { next, left: self.count, page: PageSize::new(), visible, found: false }))
    }

    async fn read_on(&mut self) -> Result<Vec<ReadResp>, Refusal> {
        let Stage::Reading(span) = &mut self.stage else { return Ok(Vec::new()) };
        let wanted = span
            .next
            .filter(|next| *next >= span.visible.first && *next <= span.visible.last && span.left > 0);
        let Some(next) = wanted else {
            let ends = if self.tells_ends { ends(span) } else { Vec::new() };
            self.stage = Stage::Over;
            return Ok(ends);
        };
        let log = &self.node.log;
        let events = match self.direction {
            Direction::Forwards => {
                let left = span.left.min(span.visible.last.0 - next.0 + 1);
                log.read_stream(&self.stream, next, span.page.events(left)).await?
            }
            Direction::Backwards => {
                let left = span.left.min(next.0 - span.visible.first.0 + 1);
                log.read_stream_back(&self.stream, next, span.page.events(left)).await?
            }
        };
        span.page.learn(&events);
        span.next = match (self.direction, events.last()) {
            (Direction::Forwards, Some(event)) => Some(event.revision.next()),
            (Direction::Backwards, Some(event)) => event.revision.0.checked_sub(1).map(Revision),
            (_, None) => None,
        };
        let mut events = events;
        if let Some(from) = span.visible.recorded_from {
            events.retain(|event| event.recorded_at >= from);
        }
        span.left -= events.len() as u64;
        span.found |= !events.is_empty();
        Ok(events.into_iter().map(|recorded| event(recorded, self.ids)).collect())
    }
}

/// Where the stream begins, if nothing was found from where the client asked, and where it ends.
fn ends(span: &Span) -> Vec<ReadResp> {
    let first = (!span.found).then(|| content(Content::FirstStreamPosition(span.visible.first.0)));
    first.into_iter().chain([content(Content::LastStreamPosition(span.visible.last.0))]).collect()
}
