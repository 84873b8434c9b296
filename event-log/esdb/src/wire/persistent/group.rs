//! The task of a group: reads events, delivers them to consumers, and writes checkpoints.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use event_schemas::ids::{EventId, Position, Revision};
use event_schemas::stream::StreamId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::Status;

use super::delivery_state::{ConsumerId, Delivery, DeliveryState, GroupCheckpoint, NackAction};
use super::group_conversion;
use super::group_events::{self, GroupDefinition};
use super::info::{self, ConsumerConnection};
use super::refusal::GroupRefusal;
use super::settings::{GroupKey, GroupSource, SourcePosition};
use crate::wire::event_conversion::UuidFormat;
use crate::wire::filter::Filter;
use crate::wire::node::Node;
use crate::wire::proto::event_store::client::persistent_subscriptions::{ReadResp, SubscriptionInfo};
use crate::wire::refusal::Refusal;
use event_log::{AppendError, EventLog, Expected, ReadError};

/// The most commands that are handled before the next round of reading and parking.
const COMMANDS_MAX: usize = 64;

/// The number of parked events that are read for a replay at a time.
const REPLAY_BATCH: usize = 100;

/// The interval of checks for expired deliveries. Consumers acknowledge in batches, some of them after 200 ms: with a shorter
/// timeout than this they would receive every event twice.
const EXPIRY_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The pause of a group after a failed read from or append to the log.
const PAUSE: Duration = Duration::from_secs(1);

/// The additional capacity of a consumer's answer queue, for events that are delivered again after a timeout.
const UNREAD_SPARE: usize = 64;

/// The sender of answers to a consumer's call.
pub(super) type AnswerSender = mpsc::Sender<Result<ReadResp, Status>>;

/// A command to the task of a group.
#[derive(Debug)]
pub(super) enum GroupCommand {
    Join {
        consumer: NewConsumer,
        joined: oneshot::Sender<Result<ConsumerId, GroupRefusal>>,
    },
    Leave(ConsumerId),
    Ack(Vec<EventId>),
    Nack {
        ids: Vec<EventId>,
        action: NackAction,
        reason: String,
    },
    Replay {
        stop_at: Option<u64>,
        done: oneshot::Sender<Result<(), GroupRefusal>>,
    },
    Info(oneshot::Sender<SubscriptionInfo>),
    /// Ends the task, and the calls of its consumers with the reason.
    End {
        reason: GroupRefusal,
        ended: oneshot::Sender<()>,
    },
}

/// A consumer that joins the group.
#[derive(Debug)]
pub(super) struct NewConsumer {
    pub(super) slots: usize,
    pub(super) ids: UuidFormat,
    pub(super) from: String,
    pub(super) user: String,
    pub(super) connection: String,
    pub(super) answers: AnswerSender,
}

/// The capacity of a consumer's answer queue.
pub(super) fn answers_max(slots: usize) -> usize {
    slots.saturating_mul(2).saturating_add(UNREAD_SPARE)
}

#[derive(Debug)]
struct Consumer {
    ids: UuidFormat,
    answers: AnswerSender,
    connection: ConsumerConnection,
}

/// The task of a group.
#[derive(Debug)]
pub(super) struct GroupTask {
    node: Arc<Node>,
    key: GroupKey,
    group: GroupDefinition,
    filter: Filter,
    checkpoints: StreamId,
    parked: StreamId,
    delivery: DeliveryState,
    head: watch::Receiver<Position>,
    consumers: HashMap<ConsumerId, Consumer>,
    next_consumer: u64,
    /// Parked events before this revision are replayed.
    replay_to: Revision,
    /// The last checkpoint in the log.
    checkpoint: Option<GroupCheckpoint>,
    /// The time of the last checkpoint, or of the start of the task.
    checkpointed_at: Instant,
    /// The log is not read before this instant.
    paused_until: Option<Instant>,
    /// The time of the last check for expired deliveries.
    expiry_checked_at: Instant,
    delivered: u64,
}

