//! A subscription to one stream.

use std::sync::Arc;

use event_schemas::envelope::Recorded;
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::Status;
use uuid::Uuid;

use super::plan::StartFrom;
use super::read_format::ReadFormat;
use super::{PageSize, Reader};
use crate::wire::event_conversion::{content, timestamp};
use crate::wire::node::Node;
use crate::wire::proto::event_store::client::streams::ReadResp;
use crate::wire::proto::event_store::client::streams::read_resp::{
    CaughtUp, Content, SubscriptionConfirmation,
};
use crate::wire::refusal::Refusal;
use crate::wire::server_state::ServerStateWatch;
use crate::wire::stream_metadata::TOMBSTONE;
use event_log::EventLog;

/// Sends the events after a revision, and then new ones. The stream need not exist yet.
#[derive(Debug)]
pub(in crate::wire) struct FollowStream {
    node: Arc<Node>,
    server_state: ServerStateWatch,
    head: watch::Receiver<Position>,
    format: ReadFormat,
    stream: StreamId,
    log_filter: event_log::Filter,
    /// Events recorded earlier are hidden.
    recorded_from: Option<Timestamp>,
    phase: FollowPhase,
    page: PageSize,
    _permit: OwnedSemaphorePermit,
}

/// The progress of the subscription.
#[derive(Debug)]
enum FollowPhase {
    New {
        after: StartFrom<Revision>,
    },
    /// Reads the stream.
    CatchingUp {
        next: Revision,
    },
    /// Reads the log, without other streams.
    Live {
        next: Revision,
        after: Position,
    },
}

impl FollowStream {
    pub(in crate::wire) fn new(
        node: Arc<Node>,
        format: ReadFormat,
        stream: StreamId,
        after: StartFrom<Revision>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let log_filter = event_log::Filter::StreamPrefixes(vec![stream.as_str().to_owned()]);
        Self {
            server_state: node.server_state.clone(),
            head: node.log.head(),
            node,
            format,
            stream,
            log_filter,
            recorded_from: None,
            phase: FollowPhase::New { after },
            page: PageSize::new(),
            _permit: permit,
        }
    }

    async fn start(&mut self, after: StartFrom<Revision>) -> Result<ReadResp, Refusal> {
        let (first, recorded_from) = self.node.first_visible(&self.stream).await?;
        self.recorded_from = recorded_from;
        let next = match after {
            StartFrom::Start => Revision(0),
            StartFrom::At(revision) => Revision(revision.0.saturating_add(1)),
            StartFrom::End => {
                let last = self.node.log.last_event(&self.stream).await?;
                last.map_or(Revision(0), |event| event.revision.next())
            }
        };
        self.phase = FollowPhase::CatchingUp { next: next.max(first) };
        let subscription_id = Uuid::new_v4().to_string();
        Ok(content(Content::Confirmation(SubscriptionConfirmation { subscription_id })))
    }

    /// The next page of existing events, or `CaughtUp` after the last one.
    async fn catch_up(&mut self, next: Revision) -> Result<Vec<ReadResp>, Refusal> {
        // Events up to this head are read from the stream; later ones from the log.
        let head = *self.head.borrow();
        let events = self.node.log.read_stream(&self.stream, next, self.page.events(u64::MAX)).await?;
        self.page.adapt(&events);
        let Some(last) = events.last() else {
            self.phase = FollowPhase::Live { next, after: head };
            return Ok(vec![content(Content::CaughtUp(CaughtUp {
                timestamp: Some(timestamp(self.node.clock.now())),
                stream_revision: next.0.checked_sub(1).and_then(|last| i64::try_from(last).ok()),
                position: None,
            }))]);
        };
        self.phase = FollowPhase::CatchingUp { next: last.revision.next() };
        let is_hidden = |event: &Recorded| self.recorded_from.is_some_and(|from| event.recorded_at < from);
        let visible = events.into_iter().filter(|event| !is_hidden(event)).collect();
        self.format.convert_all(&self.node, visible).await
    }

    async fn live(&mut self, mut next: Revision, after: Position) -> Result<Vec<ReadResp>, Refusal> {
        let page = self.node.log.read_all(after, &self.log_filter, self.page.events(u64::MAX)).await?;
        self.page.adapt(&page.events);
        let mut answers = Vec::new();
        for recorded in page.events {
            if recorded.stream == self.stream && recorded.revision >= next {
                if recorded.event_type.as_str() == TOMBSTONE {
                    if answers.is_empty() {
                        return Err(Refusal::Deleted(recorded.stream));
                    }
                    // The earlier events are sent first; the tombstone is read again.
                    self.phase = FollowPhase::Live { next, after: Position(recorded.position.0 - 1) };
                    return Ok(answers);
                }
                next = recorded.revision.next();
                answers.push(self.format.convert(&self.node, recorded).await?);
            }
        }
        self.phase = FollowPhase::Live { next, after: page.next };
        Ok(answers)
    }
}

impl Reader for FollowStream {
    async fn next(&mut self) -> Result<Option<Vec<ReadResp>>, Status> {
        self.server_state.check_subscription()?;
        Ok(Some(match self.phase {
            FollowPhase::New { after } => vec![self.start(after).await?],
            FollowPhase::CatchingUp { next } => self.catch_up(next).await?,
            FollowPhase::Live { next, after } => {
                tokio::select! {
                    status = self.server_state.ended() => Err(status),
                    moved = self.head.wait_for(|head| *head > after) => match moved {
                        Ok(_) => Ok(()),
                        Err(_) => Err(Status::unavailable("the log has stopped")),
                    },
                }?;
                self.live(next, after).await?
            }
        }))
    }
}
