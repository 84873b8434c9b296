//! A fake cluster node for tests, with the properties that make a real one harder to use than the embedded log: positions
//! with gaps, of which only those of events can be read from; system events; appends with `Any` that are recognised anywhere
//! in a stream; delayed acknowledgements; and a [`FaultMode`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use event_schemas::time::Timestamp;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::wire::proto::event_store::client::server_features::SupportedMethods;
use crate::wire::proto::event_store::client::server_features::server_features_server::ServerFeatures;
use crate::wire::proto::event_store::client::streams::append_req::options::ExpectedStreamRevision;
use crate::wire::proto::event_store::client::streams::append_req::{Content as Sent, ProposedMessage};
use crate::wire::proto::event_store::client::streams::append_resp::wrong_expected_version::{
    CurrentRevisionOption as Current, ExpectedRevisionOption,
};
use crate::wire::proto::event_store::client::streams::append_resp::{
    Position, Result as Outcome, Success, WrongExpectedVersion, success,
};
use crate::wire::proto::event_store::client::streams::read_req::options::all_options::AllOption;
use crate::wire::proto::event_store::client::streams::read_req::options::stream_options::RevisionOption;
use crate::wire::proto::event_store::client::streams::read_req::options::{CountOption, StreamOption};
use crate::wire::proto::event_store::client::streams::read_resp::read_event::RecordedEvent;
use crate::wire::proto::event_store::client::streams::read_resp::{
    Content, ReadEvent, StreamNotFound, SubscriptionConfirmation, read_event,
};
use crate::wire::proto::event_store::client::streams::streams_server::Streams;
use crate::wire::proto::event_store::client::streams::{
    AppendReq, AppendResp, BatchAppendReq, BatchAppendResp, DeleteReq, DeleteResp, ReadReq, ReadResp,
    TombstoneReq, TombstoneResp,
};
use crate::wire::proto::event_store::client::{Empty, StreamIdentifier, Uuid, uuid};
use event_log::clock::Clock;

mod cluster;

pub(super) use cluster::{Cluster, RuntimeGuard, open, open_without_tail};

/// The fault that the node simulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultMode {
    Healthy,
    /// It confirms subscriptions and ends them normally.
    EndsSubscriptions,
    /// It reports in a subscription that the stream does not exist.
    SubscriptionStreamNotFound,
    /// Its events have no ids.
    OmitsEventIds,
    /// It appends and responds without a result.
    OmitsAppendResult,
    /// It appends and fails before it responds.
    CrashesAfterAppend,
    /// It accepts calls and never responds.
    Hangs,
    /// It does nothing and responds with `UNAVAILABLE`.
    Unavailable,
    /// It names the node at this port as the leader.
    FollowerOf(u16),
    /// It rejects the user.
    DeniesAccess,
}

#[derive(Clone, Debug)]
struct StoredEvent {
    stream: Bytes,
    revision: u64,
    message: ProposedMessage,
    created: Timestamp,
}

/// A node. Clones share its state; it ends with its [`Cluster`].
#[derive(Clone, Debug)]
pub(super) struct Node {
    clock: Clock,
    mode: Arc<Mutex<FaultMode>>,
    stored: Arc<Mutex<Vec<StoredEvent>>>,
    changed: watch::Sender<usize>,
    /// The number of calls, by method.
    pub(super) calls: Arc<Mutex<HashMap<&'static str, usize>>>,
}

/// Positions are as far apart as if they were byte offsets, and the first is not at the start.
fn position(index: usize) -> u64 {
    (index as u64 + 1) * 1000 + 7
}

impl Node {
    pub(super) fn new(clock: Clock) -> Self {
        let node = Self {
            clock,
            mode: Arc::new(Mutex::new(FaultMode::Healthy)),
            stored: Arc::default(),
            changed: watch::Sender::new(0),
            calls: Arc::default(),
        };
        node.system_event();
        node
    }

    pub(super) fn set_mode(&self, mode: FaultMode) {
        *self.mode.lock().unwrap() = mode;
        // Wakes the running subscriptions.
        self.changed.send_modify(|_| {});
    }

    fn mode(&self) -> FaultMode {
        *self.mode.lock().unwrap()
    }

