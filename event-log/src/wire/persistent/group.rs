//! A group at work: one task, which reads for it, gives out events, and writes down how far it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use event_schemas::ids::{EventId, Position, Revision};
use event_schemas::stream::StreamId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::Status;

use super::flow::{Action, ConsumerId, Delivery, Flow, Mark};
use super::info::{self, Connection};
use super::message;
use super::record::{self, Group};
use super::refusal::GroupRefusal;
use super::settings::{Key, Place, Source};
use crate::wire::filter::Filter;
use crate::wire::message::IdForm;
use crate::wire::node::Node;
use crate::wire::proto::event_store::client::persistent_subscriptions::{ReadResp, SubscriptionInfo};
use crate::wire::refusal::Refusal;
use crate::{AppendError, EventLog, Expected, ReadError};

/// How many commands are taken before events are given out again.
const COMMANDS_MAX: usize = 64;

/// How many parked events are replayed at once.
const REPLAY_BATCH: usize = 100;

/// How often events that took too long are looked for. Consumers answer for several events at a time, some of them after
/// 200 ms: with a shorter timeout than this they would get everything twice.
const TICK: Duration = Duration::from_secs(1);

/// How long a group rests when the log does not take or give events.
const PAUSE: Duration = Duration::from_secs(1);

/// The events that a consumer has not yet taken from its call, beside as many as it has room for: those that it was given
/// again because it took too long.
const UNREAD_SPARE: usize = 64;

/// Answers to a consumer's call.
pub(super) type Answers = mpsc::Sender<Result<ReadResp, Status>>;

/// What a group is told.
#[derive(Debug)]
pub(super) enum Command {
    Join {
        consumer: NewConsumer,
        joined: oneshot::Sender<Result<ConsumerId, GroupRefusal>>,
    },
    Leave(ConsumerId),
    Ack(Vec<EventId>),
    Nack {
        ids: Vec<EventId>,
        action: Action,
        reason: String,
    },
    Replay {
        stop_at: Option<u64>,
        done: oneshot::Sender<Result<(), GroupRefusal>>,
    },
    Info(oneshot::Sender<SubscriptionInfo>),
    /// The group ends: its consumers hear why.
    End {
        why: GroupRefusal,
        ended: oneshot::Sender<()>,
    },
}

/// Someone who wants events.
#[derive(Debug)]
pub(super) struct NewConsumer {
    pub(super) slots: usize,
    pub(super) ids: IdForm,
    pub(super) from: String,
    pub(super) user: String,
    pub(super) connection: String,
    pub(super) answers: Answers,
}

/// How many answers may wait in a consumer's call.
pub(super) fn answers_max(slots: usize) -> usize {
    slots.saturating_mul(2).saturating_add(UNREAD_SPARE)
}

#[derive(Debug)]
struct Consumer {
    ids: IdForm,
    answers: Answers,
    connection: Connection,
}

/// The task's own.
#[derive(Debug)]
pub(super) struct Worker {
    node: Arc<Node>,
    key: Key,
    group: Group,
    filter: Filter,
    checkpoints: StreamId,
    parked: StreamId,
    flow: Flow,
    head: watch::Receiver<Position>,
    consumers: HashMap<ConsumerId, Consumer>,
    next_consumer: u64,
    /// Replaying goes on to here.
    replay_to: Revision,
    /// The last checkpoint in the log, and when it was written or the group was begun.
    checkpoint: Option<Mark>,
    checkpointed_at: Instant,
    /// Not before this instant is the log asked again.
    rests_until: Option<Instant>,
    /// When events that took too long were looked for.
    looked_at: Instant,
    given: u64,
}

impl Worker {
    /// Goes on where the log says that the group was.
    pub(super) async fn resume(node: Arc<Node>, key: Key, group: Group) -> Result<Self, GroupRefusal> {
        let too_long = Refusal::Malformed("the names of the stream and the group are too long together");
        let (checkpoints, parked) = record::streams(&key).ok_or(too_long)?;
        let last = node.log.last_of(&checkpoints).await?;
        let checkpoint = last
            .filter(|event| event.revision >= group.checkpoints_from)
            .and_then(|event| record::mark(&event));
        let begin = Mark { next: group.begin, next_parked: group.parked_from };
        let Mark { next, next_parked } = checkpoint.unwrap_or(begin);
        let filter = group.filter.as_ref().map_or(Ok(Filter::All), record::FilterRecord::compile)?;
        Ok(Self {
            head: node.log.head(),
            flow: Flow::new(group.settings.clone(), next, next_parked),
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
            rests_until: None,
            looked_at: Instant::now(),
            given: 0,
        })
    }

