//! The vault in a schema of a PostgreSQL database, which the servers over one log share.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, Postgres};

use crate::VaultError;

/// The schema of the vault. No generation of a read model has such a name.
const SCHEMA: &str = "matchbook_vault";
/// The most connections. Most lookups are answered by the cache.
const CONNECTIONS_MAX: u32 = 4;
/// A connection that has been idle for this time is closed.
const IDLE: Duration = Duration::from_secs(60);
/// The time that a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The time after which a database that does not respond counts as unavailable.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// The migrations, in order. The table `version` contains the number of applied migrations.
pub(crate) const MIGRATIONS: [&str; 2] = [
    include_str!("../../migrations/postgres/vault/0001_subjects.sql"),
    include_str!("../../migrations/postgres/vault/0002_erasures.sql"),
];

const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";
const SCHEMA_EXISTS: &str = "SELECT 1 FROM pg_namespace WHERE nspname = $1";
const CREATE_SCHEMA: &str = "CREATE SCHEMA matchbook_vault; \
     CREATE TABLE matchbook_vault.version (id BIGINT PRIMARY KEY, applied BIGINT NOT NULL); \
     INSERT INTO matchbook_vault.version VALUES (1, 0)";
const APPLIED: &str = "SELECT applied FROM version WHERE id = 1";
const SET_APPLIED: &str = "UPDATE version SET applied = $1 WHERE id = 1";

/// A pool that connects when it is used.
pub(crate) fn connect(database: PgConnectOptions) -> PgPool {
    let options = database.application_name("matchbook vault").options([
        ("search_path", SCHEMA),
        // A subject must be on disk before its first use, whatever is usual for this database.
        ("synchronous_commit", "on"),
        ("client_min_messages", "warning"),
    ]);
    PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .idle_timeout(IDLE)
        .acquire_timeout(CONNECT_TIMEOUT)
        .connect_lazy_with(options)
}

pub(crate) async fn exists(pool: &PgPool) -> Result<bool, VaultError> {
    Ok(sqlx::query(SCHEMA_EXISTS).bind(SCHEMA).fetch_optional(pool).await?.is_some())
}

/// Applies the migrations up to this number, in one transaction.
pub(crate) async fn migrate(pool: &PgPool, to: usize) -> Result<(), VaultError> {
    let mut transaction = pool.begin().await?;
    // Several servers may start at the same time.
    sqlx::query(LOCK).bind(SCHEMA).execute(&mut *transaction).await?;
    // `IF NOT EXISTS` would need the right to create a schema even if it exists.
    let is_new = sqlx::query(SCHEMA_EXISTS).bind(SCHEMA).fetch_optional(&mut *transaction).await?.is_none();
    if is_new {
        sqlx::raw_sql(CREATE_SCHEMA).execute(&mut *transaction).await?;
    }
    let applied = check_version(&mut transaction).await?;
    for (index, migration) in MIGRATIONS.into_iter().enumerate().take(to).skip(applied) {
        sqlx::raw_sql(migration).execute(&mut *transaction).await?;
        sqlx::query(SET_APPLIED).bind(index as i64 + 1).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// The number of applied migrations.
///
/// # Errors
/// [`VaultError::Newer`] if this version does not know all of them.
pub(crate) async fn check_version(
    transaction: &mut sqlx::Transaction<'static, Postgres>,
) -> Result<usize, VaultError> {
    let (version,): (i64,) = sqlx::query_as(APPLIED).fetch_one(&mut **transaction).await?;
    let applied = usize::try_from(version).ok().filter(|applied| *applied <= MIGRATIONS.len());
    applied.ok_or(VaultError::Newer(version))
}
