//! The service for managing and consuming groups.

use std::sync::Arc;

use event_schemas::ids::EventId;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status, Streaming};

use super::delivery_state::{ConsumerId, NackAction};
use super::group::{GroupCommand, NewConsumer, answers_max};
use super::group_conversion::{create, key, source, update};
use super::groups::Groups;
use super::refusal::GroupRefusal;
use super::settings::{GroupKey, GroupSource};
use crate::wire::access::user_name;
use crate::wire::event_conversion::{UuidFormat, uuid};
use crate::wire::node::Node;
use crate::wire::proto::event_store::client::persistent_subscriptions::persistent_subscriptions_server::PersistentSubscriptions;
use crate::wire::proto::event_store::client::persistent_subscriptions::{
    CreateReq, CreateResp, DeleteReq, DeleteResp, GetInfoReq, GetInfoResp, ListReq, ListResp, ReadReq,
    ReadResp, ReplayParkedReq, ReplayParkedResp, SubscriptionInfo, UpdateReq, UpdateResp, delete_req,
    get_info_req, list_req, read_req, replay_parked_req,
};
use crate::wire::proto::event_store::client::{self as shared, Empty};
use crate::wire::refusal::Refusal;

/// The most events that a consumer may have at a time.
const SLOTS_MAX: i32 = 10_000;

#[derive(Clone, Debug)]
pub(in crate::wire) struct GroupsService {
    node: Arc<Node>,
    groups: Arc<Groups>,
}

impl GroupsService {
    pub(in crate::wire) fn new(node: Arc<Node>) -> Self {
        Self { groups: Arc::new(Groups::new(Arc::clone(&node))), node }
    }

    /// Sends a command to a group and waits for the answer.
    async fn request<T>(
        &self,
        key: &GroupKey,
        command: impl FnOnce(oneshot::Sender<T>) -> GroupCommand,
    ) -> Result<T, GroupRefusal> {
        let commands = self.groups.find(key).await?;
        let (answer, answered) = oneshot::channel();
        let dropped = || GroupRefusal::Dropped(key.clone());
        commands.send(command(answer)).await.map_err(|_| dropped())?;
        answered.await.map_err(|_| dropped())
    }
}

#[tonic::async_trait]
impl PersistentSubscriptions for GroupsService {
    type ReadStream = BoxStream<'static, Result<ReadResp, Status>>;

    async fn create(&self, request: Request<CreateReq>) -> Result<Response<CreateResp>, Status> {
        self.node.admit(request.metadata())?;
        self.groups.create(create(request.into_inner())?).await?;
        Ok(Response::new(CreateResp {}))
    }

    async fn update(&self, request: Request<UpdateReq>) -> Result<Response<UpdateResp>, Status> {
        self.node.admit(request.metadata())?;
        self.groups.update(update(request.into_inner())?).await?;
        Ok(Response::new(UpdateResp {}))
    }

    async fn delete(&self, request: Request<DeleteReq>) -> Result<Response<DeleteResp>, Status> {
        use delete_req::options::StreamOption;
        self.node.admit(request.metadata())?;
        let options = request.into_inner().options.ok_or(NO_OPTIONS)?;
        let source = match &options.stream_option {
            Some(StreamOption::All(_)) => GroupSource::All,
            Some(StreamOption::StreamIdentifier(stream)) => source(Some(stream))?,
            None => source(None)?,
        };
        self.groups.delete(key(source, options.group_name)?).await?;
        Ok(Response::new(DeleteResp {}))
    }

