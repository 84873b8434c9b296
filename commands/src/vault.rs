//! The vault: who the subjects in the log are, and the keys that their texts are encrypted with.
//!
//! The log knows a person only as a random id. What ties the id to a name lies here, outside the log and its backups, so
//! that a person can be erased although events are never changed. A name is on disk before it is first used: an event
//! whose subject nobody can name any more would be lost to its owner.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use event_log::clock::{Clock, Ids};
use event_schemas::ids::{SubjectId, Tenant, UserId};
use event_schemas::sealed::Place;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use uuid::Uuid;

mod backup;
mod newcomers;
mod sealing;

pub use backup::{BackupError, back_up};
use newcomers::Newcomers;

/// The tables, in the order in which they came. How many a file has is its `user_version`.
const MIGRATIONS: [&str; 1] = [include_str!("../../migrations/sqlite/vault/0001_subjects.sql")];

/// How many subjects are remembered in memory. About 200 bytes each.
const CACHED_MAX: usize = 100_000;

/// The bytes of an AES-256 key.
const KEY_BYTES: usize = 32;

/// A person's key. Shown to nobody.
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

/// A person, as the log may know them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub id: SubjectId,
    pub key: SubjectKey,
}

/// Why the vault does not say who a person is.
#[derive(Clone, Debug, thiserror::Error)]
pub enum VaultError {
    #[error("the vault cannot be used: {0}; check that its file is there and can be written to")]
    Store(Arc<sqlx::Error>),
    #[error("the vault's file is damaged or no vault: {0}; nothing was changed; restore it from a backup")]
    Unsound(Arc<sqlx::Error>),
    #[error("the vault's file was written by a newer version of matchbook (format {0}); run that version")]
    Newer(i64),
    #[error("the vault holds a key of {0} bytes instead of {KEY_BYTES}; restore it from a backup")]
    Damaged(usize),
    #[error("the system gives no random numbers")]
    NoRandomness,
    #[error("the sealed text at {0} was not sealed for this place, or was changed since; it cannot be read")]
    Sealed(Place),
    #[error(
        "the vault's disk has failed before, and what it holds can be told only by starting again; look at the disk, then do so"
    )]
    Failed,
}

/// `SQLITE_FULL`.
const FULL_CODE: &str = "13";
/// `SQLITE_CORRUPT`, `SQLITE_NOTADB`, and `SQLITE_IOERR_SHORT_READ` of a file that ends before what it says of itself.
const UNSOUND_CODES: [&str; 3] = ["11", "26", "522"];

/// `SQLITE_IOERR` and all its extended codes.
const IO_CODE: i32 = 10;

impl From<sqlx::Error> for VaultError {
    fn from(error: sqlx::Error) -> Self {
        let is_unsound = code(&error).is_some_and(|code| UNSOUND_CODES.contains(&code.as_ref()));
        let error = Arc::new(error);
        if is_unsound { Self::Unsound(error) } else { Self::Store(error) }
    }
}

impl VaultError {
    /// Whether there is no room on the disk for a new name, which passes.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Store(error) if code(error).is_some_and(|code| code == FULL_CODE))
    }

    /// Whether the disk failed under it. A later sync can succeed although what an earlier one should have kept is lost.
    fn is_final(&self) -> bool {
        let of_disk = |code: Cow<'_, str>| code.parse().is_ok_and(|code: i32| code & 0xff == IO_CODE);
        matches!(self, Self::Store(error) if code(error).is_some_and(of_disk))
    }

    /// Whether it can be had again only after a restart.
    pub fn is_failed(&self) -> bool {
        matches!(self, Self::Failed) || self.is_final()
    }
}

fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

/// Cheap to clone; clones share one file.
#[derive(Clone, Debug)]
pub struct Vault {
    pool: SqlitePool,
    clock: Clock,
    ids: Ids,
    cache: Arc<Mutex<Cache>>,
    newcomers: Arc<Newcomers>,
    /// Set by the first failure of the disk, for good.
    failed: Arc<AtomicBool>,
}

/// Those who were lately asked about, by both of their names.
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

    fn keep(&mut self, tenant: &Tenant, user: &UserId, subject: &Subject) {
        if self.by_user.len() >= CACHED_MAX {
            // Whoever is still about comes back with their next command.
            *self = Self::default();
        }
        let name = (tenant.clone(), user.clone());
        self.by_subject.insert(subject.id, name.clone());
        self.by_user.insert(name, subject.clone());
    }
}

