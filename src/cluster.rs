//! The event log on an EventStoreDB or KurrentDB cluster, from the settings.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::Path;

pub use event_log_esdb::eventstore::ClusterUrl;

use event_log::{EventLog, Log};
use event_log_esdb::eventstore::{ConnectError, ConnectionState, EventStoreLog, WhenUnreachable};
use read_api::server::{Component, ComponentHealth};

use crate::failure::Failure;

/// Locks the data folder for this process. With the embedded log, the log's own folder is locked instead.
///
/// # Errors
/// Another process has the lock, or the disk fails.
fn lock(folder: &Path) -> Result<File, Failure> {
    let path = folder.join("lock");
    let cannot = |error: std::io::Error| Failure::Disk(format!("cannot lock {}: {error}", path.display()));
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            return Err(Failure::InUse(format!(
                "{} is in use by process {}; stop that process, or choose another folder with --data",
                folder.display(),
                holder.trim(),
            )));
        }
        Err(TryLockError::Error(error)) => return Err(cannot(error)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(cannot)?;
    Ok(file)
}

/// A connected log.
#[derive(Debug)]
pub struct OpenedCluster {
    pub log: Log,
    /// The URL without its credentials.
    pub address: String,
    pub connection: Component,
    /// The lock on the data folder.
    pub lock: File,
}

/// Locks the data folder and connects. Waits for a cluster that cannot be reached: it may be starting, or electing a leader.
///
/// # Errors
/// Another process has the folder; errors that waiting does not solve: credentials, certificates, an incompatible server.
pub async fn open(url: ClusterUrl, folder: &Path) -> Result<OpenedCluster, Failure> {
    let lock = lock(folder)?;
    for option in url.unknown_options() {
        tracing::warn!(option, "unknown option in the URL of the event log");
    }
    let (log, connected) =
        EventStoreLog::open(url, WhenUnreachable::Wait).await.map_err(|error| failure(&error))?;
    tracing::info!(
        url = %log.url(),
        took_ms = connected.duration.as_millis(),
        head = %connected.head,
        "connected to the event log"
    );
    let (address, connection) = (log.url().to_string(), component(log.clone()));
    Ok(OpenedCluster { log: Log::new(log), address, connection, lock })
}

/// Connects without waiting.
///
/// # Errors
/// The cluster cannot be reached or used.
pub async fn connect(url: ClusterUrl) -> Result<Log, Failure> {
    let opened = EventStoreLog::open(url, WhenUnreachable::Fail).await;
    opened.map(|(log, _)| Log::new(log)).map_err(|error| failure(&error))
}

pub fn failure(error: &ConnectError) -> Failure {
    let message = error.to_string();
    match error {
        ConnectError::Unreachable { .. } => Failure::Unreachable(message),
        ConnectError::Denied { .. } | ConnectError::Unusable { .. } | ConnectError::Tls { .. } => {
            Failure::Usage(message)
        }
    }
}

/// The health of the connection to the cluster, for `/ready` and `/status`.
fn component(log: EventStoreLog) -> Component {
    Component::new("event_log", move || {
        let state = log.connection_state();
        let detail = match &state {
            ConnectionState::Live => "connected to the cluster".to_owned(),
            ConnectionState::CatchingUp => "catching up with the cluster".to_owned(),
            ConnectionState::Disconnected(reason) => format!("{reason}; connecting is retried automatically"),
        };
        ComponentHealth {
            ready: state == ConnectionState::Live,
            position: Some(*log.head().borrow()),
            detail,
        }
    })
}
