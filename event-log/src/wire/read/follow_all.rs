//! A subscription to the whole log.

use std::sync::Arc;

use event_schemas::ids::Position;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::Status;
use uuid::Uuid;

use super::form::Form;
use super::plan::From;
use super::{PageSize, Reader};
use crate::EventLog;
use crate::wire::condition::Observer;
use crate::wire::filter::Filter;
use crate::wire::message::{content, position, timestamp};
use crate::wire::node::Node;
use crate::wire::proto::event_store::client::streams::ReadResp;
use crate::wire::proto::event_store::client::streams::read_resp::{
    CaughtUp, Checkpoint, Content, SubscriptionConfirmation,
};

/// Follows the log from behind a position on, for ever.
#[derive(Debug)]
pub(in crate::wire) struct FollowAll {
    node: Arc<Node>,
    observer: Observer,
    head: watch::Receiver<Position>,
    form: Form,
    filter: Filter,
    of_log: crate::Filter,
    /// After how many events that were looked at a checkpoint is due; none without a filter.
    checkpoint_every: Option<u64>,
    /// Everything up to here was looked at.
    after: Position,
    /// Up to where the client knows that it has all: its last event or checkpoint.
    told: Position,
    is_confirmed: bool,
    is_live: bool,
    page: PageSize,
    _place: OwnedSemaphorePermit,
}

impl FollowAll {
    pub(in crate::wire) fn new(
        node: Arc<Node>,
        form: Form,
        after: From<Position>,
        filter: Filter,
        checkpoint_every: Option<u64>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let head = node.log.head();
        let after = match after {
            From::Start => Position::START,
            From::At(position) => position,
            From::End => *head.borrow(),
        };
        Self {
            observer: node.observer.clone(),
            node,
            head,
            form,
            of_log: filter.of_log(),
            filter,
            checkpoint_every,
            after,
            told: after,
            is_confirmed: false,
            is_live: false,
            page: PageSize::new(),
            _place: place,
        }
    }

    fn caught_up(&self) -> ReadResp {
        content(Content::CaughtUp(CaughtUp {
            timestamp: Some(timestamp(self.node.clock.now())),
            stream_revision: None,
            position: (self.after > Position::START).then(|| position(self.after)),
        }))
    }

    /// Says how far the subscription is, if that is due at this position.
    fn checkpoint(&mut self, at: Position) -> Option<ReadResp> {
        let every = self.checkpoint_every?;
        (at.0.saturating_sub(self.told.0) >= every).then(|| {
            self.told = at;
            content(Content::Checkpoint(Checkpoint {
                commit_position: at.0,
                prepare_position: at.0,
                timestamp: Some(timestamp(self.node.clock.now())),
            }))
        })
    }

    async fn read_on(&mut self) -> Result<Vec<ReadResp>, Status> {
        let read = self.node.log.read_all(self.after, &self.of_log, self.page.events(u64::MAX)).await;
        let page = read.map_err(crate::wire::refusal::Refusal::from)?;
        self.page.learn(&page.events);
        let mut answers = Vec::new();
        for recorded in page.events {
            let at = recorded.position;
            if self.filter.matches(&recorded)? {
                answers.push(self.form.tell(&self.node, recorded).await?);
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
        self.observer.check_subscription()?;
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
            status = self.observer.ended() => Err(status),
            moved = self.head.wait_for(|head| *head > after) => match moved {
                Ok(_) => Ok(()),
                Err(_) => Err(Status::unavailable("the log has stopped")),
            },
        }?;
        Ok(Some(self.read_on().await?))
    }
}
