//! The EventStoreDB protocol against Rust clients that others wrote: the crates `eventstore` and `kurrentdb`.
//!
//! Their interfaces differ in a few names, which a module each evens out; the cases are the same file, compiled against
//! each. What Python's and Node's clients see is in `tests/clients`.

mod eventstore;
mod kurrentdb;
mod misbehaving;

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

/// A certificate for a server on this machine, and whoever signed it.
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
