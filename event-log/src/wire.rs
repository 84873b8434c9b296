//! The EventStoreDB gRPC protocol (v1), served over the embedded log: see `docs/eventstoredb-protocol.md`.
//!
//! - `streams` is the service that appends and reads, `discovery` tells clients what the server is;
//! - `append` and `read` do what they ask for, `message` and `filter` translate, `refusal` says no;
//! - `stream_state` knows the settings of clients' streams, and `delete` deletes them;
//! - `access` tells who may do what, `condition` whether calls are answered, `connection` accepts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::embedded::EmbeddedLog;

mod access;
mod append;
mod condition;
mod connection;
mod delete;
mod discovery;
mod filter;
mod message;
mod node;
mod persistent;
pub mod proto;
mod read;
mod refusal;
mod stream_state;
mod streams;
mod tls;

pub use access::{Access, Right, User};
pub use condition::{EndPoint, Fault, Faults, NotAFault, NotAnEndPoint};
pub use connection::Connections;
pub use tls::{Identity, NotAnIdentity};

use discovery::Discovery;
use node::Node;
use persistent::GroupsService;
use proto::event_store::client::gossip::gossip_server::GossipServer;
use proto::event_store::client::persistent_subscriptions::persistent_subscriptions_server::PersistentSubscriptionsServer;
use proto::event_store::client::server_features::server_features_server::ServerFeaturesServer;
use proto::event_store::client::streams::streams_server::StreamsServer;
use stream_state::States;
use streams::StreamsService;

/// The largest message that is taken: what clients themselves take. Appends have a smaller limit of their own.
const MESSAGE_BYTES_MAX: usize = 17 << 20;

/// How much of a call's request may be on its way, and of a connection's.
const CALL_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// A connection whose client answers no ping is closed.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How a log is served.
#[derive(Clone, Debug)]
pub struct Settings {
    pub access: Access,
    /// With which TLS is spoken; without TLS if none.
    pub tls: Option<Identity>,
    /// How clients reach the server, as gossip tells them; its own address if none.
    pub advertised: Option<EndPoint>,
    pub connections_max: usize,
    /// The most calls at a time on one connection, subscriptions included.
    pub calls_max: u32,
    /// The most subscriptions at a time on one connection.
    pub subscriptions_max: usize,
}

impl Default for Settings {
    /// Nobody may come in.
    fn default() -> Self {
        Self {
            access: Access::default(),
            tls: None,
            advertised: None,
            connections_max: 1024,
            calls_max: 2048,
            subscriptions_max: 512,
        }
    }
}

/// Why the log cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the listener cannot be used: {0}")]
    Listener(#[from] std::io::Error),
    #[error(transparent)]
    Identity(#[from] NotAnIdentity),
}

/// A server that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    faults: Faults,
    connections: Connections,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Server {
    /// Serves the log to those who connect to the listener. Needs a tokio runtime.
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
        let tls = settings.tls.as_ref().map(Identity::acceptor).transpose()?;
        let (faults, observer) = condition::channel();
        let own = || EndPoint { host: address.ip().to_string(), port: address.port() };
        let node = Arc::new(Node {
            log,
            clock,
            access: settings.access,
            observer: observer.clone(),
            states: States::new(),
            advertised: settings.advertised.unwrap_or_else(own),
        });
        let discovery = Discovery(Arc::clone(&node));
        let groups = PersistentSubscriptionsServer::new(GroupsService::new(Arc::clone(&node)));
        let streams = StreamsServer::new(StreamsService(node)).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let router = tonic::transport::Server::builder()
            .initial_stream_window_size(CALL_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(settings.calls_max)
            .http2_keepalive_interval(Some(PING_EVERY))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .add_service(streams)
            .add_service(groups)
            .add_service(GossipServer::new(discovery.clone()))
            .add_service(ServerFeaturesServer::new(discovery));
        let connections = Connections::new(settings.connections_max);
        let incoming = connection::accept(listener, connections.clone(), settings.subscriptions_max, tls);
        let serving = tokio::spawn(router.serve_with_incoming_shutdown(incoming, observer.closed()));
        Ok(Self { address, faults, connections, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The switch by which tests make it behave badly.
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// Counts who is connected.
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Takes no more calls and tells subscribers to come back later, without waiting for anyone.
    pub fn send_home(&self) {
        self.faults.close();
    }

    /// Takes no more calls and tells subscribers to come back later; waits for calls under way, `grace` at most.
    pub async fn stop(mut self, grace: Duration) {
        self.faults.close();
        match tokio::time::timeout(grace, &mut self.serving).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => {
                tracing::error!(%error, "the EventStoreDB protocol was not served to its end");
            }
            Ok(Err(error)) => tracing::error!(%error, "the server of the EventStoreDB protocol broke off"),
            Err(_) => {
                tracing::warn!("calls of the EventStoreDB protocol took too long to end and were cut off");
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

// The client of the adapter is one that we did not write.
#[cfg(test)]
#[cfg(feature = "eventstore")]
mod tests;
