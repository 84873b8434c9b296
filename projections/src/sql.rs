//! The one place that knows the database driver: a file of one read model, statements, transactions.
//!
//! Statements number their parameters (`$1`) and keep to what SQLite and PostgreSQL both understand; only the DDL differs.
//! Positions and times are stored as `i64`, because neither database has unsigned numbers and text forms of times do
//! not sort.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Arguments, Encode, SqlSafeStr, SqlStr, Sqlite, Type};

/// How long a statement waits for a lock that another process holds on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections for queries, a file.
const READERS_MAX: u32 = 4;
/// A reading connection that nobody used for so long is closed.
const READER_IDLE: Duration = Duration::from_secs(60);
/// Files up to this size are checked whole when they are opened; a larger one would keep the start waiting.
const CHECKED_BYTES_MAX: u64 = 32 << 20;

/// What went wrong in the database.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The file is no database, or not one that can be trusted.
    #[error("the file is damaged: {0}")]
    Damaged(String),
    /// What was stored is still there, and nothing more. Passes when there is room again.
    #[error("the disk is full: {0}; make room")]
    Full(String),
    #[error("the database refused: {0}")]
    Refused(sqlx::Error),
}

/// `SQLITE_CORRUPT` and `SQLITE_NOTADB`, the primary codes of a file that cannot be trusted.
const DAMAGED_CODES: [i32; 2] = [11, 26];
/// `SQLITE_IOERR_SHORT_READ`: the file ends before what it says of itself, as it may after a loss of power.
const SHORT_CODE: i32 = 522;
/// `SQLITE_FULL`, and `SQLITE_IOERR_SHMSIZE`: no room for the memory that a file's connections share.
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

/// A row that can be read.
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

/// A statement and what is bound to it.
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

    /// The value is copied, so it need not outlive the call.
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

/// How many rows the statements of [`ManyRows`] take. A few fixed sizes, so that the cache of prepared statements hits;
/// and no large ones, because the driver looks each parameter's name up among all those before it: 256 rows of ten
/// columns were written at half the speed.
const CHUNKS: [usize; 3] = [24, 4, 1];

/// A statement over any number of rows. No two of them may have the same key: PostgreSQL would refuse that.
#[derive(Debug)]
pub(crate) struct ManyRows([String; CHUNKS.len()]);

impl ManyRows {
    /// `head (…), (…), … tail`, with `columns` numbered parameters a row.
    pub(crate) fn new(head: &str, columns: usize, tail: &str) -> Self {
        Self(CHUNKS.map(|rows| rows_text(head, rows, columns, tail)))
    }

    /// Takes as many rows as one statement holds off the front.
    pub(crate) fn take<'r, T>(&'static self, rows: &mut &'r [T]) -> Option<(Statement, &'r [T])> {
        let fits = |chunk: &&usize| **chunk <= rows.len();
        let (chunk, text) = CHUNKS.iter().zip(&self.0).find(|(chunk, _)| fits(chunk))?;
        let (now, later) = rows.split_at(*chunk);
        *rows = later;
        Some((Statement::new(text), now))
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

/// The database of one generation of one read model: one connection that writes, some that read.
#[derive(Debug)]
pub(crate) struct Db {
    path: PathBuf,
    writer: SqlitePool,
    readers: SqlitePool,
    /// Whether the file goes when nobody uses it any more.
    retired: AtomicBool,
}

/// A transaction; dropped without [`Tx::commit`], it has not happened.
#[derive(Debug)]
pub(crate) struct Tx(sqlx::Transaction<'static, Sqlite>);

impl Db {
    /// Opens the file, or makes it, and runs the DDL, which must bear being run again.
    ///
    /// # Errors
    /// [`SqlError::Damaged`] if there is a file that is no sound database.
    pub(crate) async fn open(path: &Path, ddl: &[&'static str]) -> Result<Self, SqlError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A read model can be made again: losing its last commits to a power cut only means replaying them.
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
                // A connection that closes later takes the write-ahead log of this name with it, and by then it may be that
                // of another file.
                db.close().await;
                Err(error)
            }
        }
    }

    async fn prepare(&self, ddl: &[&'static str]) -> Result<(), SqlError> {
        self.check().await?;
        // Beginning waits for a commit that a broken-off task of this process may have left on its way, so that nothing
        // read after this can change under a new owner.
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
        let verdict: (String,) = sqlx::query_as("PRAGMA quick_check(1)").fetch_one(&self.writer).await?;
        if verdict.0 == "ok" { Ok(()) } else { Err(SqlError::Damaged(verdict.0)) }
    }

    /// Begins to write. The lock is taken at once, so that no later statement can find it taken.
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

    /// Gives the writer's memory back, of which it needs much while it catches up and little afterwards.
    pub(crate) async fn shrink(&self) -> Result<(), SqlError> {
        sqlx::raw_sql("PRAGMA shrink_memory").execute(&self.writer).await?;
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the file go as soon as the last user of this generation is done.
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
            tracing::warn!(path = %self.path.display(), %error, "an old read model could not be removed; delete it by hand");
        }
    }
}

/// Removes a database with what belongs to it. It need not be there.
pub(crate) fn remove(path: &Path) -> std::io::Result<()> {
    // The main file goes first: without it the others mean nothing.
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
    /// Runs any text.
    pub(crate) async fn run(&mut self, text: &str) -> Result<(), SqlError> {
        sqlx::raw_sql(sqlx::AssertSqlSafe(text.to_owned())).execute(&mut *self.0).await?;
        Ok(())
    }
}

/// For tests: whether the database understands the statement.
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
