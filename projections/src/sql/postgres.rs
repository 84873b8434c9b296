//! A generation in a schema of a PostgreSQL database.
//!
//! Each generation has its own connections, whose search path is its schema: so all databases share the statements, and
//! no connection has statements that were prepared for the tables of another generation.

use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Postgres};
use tokio::runtime::Handle;

use super::statement::{Value, for_keys};
use super::{Batch, SqlError};
use crate::projection::Name;

/// The time that a connection may take, with all retries while the server starts or restarts.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The time after which a server that does not respond counts as unavailable.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// The same, while an index is created.
const INDEX_TIMEOUT: Duration = Duration::from_secs(1800);
/// The number of connections for queries, per generation.
const READERS_MAX: u32 = 4;
/// A connection that has been idle for this time is closed, unless it is a writer's.
const IDLE: Duration = Duration::from_secs(60);

/// Takes the lock of a schema's writer for as long as the connection exists. The time is for the connection of a killed
/// process, or of an aborted task of this one, which may still be executing its last commit.
const LOCK: &str = "SELECT pg_advisory_lock(hashtextextended($1, 0))";
const LOCK_IN_TRANSACTION: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";
const WAIT_FOR_LOCK: &str = "SET lock_timeout = '4s'";
const WAIT_FOR_LOCK_IN_TRANSACTION: &str = "SET LOCAL lock_timeout = '4s'";

/// Held by the connections of a server that only reads the schema, so that it is not removed before they have left.
const LOCK_FOR_READING: &str = "SELECT pg_advisory_lock_shared(hashtextextended($1 || ' readers', 0))";
const WAIT_FOR_READERS: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1 || ' readers', 0))";

/// The term of a schema's writer: a server that takes over raises it, and then earlier writers are refused.
const CREATE_TERM: &str = "CREATE TABLE writer (id BIGINT PRIMARY KEY, term BIGINT NOT NULL); \
     INSERT INTO writer VALUES (1, 0)";
const NEXT_TERM: &str = "UPDATE writer SET term = term + 1 WHERE id = 1 RETURNING term";
const CHECK_TERM: &str = "SELECT 1 FROM writer WHERE id = 1 AND term = $1 FOR SHARE";

/// Adds a checksum to each row, and the views with which readers compare it.
const ROW_CHECKSUMS: &str = include_str!("../../../migrations/postgres/row_checksums.sql");

/// Set on the connections of a writer: their rows get checksums.
const WRITES: (&str, &str) = ("matchbook.writes", "on");

const EXISTS: &str = "SELECT 1 FROM pg_namespace WHERE nspname = $1";

/// The kind of an error with this SQLSTATE, if it has one.
pub(super) fn classify(code: &str, error: String) -> Option<SqlError> {
    match code {
        // Corrupt data or index; tables that another program has changed or dropped.
        "XX001" | "XX002" | "3F000" | "42P01" | "42703" => Some(SqlError::Damaged(error)),
        "53100" => Some(SqlError::Full(error)),
        "23505" => Some(SqlError::Duplicate(error)),
        // The server stops, crashed, starts, has no free connection, or is a standby after a failover.
        "57P01" | "57P02" | "57P03" | "53300" | "25006" => Some(SqlError::Unavailable(error)),
        "55P03" => Some(SqlError::InUse("the database of these read models".to_owned())),
        _ if code.starts_with("08") => Some(SqlError::Unavailable(error)),
        _ => None,
    }
}

/// Limits the time of a call, because a connection whose peer has vanished reports nothing for many minutes.
pub(super) async fn within<T>(call: impl Future<Output = sqlx::Result<T>>) -> Result<T, SqlError> {
    match tokio::time::timeout(RESPONSE_TIMEOUT, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(SqlError::Unavailable(format!("no response within {} s", RESPONSE_TIMEOUT.as_secs()))),
    }
}

/// The URL of a PostgreSQL database. It is never printed, because it may contain a password.
#[derive(Clone)]
pub struct PostgresUrl(Arc<PgConnectOptions>);

