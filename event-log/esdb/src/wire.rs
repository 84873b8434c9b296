//! The EventStoreDB gRPC protocol (v1), served over the embedded log: see `docs/eventstoredb-protocol.md`.
//!
//! - `streams` is the service for appends and reads; `discovery` reports the features of the server;
//! - `append` and `read` execute the calls; `event_conversion` and `filter` convert messages; `refusal` has the errors;
//! - `stream_metadata` has the metadata of clients' streams; `delete` deletes these streams;
//! - `guard` checks callers and limits bodies before any method; `access` checks the rights of users; `server_state` injects faults and ends calls at shutdown; `connection` accepts
//!   connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use event_log::clock::Clock;
use event_log_embedded::EmbeddedLog;

mod access;
mod append;
mod connection;
mod delete;
mod discovery;
mod event_conversion;
mod filter;
mod guard;
mod node;
mod persistent;
pub mod proto;
mod read;
mod refusal;
mod server_state;
mod stream_metadata;
mod streams;
mod tls;

pub use access::{Access, Right, User};
pub use connection::Connections;
pub use server_state::{EndPoint, Fault, FaultSwitch, InvalidEndPoint, InvalidFault};
pub use tls::{InvalidTlsIdentity, TlsIdentity};

use discovery::Discovery;
use guard::{Guarded, MESSAGE_BYTES_MAX};
use node::Node;
use persistent::GroupsService;
use proto::event_store::client::gossip::gossip_server::GossipServer;
use proto::event_store::client::persistent_subscriptions::persistent_subscriptions_server::PersistentSubscriptionsServer;
use proto::event_store::client::server_features::server_features_server::ServerFeaturesServer;
use proto::event_store::client::streams::streams_server::StreamsServer;
use stream_metadata::StreamStatusCache;
use streams::StreamsService;

/// The HTTP/2 flow control windows of a call and of a connection.
const CALL_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// The largest header of a call.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// A connection whose client does not answer pings is closed.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The settings of the server.
#[derive(Clone, Debug)]
pub struct Settings {
    pub access: Access,
    /// The certificate for TLS; without TLS if `None`.
    pub tls: Option<TlsIdentity>,
    /// The address of the server in gossip responses; the address that it listens on if `None`.
    pub advertised: Option<EndPoint>,
    pub connections_max: usize,
    /// The most calls at a time on one connection, subscriptions included.
    pub calls_max: u32,
    /// The most subscriptions at a time on one connection.
    pub subscriptions_max: usize,
    /// The longest time of a message, and from the start of a connection to its first call with valid credentials.
    pub call_timeout: Duration,
}

impl Default for Settings {
    /// Settings that refuse all users.
    fn default() -> Self {
        Self {
            access: Access::default(),
            tls: None,
            advertised: None,
            connections_max: 1024,
            calls_max: 2048,
            subscriptions_max: 512,
            call_timeout: Duration::from_secs(10),
        }
    }
}

/// An error that prevents serving the log.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the listener cannot be used: {0}")]
    Listener(#[from] std::io::Error),
    #[error(transparent)]
    TlsIdentity(#[from] InvalidTlsIdentity),
}

/// A server that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    faults: FaultSwitch,
    connections: Connections,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Server {
    /// Serves the log to clients that connect to the listener. Requires a tokio runtime.
    ///
    /// # Errors
    /// The listener has no address, or the certificate or its key cannot be used.
    pub fn start(
        listener: TcpListener,
        log: EmbeddedLog,
        clock: Clock,
        settings: Settings,
    ) -> Result<Self, StartError> {
        let address = listener.local_addr()?;
        let tls = settings.tls.as_ref().map(TlsIdentity::acceptor).transpose()?;
        let limits = connection::Limits {
            connections_max: settings.connections_max,
            subscriptions_max: settings.subscriptions_max,
            call_timeout: settings.call_timeout,
        };
        let (faults, server_state) = server_state::channel();
        let own = || EndPoint { host: address.ip().to_string(), port: address.port() };
        let node = Arc::new(Node {
            log,
            clock,
            access: settings.access,
            server_state: server_state.clone(),
            statuses: StreamStatusCache::new(),
            advertised: settings.advertised.unwrap_or_else(own),
        });
        let discovery = Discovery(Arc::clone(&node));
        let groups = PersistentSubscriptionsServer::new(GroupsService::new(Arc::clone(&node)));
        let streams = StreamsServer::new(StreamsService(Arc::clone(&node)));
        let streams = streams.max_decoding_message_size(MESSAGE_BYTES_MAX);
        let router = tonic::transport::Server::builder()
            .initial_stream_window_size(CALL_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(settings.calls_max)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .http2_keepalive_interval(Some(PING_EVERY))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .add_service(Guarded::new(streams, &node))
            .add_service(Guarded::new(groups, &node))
            .add_service(Guarded::new(GossipServer::new(discovery.clone()), &node))
            .add_service(Guarded::new(ServerFeaturesServer::new(discovery), &node));
        let connections = Connections::new(settings.connections_max);
        let incoming = connection::accept(listener, connections.clone(), limits, tls);
        let serving = tokio::spawn(router.serve_with_incoming_shutdown(incoming, server_state.closed()));
        Ok(Self { address, faults, connections, serving })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The switch by which tests inject faults.
    pub fn faults(&self) -> FaultSwitch {
        self.faults.clone()
    }

    /// The open connections.
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Refuses new calls and ends subscriptions with `UNAVAILABLE`, without waiting for running calls.
    pub fn cancel_waiters(&self) {
        self.faults.close();
    }

    /// Refuses new calls, ends subscriptions with `UNAVAILABLE`, and waits for running calls, at most for `grace`.
    pub async fn stop(mut self, grace: Duration) {
        self.faults.close();
        match tokio::time::timeout(grace, &mut self.serving).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => {
                tracing::error!(%error, "the server of the EventStoreDB protocol failed");
            }
            Ok(Err(error)) => tracing::error!(%error, "the server of the EventStoreDB protocol panicked"),
            Err(_) => {
                tracing::warn!("calls of the EventStoreDB protocol did not end in time and were aborted");
                self.serving.abort();
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.faults.close();
    }
}

// The tests use the third-party client of the cluster adapter.
#[cfg(test)]
#[cfg(feature = "eventstore")]
mod tests;
