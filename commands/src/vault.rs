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

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use event_log::clock::{Clock, Ids};
use event_schemas::ids::{SubjectId, Tenant, UserId};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use uuid::Uuid;

mod backup;

pub use backup::{BackupError, back_up};

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
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("the vault cannot be used: {0}; check that its file is there and can be written to")]
    Store(sqlx::Error),
    #[error("the vault's file is damaged or no vault: {0}; nothing was changed; restore it from a backup")]
    Unsound(sqlx::Error),
    #[error("the vault's file was written by a newer version of matchbook (format {0}); run that version")]
    Newer(i64),
    #[error("the vault holds a key of {0} bytes instead of {KEY_BYTES}; restore it from a backup")]
    Damaged(usize),
    #[error("the system gives no random numbers")]
    NoRandomness,
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
    known: Arc<Mutex<Known>>,
    /// Set by the first failure of the disk, for good.
    failed: Arc<AtomicBool>,
}

type Known = HashMap<(Tenant, UserId), Subject>;

impl Vault {
    /// Opens the vault's file, and makes it if it is not there.
    ///
    /// # Errors
    /// [`VaultError`] if the file cannot be opened, or is of a newer version.
    pub async fn open(path: &Path, clock: Clock, ids: Ids) -> Result<Self, VaultError> {
        make_private(path).map_err(|error| VaultError::Store(sqlx::Error::Io(error)))?;
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
        Ok(Self { pool, clock, ids, known: Arc::default(), failed: Arc::default() })
    }

    /// The subject that stands for a user; made, and durable, if it is asked for the first time.
    ///
    /// # Errors
    /// [`VaultError`] if the vault's file cannot be read or written.
    pub async fn subject(&self, tenant: &Tenant, user: &UserId) -> Result<Subject, VaultError> {
        let name = (tenant.clone(), user.clone());
        if let Some(known) = self.known().get(&name) {
            return Ok(known.clone());
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
        let mut known = self.known();
        if known.len() >= CACHED_MAX {
            // Whoever is still about comes back with their next command.
            known.clear();
        }
        known.insert(name, subject.clone());
        Ok(subject)
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
        let row: Option<(Option<String>,)> =
            sqlx::query_as("SELECT user_id FROM subjects WHERE subject_id = $1 AND tenant = $2")
                .bind(subject.0)
                .bind(tenant.as_str())
                .fetch_optional(&self.pool)
                .await?;
        // Only what was a user's id was ever written there.
        Ok(row.and_then(|(user,)| user?.parse().ok()))
    }

    async fn find(&self, tenant: &Tenant, user: &UserId) -> Result<Option<Subject>, VaultError> {
        let row: Option<(Uuid, Vec<u8>)> =
            sqlx::query_as("SELECT subject_id, key FROM subjects WHERE tenant = $1 AND user_id = $2")
                .bind(tenant.as_str())
                .bind(user.as_str())
                .fetch_optional(&self.pool)
                .await?;
        row.map(|(id, key)| {
            let key = key.try_into().map_err(|key: Vec<u8>| VaultError::Damaged(key.len()))?;
            Ok(Subject { id: SubjectId(id), key: SubjectKey(key) })
        })
        .transpose()
    }

    async fn make(&self, tenant: &Tenant, user: &UserId) -> Result<Subject, VaultError> {
        let mut key = [0; KEY_BYTES];
        SystemRandom::new().fill(&mut key).map_err(|_| VaultError::NoRandomness)?;
        sqlx::query(
            "INSERT INTO subjects (subject_id, tenant, user_id, key, created_at) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (tenant, user_id) DO NOTHING",
        )
        .bind(self.ids.next())
        .bind(tenant.as_str())
        .bind(user.as_str())
        .bind(key.as_slice())
        .bind(self.clock.now().micros())
        .execute(&self.pool)
        .await?;
        // Another request may have been first; what the file says holds.
        self.find(tenant, user).await?.ok_or(VaultError::Store(sqlx::Error::RowNotFound))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // A map that lost an insert to a panic is still a good cache.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
mod tests {
    use event_schemas::time::Timestamp;
    use futures_util::future::join_all;

    use super::*;

    fn clock() -> Clock {
        Clock::manual(Timestamp::EPOCH)
    }

    fn name(tenant: &str, user: &str) -> (Tenant, UserId) {
        (tenant.parse().unwrap(), user.parse().unwrap())
    }

    #[tokio::test]
    async fn a_user_is_the_same_subject_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.db");
        let (tenant, user) = name("a", "ann");
        let vault = Vault::open(&path, clock(), Ids::Random).await.unwrap();
        let first = vault.subject(&tenant, &user).await.unwrap();
        assert_eq!(vault.subject(&tenant, &user).await.unwrap(), first);
        drop(vault);
        let vault = Vault::open(&path, clock(), Ids::Random).await.unwrap();
        assert_eq!(vault.subject(&tenant, &user).await.unwrap(), first);
    }

    #[tokio::test]
    async fn a_subject_is_named_to_its_own_tenant_only() {
        let vault = Vault::in_memory(clock(), Ids::Random).await.unwrap();
        let (a, ann) = name("a", "ann");
        let (b, _) = name("b", "ann");
        let subject = vault.subject(&a, &ann).await.unwrap().id;
        assert_eq!(vault.user(&a, subject).await.unwrap(), Some(ann));
        assert_eq!(vault.user(&b, subject).await.unwrap(), None);
    }

    #[tokio::test]
    async fn users_of_two_tenants_are_two_subjects_with_keys_of_their_own() {
        let vault = Vault::in_memory(clock(), Ids::Random).await.unwrap();
        let (a, ann) = name("a", "ann");
        let (b, _) = name("b", "ann");
        let (one, other) = (vault.subject(&a, &ann).await.unwrap(), vault.subject(&b, &ann).await.unwrap());
        assert_ne!(one.id, other.id);
        assert_ne!(one.key, other.key);
    }

    #[tokio::test]
    async fn a_user_who_arrives_many_times_at_once_is_one_subject() {
        let vault = Vault::in_memory(clock(), Ids::Random).await.unwrap();
        let (tenant, user) = name("a", "ann");
        let subjects = join_all((0..32).map(|_| vault.subject(&tenant, &user))).await;
        let first = subjects[0].as_ref().unwrap().clone();
        assert!(subjects.into_iter().all(|subject| subject.unwrap() == first));
    }

    #[tokio::test]
    async fn a_file_of_a_newer_version_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.db");
        let vault = Vault::open(&path, clock(), Ids::Random).await.unwrap();
        sqlx::raw_sql("PRAGMA user_version = 99").execute(&vault.pool).await.unwrap();
        drop(vault);
        let refused = Vault::open(&path, clock(), Ids::Random).await;
        assert!(matches!(refused, Err(VaultError::Newer(99))));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn the_file_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.db");
        let vault = Vault::open(&path, clock(), Ids::Random).await.unwrap();
        let (tenant, user) = name("a", "ann");
        vault.subject(&tenant, &user).await.unwrap();
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let metadata = file.unwrap().metadata().unwrap();
            assert_eq!(metadata.permissions().mode() & 0o077, 0);
        }
    }

