//! A process whose log others have as theirs, over the EventStoreDB protocol; and which log the tests are run on.

use std::path::{Path, PathBuf};
use std::process::Child;

use tempfile::TempDir;

use super::server::{free_port, spawn};

/// Set to `esdb`, every server of the tests has its log in another process, as on a cluster.
const VARIABLE: &str = "MATCHBOOK_TEST_LOG";

/// Whether the tests are run on a log in another process.
pub(crate) fn is_asked_for() -> bool {
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

    /// With the password of who may append everything.
    pub(crate) fn url(&self) -> String {
        format!("esdb://matchbook:p%40ssword@127.0.0.1:{}?tls=false", self.port)
    }

    /// SIGKILL.
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

/// It has processes of its own, which must leave the leases to the server under test, because it hears no heartbeats; and the
/// players, because it knows no names.
fn serve(port: u16, folder: &Path) -> Child {
    let arguments = [
        "serve".to_owned(),
        "--listen=127.0.0.1:0".to_owned(),
        format!("--data={}", folder.join("data").display()),
        format!("--esdb-listen=127.0.0.1:{port}"),
        "--esdb-trusted-users=matchbook:p@ssword".to_owned(),
        "--lease-term=1h".to_owned(),
        "--matchmaking=false".to_owned(),
    ];
    spawn(&[], &arguments, folder)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the log of the log's server ---\n{}", self.log());
        }
    }
}
