//! The service through which streams are appended to and read.

use std::sync::Arc;

use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status, Streaming};

use super::access::Right;
use super::append::Begun;
use super::append::batch::{self, Complete, Label, Open};
use super::append::single;
use super::connection::Peer;
use super::delete;
use super::node::Node;
use super::proto::event_store::client::streams::streams_server::Streams;
use super::proto::event_store::client::streams::{
    AppendReq, AppendResp, BatchAppendReq, BatchAppendResp, DeleteReq, DeleteResp, ReadReq, TombstoneReq,
    TombstoneResp,
};
use super::read::plan::{Plan, What};
use super::read::{AllEvents, Answers, FollowAll, FollowStream, Reader, StreamEvents};
use super::refusal::Refusal;

/// How many appends of one batch call are on their way at a time.
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
        let Plan { what, form, tells_ends } = Plan::new(request.into_inner())?;
        let node = Arc::clone(&self.0);
        Ok(Response::new(match what {
            What::Stream { stream, from, direction, count } => {
                StreamEvents::begin(node, stream, from, direction, count, form, tells_ends).await?.answers()
            }
            What::All { from, direction, count, filter } => {
                AllEvents::new(node, form, from, direction, count, filter).answers()
            }
            What::FollowStream { stream, after } => {
                FollowStream::new(node, form, stream, after, place(peer)?).answers()
            }
            What::FollowAll { after, filter, checkpoint_every } => {
                FollowAll::new(node, form, after, filter, checkpoint_every, place(peer)?).answers()
            }
        }))
    }

    async fn append(&self, request: Request<Streaming<AppendReq>>) -> Result<Response<AppendResp>, Status> {
        let right = self.0.admit(request.metadata())?;
        let append = single::receive(request.into_inner()).await?;
        let outcome = self.0.begin(right, append).await?.outcome().await?;
        Ok(Response::new(single::answer(outcome)))
    }

    async fn batch_append(
        &self,
        request: Request<Streaming<BatchAppendReq>>,
    ) -> Result<Response<Self::BatchAppendStream>, Status> {
        let right = self.0.admit(request.metadata())?;
        Ok(Response::new(appends(Arc::clone(&self.0), right, request.into_inner())))
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

/// A place among the subscriptions of the connection.
fn place(peer: Option<Peer>) -> Result<OwnedSemaphorePermit, Status> {
    let peer = peer.ok_or_else(|| Status::internal("the call belongs to no connection"))?;
    peer.subscriptions.try_acquire_owned().map_err(|_| {
        Refusal::TooMany(
            "the connection has as many subscriptions as it may; end one, or use another connection",
        )
        .into()
    })
}

/// Does the appends of a batch call: several are on their way at a time, and come into the log and are answered in
/// the order in which they came in.
fn appends(
    node: Arc<Node>,
    right: Right,
    messages: Streaming<BatchAppendReq>,
) -> BoxStream<'static, Result<BatchAppendResp, Status>> {
    let ended = {
        let mut observer = node.observer.clone();
        async move { observer.call_ended().await }
    };
    let complete = stream::try_unfold((messages, Open::default(), Arc::clone(&node)), async |state| {
        let (mut messages, mut open, node) = state;
        while let Some(message) = messages.message().await? {
            node.observer.check()?;
            if let Some(complete) = open.take(message, node.clock.now())? {
                return Ok(Some((complete, (messages, open, node))));
            }
        }
        Ok::<_, Status>(None)
    });
    let begun = complete.then(move |complete| {
        let node = Arc::clone(&node);
        async move {
            let Complete { label, append } = complete?;
            let begun = match append {
                Ok(append) => node.begin(right, append).await,
                Err(refusal) => Err(refusal),
            };
            Ok::<_, Status>((label, begun))
        }
    });
    let answers = begun.map(finish).buffered(IN_FLIGHT_MAX).map(Some);
    // The end of the server ends the call, whatever its client still means to send.
    let end = stream::once(ended).map(|status| Some(Err(status))).chain(stream::once(async { None }));
    stream::select(answers.chain(stream::once(async { None })), end)
        .take_while(|answer| std::future::ready(answer.is_some()))
        .filter_map(std::future::ready)
        .boxed()
}

async fn finish(begun: Result<(Label, Result<Begun, Refusal>), Status>) -> Result<BatchAppendResp, Status> {
    let (label, begun) = begun?;
    let outcome = match begun {
        Ok(begun) => begun.outcome().await,
        Err(refusal) => Err(refusal),
    };
    Ok(batch::answer(label, outcome))
}
