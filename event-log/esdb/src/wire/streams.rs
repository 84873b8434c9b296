//! The service for appending to and reading streams.

use std::sync::Arc;

use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status, Streaming};

use super::access::Right;
use super::append::SubmittedAppend;
use super::append::batch::{self, AppendLabel, CompleteAppend, IncompleteAppends};
use super::append::single;
use super::connection::Peer;
use super::delete;
use super::node::Node;
use super::proto::event_store::client::streams::streams_server::Streams;
use super::proto::event_store::client::streams::{
    AppendReq, AppendResp, BatchAppendReq, BatchAppendResp, DeleteReq, DeleteResp, ReadReq, TombstoneReq,
    TombstoneResp,
};
use super::read::plan::{ReadPlan, ReadTarget};
use super::read::{AllEvents, Answers, FollowAll, FollowStream, Reader, StreamEvents};
use super::refusal::Refusal;

/// The most appends of one batch call that are in progress at a time.
const IN_FLIGHT_MAX: usize = 256;

#[derive(Clone, Debug)]
pub(super) struct StreamsService(pub(super) Arc<Node>);

#[tonic::async_trait]
impl Streams for StreamsService {
    type ReadStream = Answers;
    type BatchAppendStream = BoxStream<'static, Result<BatchAppendResp, Status>>;

    async fn read(&self, request: Request<ReadReq>) -> Result<Response<Answers>, Status> {
        self.0.admit(request.metadata())?;
        let peer = request.extensions().get::<Peer>().cloned();
        let ReadPlan { target, format, reports_stream_ends } = ReadPlan::new(request.into_inner())?;
        let node = Arc::clone(&self.0);
        Ok(Response::new(match target {
            ReadTarget::Stream { stream, from, direction, count } => {
                StreamEvents::open(node, stream, from, direction, count, format, reports_stream_ends)
                    .await?
                    .answers()
            }
            ReadTarget::All { from, direction, count, filter } => {
                AllEvents::new(node, format, from, direction, count, filter).answers()
            }
            ReadTarget::FollowStream { stream, after } => {
                FollowStream::new(node, format, stream, after, subscription_permit(peer)?).answers()
            }
            ReadTarget::FollowAll { after, filter, checkpoint_every } => {
                let permit = subscription_permit(peer)?;
                FollowAll::new(node, format, after, filter, checkpoint_every, permit).answers()
            }
        }))
    }

    async fn append(&self, request: Request<Streaming<AppendReq>>) -> Result<Response<AppendResp>, Status> {
        let right = self.0.admit(request.metadata())?;
        let append = single::receive(request.into_inner()).await?;
        let outcome = self.0.submit_append(right, append).await?.outcome().await?;
        Ok(Response::new(single::answer(outcome)))
    }

    async fn batch_append(
        &self,
        request: Request<Streaming<BatchAppendReq>>,
    ) -> Result<Response<Self::BatchAppendStream>, Status> {
        let right = self.0.admit(request.metadata())?;
        let peer = connection_of(request.extensions().get::<Peer>().cloned())?;
        let open = IncompleteAppends::new(peer.budget);
        Ok(Response::new(batch_appends(Arc::clone(&self.0), right, open, request.into_inner())))
    }

    async fn delete(&self, request: Request<DeleteReq>) -> Result<Response<DeleteResp>, Status> {
        self.0.admit(request.metadata())?;
        let position = self.0.delete(request.into_inner().try_into()?).await?;
        Ok(Response::new(delete::deleted(position)))
    }

    async fn tombstone(&self, request: Request<TombstoneReq>) -> Result<Response<TombstoneResp>, Status> {
        self.0.admit(request.metadata())?;
        let position = self.0.tombstone(request.into_inner().try_into()?).await?;
        Ok(Response::new(delete::tombstoned(position)))
    }
}

fn connection_of(peer: Option<Peer>) -> Result<Peer, Status> {
    peer.ok_or_else(|| Status::internal("the call has no connection"))
}

/// Acquires a permit for a subscription on the connection.
fn subscription_permit(peer: Option<Peer>) -> Result<OwnedSemaphorePermit, Status> {
    let peer = connection_of(peer)?;
    peer.subscriptions.try_acquire_owned().map_err(|_| {
        Refusal::TooMany(
            "the connection has the maximum number of subscriptions; end one, or use another connection",
        )
        .into()
    })
}

/// Executes the appends of a batch call. Several are in progress at a time; they enter the log and are answered in the order
/// in which they were received.
fn batch_appends(
    node: Arc<Node>,
    right: Right,
    open: IncompleteAppends,
    messages: Streaming<BatchAppendReq>,
) -> BoxStream<'static, Result<BatchAppendResp, Status>> {
    let ended = {
        let mut server_state = node.server_state.clone();
        async move { server_state.call_ended().await }
    };
    let complete = stream::try_unfold((messages, open, Arc::clone(&node)), async |state| {
        let (mut messages, mut open, node) = state;
        while let Some(message) = messages.message().await? {
            node.server_state.check()?;
            if let Some(complete) = open.add_message(message, node.clock.now())? {
                return Ok(Some((complete, (messages, open, node))));
            }
        }
        Ok::<_, Status>(None)
    });
    let submitted = complete.then(move |complete| {
        let node = Arc::clone(&node);
        async move {
            let CompleteAppend { label, append } = complete?;
            let submitted = match append {
                Ok(append) => node.submit_append(right, append).await,
                Err(refusal) => Err(refusal),
            };
            Ok::<_, Status>((label, submitted))
        }
    });
    let answers = submitted.map(finish).buffered(IN_FLIGHT_MAX).map(Some);
    // The shutdown of the server ends the call, even if its client wants to send more.
    let end = stream::once(ended).map(|status| Some(Err(status))).chain(stream::once(async { None }));
    stream::select(answers.chain(stream::once(async { None })), end)
        .take_while(|answer| std::future::ready(answer.is_some()))
        .filter_map(std::future::ready)
        .boxed()
}

async fn finish(
    submitted: Result<(AppendLabel, Result<SubmittedAppend, Refusal>), Status>,
) -> Result<BatchAppendResp, Status> {
    let (label, submitted) = submitted?;
    let outcome = match submitted {
        Ok(submitted) => submitted.outcome().await,
        Err(refusal) => Err(refusal),
    };
    Ok(batch::answer(label, outcome))
}
