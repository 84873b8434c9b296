//! A place for the vault of a test: a file in a folder, or a fresh PostgreSQL database.

use std::path::{Path, PathBuf};

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tempfile::TempDir;

use super::postgres_server::{self, Database};
use crate::{Vault, VaultError, postgres, sqlite};

const COLUMNS: &str = "SELECT CAST((table_name, column_name, ordinal_position, data_type, is_nullable) AS TEXT) \
     FROM information_schema.columns WHERE table_schema = 'matchbook_vault' ORDER BY 1";
const CONSTRAINTS: &str = "SELECT pg_get_constraintdef(pg_constraint.oid) FROM pg_constraint \
     JOIN pg_namespace ON pg_namespace.oid = connamespace WHERE nspname = 'matchbook_vault' ORDER BY 1";

/// The server's data folder, and the database if the vault is in one.
pub(super) struct Place {
    folder: TempDir,
    database: Option<Database>,
}

/// Runs a test on a file and on a database.
pub(super) async fn on_both(test: impl AsyncFn(Place)) {
    for place in [Place::file(), Place::database()] {
        test(place).await;
    }
}

impl Place {
    pub(super) fn file() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), database: None }
    }

    pub(super) fn database() -> Self {
        Self::in_database(postgres_server::database())
    }

    pub(super) fn in_database(database: Database) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), database: Some(database) }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("vault.sqlite")
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn url(&self) -> sqlx::postgres::PgConnectOptions {
        self.database.as_ref().unwrap().url().parse().unwrap()
    }

    pub(super) async fn open(&self) -> Vault {
        self.try_open().await.unwrap()
    }

    pub(super) async fn try_open(&self) -> Result<Vault, VaultError> {
        match &self.database {
            None => Vault::open(&self.path()).await,
            Some(_) => Vault::open_database(self.url(), self.path(), false).await,
        }
    }

    fn schema(&self) -> PgPool {
        postgres::connect(self.url())
    }

    async fn file_pool(&self) -> SqlitePool {
        SqlitePool::connect_with(SqliteConnectOptions::new().filename(self.path()).create_if_missing(true))
            .await
            .unwrap()
    }

    pub(super) async fn run(&self, sql: &str) {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match &self.database {
            None => drop(sql.execute(&self.file_pool().await).await.unwrap()),
            Some(_) => drop(sql.execute(&self.schema()).await.unwrap()),
        }
    }

    /// The ids of all subjects.
    pub(super) async fn rows(&self) -> Vec<String> {
        match &self.database {
            None => self.texts("SELECT hex(subject_id) FROM subjects").await,
            Some(_) => self.texts("SELECT CAST(subject_id AS TEXT) FROM subjects").await,
        }
    }

    async fn texts(&self, sql: &'static str) -> Vec<String> {
        let texts: Vec<(String,)> = match &self.database {
            None => sqlx::query_as(sql).fetch_all(&self.file_pool().await).await.unwrap(),
            Some(_) => sqlx::query_as(sql).fetch_all(&self.schema()).await.unwrap(),
        };
        texts.into_iter().map(|(text,)| text).collect()
    }

    pub(super) async fn set_version(&self, version: i64) {
        match &self.database {
            None => self.run(&format!("PRAGMA user_version = {version}")).await,
            Some(_) => self.run(&format!("UPDATE version SET applied = {version}")).await,
        }
    }

    /// The number of migrations.
    pub(super) fn migrations(&self) -> usize {
        match &self.database {
            None => sqlite::MIGRATIONS.len(),
            Some(_) => postgres::MIGRATIONS.len(),
        }
    }

    /// Migrates to this version, as an earlier program would have done.
    pub(super) async fn migrate(&self, to: usize) {
        match &self.database {
            None => sqlite::migrate(&self.file_pool().await, to).await.unwrap(),
            Some(_) => postgres::migrate(&self.schema(), to).await.unwrap(),
        }
    }

    /// All tables with their columns and constraints.
    pub(super) async fn definition(&self) -> Vec<String> {
        let definition = match &self.database {
            None => self.texts("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").await,
            Some(_) => [self.texts(COLUMNS).await, self.texts(CONSTRAINTS).await].concat(),
        };
        assert!(!definition.is_empty());
        definition
    }
}
