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

/// A certificate for a server on this machine, with the authority that signed it.
struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        let key = || rcgen::KeyPair::generate().unwrap();
        let (authority_key, server_key) = (key(), key());
        let mut authority = rcgen::CertificateParams::new([]).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority_certificate = authority.self_signed(&authority_key).unwrap();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let server = rcgen::CertificateParams::new(names).unwrap().signed_by(&server_key, &issuer).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        write("ca.pem", authority_certificate.pem());
        write("server.pem", server.pem());
        write("server.key", server_key.serialize_pem());
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
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