    #[tokio::test]
    async fn a_vault_without_room_says_so_and_takes_names_again_once_there_is() {
        let vault = Vault::in_memory(clock(), Ids::Random).await.unwrap();
        let known = name("a", "ann");
        let subject = vault.subject(&known.0, &known.1).await.unwrap();
        let fill = || async {
            for n in 0..1_000 {
                let (tenant, user) = name("a", &format!("user-{n}"));
                vault.subject(&tenant, &user).await?;
            }
            Ok::<_, VaultError>(())
        };
        // The limit cannot be lower than what is taken, so it is what is taken.
        sqlx::raw_sql("PRAGMA max_page_count = 1").execute(&vault.pool).await.unwrap();
        assert!(fill().await.unwrap_err().is_full());
        assert_eq!(vault.subject(&known.0, &known.1).await.unwrap(), subject);
        sqlx::raw_sql("PRAGMA max_page_count = 100000").execute(&vault.pool).await.unwrap();
        fill().await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_vault_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.db");
        let bytes = [b'x'; 5_000];
        std::fs::write(&path, bytes).unwrap();
        let refused = Vault::open(&path, clock(), Ids::Random).await.unwrap_err();
        assert!(matches!(refused, VaultError::Unsound(_)), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[tokio::test]
    async fn a_key_is_never_shown() {
        let vault = Vault::in_memory(clock(), Ids::Random).await.unwrap();
        let (tenant, user) = name("a", "ann");
        let subject = vault.subject(&tenant, &user).await.unwrap();
        assert!(format!("{subject:?}").contains("SubjectKey(..)"));
    }
}
