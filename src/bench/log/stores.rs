//! The measured stores.

use std::fmt;
use std::path::Path;

use event_log::{EventLog, Expected};
use event_log_embedded::EmbeddedLog;
use event_schemas::envelope::NewEvent;
use event_schemas::stream::StreamId;

#[cfg(feature = "peers")]
use super::grpc::{LogOverGrpc, UmaDbOverGrpc};
use super::nothing::Nothing;
#[cfg(feature = "peers")]
use super::rusqlite::RusqliteLog;
use super::sqlite::SqliteLog;
#[cfg(feature = "peers")]
use super::umadb::UmaDb;
use matchbook::failure::Failure;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Name {
    /// The embedded log
    Log,
    /// SQLite through sqlx
    Sqlite,
    /// SQLite, bound directly
    #[cfg(feature = "peers")]
    Rusqlite,
    /// UmaDB's engine and writer
    #[cfg(feature = "peers")]
    Umadb,
    /// The log over gRPC, one call for each append
    #[cfg(feature = "peers")]
    LogGrpc,
    /// The log over gRPC, one call for all appends
    #[cfg(feature = "peers")]
    LogGrpcBatch,
    /// UmaDB over gRPC, one call for each append
    #[cfg(feature = "peers")]
    UmadbGrpc,
    /// Appenders, queue and replies alone
    Nothing,
}

impl Name {
    pub(super) const ALL: &[Self] = &[
        Self::Log,
        Self::Sqlite,
        #[cfg(feature = "peers")]
        Self::Rusqlite,
        #[cfg(feature = "peers")]
        Self::Umadb,
        #[cfg(feature = "peers")]
        Self::LogGrpc,
        #[cfg(feature = "peers")]
        Self::LogGrpcBatch,
        #[cfg(feature = "peers")]
        Self::UmadbGrpc,
        Self::Nothing,
    ];

    /// The stores to which its rate is compared: each gRPC server of the log to UmaDB's, otherwise the log.
    pub(super) fn compared_with(self) -> &'static [Self] {
        match self {
            Self::Log => &[],
            #[cfg(feature = "peers")]
            Self::UmadbGrpc => &[Self::LogGrpc, Self::LogGrpcBatch],
            _ => &[Self::Log],
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Sqlite => "sqlite",
            #[cfg(feature = "peers")]
            Self::Rusqlite => "rusqlite",
            #[cfg(feature = "peers")]
            Self::Umadb => "umadb",
            #[cfg(feature = "peers")]
            Self::LogGrpc => "log-grpc",
            #[cfg(feature = "peers")]
            Self::LogGrpcBatch => "log-grpc-batch",
            #[cfg(feature = "peers")]
            Self::UmadbGrpc => "umadb-grpc",
            Self::Nothing => "nothing",
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[derive(Clone)]
pub(super) enum Store {
    Log(EmbeddedLog),
    Sqlite(SqliteLog),
    #[cfg(feature = "peers")]
    Rusqlite(RusqliteLog),
    #[cfg(feature = "peers")]
    Umadb(UmaDb),
    #[cfg(feature = "peers")]
    LogGrpc(LogOverGrpc),
    #[cfg(feature = "peers")]
    UmadbGrpc(UmaDbOverGrpc),
    Nothing(Nothing),
}

impl Store {
    /// Opens a store with its own files in the folder; the log is open already.
    pub(super) async fn open(name: Name, log: &EmbeddedLog, folder: &Path) -> Result<Self, Failure> {
        Ok(match name {
            Name::Log => Self::Log(log.clone()),
            Name::Sqlite => Self::Sqlite(SqliteLog::open(&folder.join("events.sqlite")).await?),
            #[cfg(feature = "peers")]
            Name::Rusqlite => Self::Rusqlite(RusqliteLog::open(&folder.join("events.rusqlite"))?),
            #[cfg(feature = "peers")]
            Name::Umadb => Self::Umadb(UmaDb::open(&folder.join("events.umadb"))?),
            #[cfg(feature = "peers")]
            Name::LogGrpc => Self::LogGrpc(LogOverGrpc::start(log.clone(), false).await?),
            #[cfg(feature = "peers")]
            Name::LogGrpcBatch => Self::LogGrpc(LogOverGrpc::start(log.clone(), true).await?),
            #[cfg(feature = "peers")]
            Name::UmadbGrpc => Self::UmadbGrpc(UmaDbOverGrpc::start(&folder.join("umadb-grpc")).await?),
            Name::Nothing => Self::Nothing(Nothing::start()?),
        })
    }

    pub(super) async fn append(&self, stream: StreamId, events: Vec<NewEvent>) -> Result<(), Failure> {
        match self {
            Self::Log(log) => {
                let appended = log.append(&stream, Expected::Any, events).await;
                appended.map(|_| ()).map_err(|error| Failure::Failed(error.to_string()))
            }
            Self::Sqlite(log) => log.append(stream, events).await,
            #[cfg(feature = "peers")]
            Self::Rusqlite(log) => log.append(stream, events).await,
            #[cfg(feature = "peers")]
            Self::Umadb(log) => log.append(stream, events).await,
            #[cfg(feature = "peers")]
            Self::LogGrpc(log) => log.append(stream, events).await,
            #[cfg(feature = "peers")]
            Self::UmadbGrpc(log) => log.append(&stream, events).await,
            Self::Nothing(nothing) => nothing.append(stream, events).await,
        }
    }
}

pub(super) fn stopped(store: &str) -> Failure {
    Failure::Failed(format!("the store {store} has stopped"))
}