    /// Works until the group or the server ends.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut observer = self.node.observer.clone();
        loop {
            self.work().await;
            let can_read = self.flow.wants().is_some() && self.rests_until.is_none();
            let wakes_at = [self.looks_at(), self.checkpoint_due(), self.rests_until];
            let wakes_at = wakes_at.into_iter().flatten().min();
            tokio::select! {
                command = commands.recv() => {
                    let mut next = command;
                    for _ in 0..COMMANDS_MAX {
                        match next.take() {
                            Some(Command::End { why, ended }) => {
                                self.end(&why.into()).await;
                                // Whoever asked may have left.
                                let _ = ended.send(());
                                return;
                            }
                            Some(command) => {
                                self.obey(command).await;
                                // At once, so that what comes to be retried gets in line behind what was there.
                                self.give_out();
                            }
                            // Everyone who could say something is gone.
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
                status = observer.ended() => return self.end(&status).await,
            }
        }
    }

    /// Does all that can be done now.
    async fn work(&mut self) {
        let now = Instant::now();
        if self.rests_until.is_some_and(|until| until <= now) {
            self.rests_until = None;
        }
        if self.looks_at().is_some_and(|at| at <= now) {
            self.flow.expire(now);
            self.looked_at = now;
        }
        if self.rests_until.is_none()
            && let Err(refusal) = self.read_and_park().await
        {
            tracing::warn!(group = self.key.group, source = self.key.source.name(), %refusal, "a group rests");
            self.rests_until = Some(now + PAUSE);
        }
        self.give_out();
        let is_due = self.checkpoint_due().is_some_and(|due| due <= Instant::now());
        if is_due || self.flow.done() >= self.group.settings.max_checkpoint_count.max(1) {
            self.write_checkpoint().await;
        }
    }

    /// When events that took too long are looked for next.
    fn looks_at(&self) -> Option<Instant> {
        self.flow.next_deadline().map(|deadline| deadline.max(self.looked_at + TICK))
    }

    async fn read_and_park(&mut self) -> Result<(), GroupRefusal> {
        while let Some((item, reason)) = self.flow.next_failed() {
            let link = record::link(&item.event, reason);
            self.node.log.append(&self.parked, Expected::Any, vec![link]).await?;
            self.flow.parked();
        }
        if self.flow.wants().is_some() && self.flow.next_parked() < self.replay_to {
            self.replay().await?;
        }
        while let Some((from, count)) = self.flow.wants() {
            // A change behind this is seen by `run`.
            let head = *self.head.borrow_and_update();
            if !self.read(from, count, head).await? {
                break;
            }
        }
        Ok(())
    }

    /// Reads on; whether there may be more.
    async fn read(&mut self, from: Place, count: usize, head: Position) -> Result<bool, GroupRefusal> {
        match &self.key.source {
            Source::Stream(stream) => {
                let events = self.node.log.read_stream(stream, Revision(from.0), count).await?;
                let Some(last) = events.last() else { return Ok(false) };
                let next = Place::from(last.revision).next();
                self.flow.read(events.into_iter().map(|event| (event.revision.into(), event)), next);
                Ok(true)
            }
            Source::All => {
                let after = Position(from.0.saturating_sub(1));
                if after >= head {
                    return Ok(false);
                }
                let page = self.node.log.read_all(after, &self.filter.of_log(), count).await?;
                let mut events = Vec::new();
                for event in page.events {
                    if self.filter.matches(&event)? {
                        events.push((event.position.into(), event));
                    }
                }
                self.flow.read(events, Place::from(page.next).next());
                Ok(true)
            }
        }
    }

    async fn replay(&mut self) -> Result<(), GroupRefusal> {
        let from = self.flow.next_parked();
        let links = self.node.log.read_stream(&self.parked, from, REPLAY_BATCH).await?;
        let mut events = Vec::new();
        let mut next = from;
        for link in links.iter().filter(|link| link.revision < self.replay_to) {
            next = link.revision.next();
            let Some((revision, stream)) = record::linked(link) else { continue };
            let event = self.node.log.read_stream(&stream, revision, 1).await?.pop();
            events.extend(event.map(|event| (link.revision, event)));
        }
        if next == from {
            next = self.replay_to;
        }
        self.flow.replay(events, next);
        Ok(())
    }

    fn give_out(&mut self) {
        for delivery in self.flow.dispatch(Instant::now()) {
            self.give(delivery);
        }
    }

    fn give(&mut self, delivery: Delivery) {
        let Delivery { consumer: id, event, retries } = delivery;
        let Some(consumer) = self.consumers.get_mut(&id) else { return };
        let answer = message::event(event, retries, consumer.ids);
        if consumer.answers.try_send(Ok(answer)).is_ok() {
            self.given += 1;
            consumer.connection.given += 1;
        } else {
            // It is gone, or reads nothing of what it is given again and again.
            self.consumers.remove(&id);
            self.flow.leave(id);
        }
    }

    async fn obey(&mut self, command: Command) {
        // Those who ask may have left; then nobody hears the answer.
        match command {
            Command::Join { consumer, joined } => {
                let _ = joined.send(self.join(consumer));
            }
            Command::Leave(id) => {
                self.consumers.remove(&id);
                self.flow.leave(id);
                if self.consumers.is_empty() {
                    self.write_checkpoint().await;
                }
            }
            Command::Ack(ids) => self.flow.ack(&ids),
            Command::Nack { ids, action, reason } => self.flow.nack(&ids, action, &reason),
            Command::Replay { stop_at, done } => {
                let _ = done.send(self.begin_replay(stop_at).await);
            }
            Command::Info(answer) => {
                let _ = answer.send(self.info().await);
            }
            Command::End { .. } => {}
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
        let confirmation = message::confirmation(format!("{}::{}", self.key.source.name(), self.key.group));
        // The call's first answer: there is room for it.
        let _ = answers.try_send(Ok(confirmation));
        let connection = Connection { from, user, name: connection, given: 0 };
        self.consumers.insert(id, Consumer { ids, answers, connection });
        self.flow.join(id, slots);
        Ok(id)
    }

    /// Sees to it that the events parked until now are tried once more, `stop_at` of them at most.
    async fn begin_replay(&mut self, stop_at: Option<u64>) -> Result<(), GroupRefusal> {
        let last = self.node.log.last_of(&self.parked).await?;
        let end = last.map_or(Revision(0), |link| link.revision.next());
        let from = self.flow.next_parked();
        let to = stop_at.map_or(end, |count| Revision(from.0.saturating_add(count)).min(end));
        self.replay_to = self.replay_to.max(to);
        Ok(())
    }

    /// When the next checkpoint is due, if nothing is done until then.
    fn checkpoint_due(&self) -> Option<Instant> {
        let settings = &self.group.settings;
        let is_worth_it = self.flow.done() > 0 && self.flow.done() >= settings.min_checkpoint_count;
        let is_worth_it = is_worth_it && self.rests_until.is_none();
        is_worth_it.then(|| self.checkpointed_at + settings.checkpoint_after)
    }

    async fn write_checkpoint(&mut self) {
        let mark = self.flow.resume_at();
        self.flow.checkpointed();
        self.checkpointed_at = Instant::now();
        if self.checkpoint == Some(mark) {
            return;
        }
        match self.node.log.append(&self.checkpoints, Expected::Any, vec![record::checkpoint(mark)]).await {
            Ok(_) => self.checkpoint = Some(mark),
            // It will be written with the next; after a restart some events are given again.
            Err(AppendError::Closed { .. }) => {}
            Err(error) => {
                tracing::warn!(group = self.key.group, source = self.key.source.name(), %error, "no checkpoint");
            }
        }
    }

    /// Tells the consumers that it is over, and why; never with success, which they would take for a pause.
    async fn end(&mut self, why: &Status) {
        self.write_checkpoint().await;
        for (_, consumer) in self.consumers.drain() {
            // Its queue is full only if it reads nothing at all.
            let _ = consumer.answers.try_send(Err(why.clone()));
        }
    }

    async fn info(&self) -> SubscriptionInfo {
        let parked = self.parked_count().await.unwrap_or(0);
        let last_known = match &self.key.source {
            Source::All => Some(self.head.borrow().0),
            Source::Stream(stream) => {
                self.node.log.last_of(stream).await.ok().flatten().map(|event| event.revision.0)
            }
        };
        let standing = self.flow.standing();
        let connections = standing.consumers.iter().filter_map(|(id, slots, busy)| {
            self.consumers.get(id).map(|consumer| consumer.connection.info(*slots, *busy))
        });
        let connections = connections.collect();
        let checkpoint = self.checkpoint.map(|mark| mark.next);
        info::of_group(
            &self.key,
            &self.group.settings,
            &standing,
            info::Rest { connections, checkpoint, last_known, parked, given: self.given },
        )
    }

    /// Parked events that were not replayed.
    async fn parked_count(&self) -> Result<u64, ReadError> {
        let last = self.node.log.last_of(&self.parked).await?;
        let end = last.map_or(0, |link| link.revision.next().0);
        Ok(end.saturating_sub(self.flow.next_parked().max(self.replay_to).0))
    }
}
