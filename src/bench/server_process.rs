//! A server in a process of its own, for measurements over HTTP.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::Client;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use matchbook::failure::Failure;
use web::http_client;

/// The timeout for the start of the server.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The unit in which Linux reports the CPU time of processes.
const TICK_MILLIS: u64 = 10;

/// The server that was built with this program.
pub(crate) fn beside_this() -> Result<PathBuf, Failure> {
    let this = std::env::current_exe().map_err(|error| Failure::Failed(error.to_string()))?;
    Ok(this.with_file_name("matchbook"))
}

/// An address of this machine with a port that nothing uses.
pub(crate) fn free_address() -> Result<String, Failure> {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    Ok(address.map_err(|error| Failure::Failed(error.to_string()))?.to_string())
}

/// A server in its own process, which is killed when this is dropped.
pub(crate) struct ServerProcess {
    child: Child,
    pub(crate) url: String,
}

impl ServerProcess {
    /// Starts the program with further arguments, and waits until it is ready.
    pub(crate) async fn start(program: &Path, folder: &TempDir, arguments: &[&str]) -> Result<Self, Failure> {
        let address = free_address()?;
        let mut command = Command::new(program);
        command.args(["serve", "--log=warn", "--reserve-bytes=0", "--listen", &address, "--data"]);
        command.arg(folder.path()).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        // The settings of this environment are for another server.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MATCHBOOK_") {
                command.env_remove(name);
            }
        }
        let child = command.spawn().map_err(|error| {
            let message =
                "cannot start the server; build it into the same folder: cargo build --release --bins";
            Failure::Failed(format!("{}: {message}: {error}", program.display()))
        })?;
        let server = Self { child, url: format!("http://{address}") };
        let (client, since) = (server.client()?, Instant::now());
        while since.elapsed() < START_TIMEOUT {
            let answer = client.get(format!("{}/ready", server.url)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(server);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(Failure::Unreachable("the server did not become ready".to_owned()))
    }

    /// A client of the server that keeps its connections.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let failed =
            |error: &dyn std::fmt::Display| Failure::Failed(format!("cannot create an HTTP client: {error}"));
        let address = reqwest::Url::parse(&self.url).map_err(|error| failed(&error))?;
        let client = http_client::builder(&address).map_err(|error| failed(&error))?;
        client.pool_max_idle_per_host(1_024).build().map_err(|error| failed(&error))
    }

    /// The CPU time that it has used so far.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * TICK_MILLIS)
    }

    /// The MiB of memory that it has in use.
    pub(crate) fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = resident.and_then(|resident| resident.split_whitespace().next()?.parse::<f64>().ok());
        kilobytes.unwrap_or_default() / 1024.0
    }

    /// Stops it gracefully, so that its log can be opened.
    pub(crate) fn stop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
