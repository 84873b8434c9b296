//! The only module that uses the database driver: the file of one generation, statements, transactions.
//!
//! Statements number their parameters (`$1`) and use only syntax that SQLite and PostgreSQL share; only the DDL
//! differs. Positions and times are stored as `i64`, because neither database has unsigned integers and times as text
//! do not sort.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Arguments, Encode, SqlSafeStr, SqlStr, Sqlite, Type};

/// The time that a statement waits for a lock that another process holds on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The number of connections for queries, per file.
const READERS_MAX: u32 = 4;
/// A reading connection that has been idle for this time is closed.
const READER_IDLE: Duration = Duration::from_secs(60);
/// Files up to this size are checked completely when they are opened; a larger one would delay the start.
const CHECKED_BYTES_MAX: u64 = 32 << 20;

/// An error of the database.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The file is not a database, or is corrupt.
    #[error("the file is damaged: {0}")]
    Damaged(String),
    /// Committed data is intact. The error is temporary: it ends when there is free space again.
    #[error("the disk is full: {0}; free some space")]
    Full(String),
    #[error("the database returned an error: {0}")]
    Refused(sqlx::Error),
}

/// `SQLITE_CORRUPT` and `SQLITE_NOTADB`, the primary codes of a corrupt file.
const DAMAGED_CODES: [i32; 2] = [11, 26];
/// `SQLITE_IOERR_SHORT_READ`: the file is shorter than its header states, as it may be after a power loss.
const SHORT_CODE: i32 = 522;
/// `SQLITE_FULL`, and `SQLITE_IOERR_SHMSIZE`: no space for the memory that a file's connections share.
const FULL_CODES: [i32; 2] = [13, 4874];

impl From<sqlx::Error> for SqlError {
    fn from(error: sqlx::Error) -> Self {
        let code = error
            .as_database_error()
            .and_then(|error| error.code())
            .and_then(|code| code.parse::<i32>().ok());
        match code {
            // The low byte of an extended code is the primary one.
            Some(code) if code == SHORT_CODE || DAMAGED_CODES.contains(&(code & 0xff)) => {
                Self::Damaged(error.to_string())
            }
            Some(code) if FULL_CODES.contains(&code) => Self::Full(error.to_string()),
            _ => Self::Refused(error),
        }
    }
}

/// A type that can be read from a row.
pub(crate) trait Row: Send + Unpin + for<'r> sqlx::FromRow<'r, SqliteRow> {}
impl<T> Row for T where T: Send + Unpin + for<'r> sqlx::FromRow<'r, SqliteRow> {}

/// A struct whose fields are columns of the same names. The driver's own derive would build the driver a second time,
/// for the compiler.
macro_rules! row {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($field_vis:vis $field:ident: $type:ty),* $(,)? }) => {
        $(#[$meta])*
        $vis struct $name {
            $($field_vis $field: $type),*
        }

        impl<'r> sqlx::FromRow<'r, sqlx::sqlite::SqliteRow> for $name {
            fn from_row(row: &'r sqlx::sqlite::SqliteRow) -> sqlx::Result<Self> {
                Ok(Self { $($field: sqlx::Row::try_get(row, stringify!($field))?),* })
            }
        }
    };
}

pub(crate) use row;

/// A statement and its bound values.
#[derive(Debug)]
pub(crate) struct Statement {
    sql: SqlStr,
    arguments: SqliteArguments,
    error: Option<sqlx::Error>,
}

impl Statement {
    pub(crate) fn new(sql: &'static str) -> Self {
        Self::of(sql.into_sql_str())
    }

    fn of(sql: SqlStr) -> Self {
        Self { sql, arguments: SqliteArguments::default(), error: None }
    }

    /// Binds the next parameter. The value is copied, so it need not outlive the call.
    pub(crate) fn bind<'q, T: Encode<'q, Sqlite> + Type<Sqlite>>(mut self, value: T) -> Self {
        if let Err(error) = self.arguments.add(value) {
            self.error.get_or_insert(sqlx::Error::Encode(error));
        }
        self
    }

    fn checked(mut self) -> Result<(SqlStr, SqliteArguments), SqlError> {
        match self.error.take() {
            Some(error) => Err(error.into()),
            None => Ok((self.sql, self.arguments)),
        }
    }
}

/// The numbers of rows that the statements of [`ManyRows`] hold. There are only a few sizes, so that the cache of
/// prepared statements hits, and no large ones, because the driver looks up each parameter's name among all previous
/// ones: 256 rows of ten columns were written at half the speed.
const CHUNKS: [usize; 3] = [24, 4, 1];

/// A statement over any number of rows. No two rows may have the same key: PostgreSQL would reject that.
#[derive(Debug)]
pub(crate) struct ManyRows([String; CHUNKS.len()]);

impl ManyRows {
    /// `head (…), (…), … tail`, with `columns` numbered parameters a row.
    pub(crate) fn new(head: &str, columns: usize, tail: &str) -> Self {
        Self(CHUNKS.map(|rows| rows_text(head, rows, columns, tail)))
    }

    /// Takes as many rows from the front as one statement holds.
    pub(crate) fn take<'r, T>(&'static self, rows: &mut &'r [T]) -> Option<(Statement, &'r [T])> {
        let fits = |chunk: &&usize| **chunk <= rows.len();
        let (chunk, text) = CHUNKS.iter().zip(&self.0).find(|(chunk, _)| fits(chunk))?;
        let (chunk, rest) = rows.split_at(*chunk);
        *rows = rest;
        Some((Statement::new(text), chunk))
    }

    #[cfg(test)]
    pub(crate) fn texts(&self) -> &[String] {
        &self.0
    }
}

