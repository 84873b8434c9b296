//! The EventStoreDB protocol, tested with third-party Rust clients: the crates `eventstore` and `kurrentdb`.
//!
//! Their interfaces differ in a few names, which one module for each adapts; the test cases are the same files, compiled
//! against both. The tests with the Python and Node clients are in `tests/clients`.

mod eventstore;
mod fault_simulation;
mod kurrentdb;

use std::sync::Once;

use crate::support::server::{Server, free_port};

/// The expected state of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExpectedState {
    Any,
    Exists,
    NoStream,
    At(u64),
}

/// Starts a server with the protocol; returns it with the port.
pub(crate) async fn serving(arguments: &[&str]) -> (Server, u16) {
    install_eventstore_provider();
    let port = free_port();
    let listen = format!("--esdb-listen=127.0.0.1:{port}");
    let arguments: Vec<&str> = [listen.as_str()].iter().chain(arguments).copied().collect();
    (Server::start(&arguments).await, port)
}

/// Both crates install a default TLS provider in the process, even without TLS, and `eventstore` fails if there is one
/// already. It installs the provider in a background task, which has finished once a call has returned.
fn install_eventstore_provider() {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| {
        let connecting = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let unreachable = "esdb://127.0.0.1:1?tls=false&maxDiscoverAttempts=1&discoveryInterval=1";
                let client = ::eventstore::Client::new(unreachable.parse().unwrap()).unwrap();
                client.server_info().await.err()
            })
        });
        assert!(connecting.join().unwrap().is_some(), "no server listens there");
    });
}
