//! The vault: the users behind the subjects in the log, and the keys that encrypt their texts.
//!
//! The log contains a person only as a random subject id. The mapping from this id to the user is stored here, outside
//! the log and its backups, so that a person can be erased although events never change. A subject is on disk before
//! its first use: an event whose subject has lost its user would be lost to its owner.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use event_log::clock::{Clock, Ids};
use event_schemas::ids::{SubjectId, Tenant, UserId};
use event_schemas::sealed::SealedField;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use uuid::Uuid;

mod backup;
mod batch_insert;
mod sealing;

pub use backup::{BackupError, back_up};
use batch_insert::PendingSubjects;

/// The migrations, in order. The `user_version` of a file is the number of applied migrations.
const MIGRATIONS: [&str; 1] = [include_str!("../../migrations/sqlite/vault/0001_subjects.sql")];

/// The number of cached subjects. About 200 bytes each.
const CACHED_MAX: usize = 100_000;

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

/// An error of the vault.
#[derive(Clone, Debug, thiserror::Error)]
pub enum VaultError {
    #[error("the vault cannot be used: {0}; check that its file exists and is writable")]
    Store(Arc<sqlx::Error>),
    #[error(
        "the vault's file is damaged or is not a vault: {0}; nothing was changed; restore it from a backup"
    )]
    CorruptFile(Arc<sqlx::Error>),
    #[error("the vault's file was written by a newer version of matchbook (format {0}); run that version")]
    Newer(i64),
    #[error("the vault contains a key of {0} bytes instead of {KEY_BYTES}; restore it from a backup")]
    CorruptKey(usize),
    #[error("the system returned no random numbers")]
    NoRandomness,
    #[error("the sealed text at {0} was not sealed for this field, or was changed since; it cannot be read")]
    Sealed(SealedField),
    #[error(
        "the vault's disk has failed, and its content is known only after a restart; check the disk, then restart the server"
    )]
    Failed,
}

/// `SQLITE_FULL`.
const FULL_CODE: &str = "13";
/// `SQLITE_CORRUPT`, `SQLITE_NOTADB`, and `SQLITE_IOERR_SHORT_READ` of a file that is shorter than its header states.
const CORRUPT_CODES: [&str; 3] = ["11", "26", "522"];

/// `SQLITE_IOERR` and all its extended codes.
const IO_CODE: i32 = 10;

impl From<sqlx::Error> for VaultError {
    fn from(error: sqlx::Error) -> Self {
        let is_corrupt = code(&error).is_some_and(|code| CORRUPT_CODES.contains(&code.as_ref()));
        let error = Arc::new(error);
        if is_corrupt { Self::CorruptFile(error) } else { Self::Store(error) }
    }
}

impl VaultError {
    /// True if the disk is full, which is transient.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Store(error) if code(error).is_some_and(|code| code == FULL_CODE))
    }

    /// True if the disk failed. A later sync can succeed although the data of an earlier one is lost.
    fn is_disk_failure(&self) -> bool {
        let of_disk = |code: Cow<'_, str>| code.parse().is_ok_and(|code: i32| code & 0xff == IO_CODE);
        matches!(self, Self::Store(error) if code(error).is_some_and(of_disk))
    }

    /// True if the vault can be used again only after a restart.
    pub fn is_failed(&self) -> bool {
        matches!(self, Self::Failed) || self.is_disk_failure()
    }
}

fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

/// A handle of the vault. Cheap to clone; clones share one file.
#[derive(Clone, Debug)]
pub struct Vault {
    pool: SqlitePool,
    clock: Clock,
    ids: Ids,
    cache: Arc<Mutex<Cache>>,
    pending_subjects: Arc<PendingSubjects>,
    /// Set by the first failure of the disk, and never reset.
    failed: Arc<AtomicBool>,
}

/// The recently used subjects, by user and by subject id.
#[derive(Debug, Default)]
struct Cache {
    by_user: HashMap<(Tenant, UserId), Subject>,
    by_subject: HashMap<SubjectId, (Tenant, UserId)>,
}

impl Cache {
    fn key(&self, subject: SubjectId) -> Option<(&Tenant, &SubjectKey)> {
        let name = self.by_subject.get(&subject)?;
        Some((&name.0, &self.by_user.get(name)?.key))
    }

    fn insert(&mut self, tenant: &Tenant, user: &UserId, subject: &Subject) {
        if self.by_user.len() >= CACHED_MAX {
            // Active users are cached again with their next command.
            *self = Self::default();
        }
        let name = (tenant.clone(), user.clone());
        self.by_subject.insert(subject.id, name.clone());
        self.by_user.insert(name, subject.clone());
    }
}

impl Vault {
    /// Opens the vault's file, and creates it if it does not exist.
    ///
    /// # Errors
    /// [`VaultError`] if the file cannot be opened, or is of a newer version.
    pub async fn open(path: &Path, clock: Clock, ids: Ids) -> Result<Self, VaultError> {
        create_private(path).map_err(|error| VaultError::Store(Arc::new(sqlx::Error::Io(error))))?;
        let options = SqliteConnectOptions::new().filename(path);
        // Written rarely, and by one connection. Unlike a write-ahead log this needs no disk space to be opened, so
        // that a server can start on a full disk.
        Self::connect(options.journal_mode(SqliteJournalMode::Truncate), clock, ids).await
    }

