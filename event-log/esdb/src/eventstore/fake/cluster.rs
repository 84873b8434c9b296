//! A fake node that listens on an address, and logs on it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::runtime::Runtime;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::Node;
use crate::eventstore::{ClusterUrl, EventStoreLog, WhenUnreachable};
use crate::wire::proto::event_store::client::server_features::server_features_server::ServerFeaturesServer;
use crate::wire::proto::event_store::client::streams::streams_server::StreamsServer;
use event_log::clock::Clock;

/// A node that listens on a port, on a runtime of its own.
#[derive(Debug)]
pub(in super::super) struct Cluster {
    pub(in super::super) node: Node,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Cluster {
    pub(in super::super) fn start(clock: Clock) -> Self {
        Self::serve(Node::new(clock), "127.0.0.1:0".parse().unwrap())
    }

    fn serve(node: Node, address: SocketAddr) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let entered = runtime.enter();
        let incoming = TcpIncoming::bind(address).unwrap().with_nodelay(Some(true));
        drop(entered);
        let address = incoming.local_addr().unwrap();
        let router = Server::builder()
            .add_service(StreamsServer::new(node.clone()).max_decoding_message_size(17 << 20))
            .add_service(ServerFeaturesServer::new(node.clone()));
        runtime.spawn(router.serve_with_incoming(incoming));
        Self { node, address, runtime: Some(runtime) }
    }

    pub(in super::super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Stops the node as if its process ended: its connections break.
    pub(in super::super) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Starts the node again, with the same events and the same address.
    pub(in super::super) fn restart(&mut self) {
        self.stop();
        let restarted = loop {
            // The previous runtime may still hold the port for a moment.
            if std::net::TcpListener::bind(self.address).is_ok() {
                break Self::serve(self.node.clone(), self.address);
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        *self = restarted;
    }

    pub(in super::super) fn url(&self, options: &str) -> ClusterUrl {
        format!("esdb://127.0.0.1:{}?tls=false&{options}", self.port()).parse().unwrap()
    }

    /// A log on this node, whose tasks run on a runtime of their own.
    pub(in super::super) fn log(&self, options: &str) -> (EventStoreLog, RuntimeGuard) {
        open(self.url(options))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A separate runtime, which is shut down in the background when dropped, because an async context must not block.
#[derive(Debug)]
pub(in super::super) struct RuntimeGuard(Option<Runtime>);

impl RuntimeGuard {
    pub(in super::super) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Self(Some(runtime.unwrap()))
    }

    /// Runs a task there; on a thread of its own, because one runtime must not block on another.
    pub(in super::super) fn run<T: Send>(&self, task: impl Future<Output = T> + Send) -> T {
        let runtime = self.0.as_ref().unwrap();
        std::thread::scope(|scope| scope.spawn(|| runtime.block_on(task)).join().unwrap())
    }
}

impl Drop for RuntimeGuard {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Opens a log without a tail in memory, so that all reads go to the node.
pub(in super::super) fn open_without_tail(url: ClusterUrl) -> (EventStoreLog, RuntimeGuard) {
    let runtime = RuntimeGuard::new();
    let (log, _) = runtime.run(EventStoreLog::open_with(url, WhenUnreachable::Fail, 0)).unwrap();
    (log, runtime)
}

pub(in super::super) fn open(url: ClusterUrl) -> (EventStoreLog, RuntimeGuard) {
    let runtime = RuntimeGuard::new();
    let (log, _) = runtime.run(EventStoreLog::open(url, WhenUnreachable::Fail)).unwrap();
    (log, runtime)
}
