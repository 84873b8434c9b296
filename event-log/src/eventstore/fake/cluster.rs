//! A node behind an address, and a log on it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::runtime::Runtime;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::Node;
use crate::clock::Clock;
use crate::eventstore::{ClusterUrl, EventStoreLog, Unreached};
use crate::wire::proto::event_store::client::server_features::server_features_server::ServerFeaturesServer;
use crate::wire::proto::event_store::client::streams::streams_server::StreamsServer;

/// A node that listens, on a runtime of its own.
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

    /// As a process ends: its connections break.
    pub(in super::super) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// The same events under the same address.
    pub(in super::super) fn restart(&mut self) {
        self.stop();
        let restarted = loop {
            // The runtime before may still hold the port for an instant.
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

    /// A log on this node, whose tasks live on a runtime of their own.
    pub(in super::super) fn log(&self, options: &str) -> (EventStoreLog, Kept) {
        open(self.url(options))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A runtime of its own for what must live on, which is let go of where one must not wait.
#[derive(Debug)]
pub(in super::super) struct Kept(Option<Runtime>);

impl Kept {
    pub(in super::super) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Self(Some(runtime.unwrap()))
    }

    /// Waits for a task there; on a thread of its own, because one runtime does not wait for another.
    pub(in super::super) fn run<T: Send>(&self, task: impl Future<Output = T> + Send) -> T {
        let runtime = self.0.as_ref().unwrap();
        std::thread::scope(|scope| scope.spawn(|| runtime.block_on(task)).join().unwrap())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A log that keeps nothing in memory, so that all reading goes to the node.
pub(in super::super) fn open_forgetful(url: ClusterUrl) -> (EventStoreLog, Kept) {
    let kept = Kept::new();
    let (log, _) = kept.run(EventStoreLog::open_with(url, Unreached::Refuse, 0)).unwrap();
    (log, kept)
}

pub(in super::super) fn open(url: ClusterUrl) -> (EventStoreLog, Kept) {
    let kept = Kept::new();
    let (log, _) = kept.run(EventStoreLog::open(url, Unreached::Refuse)).unwrap();
    (log, kept)
}