impl GroupTask {
    /// Resumes from the last checkpoint in the log.
    pub(super) async fn resume(
        node: Arc<Node>,
        key: GroupKey,
        group: GroupDefinition,
    ) -> Result<Self, GroupRefusal> {
        let too_long = Refusal::Malformed("the names of the stream and the group are too long together");
        let (checkpoints, parked) = group_events::streams(&key).ok_or(too_long)?;
        let last = node.log.last_event(&checkpoints).await?;
        let checkpoint = last
            .filter(|event| event.revision >= group.checkpoints_from)
            .and_then(|event| group_events::parse_checkpoint(&event));
        let start = GroupCheckpoint { next: group.begin, next_parked: group.parked_from };
        let GroupCheckpoint { next, next_parked } = checkpoint.unwrap_or(start);
        let filter = group.filter.as_ref().map_or(Ok(Filter::All), group_events::FilterRecord::compile)?;
        Ok(Self {
            head: node.log.head(),
            delivery: DeliveryState::new(group.settings.clone(), next, next_parked),
            filter,
            checkpoints,
            parked,
            node,
            key,
            group,
            consumers: HashMap::new(),
            next_consumer: 0,
            replay_to: next_parked,
            checkpoint,
            checkpointed_at: Instant::now(),
            paused_until: None,
            expiry_checked_at: Instant::now(),
            delivered: 0,
        })
    }

