//! The EventStoreDB protocol against Rust clients that others wrote: the crates `eventstore` and `kurrentdb`.
//!
//! Their interfaces differ in a few names, which a module each evens out; the cases are the same file, compiled against
//! each. What Python's and Node's clients see is in `tests/clients`.

mod eventstore;
mod kurrentdb;

use std::sync::Once;

use crate::support::server::{Server, free_port};

/// What an appender believes about a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Any,
    Exists,
    NoStream,
    At(u64),
}

/// A server that speaks the protocol, and the port that it does so on.
pub(crate) async fn serving(arguments: &[&str]) -> (Server, u16) {
    eventstore_goes_first();
    let port = free_port();
    let listen = format!("--esdb-listen=127.0.0.1:{port}");
    let arguments: Vec<&str> = [listen.as_str()].iter().chain(arguments).copied().collect();
    (Server::start(&arguments).await, port)
}

/// Both crates make a TLS provider the default of the process, even where TLS is off, and `eventstore` breaks if there
/// is one already. It does so in a task of its own, which has run once a call has been answered.
fn eventstore_goes_first() {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| {
        let connecting = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let nobody = "esdb://127.0.0.1:1?tls=false&maxDiscoverAttempts=1&discoveryInterval=1";
                let client = ::eventstore::Client::new(nobody.parse().unwrap()).unwrap();
                client.server_info().await.err()
            })
        });
        assert!(connecting.join().unwrap().is_some(), "nobody listens there");
    });
}
