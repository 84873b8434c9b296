//! The log and UmaDB, each behind its own gRPC server in this process and appended to over TCP by its own client.
//!
//! Every store has one connection. A store's server and its client share the CPU of this process, as do all appenders.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use event_log::clock::Clock;
use event_log_embedded::EmbeddedLog;
use event_log_esdb::wire::{Access, Right, Server, Settings};
use event_schemas::envelope::NewEvent;
use event_schemas::stream::StreamId;
use eventstore::{
    AppendToStreamOptions, BatchAppendClient, BatchAppendOptions, Client, EventData, ExpectedRevision,
};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use umadb_client::AsyncUmaDbClient;
use umadb_core::mvcc::StorageOptions;
use umadb_dcb::DcbEventStoreAsync;
use umadb_server::ServerOptions;

use super::umadb::event_with_tag;
use matchbook::failure::Failure;

/// The log over the EventStoreDB protocol.
#[derive(Clone)]
pub(super) struct LogOverGrpc {
    client: Client,
    /// The stream of appends, if they share one call instead of making one each.
    batches: Option<Arc<BatchAppendClient>>,
    /// The server stops when its last store is dropped.
    _server: Arc<Server>,
}

impl LogOverGrpc {
    pub(super) async fn start(log: EmbeddedLog, one_call: bool) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("the log over gRPC: {error}"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|error| failed(&error))?;
        let access = Access { anonymous: Some(Right::Clients), ..Access::default() };
        let settings = Settings { access, ..Settings::default() };
        let server = Server::start(listener, log, Clock::System, settings).map_err(|error| failed(&error))?;
        let url = format!("esdb://{}?tls=false", server.address());
        let url = url.parse().map_err(|error| failed(&error))?;
        let client = Client::new(url).map_err(|error| failed(&error))?;
        let batches = if one_call {
            let batches = client.batch_append(&BatchAppendOptions::default()).await;
            Some(Arc::new(batches.map_err(|error| failed(&error))?))
        } else {
            None
        };
        Ok(Self { client, batches, _server: Arc::new(server) })
    }

    pub(super) async fn append(&self, stream: StreamId, events: Vec<NewEvent>) -> Result<(), Failure> {
        let event = |event: NewEvent| {
            let data = EventData::binary(event.event_type.as_str(), event.data);
            data.id(event.id.0).metadata(event.metadata)
        };
        let events: Vec<EventData> = events.into_iter().map(event).collect();
        // Clients may not append to the streams of this program.
        let stream = format!("client-{stream}");
        let appended = match &self.batches {
            Some(batches) => batches.append_to_stream(&stream, ExpectedRevision::Any, events).await.map(drop),
            None => {
                let options = AppendToStreamOptions::default();
                self.client.append_to_stream(stream.as_str(), &options, events).await.map(drop)
            }
        };
        appended.map_err(|error| Failure::Failed(format!("the log over gRPC: {error}")))
    }
}

/// UmaDB's server and client.
#[derive(Clone)]
pub(super) struct UmaDbOverGrpc {
    client: Arc<AsyncUmaDbClient>,
    /// The server stops when the sender is dropped.
    _stop: Arc<oneshot::Sender<()>>,
}

impl UmaDbOverGrpc {
    pub(super) async fn start(folder: &Path) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("UmaDB over gRPC: {error}"));
        std::fs::create_dir_all(folder).map_err(|error| failed(&error))?;
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|error| failed(&error))?;
        let address: SocketAddr = free.local_addr().map_err(|error| failed(&error))?;
        drop(free);
        let (stop, stopped) = oneshot::channel();
        let (folder, listen) = (folder.to_owned(), address.to_string());
        tokio::spawn(async move {
            let storage = StorageOptions::default().db_path(folder);
            let options = ServerOptions { listen_addr: listen, tls: None, api_key: None, storage };
            // The error is not `Send`, and the client reports a server that did not start.
            drop(umadb_server::start_server_with_options(options, stopped).await);
        });
        let client = AsyncUmaDbClient::connect(format!("http://{address}"), None, None, None).await;
        Ok(Self { client: Arc::new(client.map_err(|error| failed(&error))?), _stop: Arc::new(stop) })
    }

    pub(super) async fn append(&self, stream: &StreamId, events: Vec<NewEvent>) -> Result<(), Failure> {
        let events = events.into_iter().map(|event| event_with_tag(event, stream.as_str())).collect();
        let appended = self.client.append(events, None, None).await;
        appended.map(drop).map_err(|error| Failure::Failed(format!("UmaDB over gRPC: {error}")))
    }
}
