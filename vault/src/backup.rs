//! Copies the vault while a server uses it.

use std::path::{Path, PathBuf};

use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use crate::VaultError;
use crate::store::{MIGRATIONS, create_private};

/// The reason why the vault was not copied.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{} is not a vault; name the data folder of a server that has run", .0.display())]
    NotAVault(PathBuf),
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
    if to.exists() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let mut temporary = to.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let copied = copy(from, &temporary).await;
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

async fn copy(from: &Path, temporary: &Path) -> Result<u64, BackupError> {
    let mut source = SqliteConnectOptions::new().filename(from).connect().await?;
    let (version,): (i64,) = sqlx::query_as("PRAGMA user_version").fetch_one(&mut source).await?;
    if !usize::try_from(version).is_ok_and(|version| (1..=MIGRATIONS.len()).contains(&version)) {
        return Err(BackupError::Vault(VaultError::Newer(version)));
    }
    let failed = |source| BackupError::File { path: temporary.to_owned(), source };
    match std::fs::remove_file(temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        // The file of an interrupted copy is replaced.
        _ => create_private(temporary).map_err(failed)?,
    }
    sqlx::query("VACUUM INTO $1").bind(temporary.to_string_lossy().as_ref()).execute(&mut source).await?;
    let mut copy = SqliteConnectOptions::new().filename(temporary).read_only(true).connect().await?;
    let (people,): (i64,) = sqlx::query_as("SELECT count(*) FROM subjects").fetch_one(&mut copy).await?;
    Ok(u64::try_from(people).unwrap_or(0))
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
        assert!(matches!(refused, BackupError::Vault(VaultError::CorruptFile(_))), "{refused}");
        assert_eq!(std::fs::read(at("there")).unwrap(), b"sun");
        assert!(!at("copy").exists() && !at("copy.tmp").exists());
    }
}