    /// Runs until the group or the server ends.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<GroupCommand>) {
        let mut server_state = self.node.server_state.clone();
        loop {
            self.work().await;
            let can_read = self.delivery.next_read().is_some() && self.paused_until.is_none();
            let wakes_at = [self.next_expiry_check(), self.checkpoint_due(), self.paused_until];
            let wakes_at = wakes_at.into_iter().flatten().min();
            tokio::select! {
                command = commands.recv() => {
                    let mut next = command;
                    for _ in 0..COMMANDS_MAX {
                        match next.take() {
                            Some(GroupCommand::End { reason, ended }) => {
                                self.end(&reason.into()).await;
                                // The receiver may be gone.
                                let _ = ended.send(());
                                return;
                            }
                            Some(command) => {
                                self.handle_command(command).await;
                                // Dispatched at once, so that events to retry are enqueued behind existing ones.
                                self.dispatch();
                            }
                            // All senders are gone.
                            None if commands.is_closed() && commands.is_empty() => {
                                self.write_checkpoint().await;
                                return;
                            }
                            None => break,
                        }
                        next = commands.try_recv().ok();
                    }
                }
                moved = self.head.changed(), if can_read => if moved.is_err() {
                    return self.end(&Status::unavailable("the log has stopped")).await;
                },
                () = tokio::time::sleep_until(wakes_at.unwrap_or_else(Instant::now)), if wakes_at.is_some() => {}
                status = server_state.ended() => return self.end(&status).await,
            }
        }
    }

    /// Does everything that is due now.
    async fn work(&mut self) {
        let now = Instant::now();
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        if self.next_expiry_check().is_some_and(|at| at <= now) {
            self.delivery.expire(now);
            self.expiry_checked_at = now;
        }
        if self.paused_until.is_none()
            && let Err(refusal) = self.read_and_park().await
        {
            tracing::warn!(
                group = self.key.group, source = self.key.source.name(), %refusal,
                "persistent subscription paused; retrying in one second"
            );
            self.paused_until = Some(now + PAUSE);
        }
        self.dispatch();
        let is_due = self.checkpoint_due().is_some_and(|due| due <= Instant::now());
        if is_due || self.delivery.done() >= self.group.settings.max_checkpoint_count.max(1) {
            self.write_checkpoint().await;
        }
    }

    /// The time of the next check for expired deliveries.
    fn next_expiry_check(&self) -> Option<Instant> {
        self.delivery
            .next_deadline()
            .map(|deadline| deadline.max(self.expiry_checked_at + EXPIRY_CHECK_INTERVAL))
    }

    async fn read_and_park(&mut self) -> Result<(), GroupRefusal> {
        while let Some((item, reason)) = self.delivery.next_failed() {
            let link = group_events::link(&item.event, reason);
            self.node.log.append(&self.parked, Expected::Any, vec![link]).await?;
            self.delivery.parked();
        }
        if self.delivery.next_read().is_some() && self.delivery.next_parked() < self.replay_to {
            self.replay().await?;
        }
        while let Some((from, count)) = self.delivery.next_read() {
            // `run` waits for later changes of the head.
            let head = *self.head.borrow_and_update();
            if !self.read(from, count, head).await? {
                break;
            }
        }
        Ok(())
    }

    /// Reads the next events; returns whether there may be more.
    async fn read(
        &mut self,
        from: SourcePosition,
        count: usize,
        head: Position,
    ) -> Result<bool, GroupRefusal> {
        match &self.key.source {
            GroupSource::Stream(stream) => {
                let events = self.node.log.read_stream(stream, Revision(from.0), count).await?;
                let Some(last) = events.last() else { return Ok(false) };
                let next = SourcePosition::from(last.revision).next();
                self.delivery
                    .add_events(events.into_iter().map(|event| (event.revision.into(), event)), next);
                Ok(true)
            }
            GroupSource::All => {
                let after = Position(from.0.saturating_sub(1));
                if after >= head {
                    return Ok(false);
                }
                let page = self.node.log.read_all(after, &self.filter.log_filter(), count).await?;
                let mut events = Vec::new();
                for event in page.events {
                    if self.filter.matches(&event)? {
                        events.push((event.position.into(), event));
                    }
                }
                self.delivery.add_events(events, SourcePosition::from(page.next).next());
                Ok(true)
            }
        }
    }

    async fn replay(&mut self) -> Result<(), GroupRefusal> {
        let from = self.delivery.next_parked();
        let links = self.node.log.read_stream(&self.parked, from, REPLAY_BATCH).await?;
        let mut events = Vec::new();
        let mut next = from;
        for link in links.iter().filter(|link| link.revision < self.replay_to) {
            next = link.revision.next();
            let Some((revision, stream)) = group_events::linked(link) else { continue };
            let event = self.node.log.read_stream(&stream, revision, 1).await?.pop();
            events.extend(event.map(|event| (link.revision, event)));
        }
        if next == from {
            next = self.replay_to;
        }
        self.delivery.add_replayed(events, next);
        Ok(())
    }

    fn dispatch(&mut self) {
        for delivery in self.delivery.dispatch(Instant::now()) {
            self.deliver(delivery);
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        let Delivery { consumer: id, event, retries } = delivery;
        let Some(consumer) = self.consumers.get_mut(&id) else { return };
        let answer = group_conversion::event(event, retries, consumer.ids);
        if consumer.answers.try_send(Ok(answer)).is_ok() {
            self.delivered += 1;
            consumer.connection.delivered += 1;
        } else {
            // The consumer is gone, or does not read its answers.
            self.consumers.remove(&id);
            self.delivery.leave(id);
        }
    }

    async fn handle_command(&mut self, command: GroupCommand) {
        // The receivers of answers may be gone.
        match command {
            GroupCommand::Join { consumer, joined } => {
                let _ = joined.send(self.join(consumer));
            }
            GroupCommand::Leave(id) => {
                self.consumers.remove(&id);
                self.delivery.leave(id);
                if self.consumers.is_empty() {
                    self.write_checkpoint().await;
                }
            }
            GroupCommand::Ack(ids) => self.delivery.ack(&ids),
            GroupCommand::Nack { ids, action, reason } => self.delivery.nack(&ids, action, &reason),
            GroupCommand::Replay { stop_at, done } => {
                let _ = done.send(self.start_replay(stop_at).await);
            }
            GroupCommand::Info(answer) => {
                let _ = answer.send(self.info().await);
            }
            GroupCommand::End { .. } => {}
        }
    }

    fn join(&mut self, consumer: NewConsumer) -> Result<ConsumerId, GroupRefusal> {
        let max = self.group.settings.max_subscribers as usize;
        if max > 0 && self.consumers.len() >= max {
            return Err(GroupRefusal::Full(self.key.clone()));
        }
        self.next_consumer += 1;
        let id = ConsumerId(self.next_consumer);
        let NewConsumer { slots, ids, from, user, connection, answers } = consumer;
        let confirmation =
            group_conversion::confirmation(format!("{}::{}", self.key.source.name(), self.key.group));
        // The first answer of the call always fits into the queue.
        let _ = answers.try_send(Ok(confirmation));
        let connection = ConsumerConnection { from, user, name: connection, delivered: 0 };
        self.consumers.insert(id, Consumer { ids, answers, connection });
        self.delivery.join(id, slots);
        Ok(id)
    }

    /// Starts a replay of the events parked so far, of at most `stop_at` of them.
    async fn start_replay(&mut self, stop_at: Option<u64>) -> Result<(), GroupRefusal> {
        let last = self.node.log.last_event(&self.parked).await?;
        let end = last.map_or(Revision(0), |link| link.revision.next());
        let from = self.delivery.next_parked();
        let to = stop_at.map_or(end, |count| Revision(from.0.saturating_add(count)).min(end));
        self.replay_to = self.replay_to.max(to);
        Ok(())
    }

    /// The time when the next checkpoint is due, if no further event is done until then.
    fn checkpoint_due(&self) -> Option<Instant> {
        let settings = &self.group.settings;
        let is_worthwhile = self.delivery.done() > 0 && self.delivery.done() >= settings.min_checkpoint_count;
        let is_worthwhile = is_worthwhile && self.paused_until.is_none();
        is_worthwhile.then(|| self.checkpointed_at + settings.checkpoint_after)
    }

    async fn write_checkpoint(&mut self) {
        let checkpoint = self.delivery.checkpoint();
        self.delivery.checkpointed();
        self.checkpointed_at = Instant::now();
        if self.checkpoint == Some(checkpoint) {
            return;
        }
        match self
            .node
            .log
            .append(&self.checkpoints, Expected::Any, vec![group_events::checkpoint_event(checkpoint)])
            .await
        {
            Ok(_) => self.checkpoint = Some(checkpoint),
            // The next checkpoint includes it; after a restart some events are delivered again.
            Err(AppendError::Closed { .. }) => {}
            Err(error) => {
                tracing::warn!(group = self.key.group, source = self.key.source.name(), %error, "cannot write a checkpoint");
            }
        }
    }

    /// Ends the calls of all consumers with an error. Clients would take success for a pause.
    async fn end(&mut self, reason: &Status) {
        self.write_checkpoint().await;
        for (_, consumer) in self.consumers.drain() {
            // The queue is full only if the consumer does not read.
            let _ = consumer.answers.try_send(Err(reason.clone()));
        }
    }

    async fn info(&self) -> SubscriptionInfo {
        let parked = self.parked_count().await.unwrap_or(0);
        let last_known = match &self.key.source {
            GroupSource::All => Some(self.head.borrow().0),
            GroupSource::Stream(stream) => {
                self.node.log.last_event(stream).await.ok().flatten().map(|event| event.revision.0)
            }
        };
        let stats = self.delivery.stats();
        let connections = stats.consumers.iter().filter_map(|(id, slots, busy)| {
            self.consumers.get(id).map(|consumer| consumer.connection.info(*slots, *busy))
        });
        let connections = connections.collect();
        let checkpoint = self.checkpoint.map(|checkpoint| checkpoint.next);
        info::subscription_info(
            &self.key,
            &self.group.settings,
            &stats,
            info::GroupCounters { connections, checkpoint, last_known, parked, delivered: self.delivered },
        )
    }

    /// The number of parked events that were not replayed.
    async fn parked_count(&self) -> Result<u64, ReadError> {
        let last = self.node.log.last_event(&self.parked).await?;
        let end = last.map_or(0, |link| link.revision.next().0);
        Ok(end.saturating_sub(self.delivery.next_parked().max(self.replay_to).0))
    }
}
