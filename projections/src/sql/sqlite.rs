//! A generation in a SQLite file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::Sqlite;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::SqlError;

/// The time that a statement waits for a lock that another process holds on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The number of connections for queries, per file.
const READERS_MAX: u32 = 4;
/// A reading connection that has been idle for this time is closed.
const READER_IDLE: Duration = Duration::from_secs(60);
/// Files up to this size are checked completely when they are opened; a larger one would delay the start.
const CHECKED_BYTES_MAX: u64 = 32 << 20;

/// `SQLITE_CORRUPT` and `SQLITE_NOTADB`, the primary codes of a corrupt file.
const DAMAGED_CODES: [i32; 2] = [11, 26];
/// `SQLITE_IOERR_SHORT_READ`: the file is shorter than its header states, as it may be after a power loss.
const SHORT_CODE: i32 = 522;
/// `SQLITE_FULL`, and `SQLITE_IOERR_SHMSIZE`: no space for the memory that a file's connections share.
const FULL_CODES: [i32; 2] = [13, 4874];

/// The kind of an error with this code, if it has one.
pub(super) fn classify(code: &str, error: String) -> Option<SqlError> {
    let code = code.parse::<i32>().ok()?;
    // The low byte of an extended code is the primary one.
    if code == SHORT_CODE || DAMAGED_CODES.contains(&(code & 0xff)) {
        Some(SqlError::Damaged(error))
    } else if FULL_CODES.contains(&code) {
        Some(SqlError::Full(error))
    } else {
        None
    }
}

/// An open file.
#[derive(Debug)]
pub(crate) struct SqliteFile {
    path: PathBuf,
    writer: SqlitePool,
    readers: SqlitePool,
}

impl SqliteFile {
    /// Opens or creates the file, and runs the DDL, which must be idempotent.
    ///
    /// # Errors
    /// [`SqlError::Damaged`] if the file exists and is not an intact database.
    pub(crate) async fn open(path: &Path, ddl: &[&'static str]) -> Result<Self, SqlError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A read model is derived: commits that a power loss removes are replayed.
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("temp_store", "MEMORY")
            .pragma("wal_autocheckpoint", "4000");
        let reading = options.clone().create_if_missing(false).pragma("query_only", "ON");
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.pragma("cache_size", "-64000"))
            .await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .idle_timeout(READER_IDLE)
            .max_lifetime(None)
            .connect_lazy_with(reading);
        let file = Self { path: path.to_owned(), writer, readers };
        match file.prepare(ddl).await {
            Ok(()) => Ok(file),
            Err(error) => {
                // A connection that closes later would remove the write-ahead log of this name, which may then belong
                // to another file.
                file.close().await;
                Err(error)
            }
        }
    }

    async fn prepare(&self, ddl: &[&'static str]) -> Result<(), SqlError> {
        self.check().await?;
        // This waits for a commit that an aborted task of this process may have left in progress, so that rows do not
        // change after they have been read by the new owner.
        let mut tx = self.begin().await?;
        for statement in ddl {
            sqlx::raw_sql(*statement).execute(&mut *tx).await?;
        }
        Ok(tx.commit().await?)
    }

    async fn check(&self) -> Result<(), SqlError> {
        let bytes = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        if bytes > CHECKED_BYTES_MAX {
            return Ok(());
        }
        let result: (String,) = sqlx::query_as("PRAGMA quick_check(1)").fetch_one(&self.writer).await?;
        if result.0 == "ok" { Ok(()) } else { Err(SqlError::Damaged(result.0)) }
    }

    /// Takes the lock at once, so that no later statement can fail to get it.
    pub(super) async fn begin(&self) -> Result<sqlx::Transaction<'static, Sqlite>, SqlError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    pub(super) fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    pub(super) async fn shrink(&self) -> Result<(), SqlError> {
        sqlx::raw_sql("PRAGMA shrink_memory").execute(&self.writer).await?;
        Ok(())
    }

    /// Afterwards the write-ahead log is back in the file.
    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    pub(super) fn remove(&self) -> Result<(), SqlError> {
        remove(&self.path).map_err(|error| SqlError::Refused(error.into()))
    }

    pub(super) fn remove_retired(&self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the file of an old generation could not be removed; delete it manually");
        }
    }
}

/// Removes a database and its companion files, if they exist.
pub(crate) fn remove(path: &Path) -> std::io::Result<()> {
    // The main file is removed first: without it the others are ignored.
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(PathBuf::from(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