    /// A vault in memory, for tests.
    ///
    /// # Errors
    /// [`VaultError`] if SQLite cannot be used.
    pub async fn in_memory(clock: Clock, ids: Ids) -> Result<Self, VaultError> {
        Self::connect(SqliteConnectOptions::new().in_memory(true), clock, ids).await
    }

    async fn connect(options: SqliteConnectOptions, clock: Clock, ids: Ids) -> Result<Self, VaultError> {
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
        Ok(Self {
            pool,
            clock,
            ids,
            cache: Arc::default(),
            pending_subjects: Arc::default(),
            failed: Arc::default(),
        })
    }

    /// The subject of a user, durably created by the first call.
    ///
    /// # Errors
    /// [`VaultError`] if the vault's file cannot be read or written.
    pub async fn subject(&self, tenant: &Tenant, user: &UserId) -> Result<Subject, VaultError> {
        if let Some(known) = self.cached(tenant, user) {
            return Ok(known);
        }
        // Cached subjects do not need the disk.
        if self.failed.load(Ordering::Relaxed) {
            return Err(VaultError::Failed);
        }
        let subject = self.find_or_create(tenant, user).await.inspect_err(|error| {
            if error.is_disk_failure() {
                self.failed.store(true, Ordering::Relaxed);
                tracing::error!(%error, "the vault's disk failed: cannot create subjects until the next start");
            }
        })?;
        self.cache().insert(tenant, user, &subject);
        Ok(subject)
    }

    /// The subject of a user, if there is one. Never creates a subject.
    ///
    /// # Errors
    /// [`VaultError`] if the vault's file cannot be read.
    pub async fn find_subject(
        &self,
        tenant: &Tenant,
        user: &UserId,
    ) -> Result<Option<SubjectId>, VaultError> {
        if let Some(known) = self.cached(tenant, user) {
            return Ok(Some(known.id));
        }
        let found = self.find(tenant, user).await?;
        if let Some(subject) = &found {
            self.cache().insert(tenant, user, subject);
        }
        Ok(found.map(|subject| subject.id))
    }

    /// The users of the subjects. Erased subjects, and those of other tenants, are omitted.
    ///
    /// # Errors
    /// [`VaultError`] if the vault's file cannot be read.
    pub async fn users(
        &self,
        tenant: &Tenant,
        subjects: &[SubjectId],
    ) -> Result<HashMap<SubjectId, UserId>, VaultError> {
        let mut users = HashMap::with_capacity(subjects.len());
        for subject in subjects {
            if !users.contains_key(subject)
                && let Some(user) = self.user(tenant, *subject).await?
            {
                users.insert(*subject, user);
            }
        }
        Ok(users)
    }

    async fn find_or_create(&self, tenant: &Tenant, user: &UserId) -> Result<Subject, VaultError> {
        match self.find(tenant, user).await? {
            Some(subject) => Ok(subject),
            None => self.create_subject(tenant, user).await,
        }
    }

    /// The user of a subject; none if it was erased, or is another tenant's.
    ///
    /// # Errors
    /// [`VaultError`] if the vault's file cannot be read.
    pub async fn user(&self, tenant: &Tenant, subject: SubjectId) -> Result<Option<UserId>, VaultError> {
        if let Some((owner, user)) = self.cache().by_subject.get(&subject) {
            return Ok((owner == tenant).then(|| user.clone()));
        }
        let row: Option<(Option<String>, Option<Vec<u8>>)> =
            sqlx::query_as("SELECT user_id, key FROM subjects WHERE subject_id = $1 AND tenant = $2")
                .bind(subject.0)
                .bind(tenant.as_str())
                .fetch_optional(&self.pool)
                .await?;
        let Some((Some(user), Some(key))) = row else { return Ok(None) };
        // Only valid user ids were ever written there.
        let Ok(user) = user.parse() else { return Ok(None) };
        self.cache().insert(tenant, &user, &Subject { id: subject, key: read_key(key)? });
        Ok(Some(user))
    }

    async fn find(&self, tenant: &Tenant, user: &UserId) -> Result<Option<Subject>, VaultError> {
        let row: Option<(Uuid, Vec<u8>)> =
            sqlx::query_as("SELECT subject_id, key FROM subjects WHERE tenant = $1 AND user_id = $2")
                .bind(tenant.as_str())
                .bind(user.as_str())
                .fetch_optional(&self.pool)
                .await?;
        row.map(|(id, key)| Ok(Subject { id: SubjectId(id), key: read_key(key)? })).transpose()
    }

    fn cached(&self, tenant: &Tenant, user: &UserId) -> Option<Subject> {
        self.cache().by_user.get(&(tenant.clone(), user.clone())).cloned()
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        // A map that lost an insert to a panic is still a valid cache.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_key(bytes: Vec<u8>) -> Result<SubjectKey, VaultError> {
    bytes.try_into().map(SubjectKey).map_err(|bytes: Vec<u8>| VaultError::CorruptKey(bytes.len()))
}

/// Creates the file, if it does not exist, so that only the server's own user can read it. SQLite gives its additional
/// files the same permissions.
fn create_private(path: &Path) -> std::io::Result<()> {
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

#[cfg(test)]
mod tests;
