//! A generation in a SQLite file.
//!
//! Queries run on connections of the pool. The writer's own connection runs a whole transaction in one call: on a blocking
//! thread, or if it is small, on the thread of the live read models. A driver that hands over one statement at a time costs
//! more than the statements.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{
    Connection, ErrorCode, InterruptHandle, OpenFlags, OptionalExtension, ToSql, TransactionBehavior,
};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::statement::Value;
use super::{Batch, SqlError};
use crate::live_thread;

/// The time that a statement waits for a lock that another process holds on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The number of connections for queries, per file.
const READERS_MAX: u32 = 4;
/// A reading connection that has been idle for this time is closed.
const READER_IDLE: Duration = Duration::from_secs(60);
/// Files up to this size are checked completely when they are opened; a larger one would delay the start.
const CHECKED_BYTES_MAX: u64 = 32 << 20;
/// The number of prepared statements of the writer.
const STATEMENTS_MAX: usize = 32;
/// A transaction that writes more bytes than this is not small, nor is a lookup of more keys.
const SMALL_BYTES_MAX: usize = 512 << 10;
const SMALL_KEYS_MAX: usize = 64;
/// The bytes that small transactions write before the next one may copy the write-ahead log into the file.
const COPY_AFTER_BYTES: usize = 32 << 20;

/// A read model is derived: commits that a power loss removes are replayed. So the writer need not wait for the disk.
const WRITER: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL";
/// Before large transactions, which need many pages at once.
const LARGE: &str = "PRAGMA cache_size = -8000; PRAGMA wal_autocheckpoint = 4000";
/// Before small ones. To copy the write-ahead log into the file takes long, so they do not.
const SMALL: &str = "PRAGMA cache_size = -4000; PRAGMA wal_autocheckpoint = 0";
/// The layer that checks each page: see `page_checksums.c`.
const LAYER: &str = "page-checksums";
/// `SQLITE_CORRUPT` and `SQLITE_NOTADB`, the primary codes of a corrupt file.
const DAMAGED_CODES: [i32; 2] = [11, 26];
/// `SQLITE_IOERR_SHORT_READ`: the file is shorter than its header states, as it may be after a power loss.
const SHORT_CODE: i32 = 522;
/// `SQLITE_IOERR_DATA`: a page does not have its checksum, or is missing.
const CHECKSUM_CODE: i32 = 8202;
/// `SQLITE_IOERR_READ`: the disk does not return what it stores.
const UNREADABLE_CODE: i32 = 266;
/// `SQLITE_ERROR`, with which SQLite also reports that there is no such table or column.
const ERROR_CODE: i32 = 1;
/// `SQLITE_FULL`, and `SQLITE_IOERR_SHMSIZE`: no space for the memory that a file's connections share.
const FULL_CODES: [i32; 2] = [13, 4874];

/// `SQLITE_CONSTRAINT_UNIQUE`.
const UNIQUE_CODE: i32 = 2067;

/// The kind of an error with this code, if it has one.
pub(super) fn classify(code: i32, error: String) -> Option<SqlError> {
    // The low byte of an extended code is the primary one.
    if code == CHECKSUM_CODE {
        Some(SqlError::Damaged("a page of its file is not what was written".to_owned()))
    } else if [SHORT_CODE, UNREADABLE_CODE].contains(&code)
        || DAMAGED_CODES.contains(&(code & 0xff))
        || (code == ERROR_CODE && error.contains("no such "))
    {
        Some(SqlError::Damaged(error))
    } else if FULL_CODES.contains(&code) {
        Some(SqlError::Full(error))
    } else {
        None
    }
}

impl From<rusqlite::Error> for SqlError {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        match error.sqlite_error() {
            Some(details) if details.extended_code == UNIQUE_CODE => Self::Duplicate(text),
            details => details
                .and_then(|details| classify(details.extended_code, text))
                .unwrap_or_else(|| Self::Refused(error.into())),
        }
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let value = match self {
            Self::Boolean(boolean) => {
                boolean.map_or(ValueRef::Null, |boolean| ValueRef::Integer(boolean.into()))
            }
            Self::Integer(number) => number.map_or(ValueRef::Null, ValueRef::Integer),
            Self::Float(number) => ValueRef::Real(*number),
            Self::Text(text) => text.as_ref().map_or(ValueRef::Null, |text| ValueRef::Text(text.as_bytes())),
            Self::Id(id) => id.as_ref().map_or(ValueRef::Null, |id| ValueRef::Blob(id.as_bytes())),
        };
        Ok(ToSqlOutput::Borrowed(value))
    }
}