impl Vault {
    /// Opens the vault's file, and makes it if it is not there.
    ///
    /// # Errors
    /// [`VaultError`] if the file cannot be opened, or is of a newer version.
    pub async fn open(path: &Path, clock: Clock, ids: Ids) -> Result<Self, VaultError> {
        make_private(path).map_err(|error| VaultError::Store(Arc::new(sqlx::Error::Io(error))))?;
        let options = SqliteConnectOptions::new().filename(path);
        // Written rarely, and by one connection. Unlike a write-ahead log this needs no room to be opened, so that a full
        // disk does not keep a server from starting.
        Self::over(options.journal_mode(SqliteJournalMode::Truncate), clock, ids).await
    }

    /// A vault that forgets everything at its end: for tests.
    ///
    /// # Errors
    /// [`VaultError`] if SQLite cannot be used.
    pub async fn in_memory(clock: Clock, ids: Ids) -> Result<Self, VaultError> {
        Self::over(SqliteConnectOptions::new().in_memory(true), clock, ids).await
    }

    async fn over(options: SqliteConnectOptions, clock: Clock, ids: Ids) -> Result<Self, VaultError> {
        // What is erased must not stay readable in the file's free pages.
        let options =
            options.synchronous(SqliteSynchronous::Full).foreign_keys(true).pragma("secure_delete", "on");
        // One connection: writes are rare, and a vault in memory is its connection.
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
            newcomers: Arc::default(),
            failed: Arc::default(),
        })
    }

    /// The subject that stands for a user; made, and durable, if it is asked for the first time.
    ///
    /// # Errors
    /// [`VaultError`] if the vault's file cannot be read or written.
    pub async fn subject(&self, tenant: &Tenant, user: &UserId) -> Result<Subject, VaultError> {
        if let Some(known) = self.cached(tenant, user) {
            return Ok(known);
        }
        // Those who are known already can be named without it.
        if self.failed.load(Ordering::Relaxed) {
            return Err(VaultError::Failed);
        }
        let subject = self.find_or_make(tenant, user).await.inspect_err(|error| {
            if error.is_final() {
                self.failed.store(true, Ordering::Relaxed);
                tracing::error!(%error, "the vault's disk failed: nobody new can be named until the next start");
            }
        })?;
        self.cache().keep(tenant, user, &subject);
        Ok(subject)
    }

    /// The subject that stands for a user, if anything was ever done by them or to them. Asking makes no name.
    ///
    /// # Errors
    /// [`VaultError`] if the vault's file cannot be read.
    pub async fn known(&self, tenant: &Tenant, user: &UserId) -> Result<Option<SubjectId>, VaultError> {
        if let Some(known) = self.cached(tenant, user) {
            return Ok(Some(known.id));
        }
        let found = self.find(tenant, user).await?;
        if let Some(subject) = &found {
            self.cache().keep(tenant, user, subject);
        }
        Ok(found.map(|subject| subject.id))
    }

    /// Whom each of the subjects stands for; those who were erased, or are another tenant's, are left out.
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

    async fn find_or_make(&self, tenant: &Tenant, user: &UserId) -> Result<Subject, VaultError> {
        match self.find(tenant, user).await? {
            Some(subject) => Ok(subject),
            None => self.make(tenant, user).await,
        }
    }

    /// Whom a subject stands for; none if they were erased, or are another tenant's.
    ///
    /// # Errors
    /// [`VaultError`] if the vault's file cannot be read.
    pub async fn user(&self, tenant: &Tenant, subject: SubjectId) -> Result<Option<UserId>, VaultError> {
        if let Some((of, user)) = self.cache().by_subject.get(&subject) {
            return Ok((of == tenant).then(|| user.clone()));
        }
        let row: Option<(Option<String>, Option<Vec<u8>>)> =
            sqlx::query_as("SELECT user_id, key FROM subjects WHERE subject_id = $1 AND tenant = $2")
                .bind(subject.0)
                .bind(tenant.as_str())
                .fetch_optional(&self.pool)
                .await?;
        let Some((Some(user), Some(key))) = row else { return Ok(None) };
        // Only what was a user's id was ever written there.
        let Ok(user) = user.parse() else { return Ok(None) };
        self.cache().keep(tenant, &user, &Subject { id: subject, key: read_key(key)? });
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
        // A map that lost an insert to a panic is still a good cache.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_key(bytes: Vec<u8>) -> Result<SubjectKey, VaultError> {
    bytes.try_into().map(SubjectKey).map_err(|bytes: Vec<u8>| VaultError::Damaged(bytes.len()))
}

/// Makes the file, if it is not there, so that nobody but the server's own user can read it. SQLite gives the files that it
/// puts beside it the same rights.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.sync_all()?;
    // Its name must be as durable as what is in it.
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
