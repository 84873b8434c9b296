//! Through the protocol that this program serves itself, to an embedded log.

use std::path::{Path, PathBuf};

use super::*;
use crate::embedded::{EmbeddedLog, Settings, SimDisk};
use crate::wire::{self, Access, Identity, Right, Server};

/// A server, on a runtime of its own, and its port.
fn serve(clock: Clock, tls: Option<Identity>) -> (Server, u16, Kept) {
    let served = Kept::new();
    let server = served.run(async {
        let settings = Settings { reserve_bytes: 0, ..Settings::new("simulated") };
        let (log, _) = EmbeddedLog::open_simulated(SimDisk::new(1), &settings, clock.clone()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let access = Access { anonymous: Some(Right::Domain), ..Access::default() };
        Server::start(listener, log, clock, wire::Settings { access, tls, ..wire::Settings::default() })
            .unwrap()
    });
    let port = server.address().port();
    (server, port, served)
}

fn make(clock: Clock) -> (Log, (Kept, Server, Kept)) {
    let (server, port, served) = serve(clock, None);
    let (log, kept) = open(format!("esdb://127.0.0.1:{port}?tls=false").parse().unwrap());
    (Log::EventStore(log), (kept, server, served))
}

crate::conformance_tests!(make);

/// A certificate for `localhost` that vouches for itself, and its key.
fn certificate(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key.pem")));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate, key)
}

#[tokio::test]
async fn a_log_behind_tls_is_believed_if_its_certificate_is() {
    let folder = tempfile::tempdir().unwrap();
    let (own, key) = certificate(folder.path(), "own");
    let (other, _) = certificate(folder.path(), "other");
    let tls = Identity { certificates: own.clone(), key };
    let (_server, port, _served) = serve(clock(), Some(tls));
    for (n, options) in
        [format!("tlsCaFile={}", own.display()), "tlsVerifyCert=false".to_owned()].iter().enumerate()
    {
        let (log, _kept) = open(format!("esdb://localhost:{port}?{options}").parse().unwrap());
        let n = n as u128;
        log.append(&stream("a-1"), Expected::Any, events(n..n + 1)).await.unwrap();
    }
    for options in [format!("tlsCaFile={}", other.display()), "tls=false".to_owned()] {
        let url = format!("esdb://localhost:{port}?{options}&{SHORT}").parse().unwrap();
        let refused = EventStoreLog::open(url, Unreached::Refuse).await.unwrap_err();
        assert!(matches!(&refused, ConnectError::Unreached { .. }), "{refused:?}");
    }
}
