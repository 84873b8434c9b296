//! A subscription to the whole log.

use std::sync::Arc;

use event_schemas::ids::Position;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::Status;
use uuid::Uuid;

use super::plan::StartFrom;
use super::read_format::ReadFormat;
use super::{PageSize, Reader};
use crate::wire::event_conversion::{content, position, timestamp};
use crate::wire::filter::Filter;
use crate::wire::node::Node;
use crate::wire::proto::event_store::client::streams::ReadResp;
use crate::wire::proto::event_store::client::streams::read_resp::{
    CaughtUp, Checkpoint, Content, SubscriptionConfirmation,
};
use crate::wire::server_state::ServerStateWatch;
use event_log::EventLog;

/// Sends the events after a position, and then new ones.
#[derive(Debug)]
pub(in crate::wire) struct FollowAll {
    node: Arc<Node>,
    server_state: ServerStateWatch,
    head: watch::Receiver<Position>,
    format: ReadFormat,
    filter: Filter,
    log_filter: event_log::Filter,
    /// The number of scanned events between checkpoints; `None` without a filter.
    checkpoint_every: Option<u64>,
    /// Events up to here were scanned.
    after: Position,
    /// The position of the last event or checkpoint that was sent.
    last_sent: Position,
    is_confirmed: bool,
    is_live: bool,
    page: PageSize,
    _permit: OwnedSemaphorePermit,
}

impl FollowAll {
    pub(in crate::wire) fn new(
        node: Arc<Node>,
        format: ReadFormat,
        after: StartFrom<Position>,
        filter: Filter,
        checkpoint_every: Option<u64>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let head = node.log.head();
        let after = match after {
            StartFrom::Start => Position::START,
            StartFrom::At(position) => position,
            StartFrom::End => *head.borrow(),
        };
        Self {
            server_state: node.server_state.clone(),
            node,
            head,
            format,
            log_filter: filter.log_filter(),
            filter,
            checkpoint_every,
            after,
            last_sent: after,
            is_confirmed: false,
            is_live: false,
            page: PageSize::new(),
            _permit: permit,
        }
    }

    fn caught_up(&self) -> ReadResp {
        content(Content::CaughtUp(CaughtUp {
            timestamp: Some(timestamp(self.node.clock.now())),
            stream_revision: None,
            position: (self.after > Position::START).then(|| position(self.after)),
        }))
    }

    /// The checkpoint at this position, if one is due.
    fn checkpoint(&mut self, at: Position) -> Option<ReadResp> {
        let every = self.checkpoint_every?;
        (at.0.saturating_sub(self.last_sent.0) >= every).then(|| {
            self.last_sent = at;
            content(Content::Checkpoint(Checkpoint {
                commit_position: at.0,
                prepare_position: at.0,
                timestamp: Some(timestamp(self.node.clock.now())),
            }))
        })
    }

    async fn read_on(&mut self) -> Result<Vec<ReadResp>, Status> {
        let read = self.node.log.read_all(self.after, &self.log_filter, self.page.events(u64::MAX)).await;
        let page = read.map_err(crate::wire::refusal::Refusal::from)?;
        self.page.adapt(&page.events);
        let mut answers = Vec::new();
        for recorded in page.events {
            let at = recorded.position;
            if self.filter.matches(&recorded)? {
                answers.push(self.format.convert(&self.node, recorded).await?);
            }
            answers.extend(self.checkpoint(at));
        }
        self.after = page.next;
        answers.extend(self.checkpoint(page.next));
        Ok(answers)
    }
}

impl Reader for FollowAll {
    async fn next(&mut self) -> Result<Option<Vec<ReadResp>>, Status> {
        self.server_state.check_subscription()?;
        if !self.is_confirmed {
            self.is_confirmed = true;
            let subscription_id = Uuid::new_v4().to_string();
            return Ok(Some(vec![content(Content::Confirmation(SubscriptionConfirmation {
                subscription_id,
            }))]));
        }
        let after = self.after;
        if !self.is_live && *self.head.borrow() <= after {
            self.is_live = true;
            return Ok(Some(vec![self.caught_up()]));
        }
        tokio::select! {
            status = self.server_state.ended() => Err(status),
            moved = self.head.wait_for(|head| *head > after) => match moved {
                Ok(_) => Ok(()),
                Err(_) => Err(Status::unavailable("the log has stopped")),
            },
        }?;
        Ok(Some(self.read_on().await?))
    }
}
