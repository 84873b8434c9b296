//! The only module that uses database drivers: statements, transactions, and the database of one generation.
//!
//! Statements number their parameters (`$1`) and use only syntax that SQLite and PostgreSQL share; only the DDL
//! differs. Positions and times are stored as `i64`, because neither database has unsigned integers and times as text
//! do not sort.

pub(crate) mod lease;
pub(crate) mod postgres;
pub(crate) mod sqlite;
mod statement;

use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::postgres::{PgDatabaseError, PgRow};
use sqlx::sqlite::SqliteRow;
use sqlx::{Postgres, Sqlite};

use postgres::Schema;
use sqlite::SqliteFile;
pub(crate) use statement::{Batch, Statement, Value};

/// An error of the database.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The file is not a database or is corrupt, or the schema was changed by another program.
    #[error("the data is damaged: {0}")]
    Damaged(String),
    /// Committed data is intact. The error is temporary: it ends when there is free space again.
    #[error("the disk is full: {0}; free some space")]
    Full(String),
    /// The connection failed. Committed data is intact, and the error is temporary.
    #[error("the database cannot be reached: {0}; check that it is running")]
    Unavailable(String),
    #[error("another server uses {0}; give each server its own database")]
    InUse(String),
    /// Two rows have the same key.
    #[error("the database has rejected a row: {0}")]
    Duplicate(String),
    #[error("the database returned an error: {0}")]
    Refused(Box<dyn std::error::Error + Send + Sync>),
}

impl From<sqlx::Error> for SqlError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(details) => match details.try_downcast_ref::<PgDatabaseError>() {
                Some(details) => postgres::classify(details.code(), error.to_string()),
                None => details
                    .code()
                    .and_then(|code| code.parse().ok())
                    .and_then(|code| sqlite::classify(code, error.to_string())),
            }
            .unwrap_or_else(|| Self::Refused(error.into())),
            // A certificate that is not valid does not become valid.
            sqlx::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => {
                Self::Refused(error.into())
            }
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error.to_string()),
            // A column has another type than the one that was written, or is missing.
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Refused(error.into()),
        }
    }
}

/// The statements that create a read model's tables and indexes, for each database. They must be idempotent.
///
/// The file of a read model has up to three parts. The tables are created empty. The indexes are created when the rows
/// are complete, because a sorted index is built faster than one that grows with each row. If two rows have the same key
/// in a unique index, the statements of the last part are executed, and the indexes are created again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ddl {
    pub(crate) sqlite: &'static str,
    pub(crate) postgres: &'static str,
}

/// The parts of a DDL for one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DdlParts {
    pub(crate) tables: &'static str,
    pub(crate) duplicates: &'static str,
    /// Creates the indexes, and can be repeated.
    pub(crate) indexes: &'static str,
}

impl DdlParts {
    pub(crate) fn of(text: &'static str) -> Self {
        let (tables, rest) = text.split_once("-- AFTER THE ROWS.\n").unwrap_or((text, ""));
        let (indexes, duplicates) = rest.split_once("-- FOR DUPLICATES.\n").unwrap_or((rest, ""));
        Self { tables, duplicates, indexes }
    }
}

/// The DDL in the files with this name.
macro_rules! ddl {
    ($name:literal) => {
        $crate::sql::Ddl {
            sqlite: include_str!(concat!("../../migrations/sqlite/", $name, ".sql")),
            postgres: include_str!(concat!("../../migrations/postgres/", $name, ".sql")),
        }
    };
}

pub(crate) use ddl;

/// A type that can be read from a row of both databases.
pub(crate) trait Row:
    Send + Unpin + for<'r> sqlx::FromRow<'r, SqliteRow> + for<'r> sqlx::FromRow<'r, PgRow>
{
}

