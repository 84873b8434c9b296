//! The vault: the users behind the subjects in the log, and the keys that encrypt their texts.
//!
//! The log contains a person only as a random subject id. The mapping from this id to the user is stored here, outside
//! the log and its backups, so that a person can be erased although events never change. A subject is on disk before
//! its first use: an event whose subject has lost its user would be lost to its owner.
//!
//! The write side creates subjects and seals texts; the read side only looks up and unseals.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use event_schemas::ids::{SubjectId, Tenant};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::OnceCell;

mod backup;
mod batch_insert;
mod erasure;
mod error;
mod moved_file;
mod postgres;
mod sealing;
mod sqlite;
mod store;
mod subjects;

pub use backup::{BackupError, back_up, back_up_database};
use batch_insert::PendingSubjects;
pub use error::VaultError;
pub use moved_file::has_moved;
use moved_file::is_missing;
use store::{Schema, Store};
use subjects::Cache;

/// The length of an AES-256 key, in bytes.
const KEY_BYTES: usize = 32;

/// A person's key. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SubjectKey([u8; KEY_BYTES]);

impl SubjectKey {
    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for SubjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SubjectKey(..)")
    }
}

/// A person's subject id and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub id: SubjectId,
    pub key: SubjectKey,
}

/// A handle of the vault. Cheap to clone; clones share one store.
#[derive(Clone, Debug)]
pub struct Vault {
    store: Arc<Store>,
    cache: Arc<Mutex<Cache>>,
    pending_subjects: Arc<PendingSubjects>,
    /// Set by the first failure of the disk, and never reset.
    failed: Arc<AtomicBool>,
}

impl Vault {
    /// Opens the vault's file, and creates it if it does not exist.
    ///
    /// # Errors
    /// [`VaultError`] if the file cannot be opened, is of a newer version, or was moved into a database.
    pub fn open(file: &Path) -> BoxFuture<'_, Result<Self, VaultError>> {
        let opened = async move {
            if has_moved(file) {
                return Err(VaultError::Moved { file: file.to_owned() });
            }
            let pool = sqlite::open(file).await?;
            moved_file::remove_note(file)?;
            Ok(Self::new(Store::Sqlite(pool)))
        };
        opened.boxed()
    }

    /// As [`Self::open`], for a file that must exist, because events of its subjects exist.
    ///
    /// # Errors
    /// Also [`VaultError::Lost`] if it does not exist or is empty. Then nothing was changed.
    pub async fn open_existing(file: &Path) -> Result<Self, VaultError> {
        if !has_moved(file) && is_missing(file) {
            return Err(VaultError::Lost);
        }
        Self::open(file).await
    }

    /// Opens the vault in a database, and creates its schema if it does not exist. A vault in the file is moved into the
    /// database. If the database cannot be reached, all of this is done with the first use.
    ///
    /// `is_expected` states that the vault must exist, in the database or in the file.
    ///
    /// # Errors
    /// [`VaultError`] if the schema cannot be used, is of a newer version, belongs to another server than the file, or does
    /// not exist although it is expected.
    pub fn open_database(
        database: PgConnectOptions,
        file: PathBuf,
        is_expected: bool,
    ) -> BoxFuture<'static, Result<Self, VaultError>> {
        let opened = async move {
            let pool = postgres::connect(database);
            let vault =
                Self::new(Store::Postgres(Schema { pool, file, is_expected, is_prepared: OnceCell::new() }));
            match vault.store.prepare().await {
                Err(error @ VaultError::Unavailable(_)) => {
                    tracing::error!(%error, "the vault could not be opened; this is repeated when it is used");
                    Ok(vault)
                }
                prepared => prepared.map(|()| vault),
            }
        };
        opened.boxed()
    }

    /// Whether the vault has the subject, which may have been erased.
    ///
    /// # Errors
    /// [`VaultError`] if the vault cannot be read.
    pub async fn knows(&self, tenant: &Tenant, subject: SubjectId) -> Result<bool, VaultError> {
        Ok(self.store.get(tenant, subject).await?.is_some())
    }

    /// A vault in a database that another server maintains, for lookups only.
    pub fn read_database(database: PgConnectOptions) -> Self {
        let (pool, file) = (postgres::connect(database), PathBuf::new());
        let is_prepared = OnceCell::new_with(Some(()));
        Self::new(Store::Postgres(Schema { pool, file, is_expected: true, is_prepared }))
    }

    /// A vault in memory, for tests.
    ///
    /// # Errors
    /// [`VaultError`] if SQLite cannot be used.
    pub async fn in_memory() -> Result<Self, VaultError> {
        Ok(Self::new(Store::Sqlite(sqlite::in_memory().await?)))
    }

    fn new(store: Store) -> Self {
        Self {
            store: Arc::new(store),
            cache: Arc::default(),
            pending_subjects: Arc::default(),
            failed: Arc::default(),
        }
    }
}

fn read_key(bytes: Vec<u8>) -> Result<SubjectKey, VaultError> {
    bytes.try_into().map(SubjectKey).map_err(|bytes: Vec<u8>| VaultError::CorruptKey(bytes.len()))
}

#[cfg(test)]
mod tests;
