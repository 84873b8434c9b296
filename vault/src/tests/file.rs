//! The vault's file, and the disk that it is on.

use sqlx::sqlite::SqlitePool;

use super::name;
use crate::store::Store;
use crate::{Vault, VaultError};

fn pool(vault: &Vault) -> &SqlitePool {
    match &*vault.store {
        Store::Sqlite(pool) => pool,
        Store::Postgres(_) => unreachable!("a vault in a file"),
    }
}

#[cfg(unix)]
#[tokio::test]
async fn vault_file_is_readable_by_owner_only() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault.db");
    let vault = Vault::open(&path).await.unwrap();
    let (tenant, user) = name("a", "ann");
    vault.subject(&tenant, &user).await.unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let metadata = file.unwrap().metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o077, 0);
    }
}

#[tokio::test]
async fn full_disk_refuses_subjects_until_space_is_free() {
    let vault = Vault::in_memory().await.unwrap();
    let known = name("a", "ann");
    let subject = vault.subject(&known.0, &known.1).await.unwrap();
    let fill = || async {
        for n in 0..1_000 {
            let (tenant, user) = name("a", &format!("user-{n}"));
            vault.subject(&tenant, &user).await?;
        }
        Ok::<_, VaultError>(())
    };
    // The limit cannot be below the current size, so it becomes the current size.
    sqlx::raw_sql("PRAGMA max_page_count = 1").execute(pool(&vault)).await.unwrap();
    assert!(fill().await.unwrap_err().is_full());
    assert_eq!(vault.subject(&known.0, &known.1).await.unwrap(), subject);
    sqlx::raw_sql("PRAGMA max_page_count = 100000").execute(pool(&vault)).await.unwrap();
    fill().await.unwrap();
}

#[tokio::test]
async fn file_that_is_not_a_vault_is_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault.db");
    let bytes = [b'x'; 5_000];
    std::fs::write(&path, bytes).unwrap();
    let refused = Vault::open(&path).await.unwrap_err();
    assert!(matches!(refused, VaultError::Damaged(_)), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}