impl<T> Row for T where
    T: Send + Unpin + for<'r> sqlx::FromRow<'r, SqliteRow> + for<'r> sqlx::FromRow<'r, PgRow>
{
}

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

        impl<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> for $name {
            fn from_row(row: &'r sqlx::postgres::PgRow) -> sqlx::Result<Self> {
                Ok(Self { $($field: sqlx::Row::try_get(row, stringify!($field))?),* })
            }
        }
    };
}

pub(crate) use row;

/// The database of one generation of a read model: one connection that writes, and some that read.
#[derive(Debug)]
pub(crate) struct Db {
    store: GenerationStore,
    /// The generation is removed when this value is dropped.
    retired: AtomicBool,
}

/// What contains the tables of one generation.
#[derive(Debug)]
pub(crate) enum GenerationStore {
    File(SqliteFile),
    Schema(Schema),
}

impl Db {
    pub(crate) fn new(store: GenerationStore) -> Self {
        Self { store, retired: AtomicBool::new(false) }
    }

    /// Executes the writes in one transaction.
    pub(crate) async fn write(&self, batch: Batch) -> Result<(), SqlError> {
        match &self.store {
            GenerationStore::File(file) => file.write(batch).await,
            GenerationStore::Schema(schema) => schema.write(batch).await,
        }
    }

    /// The value of each key's row, if it has one. The query reads one column of text, and its parameters are the values
    /// of a key.
    pub(crate) async fn lookup(
        &self,
        sql: &'static str,
        keys: Vec<Vec<Value>>,
    ) -> Result<Vec<Option<String>>, SqlError> {
        match &self.store {
            _ if keys.is_empty() => Ok(Vec::new()),
            GenerationStore::File(file) => file.lookup(sql, keys).await,
            GenerationStore::Schema(schema) => schema.lookup(sql, keys).await,
        }
    }

    /// Creates the indexes, which may take minutes. It can be repeated.
    pub(crate) async fn create_indexes(&self, ddl: Ddl) -> Result<(), SqlError> {
        let parts = DdlParts::of(match &self.store {
            GenerationStore::File(_) => ddl.sqlite,
            GenerationStore::Schema(_) => ddl.postgres,
        });
        match self.run_script(parts.indexes).await {
            Err(SqlError::Duplicate(_)) => {
                self.run_script(parts.duplicates).await?;
                self.run_script(parts.indexes).await
            }
            created => created,
        }
    }

    async fn run_script(&self, sql: &str) -> Result<(), SqlError> {
        match &self.store {
            GenerationStore::File(file) => file.run(sql.to_owned()).await,
            GenerationStore::Schema(schema) => schema.run(sql).await,
        }
    }

    pub(crate) async fn all<T: Row>(&self, statement: Statement) -> Result<Vec<T>, SqlError> {
        match &self.store {
            GenerationStore::File(file) => {
                let (sql, arguments) = statement.split::<Sqlite>()?;
                let rows = sqlx::query_as_with(sql, arguments).fetch_all(file.readers()).await;
                rows.map_err(|error| file.query_error(error))
            }
            GenerationStore::Schema(schema) => {
                let (sql, arguments) = statement.split::<Postgres>()?;
                postgres::within(sqlx::query_as_with(sql, arguments).fetch_all(schema.readers())).await
            }
        }
    }

    pub(crate) async fn optional<T: Row>(&self, statement: Statement) -> Result<Option<T>, SqlError> {
        match &self.store {
            GenerationStore::File(file) => {
                let (sql, arguments) = statement.split::<Sqlite>()?;
                let row = sqlx::query_as_with(sql, arguments).fetch_optional(file.readers()).await;
                row.map_err(|error| file.query_error(error))
            }
            GenerationStore::Schema(schema) => {
                let (sql, arguments) = statement.split::<Postgres>()?;
                postgres::within(sqlx::query_as_with(sql, arguments).fetch_optional(schema.readers())).await
            }
        }
    }

    /// Frees the writer's memory, of which it needs much during catch-up and little afterwards.
    pub(crate) async fn shrink(&self) -> Result<(), SqlError> {
        match &self.store {
            GenerationStore::File(file) => file.shrink().await,
            // The server's processes keep little between transactions.
            GenerationStore::Schema(_) => Ok(()),
        }
    }