    async fn read(&self, request: Request<Streaming<ReadReq>>) -> Result<Response<Self::ReadStream>, Status> {
        self.node.admit(request.metadata())?;
        let header = |name: &str| request.metadata().get(name).and_then(|value| value.to_str().ok());
        let connection = header("connection-name").unwrap_or_default().to_owned();
        let from = request.remote_addr().map_or_else(String::new, |from| from.to_string());
        let user = user_name(request.metadata()).unwrap_or_default();
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|message| message.content);
        let Some(read_req::Content::Options(options)) = first else { return Err(NO_OPTIONS.into()) };
        let (key, ids) = consumer_options(&options)?;
        let slots = usize::try_from(options.buffer_size.clamp(1, SLOTS_MAX)).unwrap_or(1);
        let (answers, answered) = mpsc::channel(answers_max(slots));
        let consumer = NewConsumer { slots, ids, from, user, connection, answers };
        let id = self.request(&key, |joined| GroupCommand::Join { consumer, joined }).await??;
        let consumer = ConsumerGuard { commands: self.groups.find(&key).await?, id };
        tokio::spawn(forward_answers(messages, ConsumerGuard { commands: consumer.commands.clone(), id }));
        let answers = stream::unfold((answered, consumer), |(mut answered, consumer)| async move {
            answered.recv().await.map(|answer| (answer, (answered, consumer)))
        });
        // The server ends a call only with an error.
        let ended = Status::unavailable("the group has stopped; subscribe again");
        Ok(Response::new(answers.chain(stream::once(std::future::ready(Err(ended)))).boxed()))
    }

    async fn get_info(&self, request: Request<GetInfoReq>) -> Result<Response<GetInfoResp>, Status> {
        use get_info_req::options::StreamOption;
        self.node.admit(request.metadata())?;
        let options = request.into_inner().options.ok_or(NO_OPTIONS)?;
        let source = match &options.stream_option {
            Some(StreamOption::All(_)) => GroupSource::All,
            Some(StreamOption::StreamIdentifier(stream)) => source(Some(stream))?,
            None => source(None)?,
        };
        let info = self.request(&key(source, options.group_name)?, GroupCommand::Info).await?;
        Ok(Response::new(GetInfoResp { subscription_info: Some(info) }))
    }

    async fn replay_parked(
        &self,
        request: Request<ReplayParkedReq>,
    ) -> Result<Response<ReplayParkedResp>, Status> {
        use replay_parked_req::options::{StopAtOption, StreamOption};
        self.node.admit(request.metadata())?;
        let options = request.into_inner().options.ok_or(NO_OPTIONS)?;
        let source = match &options.stream_option {
            Some(StreamOption::All(_)) => GroupSource::All,
            Some(StreamOption::StreamIdentifier(stream)) => source(Some(stream))?,
            None => source(None)?,
        };
        let stop_at = match options.stop_at_option {
            Some(StopAtOption::StopAt(count)) => Some(u64::try_from(count).unwrap_or(0)),
            Some(StopAtOption::NoLimit(_)) | None => None,
        };
        let key = key(source, options.group_name)?;
        self.request(&key, |done| GroupCommand::Replay { stop_at, done }).await??;
        Ok(Response::new(ReplayParkedResp {}))
    }

    async fn list(&self, request: Request<ListReq>) -> Result<Response<ListResp>, Status> {
        use list_req::options::ListOption;
        use list_req::stream_option::StreamOption;
        self.node.admit(request.metadata())?;
        let options = request.into_inner().options.ok_or(NO_OPTIONS)?;
        let of = match options.list_option {
            Some(ListOption::ListAllSubscriptions(_)) | None => None,
            Some(ListOption::ListForStream(stream)) => Some(match &stream.stream_option {
                Some(StreamOption::All(_)) => GroupSource::All,
                Some(StreamOption::Stream(stream)) => source(Some(stream))?,
                None => source(None)?,
            }),
        };
        let mut subscriptions: Vec<SubscriptionInfo> = Vec::new();
        for commands in self.groups.list(of.as_ref()).await? {
            let (answer, answered) = oneshot::channel();
            // A group that ends meanwhile is not listed.
            if commands.send(GroupCommand::Info(answer)).await.is_ok()
                && let Ok(info) = answered.await
            {
                subscriptions.push(info);
            }
        }
        Ok(Response::new(ListResp { subscriptions }))
    }

    async fn restart_subsystem(&self, request: Request<Empty>) -> Result<Response<Empty>, Status> {
        self.node.admit(request.metadata())?;
        self.groups.restart().await;
        Ok(Response::new(Empty {}))
    }
}

const NO_OPTIONS: Refusal = Refusal::Malformed("the call has no options");

/// The group that a consumer requests, and the form in which it wants ids.
fn consumer_options(options: &read_req::Options) -> Result<(GroupKey, UuidFormat), Refusal> {
    use read_req::options::{StreamOption, uuid_option};
    let source = match &options.stream_option {
        Some(StreamOption::All(_)) => GroupSource::All,
        Some(StreamOption::StreamIdentifier(stream)) => source(Some(stream))?,
        None => source(None)?,
    };
    let ids = match options.uuid_option.as_ref().and_then(|option| option.content.as_ref()) {
        Some(uuid_option::Content::Structured(_)) => UuidFormat::Structured,
        Some(uuid_option::Content::String(_)) | None => UuidFormat::Text,
    };
    Ok((key(source, options.group_name.clone())?, ids))
}

/// Removes the consumer from its group when dropped.
#[derive(Debug)]
struct ConsumerGuard {
    commands: mpsc::Sender<GroupCommand>,
    id: ConsumerId,
}

impl Drop for ConsumerGuard {
    fn drop(&mut self) {
        let (commands, id) = (self.commands.clone(), self.id);
        // Without a runtime the group has ended as well.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = commands.send(GroupCommand::Leave(id)).await;
            });
        }
    }
}

/// Forwards the answers of a consumer to its group, until its call ends.
async fn forward_answers(mut messages: Streaming<ReadReq>, consumer: ConsumerGuard) {
    while let Ok(Some(message)) = messages.message().await {
        let command = match message.content {
            Some(read_req::Content::Ack(ack)) => GroupCommand::Ack(event_ids(&ack.ids)),
            Some(read_req::Content::Nack(nack)) => match nack_action(nack.action) {
                Some(action) => GroupCommand::Nack { ids: event_ids(&nack.ids), action, reason: nack.reason },
                None => break,
            },
            Some(read_req::Content::Options(_)) | None => continue,
        };
        if consumer.commands.send(command).await.is_err() {
            break;
        }
    }
}

/// The requested action; `None` if the consumer stops.
fn nack_action(action: i32) -> Option<NackAction> {
    use read_req::nack::Action;
    match Action::try_from(action) {
        Ok(Action::Unknown | Action::Retry) | Err(_) => Some(NackAction::Retry),
        Ok(Action::Park) => Some(NackAction::Park),
        Ok(Action::Skip) => Some(NackAction::Skip),
        Ok(Action::Stop) => None,
    }
}

/// Parses event ids. Invalid ones are ignored, because no event in flight has them.
fn event_ids(ids: &[shared::Uuid]) -> Vec<EventId> {
    ids.iter().filter_map(|id| uuid(Some(id)).ok()).map(EventId).collect()
}
