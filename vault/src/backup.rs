//! Copies the vault while a server uses it.

use std::path::{Path, PathBuf};

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::sqlite::SqliteConnectOptions;
use uuid::Uuid;

use crate::VaultError;
use crate::postgres;
use crate::sqlite::{self, MIGRATIONS, create_private};
use crate::store::{copy_into_file, page_of_schema, within};

/// The reason why the vault was not copied.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{} is not a vault; name the data folder of a server that has run", .0.display())]
    NotAVault(PathBuf),
    #[error(
        "the database contains no vault; name the database of a server that has run with this --read-store"
    )]
    NoVault,
    #[error("{} exists already; name a new file", .0.display())]
    Exists(PathBuf),
    #[error(transparent)]
    Vault(VaultError),
    #[error("cannot write {}: {source}; check that the disk has space and that this user may write there", path.display())]
    File { path: PathBuf, source: std::io::Error },
}

impl From<sqlx::Error> for BackupError {
    fn from(error: sqlx::Error) -> Self {
        Self::Vault(error.into())
    }
}

/// Copies the vault in the file `from` into a new file, as a consistent snapshot, and returns the number of people in
/// it. Erased data is not in it, not even in free pages. Only its owner can read the file.
///
/// # Errors
/// [`BackupError`]; then there is no new file.
pub async fn back_up(from: &Path, to: &Path) -> Result<u64, BackupError> {
    if !from.is_file() {
        return Err(BackupError::NotAVault(from.to_owned()));
    }
    write_file(to, async |temporary| copy_file(from, temporary).await).await
}

/// Copies the vault in a database into a new file, as [`back_up`] does. A server can start with the file, or move it
/// into a database.
///
/// # Errors
/// [`BackupError`]; then there is no new file.
pub async fn back_up_database(from: PgConnectOptions, to: &Path) -> Result<u64, BackupError> {
    let source = postgres::connect(from);
    if !within(postgres::exists(&source)).await.map_err(BackupError::Vault)? {
        return Err(BackupError::NoVault);
    }
    write_file(to, async |temporary| copy_schema(&source, temporary).await.map_err(BackupError::Vault)).await
}

/// Writes a file with `copy`, which gets the path of a temporary file.
async fn write_file(
    to: &Path,
    copy: impl AsyncFnOnce(&Path) -> Result<u64, BackupError>,
) -> Result<u64, BackupError> {
    if to.exists() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let mut temporary = to.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let failed = |source| BackupError::File { path: temporary.clone(), source };
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        // The file of an interrupted copy is replaced.
        _ => create_private(&temporary).map_err(failed)?,
    }
    let copied = copy(&temporary).await;
    if copied.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&temporary);
        return copied;
    }
    let failed = |source| BackupError::File { path: to.to_owned(), source };
    std::fs::File::open(&temporary).and_then(|file| file.sync_all()).map_err(failed)?;
    std::fs::rename(&temporary, to).map_err(failed)?;
    // Syncs the folder as well.
    create_private(to).map_err(failed)?;
    copied
}

async fn copy_file(from: &Path, temporary: &Path) -> Result<u64, BackupError> {
    let mut source = SqliteConnectOptions::new().filename(from).connect().await?;
    let (version,): (i64,) = sqlx::query_as("PRAGMA user_version").fetch_one(&mut source).await?;
    if !usize::try_from(version).is_ok_and(|version| (1..=MIGRATIONS.len()).contains(&version)) {
        return Err(BackupError::Vault(VaultError::Newer(version)));
    }
    sqlx::query("VACUUM INTO $1").bind(temporary.to_string_lossy().as_ref()).execute(&mut source).await?;
    let mut copy = SqliteConnectOptions::new().filename(temporary).read_only(true).connect().await?;
    let (people,): (i64,) = sqlx::query_as("SELECT count(*) FROM subjects").fetch_one(&mut copy).await?;
    Ok(u64::try_from(people).unwrap_or(0))
}

async fn copy_schema(source: &PgPool, temporary: &Path) -> Result<u64, VaultError> {
    let copy = sqlite::create_copy(temporary).await?;
    let mut from = within(source.begin()).await?;
    let snapshot = sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY");
    within(snapshot.execute(&mut *from)).await?;
    postgres::check_version(&mut from).await?;
    let mut to = copy.begin_with("BEGIN IMMEDIATE").await?;
    let (mut after, mut people) = (Uuid::nil(), 0);
    loop {
        let rows = page_of_schema(&mut from, after).await?;
        let Some(last) = rows.last() else { break };
        after = last.0;
        people += rows.len() as u64;
        for row in rows {
            copy_into_file(&mut to, row).await?;
        }
    }
    to.commit().await?;
    copy.close().await;
    Ok(people)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Vault;

    async fn vault(path: &Path) -> Vault {
        Vault::open(path).await.unwrap()
    }

    #[tokio::test]
    async fn backup_of_a_vault_in_use_has_the_same_subjects() {
        let folder = tempfile::tempdir().unwrap();
        let (file, copy) = (folder.path().join("vault.sqlite"), folder.path().join("copy.sqlite"));
        let used = vault(&file).await;
        let (tenant, user) = ("a".parse().unwrap(), "ann".parse().unwrap());
        let subject = used.subject(&tenant, &user).await.unwrap();
        assert_eq!(back_up(&file, &copy).await.unwrap(), 1);
        used.subject(&tenant, &"bob".parse().unwrap()).await.unwrap();
        assert_eq!(vault(&copy).await.subject(&tenant, &user).await.unwrap(), subject);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn backup_is_readable_by_owner_only() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let (file, copy) = (folder.path().join("vault.sqlite"), folder.path().join("copy.sqlite"));
        drop(vault(&file).await);
        back_up(&file, &copy).await.unwrap();
        assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o077, 0);
    }

    #[tokio::test]
    async fn backup_refuses_other_files_and_overwrites_none() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        drop(vault(&at("vault.sqlite")).await);
        std::fs::write(at("there"), "sun").unwrap();
        std::fs::write(at("damaged"), [7; 9_000]).unwrap();
        let refused = back_up(&at("nowhere"), &at("copy")).await.unwrap_err();
        assert!(matches!(refused, BackupError::NotAVault(_)), "{refused}");
        let refused = back_up(&at("vault.sqlite"), &at("there")).await.unwrap_err();
        assert!(matches!(refused, BackupError::Exists(_)), "{refused}");
        let refused = back_up(&at("damaged"), &at("copy")).await.unwrap_err();
        assert!(matches!(refused, BackupError::Vault(VaultError::Damaged(_))), "{refused}");
        assert_eq!(std::fs::read(at("there")).unwrap(), b"sun");
        assert!(!at("copy").exists() && !at("copy.tmp").exists());
    }
}