/// The writer's connection.
#[derive(Debug)]
pub(crate) struct WriterConnection {
    /// None after it was closed.
    connection: Option<Connection>,
    /// The bytes that small transactions have written since the last large one; none directly after it.
    small_bytes: Option<usize>,
}

impl WriterConnection {
    /// Runs the work if it is small and this thread may wait for the disk. None if it has to run on a blocking thread: it
    /// is large, or another process holds a lock.
    fn run_here<T>(
        &mut self,
        bytes: usize,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Option<Result<T, SqlError>> {
        let small_bytes = self.small_bytes.unwrap_or(0) + bytes;
        if !live_thread::is_current() || bytes > SMALL_BYTES_MAX || small_bytes > COPY_AFTER_BYTES {
            return None;
        }
        let connection = self.connection.as_ref()?;
        if self.small_bytes.is_none() {
            let prepared =
                connection.busy_timeout(Duration::ZERO).and_then(|()| connection.execute_batch(SMALL));
            if let Err(error) = prepared {
                return Some(Err(error.into()));
            }
        }
        self.small_bytes = Some(small_bytes);
        match work(connection) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => None,
            done => Some(done.map_err(SqlError::from)),
        }
    }

    /// The connection for work on a blocking thread.
    fn for_long_work(&mut self) -> Result<&mut Connection, SqlError> {
        let closed = || SqlError::Unavailable("the file has been closed".to_owned());
        let connection = self.connection.as_mut().ok_or_else(closed)?;
        if self.small_bytes.take().is_some() {
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.execute_batch(LARGE)?;
        }
        Ok(connection)
    }
}

/// Ends the statement that is being executed when the value is dropped: an index takes long to create.
struct Interrupt(InterruptHandle);

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupt").finish_non_exhaustive()
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.0.interrupt();
    }
}

/// An open file.
#[derive(Debug)]
pub(crate) struct SqliteFile {
    path: PathBuf,
    writer: Arc<Mutex<WriterConnection>>,
    readers: SqlitePool,
    _interrupt: Interrupt,
}

impl SqliteFile {
    /// Opens or creates the file, and runs the DDL, which must be idempotent.
    ///
    /// # Errors
    /// [`SqlError::Damaged`] if the file exists and is not an intact database.
    pub(crate) async fn open(path: &Path, ddl: Vec<&'static str>) -> Result<Self, SqlError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .vfs(LAYER)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("temp_store", "MEMORY")
            .pragma("query_only", "ON");
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .idle_timeout(READER_IDLE)
            .max_lifetime(None)
            .connect_lazy_with(options);
        let file = path.to_owned();
        let connection = blocking(move || connect(&file, &ddl)).await?;
        let _interrupt = Interrupt(connection.get_interrupt_handle());
        let writer = WriterConnection { connection: Some(connection), small_bytes: None };
        Ok(Self { path: path.to_owned(), writer: Arc::new(Mutex::new(writer)), readers, _interrupt })
    }