impl PostgresUrl {
    /// The options of a connection, for another store in the same database.
    pub fn options(&self) -> PgConnectOptions {
        PgConnectOptions::clone(&self.0)
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({self})")
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.0.get_database().unwrap_or_else(|| self.0.get_username());
        write!(f, "postgres://{}:{}/{database}", self.0.get_host(), self.0.get_port())
    }
}

impl FromStr for PostgresUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = "write the URL as postgres://user:password@host:5432/database";
        if !["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err(usage.to_owned());
        }
        // The driver's own message may contain parts of the URL.
        let options = text.parse::<PgConnectOptions>().map_err(|_| usage.to_owned())?;
        Ok(Self(Arc::new(options)))
    }
}

/// A database that contains generations. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct SchemaStore {
    url: PostgresUrl,
    /// For statements outside of any schema.
    control: PgPool,
    /// Removes old generations: the thread of the live read models may end before they are removed.
    runtime: Handle,
}

impl SchemaStore {
    pub(crate) fn new(url: &PostgresUrl) -> Self {
        let options = PgConnectOptions::clone(&url.0)
            .application_name("matchbook")
            // A read model is derived: commits that a power loss removes are replayed.
            .options([("synchronous_commit", "off"), ("client_min_messages", "warning")]);
        let control = PgPoolOptions::new()
            .max_connections(2)
            .idle_timeout(IDLE)
            .acquire_timeout(CONNECT_TIMEOUT)
            .connect_lazy_with(options.clone());
        Self { url: PostgresUrl(Arc::new(options)), control, runtime: Handle::current() }
    }

    pub(super) fn into_control(self) -> PgPool {
        self.control
    }

    pub(crate) fn url(&self) -> &PostgresUrl {
        &self.url
    }

    /// The numbers of the generations that have schemas.
    pub(crate) async fn numbers(&self, name: Name) -> Result<Vec<u64>, SqlError> {
        let all = "SELECT CAST(nspname AS TEXT) FROM pg_namespace";
        let schemas: Vec<(String,)> = within(sqlx::query_as(all).fetch_all(&self.control)).await?;
        let prefix = schema_name(name, "");
        let number = |(schema,): &(String,)| schema.strip_prefix(&prefix)?.parse().ok();
        Ok(schemas.iter().filter_map(number).collect())
    }

    /// Removes the schema, if it exists.
    ///
    /// # Errors
    /// [`SqlError::InUse`] if it has a writer.
    pub(crate) async fn remove(&self, schema: &str) -> Result<(), SqlError> {
        let removal = async {
            let mut tx = self.control.begin().await?;
            sqlx::raw_sql(WAIT_FOR_LOCK_IN_TRANSACTION).execute(&mut *tx).await?;
            sqlx::query(LOCK_IN_TRANSACTION).bind(schema).execute(&mut *tx).await?;
            let mut wait = Connection::begin(&mut *tx).await?;
            // A reader that does not leave in time finds the schema missing.
            match sqlx::query(WAIT_FOR_READERS).bind(schema).execute(&mut *wait).await {
                Ok(_) => wait.commit().await?,
                Err(error) if is_lock_timeout(&error) => wait.rollback().await?,
                Err(error) => return Err(error),
            }
            let views = checked(schema);
            let drop = AssertSqlSafe(format!("DROP SCHEMA IF EXISTS {schema}, {views} CASCADE"));
            sqlx::raw_sql(drop).execute(&mut *tx).await?;
            tx.commit().await
        };
        within(removal).await
    }
}

/// The name of a generation's schema.
pub(crate) fn schema_name(name: Name, number: impl fmt::Display) -> String {
    format!("matchbook_{name}_{number}")
}

/// The schema with the views that compare the checksums of the rows.
fn checked(schema: &str) -> String {
    format!("{schema}_checked")
}

/// An open schema.
#[derive(Debug)]
pub(crate) struct Schema {
    name: String,
    store: SchemaStore,
    writer: PgPool,
    readers: PgPool,
    /// The last connection of the writer did not get the lock.
    is_locked_out: Arc<AtomicBool>,
    /// The term in which this value writes; none if another server writes it.
    term: Option<i64>,
}

