//! A process that serves its log to other servers over the EventStoreDB protocol, and the choice of the log that the
//! tests run on.

use std::path::{Path, PathBuf};
use std::process::Child;

use tempfile::TempDir;

use super::server::{free_port, spawn};

/// With the value `esdb`, every server of the tests has its log in another process, as on a cluster.
const VARIABLE: &str = "MATCHBOOK_TEST_LOG";

/// True if the tests run on a log in another process.
pub(crate) fn runs_on_remote_log() -> bool {
    match std::env::var(VARIABLE).as_deref() {
        Ok("esdb") => true,
        Ok("embedded") | Err(_) => false,
        Ok(other) => panic!("{VARIABLE} is embedded or esdb, not {other}"),
    }
}

/// A process with a log. It is killed when dropped, and its folder removed.
pub(crate) struct Cluster {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let child = serve(port, folder.path());
        Self { child, port, folder }
    }

    /// The connection string, with the password of the user that may append everything.
    pub(crate) fn url(&self) -> String {
        format!("esdb://matchbook:p%40ssword@127.0.0.1:{}?tls=false", self.port)
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts again over the same folder, on the same port.
    pub(crate) fn restart(&mut self) {
        self.child = serve(self.port, self.folder.path());
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }
}

/// Its own background processes must not act on the leases of the server under test, because it receives no heartbeats, nor
/// on the players, because its vault does not contain their user ids; it makes no exports, whose files it would keep.
fn serve(port: u16, folder: &Path) -> Child {
    let arguments = [
        "serve".to_owned(),
        "--listen=127.0.0.1:0".to_owned(),
        format!("--data={}", folder.join("data").display()),
        format!("--esdb-listen=127.0.0.1:{port}"),
        "--esdb-trusted-users=matchbook:p@ssword".to_owned(),
        "--lease-term=1h".to_owned(),
        "--matchmaking=false".to_owned(),
        "--exports=none".to_owned(),
    ];
    spawn(&[], &arguments, folder)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the server log of the process with the event log ---\n{}", self.log());
        }
    }
}