    pub(super) fn call_count(&self, method: &str) -> usize {
        self.calls.lock().unwrap().get(method).copied().unwrap_or(0)
    }

    /// The number of its events without system events.
    pub(super) fn events(&self) -> usize {
        self.stored.lock().unwrap().iter().filter(|stored| stored.stream.starts_with(b"a-")).count()
    }

    fn system_event(&self) {
        let metadata = HashMap::from([("type".to_owned(), "$statistics".to_owned())]);
        let message = ProposedMessage { id: Some(Uuid::default()), metadata, ..ProposedMessage::default() };
        let mut stored = self.stored.lock().unwrap();
        let created = self.clock.now();
        stored.push(StoredEvent { stream: Bytes::from_static(b"$stats"), revision: 0, message, created });
    }

    /// Counts the call, and simulates the faults that concern all calls.
    async fn accept_call(&self, method: &'static str) -> Result<(), Status> {
        *self.calls.lock().unwrap().entry(method).or_default() += 1;
        match self.mode() {
            FaultMode::Unavailable => Err(Status::unavailable("it is not ready")),
            FaultMode::DeniesAccess => Err(Status::unauthenticated("unknown user")),
            FaultMode::Hangs => std::future::pending().await,
            FaultMode::FollowerOf(port) => {
                let mut status = Status::new(Code::NotFound, "not the leader");
                let trailers = status.metadata_mut();
                trailers.insert("exception", "not-leader".parse().unwrap());
                trailers.insert("leader-endpoint-host", "127.0.0.1".parse().unwrap());
                trailers.insert("leader-endpoint-port", port.to_string().parse().unwrap());
                Err(status)
            }
            _ => Ok(()),
        }
    }

    fn read_response(&self, index: usize, stored: &StoredEvent) -> ReadResp {
        let mut metadata = stored.message.metadata.clone();
        metadata.insert("created".to_owned(), (stored.created.micros() * 10).to_string());
        let event = RecordedEvent {
            id: if self.mode() == FaultMode::OmitsEventIds { None } else { stored.message.id.clone() },
            stream_identifier: Some(StreamIdentifier { stream_name: stored.stream.clone() }),
            stream_revision: stored.revision,
            prepare_position: position(index),
            commit_position: position(index),
            metadata,
            custom_metadata: stored.message.custom_metadata.clone(),
            data: stored.message.data.clone(),
        };
        let position = Some(read_event::Position::CommitPosition(position(index)));
        answer(Content::Event(ReadEvent { event: Some(event), link: None, position }))
    }

    /// The index of the event at a position; a real node cannot read from other positions.
    fn index_at(&self, wanted: u64) -> Result<usize, Status> {
        let count = self.stored.lock().unwrap().len();
        let found = (0..count).find(|index| position(*index) == wanted);
        found.ok_or_else(|| Status::invalid_argument(format!("there is no event at {wanted}")))
    }

    fn read_count(&self, from: StreamOption, count: u64, backwards: bool) -> Result<Vec<ReadResp>, Status> {
        let chosen: Vec<(usize, StoredEvent)> = match from {
            StreamOption::Stream(stream) => {
                let name = stream.stream_identifier.unwrap().stream_name;
                let events = events_of(&self.stored.lock().unwrap(), &name);
                if events.is_empty() {
                    return Ok(vec![answer(Content::StreamNotFound(StreamNotFound {
                        stream_identifier: None,
                    }))]);
                }
                let first = match stream.revision_option.unwrap() {
                    RevisionOption::Revision(revision) => revision,
                    RevisionOption::Start(_) | RevisionOption::End(_) => 0,
                };
                events.into_iter().filter(|(_, event)| event.revision >= first).collect()
            }
            StreamOption::All(all) => {
                let first = match all.all_option.unwrap() {
                    AllOption::Position(position) => self.index_at(position.commit_position)?,
                    AllOption::Start(_) | AllOption::End(_) => 0,
                };
                self.stored.lock().unwrap().iter().cloned().enumerate().skip(first).collect()
            }
        };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let response = |(index, event): &(usize, StoredEvent)| self.read_response(*index, event);
        Ok(if backwards {
            chosen.iter().rev().take(count).map(response).collect()
        } else {
            chosen.iter().take(count).map(response).collect()
        })
    }