/// The text of a statement over many rows.
fn rows_text(head: &str, rows: usize, columns: usize, tail: &str) -> String {
    let mut text = String::with_capacity(head.len() + tail.len() + rows * columns * 6);
    text.push_str(head);
    for row in 0..rows {
        text.push_str(if row == 0 { " (" } else { ", (" });
        for column in 0..columns {
            let comma = if column == 0 { "" } else { "," };
            text.push_str(&format!("{comma}${}", row * columns + column + 1));
        }
        text.push(')');
    }
    text.push(' ');
    text.push_str(tail);
    text
}

/// The database of one generation of a read model: one connection that writes, and some that read.
#[derive(Debug)]
pub(crate) struct Db {
    path: PathBuf,
    writer: SqlitePool,
    readers: SqlitePool,
    /// The file is removed when this value is dropped.
    retired: AtomicBool,
}

/// A transaction. Dropped without [`Tx::commit`], it is rolled back.
#[derive(Debug)]
pub(crate) struct Tx(sqlx::Transaction<'static, Sqlite>);

impl Db {
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
        let db = Self { path: path.to_owned(), writer, readers, retired: AtomicBool::new(false) };
        match db.prepare(ddl).await {
            Ok(()) => Ok(db),
            Err(error) => {
                // A connection that closes later would remove the write-ahead log of this name, which may then belong
                // to another file.
                db.close().await;
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
            sqlx::raw_sql(*statement).execute(&mut *tx.0).await?;
        }
        tx.commit().await
    }

    async fn check(&self) -> Result<(), SqlError> {
        let bytes = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        if bytes > CHECKED_BYTES_MAX {
            return Ok(());
        }
        let result: (String,) = sqlx::query_as("PRAGMA quick_check(1)").fetch_one(&self.writer).await?;
        if result.0 == "ok" { Ok(()) } else { Err(SqlError::Damaged(result.0)) }
    }

    /// Starts a write transaction. It takes the lock at once, so that no later statement can fail to get it.
    pub(crate) async fn begin(&self) -> Result<Tx, SqlError> {
        Ok(Tx(self.writer.begin_with("BEGIN IMMEDIATE").await?))
    }

    pub(crate) async fn all<T: Row>(&self, statement: Statement) -> Result<Vec<T>, SqlError> {
        let (sql, arguments) = statement.checked()?;
        Ok(sqlx::query_as_with(sql, arguments).fetch_all(&self.readers).await?)
    }

    pub(crate) async fn optional<T: Row>(&self, statement: Statement) -> Result<Option<T>, SqlError> {
        let (sql, arguments) = statement.checked()?;
        Ok(sqlx::query_as_with(sql, arguments).fetch_optional(&self.readers).await?)
    }

    /// Frees the writer's memory, of which it needs much during catch-up and little afterwards.
    pub(crate) async fn shrink(&self) -> Result<(), SqlError> {
        sqlx::raw_sql("PRAGMA shrink_memory").execute(&self.writer).await?;
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Marks the file for removal as soon as the last user of this generation is done.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Waits until all connections are closed, and the write-ahead log is back in the file.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if self.retired.load(Ordering::Relaxed)
            && let Err(error) = remove(&self.path)
        {
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

impl Tx {
    pub(crate) async fn execute(&mut self, statement: Statement) -> Result<(), SqlError> {
        let (sql, arguments) = statement.checked()?;
        sqlx::query_with(sql, arguments).execute(&mut *self.0).await?;
        Ok(())
    }

    pub(crate) async fn commit(self) -> Result<(), SqlError> {
        Ok(self.0.commit().await?)
    }
}

#[cfg(test)]
impl Tx {
    /// Runs arbitrary SQL.
    pub(crate) async fn run(&mut self, text: &str) -> Result<(), SqlError> {
        sqlx::raw_sql(sqlx::AssertSqlSafe(text.to_owned())).execute(&mut *self.0).await?;
        Ok(())
    }
}

/// For tests: checks that the database can prepare the statement.
#[cfg(test)]
pub(crate) async fn prepare(db: &Db, sql: String) -> Result<(), SqlError> {
    use sqlx::{AssertSqlSafe, Executor};
    let mut connection = db.writer.acquire().await?;
    connection.prepare(AssertSqlSafe(sql).into_sql_str()).await?;
    Ok(())
}

/// For tests: all rows of a table as text, sorted.
#[cfg(test)]
pub(crate) async fn dump(db: &Db, table: &str) -> Result<Vec<String>, SqlError> {
    use sqlx::AssertSqlSafe;
    let columns: Vec<(String,)> =
        sqlx::query_as(AssertSqlSafe(format!("SELECT name FROM pragma_table_info('{table}')")))
            .fetch_all(&db.writer)
            .await?;
    let quoted: Vec<String> = columns.iter().map(|(name,)| format!("quote({name})")).collect();
    let sql = format!("SELECT {} FROM {table}", quoted.join(" || '|' || "));
    let mut rows: Vec<(String,)> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&db.writer).await?;
    rows.sort();
    Ok(rows.into_iter().map(|(row,)| row).collect())
}
