//! The vault in a SQLite file: how the file is opened, protected and migrated.

use std::path::Path;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use crate::VaultError;
use crate::error::file_error;

/// The migrations, in order. The `user_version` of a file is the number of applied migrations.
pub(crate) const MIGRATIONS: [&str; 2] = [
    include_str!("../../migrations/sqlite/vault/0001_subjects.sql"),
    include_str!("../../migrations/sqlite/vault/0002_erasures.sql"),
];

/// A larger file is not checked when it is opened. A file of this size has about 110,000 users, and its check takes about 0.6 s.
const CHECKED_BYTES_MAX: u64 = 16 << 20;

/// Opens the file, and creates it if it does not exist.
pub(crate) async fn open(path: &Path) -> Result<SqlitePool, VaultError> {
    create_private(path).map_err(file_error)?;
    let options = SqliteConnectOptions::new().filename(path);
    // Written rarely, and by one connection. Unlike a write-ahead log this needs no disk space to be opened, so that a
    // server can start on a full disk.
    let bytes = path.metadata().map_err(file_error)?.len();
    let pool = connect(options.journal_mode(SqliteJournalMode::Truncate)).await?;
    if bytes <= CHECKED_BYTES_MAX {
        check(&pool).await?;
    }
    Ok(pool)
}

/// Compares the rows with their indexes and constraints, which finds a changed user id or subject id. A changed key opens no text.
async fn check(pool: &SqlitePool) -> Result<(), VaultError> {
    let (found,): (String,) = sqlx::query_as("PRAGMA integrity_check(1)").fetch_one(pool).await?;
    if found == "ok" { Ok(()) } else { Err(VaultError::Inconsistent(found)) }
}

/// Creates a file for a copy, which leaves no journal behind.
pub(crate) async fn create_copy(path: &Path) -> Result<SqlitePool, VaultError> {
    create_private(path).map_err(file_error)?;
    connect(SqliteConnectOptions::new().filename(path).journal_mode(SqliteJournalMode::Delete)).await
}

pub(crate) async fn in_memory() -> Result<SqlitePool, VaultError> {
    connect(SqliteConnectOptions::new().in_memory(true)).await
}

async fn connect(options: SqliteConnectOptions) -> Result<SqlitePool, VaultError> {
    // Erased data must not stay readable in the file's free pages.
    let options =
        options.synchronous(SqliteSynchronous::Full).foreign_keys(true).pragma("secure_delete", "on");
    // One connection: writes are rare, and a vault in memory exists only in its connection.
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options)
        .await?;
    migrate(&pool, MIGRATIONS.len()).await?;
    Ok(pool)
}

/// Creates the file, if it does not exist, so that only the server's own user can read it. SQLite gives its additional
/// files the same permissions.
pub(crate) fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.sync_all()?;
    // The directory entry must be as durable as the content.
    sync_folder(path)
}

/// Makes the entries of the file's folder durable.
pub(crate) fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => std::fs::File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// Applies the migrations up to this number.
pub(crate) async fn migrate(pool: &SqlitePool, to: usize) -> Result<(), VaultError> {
    let (version,): (i64,) = sqlx::query_as("PRAGMA user_version").fetch_one(pool).await?;
    let applied = usize::try_from(version)
        .ok()
        .filter(|applied| *applied <= MIGRATIONS.len())
        .ok_or(VaultError::Newer(version))?;
    for (index, migration) in MIGRATIONS.into_iter().enumerate().take(to).skip(applied) {
        let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::raw_sql(migration).execute(&mut *transaction).await?;
        // A pragma takes no parameters; the number comes from the list above.
        let version = sqlx::AssertSqlSafe(format!("PRAGMA user_version = {}", index + 1));
        sqlx::raw_sql(version).execute(&mut *transaction).await?;
        transaction.commit().await?;
    }
    Ok(())
}