impl Schema {
    /// A schema that another server writes, for queries only.
    pub(crate) fn open_foreign(store: &SchemaStore, name: String) -> Self {
        let options = PgConnectOptions::clone(&store.url.0)
            .options([("search_path", checked(&name).as_str()), ("default_transaction_read_only", "on")]);
        let lock = name.clone();
        let readers = PgPoolOptions::new()
            .max_connections(READERS_MAX)
            .idle_timeout(IDLE)
            .acquire_timeout(CONNECT_TIMEOUT)
            .after_connect(move |connection, _| {
                let schema = lock.clone();
                Box::pin(async move {
                    sqlx::raw_sql(WAIT_FOR_LOCK).execute(&mut *connection).await?;
                    sqlx::query(LOCK_FOR_READING).bind(schema).execute(&mut *connection).await.map(drop)
                })
            })
            .connect_lazy_with(options);
        let is_locked_out = Arc::new(AtomicBool::new(false));
        Self { name, store: store.clone(), writer: readers.clone(), readers, is_locked_out, term: None }
    }

    /// Opens the schema, or creates it with the DDL.
    ///
    /// # Errors
    /// [`SqlError::InUse`] if it has a writer.
    pub(crate) async fn open(
        store: &SchemaStore,
        name: String,
        ddl: &[&'static str],
    ) -> Result<Self, SqlError> {
        let options = PgConnectOptions::clone(&store.url.0);
        let for_writing = options.clone().options([("search_path", name.as_str()), WRITES]);
        let for_reading = options.options([("search_path", checked(&name))]);
        let is_locked_out = Arc::new(AtomicBool::new(false));
        let lock = (name.clone(), Arc::clone(&is_locked_out));
        let writer = PgPoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(CONNECT_TIMEOUT)
            .after_connect(move |connection, _| {
                let (schema, is_locked_out) = lock.clone();
                Box::pin(async move { take_lock(connection, &schema, &is_locked_out).await })
            })
            .connect_lazy_with(for_writing);
        let readers = PgPoolOptions::new()
            .max_connections(READERS_MAX)
            .idle_timeout(IDLE)
            .acquire_timeout(CONNECT_TIMEOUT)
            .connect_lazy_with(for_reading);
        let schema = Self { name, store: store.clone(), writer, readers, is_locked_out, term: None };
        match schema.prepare(ddl).await {
            Ok(term) => Ok(Self { term: Some(term), ..schema }),
            Err(error) => {
                schema.close().await;
                Err(error)
            }
        }
    }

    /// Creates the tables of a new schema, and returns the term of its new writer.
    async fn prepare(&self, ddl: &[&'static str]) -> Result<i64, SqlError> {
        let mut tx = self.begin_locked().await?;
        let statements = async {
            let exists = sqlx::query(EXISTS).bind(&self.name).fetch_optional(&mut *tx).await?.is_some();
            if !exists {
                let create = AssertSqlSafe(format!("CREATE SCHEMA {}", self.name));
                sqlx::raw_sql(create).execute(&mut *tx).await?;
            }
            // A schema that exists is complete: it was created in one transaction. A missing table is damage.
            for statement in ddl.iter().chain([&ROW_CHECKSUMS, &CREATE_TERM]).filter(|_| !exists) {
                sqlx::raw_sql(*statement).execute(&mut *tx).await?;
            }
            let (term,): (i64,) = sqlx::query_as(NEXT_TERM).fetch_one(&mut *tx).await?;
            tx.commit().await?;
            Ok(term)
        };
        within(statements).await
    }

    /// Starts a transaction of the writer.
    ///
    /// # Errors
    /// [`SqlError::InUse`] if another server has taken over. The connection alone does not show that: it is replaced when
    /// it was lost, and in between another server may have written and ended.
    pub(super) async fn begin(&self) -> Result<sqlx::Transaction<'static, Postgres>, SqlError> {
        let mut tx = self.begin_locked().await?;
        let check = sqlx::query(CHECK_TERM).bind(self.term).fetch_optional(&mut *tx);
        match within(check).await? {
            Some(_) => Ok(tx),
            None => Err(SqlError::InUse(format!("the schema {}", self.name))),
        }
    }

    async fn begin_locked(&self) -> Result<sqlx::Transaction<'static, Postgres>, SqlError> {
        within(self.writer.begin()).await.map_err(|error| match error {
            SqlError::Unavailable(_) if self.is_locked_out.load(Ordering::Relaxed) => {
                SqlError::InUse(format!("the schema {}", self.name))
            }
            error => error,
        })
    }

