//! The vault's file: how it is opened, protected and migrated.

use std::path::Path;
use std::sync::Arc;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use crate::{Vault, VaultError};

/// The migrations, in order. The `user_version` of a file is the number of applied migrations.
pub(crate) const MIGRATIONS: [&str; 1] = [include_str!("../../migrations/sqlite/vault/0001_subjects.sql")];

impl Vault {
    /// Opens the vault's file, and creates it if it does not exist.
    ///
    /// # Errors
    /// [`VaultError`] if the file cannot be opened, or is of a newer version.
    pub async fn open(path: &Path) -> Result<Self, VaultError> {
        create_private(path).map_err(|error| VaultError::Store(Arc::new(sqlx::Error::Io(error))))?;
        let options = SqliteConnectOptions::new().filename(path);
        // Written rarely, and by one connection. Unlike a write-ahead log this needs no disk space to be opened, so
        // that a server can start on a full disk.
        Self::connect(options.journal_mode(SqliteJournalMode::Truncate)).await
    }

    /// A vault in memory, for tests.
    ///
    /// # Errors
    /// [`VaultError`] if SQLite cannot be used.
    pub async fn in_memory() -> Result<Self, VaultError> {
        Self::connect(SqliteConnectOptions::new().in_memory(true)).await
    }

    async fn connect(options: SqliteConnectOptions) -> Result<Self, VaultError> {
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
        migrate(&pool).await?;
        Ok(Self { pool, cache: Arc::default(), pending_subjects: Arc::default(), failed: Arc::default() })
    }
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
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => std::fs::File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

async fn migrate(pool: &SqlitePool) -> Result<(), VaultError> {
    let (version,): (i64,) = sqlx::query_as("PRAGMA user_version").fetch_one(pool).await?;
    let applied = usize::try_from(version)
        .ok()
        .filter(|applied| *applied <= MIGRATIONS.len())
        .ok_or(VaultError::Newer(version))?;
    for (index, migration) in MIGRATIONS.into_iter().enumerate().skip(applied) {
        let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::raw_sql(migration).execute(&mut *transaction).await?;
        // A pragma takes no parameters; the number comes from the list above.
        let version = sqlx::AssertSqlSafe(format!("PRAGMA user_version = {}", index + 1));
        sqlx::raw_sql(version).execute(&mut *transaction).await?;
        transaction.commit().await?;
    }
    Ok(())
}