    fn subscribe(&self, from: &StreamOption) -> Result<BoxStream<'static, Result<ReadResp, Status>>, Status> {
        let StreamOption::All(all) = from else { return Err(Status::unimplemented("streams")) };
        let next = match all.all_option.unwrap() {
            AllOption::Position(position) => self.index_at(position.commit_position)? + 1,
            AllOption::Start(_) => 0,
            AllOption::End(_) => return Err(Status::unimplemented("the end")),
        };
        let confirmation = SubscriptionConfirmation { subscription_id: "s".to_owned() };
        let confirmed = futures_util::stream::iter([Ok(answer(Content::Confirmation(confirmation)))]);
        match self.mode() {
            FaultMode::EndsSubscriptions => return Ok(confirmed.boxed()),
            FaultMode::SubscriptionStreamNotFound => {
                let nothing = answer(Content::StreamNotFound(StreamNotFound { stream_identifier: None }));
                return Ok(confirmed.chain(futures_util::stream::iter([Ok(nothing)])).boxed());
            }
            _ => {}
        }
        let (node, changed) = (self.clone(), self.changed.subscribe());
        let events =
            futures_util::stream::unfold((node, changed, next), async |(node, mut changed, next)| {
                loop {
                    if node.mode() == FaultMode::Unavailable || node.mode() == FaultMode::EndsSubscriptions {
                        return None;
                    }
                    let stored = node.stored.lock().unwrap().get(next).cloned();
                    if let Some(stored) = stored {
                        return Some((Ok(node.read_response(next, &stored)), (node, changed, next + 1)));
                    }
                    changed.changed().await.ok()?;
                }
            });
        let node = self.clone();
        let end = async move {
            match node.mode() {
                FaultMode::Unavailable => Some(Err(Status::unavailable("it is not ready"))),
                _ => None,
            }
        };
        Ok(confirmed.chain(events).chain(end.into_stream().filter_map(async |end| end)).boxed())
    }

    /// Appends as a cluster does: with `Any`, a first id that is in the stream already makes it a repeated append.
    fn append_events(
        &self,
        name: &Bytes,
        expected: ExpectedStreamRevision,
        events: Vec<ProposedMessage>,
    ) -> Outcome {
        // Held until the events are stored, so that of concurrent appends one wins.
        let mut stored = self.stored.lock().unwrap();
        let existing = events_of(&stored, name);
        let last = existing.last().map(|(_, event)| event.revision);
        let count = existing.len();
        let repeated = |first: usize| {
            let ids = existing.iter().skip(first).map(|(_, event)| &event.message.id);
            events.len() <= count.saturating_sub(first)
                && ids.take(events.len()).eq(events.iter().map(|event| &event.id))
        };
        let first = match expected {
            ExpectedStreamRevision::Revision(revision) if last == Some(revision) => count,
            ExpectedStreamRevision::Revision(revision) => {
                usize::try_from(revision).unwrap().saturating_add(1)
            }
            ExpectedStreamRevision::NoStream(_) => 0,
            ExpectedStreamRevision::Any(_) | ExpectedStreamRevision::StreamExists(_) => {
                let known = |(_, event): &(usize, StoredEvent)| event.message.id == events[0].id;
                existing.iter().position(known).unwrap_or(count)
            }
        };
        if first < count && repeated(first) {
            let (index, event) = &existing[first + events.len() - 1];
            return success(event.revision, position(*index));
        }
        if first != count {
            let current = last.map_or(Current::CurrentNoStream(Empty {}), Current::CurrentRevision);
            return Outcome::WrongExpectedVersion(WrongExpectedVersion {
                current_revision_option: Some(current),
                expected_revision_option: Some(ExpectedRevisionOption::ExpectedAny(Empty {})),
                ..WrongExpectedVersion::default()
            });
        }
        for (revision, message) in (count as u64..).zip(events) {
            let created = self.clock.now();
            stored.push(StoredEvent { stream: name.clone(), revision, message, created });
        }
        let end = stored.len();
        let revision = stored[end - 1].revision;
        drop(stored);
        // Subscribers receive system events as well.
        if end.is_multiple_of(5) {
            self.system_event();
        }
        self.changed.send_replace(end);
        success(revision, position(end - 1))
    }
}