    /// Runs the work on the writer's connection. If the caller is aborted, the work continues.
    async fn with_writer<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, SqlError> + Send + 'static,
    ) -> Result<T, SqlError> {
        let mut writer = self.lock().await;
        blocking(move || work(writer.for_long_work()?)).await
    }

    /// While the lock is held, nothing can be written.
    pub(super) async fn lock(&self) -> OwnedMutexGuard<WriterConnection> {
        Arc::clone(&self.writer).lock_owned().await
    }

    pub(super) async fn write(&self, batch: Batch) -> Result<(), SqlError> {
        let mut writer = self.lock().await;
        match writer.run_here(batch.bytes(), |connection| commit(connection, &batch)) {
            Some(committed) => committed,
            None => blocking(move || Ok(commit(writer.for_long_work()?, &batch)?)).await,
        }
    }

    /// The only column of the row of each key.
    pub(super) async fn lookup(
        &self,
        sql: &'static str,
        keys: Vec<Vec<Value>>,
    ) -> Result<Vec<Option<String>>, SqlError> {
        let mut writer = self.lock().await;
        let is_small = keys.len() <= SMALL_KEYS_MAX;
        let found = is_small.then(|| writer.run_here(0, |connection| lookup(connection, sql, &keys)));
        match found.flatten() {
            Some(found) => found,
            None => blocking(move || Ok(lookup(writer.for_long_work()?, sql, &keys)?)).await,
        }
    }

    /// Runs statements without parameters, each in a transaction of its own.
    pub(super) async fn run(&self, sql: String) -> Result<(), SqlError> {
        self.with_writer(move |connection| match connection.execute_batch(&sql) {
            // Large indexes are sorted in temporary files, and there is no folder for these.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) => {
                connection.execute_batch("PRAGMA temp_store = MEMORY")?;
                Ok(connection.execute_batch(&sql)?)
            }
            executed => Ok(executed?),
        })
        .await
    }

    pub(super) fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// The error of a query. A file that was removed cannot be opened by further connections.
    pub(super) fn query_error(&self, error: sqlx::Error) -> SqlError {
        match SqlError::from(error) {
            SqlError::Refused(error) if !self.path.exists() => {
                SqlError::Damaged(format!("its file has been removed: {error}"))
            }
            error => error,
        }
    }

    pub(super) async fn shrink(&self) -> Result<(), SqlError> {
        self.with_writer(|connection| Ok(connection.execute_batch("PRAGMA shrink_memory")?)).await
    }

    /// Afterwards the write-ahead log is back in the file.
    pub(super) async fn close(&self) {
        self.readers.close().await;
        let connection = self.lock().await.connection.take();
        let path = self.path.clone();
        let close = move || connection.map(|connection| close(connection, &path));
        let _ = tokio::task::spawn_blocking(close).await;
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

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SqlError> + Send + 'static,
) -> Result<T, SqlError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| SqlError::Unavailable(format!("a statement was not executed: {error}")))?
}

fn connect(path: &Path, ddl: &[&'static str]) -> Result<Connection, SqlError> {
    let mut connection = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), LAYER)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection.execute_batch(WRITER)?;
    connection.execute_batch(LARGE)?;
    if std::fs::metadata(path).is_ok_and(|file| file.len() <= CHECKED_BYTES_MAX) {
        let result: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if result != "ok" {
            return Err(SqlError::Damaged(result));
        }
    }
    // This waits for a commit that an aborted task of this process may have left in progress, so that rows do not
    // change after they have been read by the new owner.
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for statement in ddl {
        tx.execute_batch(statement)?;
    }
    tx.commit()?;
    Ok(connection)
}

/// Copies the write-ahead log into the file, and closes it. If the log is damaged, the file is removed: the next start would
/// take what another program has written there for its own.
fn close(connection: Connection, path: &Path) {
    let copied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    drop(connection);
    if let Err(SqlError::Damaged(reason)) = copied.map_err(SqlError::from) {
        tracing::error!(path = %path.display(), reason, "a read model is damaged; it is removed, and the next start rebuilds it");
        if let Err(error) = remove(path) {
            tracing::error!(path = %path.display(), %error, "a damaged file could not be removed; delete it manually");
        }
    }
}

/// Executes the writes in one transaction.
fn commit(connection: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.raw_execute()?;
    let committed =
        write(connection, batch).and_then(|()| connection.prepare_cached("COMMIT")?.raw_execute().map(drop));
    if committed.is_err() {
        // It fails if the error has already ended the transaction.
        let _ = connection.execute_batch("ROLLBACK");
    }
    committed
}

fn write(connection: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    for write in batch.writes() {
        let mut statement = connection.prepare_cached(&numbered(write.sql))?;
        for row in write.values.chunks(write.columns.max(1)) {
            for (number, value) in (1..).zip(row) {
                statement.raw_bind_parameter(number, value)?;
            }
            statement.raw_execute()?;
        }
    }
    Ok(())
}

fn lookup(connection: &Connection, sql: &str, keys: &[Vec<Value>]) -> rusqlite::Result<Vec<Option<String>>> {
    let mut statement = connection.prepare_cached(&numbered(sql))?;
    let mut find = |key: &Vec<Value>| {
        let key = rusqlite::params_from_iter(key);
        statement.query_row(key, |row| row.get(0)).optional()
    };
    keys.iter().map(&mut find).collect()
}

/// The statement with numbered parameters of SQLite, for which `$1` is a name.
fn numbered(sql: &str) -> String {
    sql.replace('$', "?")
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