    pub(super) async fn write(&self, batch: Batch) -> Result<(), SqlError> {
        let mut tx = self.begin().await?;
        for write in batch.into_writes() {
            for statement in write.into_postgres() {
                let (sql, arguments) = statement?;
                within(sqlx::query_with(sql, arguments).execute(&mut *tx)).await?;
            }
        }
        within(tx.commit()).await
    }

    /// The only column of the row of each key.
    pub(super) async fn lookup(
        &self,
        sql: &'static str,
        keys: Vec<Vec<Value>>,
    ) -> Result<Vec<Option<String>>, SqlError> {
        let mut found = vec![None; keys.len()];
        for (start, statement) in for_keys(sql, &keys) {
            let (sql, arguments) = statement?;
            let rows: Vec<(i64, String)> =
                within(sqlx::query_as_with(sql, arguments).fetch_all(&self.readers)).await?;
            for (number, value) in rows {
                let slot = usize::try_from(number).ok().and_then(|number| found.get_mut(start + number));
                if let Some(slot) = slot {
                    *slot = Some(value);
                }
            }
        }
        Ok(found)
    }

    /// Runs statements without parameters in one transaction. To create an index takes longer than any other call.
    pub(super) async fn run(&self, sql: &str) -> Result<(), SqlError> {
        let mut tx = self.begin().await?;
        let statements = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut *tx);
        match tokio::time::timeout(INDEX_TIMEOUT, statements).await {
            Ok(executed) => executed?,
            Err(_) => return Err(SqlError::Unavailable("an index was not created in time".to_owned())),
        };
        within(tx.commit()).await
    }

    #[cfg(test)]
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn readers(&self) -> &PgPool {
        &self.readers
    }

    pub(super) async fn close_writer(&self) {
        // A transaction that was not finished holds the connection only until its task ends.
        let _ = tokio::time::timeout(CONNECT_TIMEOUT, self.writer.close()).await;
    }

    pub(super) async fn close(&self) {
        let _ = tokio::time::timeout(CONNECT_TIMEOUT, self.readers.close()).await;
        self.close_writer().await;
    }

    pub(super) async fn remove(&self) -> Result<(), SqlError> {
        self.close_writer().await;
        self.store.remove(&self.name).await
    }

    /// Removes the schema in the background, unless another server writes it. If that fails, the next start removes it.
    pub(super) fn remove_retired(&self) {
        let (name, store) = (self.name.clone(), self.store.clone());
        let (pools, is_foreign) = ([self.readers.clone(), self.writer.clone()], self.term.is_none());
        self.store.runtime.spawn(async move {
            for pool in pools {
                pool.close().await;
            }
            if is_foreign {
                return;
            }
            if let Err(error) = store.remove(&name).await {
                tracing::warn!(schema = %name, %error, "the schema of an old generation could not be removed; the next start removes it");
            }
        });
    }
}

async fn take_lock(
    connection: &mut PgConnection,
    schema: &str,
    is_locked_out: &AtomicBool,
) -> sqlx::Result<()> {
    sqlx::raw_sql(WAIT_FOR_LOCK).execute(&mut *connection).await?;
    let locked = sqlx::query(LOCK).bind(schema).execute(&mut *connection).await;
    is_locked_out.store(locked.as_ref().is_err_and(is_lock_timeout), Ordering::Relaxed);
    locked.map(drop)
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "55P03")
}
