//! Copying the vault while a server uses it.

use std::path::{Path, PathBuf};

use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use super::{MIGRATIONS, VaultError, make_private};

/// Why there is no copy of the vault.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{} is no vault; name the data folder of a server that has run", .0.display())]
    NoVault(PathBuf),
    #[error("{} is there already; name a new file", .0.display())]
    Taken(PathBuf),
    #[error(transparent)]
    Vault(VaultError),
    #[error("cannot write {}: {source}; check that there is room and that this user may write there", path.display())]
    File { path: PathBuf, source: std::io::Error },
}

impl From<sqlx::Error> for BackupError {
    fn from(error: sqlx::Error) -> Self {
        Self::Vault(error.into())
    }
}

/// Copies the vault in the file `from` into a new file, as it is at one moment, and answers how many people are in it.
/// What was erased is not in it, not even in free pages. Only its owner can read the file.
///
/// # Errors
/// [`BackupError`]; then there is no new file.
pub async fn back_up(from: &Path, to: &Path) -> Result<u64, BackupError> {
    if !from.is_file() {
        return Err(BackupError::NoVault(from.to_owned()));
    }
    if to.exists() {
        return Err(BackupError::Taken(to.to_owned()));
    }
    let mut made = to.as_os_str().to_owned();
    made.push(".tmp");
    let made = PathBuf::from(made);
    let copied = copy(from, &made).await;
    if copied.is_err() {
        // The first fault is the one that counts.
        let _ = std::fs::remove_file(&made);
        return copied;
    }
    let failed = |source| BackupError::File { path: to.to_owned(), source };
    std::fs::File::open(&made).and_then(|file| file.sync_all()).map_err(failed)?;
    std::fs::rename(&made, to).map_err(failed)?;
    // Syncs the folder as well.
    make_private(to).map_err(failed)?;
    copied
}

async fn copy(from: &Path, made: &Path) -> Result<u64, BackupError> {
    let mut source = SqliteConnectOptions::new().filename(from).connect().await?;
    let (version,): (i64,) = sqlx::query_as("PRAGMA user_version").fetch_one(&mut source).await?;
    if !usize::try_from(version).is_ok_and(|version| (1..=MIGRATIONS.len()).contains(&version)) {
        return Err(BackupError::Vault(VaultError::Newer(version)));
    }
    let failed = |source| BackupError::File { path: made.to_owned(), source };
    match std::fs::remove_file(made) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        // What a copying that was broken off left there is made anew.
        _ => make_private(made).map_err(failed)?,
    }
    sqlx::query("VACUUM INTO $1").bind(made.to_string_lossy().as_ref()).execute(&mut source).await?;
    let mut copy = SqliteConnectOptions::new().filename(made).read_only(true).connect().await?;
    let (people,): (i64,) = sqlx::query_as("SELECT count(*) FROM subjects").fetch_one(&mut copy).await?;
    Ok(u64::try_from(people).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use event_log::clock::{Clock, Ids};
    use event_schemas::time::Timestamp;

    use super::super::Vault;
    use super::*;

    async fn vault(path: &Path) -> Vault {
        Vault::open(path, Clock::manual(Timestamp::EPOCH), Ids::Random).await.unwrap()
    }

    #[tokio::test]
    async fn a_copy_made_while_the_vault_is_in_use_knows_the_same_people() {
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
    async fn a_copy_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let (file, copy) = (folder.path().join("vault.sqlite"), folder.path().join("copy.sqlite"));
        drop(vault(&file).await);
        back_up(&file, &copy).await.unwrap();
        assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o077, 0);
    }

    #[tokio::test]
    async fn what_is_no_vault_is_refused_and_what_is_there_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        drop(vault(&at("vault.sqlite")).await);
        std::fs::write(at("there"), "sun").unwrap();
        std::fs::write(at("damaged"), [7; 9_000]).unwrap();
        let refused = back_up(&at("nowhere"), &at("copy")).await.unwrap_err();
        assert!(matches!(refused, BackupError::NoVault(_)), "{refused}");
        let refused = back_up(&at("vault.sqlite"), &at("there")).await.unwrap_err();
        assert!(matches!(refused, BackupError::Taken(_)), "{refused}");
        let refused = back_up(&at("damaged"), &at("copy")).await.unwrap_err();
        assert!(matches!(refused, BackupError::Vault(VaultError::Unsound(_))), "{refused}");
        assert_eq!(std::fs::read(at("there")).unwrap(), b"sun");
        assert!(!at("copy").exists() && !at("copy.tmp").exists());
    }
}
