//! A number of events of one stream.

use std::sync::Arc;

use event_schemas::ids::Revision;
use event_schemas::stream::StreamId;
use tonic::Status;

use super::form::Form;
use super::plan::{Direction, From};
use super::{PageSize, Reader};
use crate::EventLog;
use crate::wire::message::{content, stream_identifier};
use crate::wire::node::Node;
use crate::wire::proto::event_store::client::streams::ReadResp;
use crate::wire::proto::event_store::client::streams::read_resp::{Content, StreamNotFound};
use crate::wire::refusal::Refusal;
use crate::wire::stream_state::Visible;

/// Reads a stream from an event on, that one included.
#[derive(Debug)]
pub(in crate::wire) struct StreamEvents {
    node: Arc<Node>,
    stream: StreamId,
    direction: Direction,
    form: Form,
    tells_ends: bool,
    stage: Stage,
}

/// How far the reading is.
#[derive(Debug)]
enum Stage {
    /// There is no such stream.
    Missing,
    Reading(Span),
    Over,
}

/// What is left to read.
#[derive(Debug)]
struct Span {
    /// The next event; none if the stream's start was passed.
    next: Option<Revision>,
    left: u64,
    page: PageSize,
    /// When the reading began: what comes later is not part of it.
    visible: Visible,
    found: bool,
}

impl Span {
    fn new(visible: Visible, from: From<Revision>, direction: Direction, left: u64) -> Self {
        let Visible { first, last, .. } = visible;
        let next = match (direction, from) {
            (Direction::Forwards, From::Start) => Some(first),
            (Direction::Forwards, From::At(revision)) => Some(revision.max(first)),
            (Direction::Forwards, From::End) => None,
            (Direction::Backwards, From::Start) => Some(Revision(0)),
            (Direction::Backwards, From::At(revision)) => Some(revision.min(last)),
            (Direction::Backwards, From::End) => Some(last),
        };
        Self { next, left, page: PageSize::new(), visible, found: false }
    }
}

impl Reader for StreamEvents {
    async fn next(&mut self) -> Result<Option<Vec<ReadResp>>, Status> {
        self.node.observer.check()?;
        match &mut self.stage {
            Stage::Missing => {
                self.stage = Stage::Over;
                let stream_identifier = Some(stream_identifier(&self.stream));
                Ok(Some(vec![content(Content::StreamNotFound(StreamNotFound { stream_identifier }))]))
            }
            Stage::Reading(_) => Ok(Some(self.read_on().await?)),
            Stage::Over => Ok(None),
        }
    }
}

impl StreamEvents {
    /// Looks the stream up.
    ///
    /// # Errors
    /// The stream is deleted for good. That is an error of the call: clients do not look for it behind an answer.
    pub(in crate::wire) async fn begin(
        node: Arc<Node>,
        stream: StreamId,
        from: From<Revision>,
        direction: Direction,
        count: u64,
        form: Form,
        tells_ends: bool,
    ) -> Result<Self, Refusal> {
        let stage = match node.visible(&stream).await? {
            Some(visible) => Stage::Reading(Span::new(visible, from, direction, count)),
            None => Stage::Missing,
        };
        Ok(Self { node, stream, direction, form, tells_ends, stage })
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
        self.form.tell_all(&self.node, events).await
    }
}

/// Where the stream begins, if nothing was found from where the client asked, and where it ends.
fn ends(span: &Span) -> Vec<ReadResp> {
    let first = (!span.found).then(|| content(Content::FirstStreamPosition(span.visible.first.0)));
    first.into_iter().chain([content(Content::LastStreamPosition(span.visible.last.0))]).collect()
}
