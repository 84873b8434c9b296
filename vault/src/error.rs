//! The errors of the vault, and the codes of the databases that they come from.

use std::path::PathBuf;
use std::sync::Arc;

use event_schemas::sealed::SealedField;
use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;

use crate::KEY_BYTES;

/// An error of the vault.
#[derive(Clone, Debug, thiserror::Error)]
pub enum VaultError {
    #[error("the vault cannot be used: {0}; check that its file exists and is writable")]
    Store(Arc<sqlx::Error>),
    #[error("the database refuses the vault: {0}; check its URL, and that its user may create a schema")]
    Refused(Arc<sqlx::Error>),
    #[error("the database of the vault cannot be reached: {0}; check that it is running")]
    Unavailable(Arc<sqlx::Error>),
    #[error("the vault is damaged or is not a vault: {0}; nothing was changed; restore it from a backup")]
    Damaged(Arc<sqlx::Error>),
    #[error("the vault was written by a newer version of matchbook (format {0}); run that version")]
    Newer(i64),
    #[error(
        "the vault is in a PostgreSQL database; start with --read-store and the URL of that database, or first copy the vault \
         back with `matchbook vault backup --read-store URL --to {}`", file.display()
    )]
    Moved { file: PathBuf },
    #[error(
        "the database has other subjects for users in {}: one of the two vaults is of another server, or out of date; \
         choose another database, or move the file away if it is out of date", file.display()
    )]
    OtherVault { file: PathBuf },
    #[error(
        "the vault is missing or empty, or of another server: it has none of the subjects in the event log; nothing was changed; restore it \
         from a backup that `matchbook vault backup` made; to continue without the names and texts of previous users, start with \
         --accept-lost-vault"
    )]
    Lost,
    #[error(
        "the vault is damaged: {0}; nothing was changed; restore it from a backup that `matchbook vault backup` made"
    )]
    Inconsistent(String),
    #[error("the vault contains a key of {0} bytes instead of {KEY_BYTES}; restore it from a backup")]
    CorruptKey(usize),
    #[error("the system returned no random numbers")]
    NoRandomness,
    #[error("the sealed text at {0} was not sealed for this field, or was changed since; it cannot be read")]
    Sealed(SealedField),
    #[error(
        "the vault's disk has failed, and its content is known only after a restart; check the disk, then restart the server"
    )]
    Failed,
}

/// `SQLITE_FULL`.
const FULL_CODE: i32 = 13;
/// `SQLITE_CORRUPT`, `SQLITE_NOTADB`, and `SQLITE_IOERR_SHORT_READ` of a file that is shorter than its header states.
const CORRUPT_CODES: [i32; 3] = [11, 26, 522];
/// `SQLITE_IOERR` and all its extended codes.
const IO_CODE: i32 = 10;

/// `disk_full` of PostgreSQL.
const POSTGRES_FULL_CODE: &str = "53100";
/// Corrupt data or index; a schema or a table that another program has changed or dropped.
const POSTGRES_CORRUPT_CODES: [&str; 5] = ["XX001", "XX002", "3F000", "42P01", "42703"];
/// The server stops, crashed, starts, has no free connection, or is a standby after a failover.
const POSTGRES_UNAVAILABLE_CODES: [&str; 5] = ["57P01", "57P02", "57P03", "53300", "25006"];

impl From<sqlx::Error> for VaultError {
    fn from(error: sqlx::Error) -> Self {
        let kind = match &error {
            // A certificate that is not valid does not become valid.
            sqlx::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => Self::Refused,
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable,
            sqlx::Error::Tls(_) | sqlx::Error::Configuration(_) | sqlx::Error::Protocol(_) => Self::Refused,
            error => match postgres_code(error) {
                Some(code) => postgres_kind(code),
                None if sqlite_code(error).is_some_and(|code| CORRUPT_CODES.contains(&code)) => Self::Damaged,
                None => Self::Store,
            },
        };
        kind(Arc::new(error))
    }
}

impl VaultError {
    /// True if the disk is full, which is transient.
    pub fn is_full(&self) -> bool {
        let Self::Store(error) = self else { return false };
        sqlite_code(error) == Some(FULL_CODE) || postgres_code(error) == Some(POSTGRES_FULL_CODE)
    }

    /// True if the disk failed. A later sync can succeed although the data of an earlier one is lost. PostgreSQL handles
    /// failures of its own disk.
    pub(crate) fn is_disk_failure(&self) -> bool {
        matches!(self, Self::Store(error) if sqlite_code(error).is_some_and(|code| code & 0xff == IO_CODE))
    }

    /// True if the vault can be used again only after a restart.
    pub fn is_failed(&self) -> bool {
        matches!(self, Self::Failed) || self.is_disk_failure()
    }
}

/// The kind of an error with this SQLSTATE.
fn postgres_kind(code: &str) -> fn(Arc<sqlx::Error>) -> VaultError {
    match code {
        POSTGRES_FULL_CODE => VaultError::Store,
        _ if POSTGRES_CORRUPT_CODES.contains(&code) => VaultError::Damaged,
        _ if POSTGRES_UNAVAILABLE_CODES.contains(&code) || code.starts_with("08") => VaultError::Unavailable,
        _ => VaultError::Refused,
    }
}

/// The error of a file operation.
pub(crate) fn file_error(error: std::io::Error) -> VaultError {
    VaultError::Store(Arc::new(sqlx::Error::Io(error)))
}

fn sqlite_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.try_downcast_ref::<SqliteError>()?.code()?.parse().ok()
}

fn postgres_code(error: &sqlx::Error) -> Option<&str> {
    Some(error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?.code())
}
