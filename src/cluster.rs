//! The event log on an EventStoreDB or KurrentDB cluster, from the settings.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::Path;

pub(crate) use event_log::eventstore::ClusterUrl;

use event_log::eventstore::{ConnectError, EventStoreLog, Standing as Link, Unreached};
use event_log::{EventLog, Log};
use read_api::server::{Part, Standing};

use crate::cli::Failure;

/// The embedded log's folder belongs to one process; with the log elsewhere, the data folder has to.
///
/// # Errors
/// Another process has it, or the disk fails.
pub(crate) fn lock(folder: &Path) -> Result<File, Failure> {
    let path = folder.join("lock");
    let cannot = |error: std::io::Error| Failure::Disk(format!("cannot lock {}: {error}", path.display()));
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            return Err(Failure::InUse(format!(
                "{} is in use by process {}; stop that one, or give this one another folder with --data",
                folder.display(),
                holder.trim(),
            )));
        }
        Err(TryLockError::Error(error)) => return Err(cannot(error)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(cannot)?;
    Ok(file)
}

/// Connects. A cluster that cannot be reached is waited for: it may be starting as well, or choosing a leader.
///
/// # Errors
/// What waiting would not help: who may not come in, certificates, a cluster that is none.
pub(crate) async fn open(url: ClusterUrl) -> Result<Log, Failure> {
    for option in url.unknown_options() {
        tracing::warn!(option, "an option in the URL of the event log means nothing here");
    }
    let (log, connected) =
        EventStoreLog::open(url, Unreached::Wait).await.map_err(|error| failure(&error))?;
    tracing::info!(
        url = %log.url(),
        took_ms = connected.duration.as_millis(),
        head = %connected.head,
        "connected to the event log"
    );
    Ok(Log::EventStore(log))
}

/// Connects to a cluster that should be there.
///
/// # Errors
/// What keeps it from being used, also that it cannot be reached.
pub(crate) async fn reach(url: ClusterUrl) -> Result<Log, Failure> {
    let opened = EventStoreLog::open(url, Unreached::Refuse).await;
    opened.map(|(log, _)| Log::EventStore(log)).map_err(|error| failure(&error))
}

pub(crate) fn failure(error: &ConnectError) -> Failure {
    let message = error.to_string();
    match error {
        ConnectError::Unreached { .. } => Failure::Unreachable(message),
        ConnectError::Denied { .. } | ConnectError::Unfit { .. } | ConnectError::Tls { .. } => {
            Failure::Usage(message)
        }
    }
}

/// Where the log is, without who may come in; none if it is not on a cluster.
pub(crate) fn url(log: &Log) -> Option<String> {
    let Log::EventStore(log) = log else { return None };
    Some(log.url().to_string())
}

/// Whether the cluster answers, for `/ready` and `/status`.
pub(crate) fn part(log: &Log) -> Option<Part> {
    let Log::EventStore(log) = log else { return None };
    let log = log.clone();
    Some(Part::new("event_log", move || {
        let link = log.standing();
        let detail = match &link {
            Link::Following => "it follows the cluster".to_owned(),
            Link::CatchingUp => "it reads what the cluster has".to_owned(),
            Link::Away(reason) => format!("{reason}; it is tried again by itself"),
        };
        Standing { ready: link == Link::Following, position: Some(*log.head().borrow()), detail }
    }))
}

pub(crate) async fn close(log: &Log) {
    if let Log::EventStore(log) = log {
        log.close().await;
    }
}
