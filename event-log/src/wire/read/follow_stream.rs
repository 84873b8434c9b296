//! A subscription to one stream.

use std::sync::Arc;

use event_schemas::envelope::Recorded;
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::Status;
use uuid::Uuid;

use super::form::Form;
use super::plan::From;
use super::{PageSize, Reader};
use crate::EventLog;
use crate::wire::condition::Observer;
use crate::wire::message::{content, timestamp};
use crate::wire::node::Node;
use crate::wire::proto::event_store::client::streams::ReadResp;
use crate::wire::proto::event_store::client::streams::read_resp::{
    CaughtUp, Content, SubscriptionConfirmation,
};
use crate::wire::refusal::Refusal;
use crate::wire::stream_state::TOMBSTONE;

/// Follows a stream from behind a revision on, for ever. The stream need not exist yet.
#[derive(Debug)]
pub(in crate::wire) struct FollowStream {
    node: Arc<Node>,
    observer: Observer,
    head: watch::Receiver<Position>,
    form: Form,
    stream: StreamId,
    of_log: crate::Filter,
    /// Older events are hidden.
    recorded_from: Option<Timestamp>,
    stage: Stage,
    page: PageSize,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Stage {
    New {
        after: From<Revision>,
    },
    /// Reading the stream by itself.
    History {
        next: Revision,
    },
    /// Reading the log, of which other streams are left out.
    Live {
        next: Revision,
        after: Position,
    },
}

impl FollowStream {
    pub(in crate::wire) fn new(
        node: Arc<Node>,
        form: Form,
        stream: StreamId,
        after: From<Revision>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let of_log = crate::Filter::StreamPrefixes(vec![stream.as_str().to_owned()]);
        Self {
            observer: node.observer.clone(),
            head: node.log.head(),
            node,
            form,
            stream,
            of_log,
            recorded_from: None,
            stage: Stage::New { after },
            page: PageSize::new(),
            _place: place,
        }
    }

    async fn begin(&mut self, after: From<Revision>) -> Result<ReadResp, Refusal> {
        let (first, recorded_from) = self.node.begin_following(&self.stream).await?;
        self.recorded_from = recorded_from;
        let next = match after {
            From::Start => Revision(0),
            From::At(revision) => Revision(revision.0.saturating_add(1)),
            From::End => {
                let last = self.node.log.last_of(&self.stream).await?;
                last.map_or(Revision(0), |event| event.revision.next())
            }
        };
        self.stage = Stage::History { next: next.max(first) };
        let subscription_id = Uuid::new_v4().to_string();
        Ok(content(Content::Confirmation(SubscriptionConfirmation { subscription_id })))
    }

    /// The next part of what was there, or the news that it was all.
    async fn history(&mut self, next: Revision) -> Result<Vec<ReadResp>, Refusal> {
        // What the stream has got up to here is read now; what comes behind it, from the log.
        let head = *self.head.borrow();
        let events = self.node.log.read_stream(&self.stream, next, self.page.events(u64::MAX)).await?;
        self.page.learn(&events);
        let Some(last) = events.last() else {
            self.stage = Stage::Live { next, after: head };
            return Ok(vec![content(Content::CaughtUp(CaughtUp {
                timestamp: Some(timestamp(self.node.clock.now())),
                stream_revision: next.0.checked_sub(1).and_then(|last| i64::try_from(last).ok()),
                position: None,
            }))]);
        };
        self.stage = Stage::History { next: last.revision.next() };
        let is_hidden = |event: &Recorded| self.recorded_from.is_some_and(|from| event.recorded_at < from);
        let visible = events.into_iter().filter(|event| !is_hidden(event)).collect();
        self.form.tell_all(&self.node, visible).await
    }

    async fn live(&mut self, mut next: Revision, after: Position) -> Result<Vec<ReadResp>, Refusal> {
        let page = self.node.log.read_all(after, &self.of_log, self.page.events(u64::MAX)).await?;
        self.page.learn(&page.events);
        let mut answers = Vec::new();
        for recorded in page.events {
            if recorded.stream == self.stream && recorded.revision >= next {
                if recorded.event_type.as_str() == TOMBSTONE {
                    if answers.is_empty() {
                        return Err(Refusal::Deleted(recorded.stream));
                    }
                    // First what came before; the end is met again.
                    self.stage = Stage::Live { next, after: Position(recorded.position.0 - 1) };
                    return Ok(answers);
                }
                next = recorded.revision.next();
                answers.push(self.form.tell(&self.node, recorded).await?);
            }
        }
        self.stage = Stage::Live { next, after: page.next };
        Ok(answers)
    }
}

impl Reader for FollowStream {
    async fn next(&mut self) -> Result<Option<Vec<ReadResp>>, Status> {
        self.observer.check_subscription()?;
        Ok(Some(match self.stage {
            Stage::New { after } => vec![self.begin(after).await?],
            Stage::History { next } => self.history(next).await?,
            Stage::Live { next, after } => {
                tokio::select! {
                    status = self.observer.ended() => Err(status),
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
