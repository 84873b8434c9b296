//! The adapter against the protocol server of this program, over an embedded log.

use std::path::{Path, PathBuf};

use super::*;
use crate::wire::{self, Access, Right, Server, TlsIdentity};
use event_log_embedded::{EmbeddedLog, Settings, SimDisk};

/// A server, on a runtime of its own, and its port.
fn serve(clock: Clock, tls: Option<TlsIdentity>) -> (Server, u16, RuntimeGuard) {
    let served = RuntimeGuard::new();
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

fn make(clock: Clock) -> (Log, (RuntimeGuard, Server, RuntimeGuard)) {
    let (server, port, served) = serve(clock, None);
    let (log, runtime) = open(format!("esdb://127.0.0.1:{port}?tls=false").parse().unwrap());
    (Log::new(log), (runtime, server, served))
}

event_log::conformance_tests!(make);

/// Writes a self-signed certificate for `localhost` and its key.
fn certificate(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key.pem")));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate, key)
}

#[tokio::test]
async fn a_tls_connection_requires_a_trusted_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (own, key) = certificate(folder.path(), "own");
    let (other, _) = certificate(folder.path(), "other");
    let tls = TlsIdentity { certificates: own.clone(), key };
    let (_server, port, _served) = serve(clock(), Some(tls));
    for (n, options) in
        [format!("tlsCaFile={}", own.display()), "tlsVerifyCert=false".to_owned()].iter().enumerate()
    {
        let (log, _runtime) = open(format!("esdb://localhost:{port}?{options}").parse().unwrap());
        let n = n as u128;
        log.append(&stream("a-1"), Expected::Any, events(n..n + 1)).await.unwrap();
    }
    for options in [format!("tlsCaFile={}", other.display()), "tls=false".to_owned()] {
        let url = format!("esdb://localhost:{port}?{options}&{SHORT}").parse().unwrap();
        let refused = EventStoreLog::open(url, WhenUnreachable::Fail).await.unwrap_err();
        assert!(matches!(&refused, ConnectError::Unreachable { .. }), "{refused:?}");
    }
}