/// The events of a stream, with their indexes in the whole log.
fn events_of(stored: &[StoredEvent], name: &[u8]) -> Vec<(usize, StoredEvent)> {
    stored.iter().cloned().enumerate().filter(|(_, event)| event.stream == name).collect()
}

fn success(revision: u64, commit: u64) -> Outcome {
    let position = Position { commit_position: commit, prepare_position: commit };
    Outcome::Success(Success {
        current_revision_option: Some(success::CurrentRevisionOption::CurrentRevision(revision)),
        position_option: Some(success::PositionOption::Position(position)),
    })
}

fn answer(content: Content) -> ReadResp {
    ReadResp { content: Some(content) }
}

/// Converts an id to text: the library sends ids in one form and requests them in the other.
fn as_text(id: Option<Uuid>) -> Option<Uuid> {
    let value = match id?.value? {
        uuid::Value::Structured(parts) => {
            let (most, least) = (parts.most_significant_bits as u64, parts.least_significant_bits as u64);
            uuid::Value::String(::uuid::Uuid::from_u64_pair(most, least).to_string())
        }
        text @ uuid::Value::String(_) => text,
    };
    Some(Uuid { value: Some(value) })
}

#[tonic::async_trait]
impl ServerFeatures for Node {
    async fn get_supported_methods(&self, _: Request<Empty>) -> Result<Response<SupportedMethods>, Status> {
        match self.mode() {
            // Every node reports its features, without authentication.
            FaultMode::FollowerOf(_) | FaultMode::DeniesAccess => {}
            _ => self.accept_call("features").await?,
        }
        let version = "25.0.0".to_owned();
        Ok(Response::new(SupportedMethods { event_store_server_version: version, methods: Vec::new() }))
    }
}

#[tonic::async_trait]
impl Streams for Node {
    type ReadStream = BoxStream<'static, Result<ReadResp, Status>>;
    type BatchAppendStream = BoxStream<'static, Result<BatchAppendResp, Status>>;

    async fn read(&self, request: Request<ReadReq>) -> Result<Response<Self::ReadStream>, Status> {
        let options = request.into_inner().options.unwrap();
        let from = options.stream_option.unwrap();
        let CountOption::Count(count) = options.count_option.unwrap() else {
            self.accept_call("subscribe").await?;
            return Ok(Response::new(self.subscribe(&from)?));
        };
        self.accept_call("read").await?;
        let read = self.read_count(from, count, options.read_direction == 1)?;
        Ok(Response::new(futures_util::stream::iter(read.into_iter().map(Ok)).boxed()))
    }

    async fn append(&self, request: Request<Streaming<AppendReq>>) -> Result<Response<AppendResp>, Status> {
        self.accept_call("append").await?;
        let mut sent = request.into_inner();
        let (mut options, mut events) = (None, Vec::new());
        while let Some(part) = sent.message().await? {
            match part.content {
                Some(Sent::Options(received)) => options = Some(received),
                Some(Sent::ProposedMessage(event)) => {
                    events.push(ProposedMessage { id: as_text(event.id), ..event });
                }
                None => {}
            }
        }
        let options = options.unwrap();
        let name = options.stream_identifier.unwrap().stream_name;
        let outcome = self.append_events(&name, options.expected_stream_revision.unwrap(), events);
        match self.mode() {
            FaultMode::OmitsAppendResult => Ok(Response::new(AppendResp { result: None })),
            FaultMode::CrashesAfterAppend => Err(Status::unavailable("the node was stopped")),
            _ => Ok(Response::new(AppendResp { result: Some(outcome) })),
        }
    }

    async fn delete(&self, _: Request<DeleteReq>) -> Result<Response<DeleteResp>, Status> {
        Err(Status::unimplemented("delete"))
    }

    async fn tombstone(&self, _: Request<TombstoneReq>) -> Result<Response<TombstoneResp>, Status> {
        Err(Status::unimplemented("tombstone"))
    }

    async fn batch_append(
        &self,
        _: Request<Streaming<BatchAppendReq>>,
    ) -> Result<Response<Self::BatchAppendStream>, Status> {
        Err(Status::unimplemented("batch append"))
    }
}