    /// Marks the generation for removal as soon as its last user is done.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Removes the generation now, although it may still have readers.
    pub(crate) async fn remove(&self) -> Result<(), SqlError> {
        match &self.store {
            GenerationStore::File(file) => file.remove(),
            GenerationStore::Schema(schema) => schema.remove().await,
        }
    }

    /// Ends the writer, so that the generation can be opened again while it still has readers.
    pub(crate) async fn close_writer(&self) {
        match &self.store {
            // A file can be opened twice.
            GenerationStore::File(_) => {}
            GenerationStore::Schema(schema) => schema.close_writer().await,
        }
    }

    /// Waits until all connections are closed, and everything is in the file.
    pub(crate) async fn close(&self) {
        match &self.store {
            GenerationStore::File(file) => file.close().await,
            GenerationStore::Schema(schema) => schema.close().await,
        }
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if self.retired.load(Ordering::Relaxed) {
            match &self.store {
                GenerationStore::File(file) => file.remove_retired(),
                GenerationStore::Schema(schema) => schema.remove_retired(),
            }
        }
    }
}

/// For tests: checks that the database can prepare the statement.
#[cfg(test)]
pub(crate) async fn prepare(db: &Db, sql: String) -> Result<(), SqlError> {
    use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};
    let sql = AssertSqlSafe(sql).into_sql_str();
    match &db.store {
        GenerationStore::File(file) => drop(file.readers().prepare(sql).await?),
        GenerationStore::Schema(schema) => match schema.readers().prepare(sql).await {
            // The statement is otherwise valid; the types of some parameters are known only from their values.
            Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code == "42P08") => {}
            prepared => drop(prepared?),
        },
    }
    Ok(())
}

#[cfg(test)]
impl Db {
    /// Runs arbitrary SQL, also if the writer is closed.
    pub(crate) async fn run(&self, text: &str) -> Result<(), SqlError> {
        match &self.store {
            GenerationStore::File(file) => file.run(text.to_owned()).await,
            GenerationStore::Schema(schema) => {
                let text = format!("SET LOCAL search_path = {}; {text}", schema.name());
                let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(text));
                sql.execute(schema.readers()).await?;
                Ok(())
            }
        }
    }
}

/// For tests: while the value exists, nothing can be written.
#[cfg(test)]
pub(crate) async fn lock_writer(db: &Db) -> Result<Box<dyn std::any::Any + Send>, SqlError> {
    Ok(match &db.store {
        GenerationStore::File(file) => Box::new(file.lock().await),
        GenerationStore::Schema(schema) => Box::new(schema.begin().await?),
    })
}

/// For tests: all rows of a table as text, sorted.
#[cfg(test)]
pub(crate) async fn dump(db: &Db, table: &str) -> Result<Vec<String>, SqlError> {
    use sqlx::AssertSqlSafe;
    let mut rows: Vec<(String,)> = match &db.store {
        GenerationStore::File(file) => {
            let columns = AssertSqlSafe(format!("SELECT name FROM pragma_table_info('{table}')"));
            let columns: Vec<(String,)> = sqlx::query_as(columns).fetch_all(file.readers()).await?;
            let quoted: Vec<String> = columns.iter().map(|(name,)| format!("quote({name})")).collect();
            let rows = AssertSqlSafe(format!("SELECT {} FROM {table}", quoted.join(" || '|' || ")));
            sqlx::query_as(rows).fetch_all(file.readers()).await?
        }
        GenerationStore::Schema(schema) => {
            let rows = AssertSqlSafe(format!("SELECT CAST({table} AS TEXT) FROM {table}"));
            sqlx::query_as(rows).fetch_all(schema.readers()).await?
        }
    };
    rows.sort();
    Ok(rows.into_iter().map(|(row,)| row).collect())
}
