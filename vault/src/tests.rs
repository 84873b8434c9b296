//! The rules of the vault: one subject per user and tenant, and the errors of files and disks.

use std::collections::HashMap;

use event_schemas::ids::{Tenant, UserId};
use futures_util::future::join_all;
use uuid::Uuid;

use super::*;

fn name(tenant: &str, user: &str) -> (Tenant, UserId) {
    (tenant.parse().unwrap(), user.parse().unwrap())
}

#[tokio::test]
async fn user_keeps_its_subject_after_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault.db");
    let (tenant, user) = name("a", "ann");
    let vault = Vault::open(&path).await.unwrap();
    let first = vault.subject(&tenant, &user).await.unwrap();
    assert_eq!(vault.subject(&tenant, &user).await.unwrap(), first);
    drop(vault);
    let vault = Vault::open(&path).await.unwrap();
    assert_eq!(vault.subject(&tenant, &user).await.unwrap(), first);
}

#[tokio::test]
async fn subject_is_resolved_only_for_its_tenant() {
    let vault = Vault::in_memory().await.unwrap();
    let (a, ann) = name("a", "ann");
    let (b, _) = name("b", "ann");
    let subject = vault.subject(&a, &ann).await.unwrap().id;
    assert_eq!(vault.user(&a, subject).await.unwrap(), Some(ann));
    assert_eq!(vault.user(&b, subject).await.unwrap(), None);
}

#[tokio::test]
async fn finding_a_subject_creates_none() {
    let vault = Vault::in_memory().await.unwrap();
    let (a, ann) = name("a", "ann");
    assert_eq!(vault.find_subject(&a, &ann).await.unwrap(), None);
    let count: (i64,) = sqlx::query_as("SELECT COUNT(*) FROM subjects").fetch_one(&vault.pool).await.unwrap();
    assert_eq!(count.0, 0);
    let subject = vault.subject(&a, &ann).await.unwrap().id;
    assert_eq!(vault.find_subject(&a, &ann).await.unwrap(), Some(subject));
}

#[tokio::test]
async fn users_omits_unknown_subjects_and_other_tenants() {
    let vault = Vault::in_memory().await.unwrap();
    let (a, ann) = name("a", "ann");
    let (_, bob) = name("a", "bob");
    let (b, cat) = name("b", "cat");
    let subject = async |tenant, user| vault.subject(tenant, user).await.unwrap().id;
    let (one, two, theirs) = (subject(&a, &ann).await, subject(&a, &bob).await, subject(&b, &cat).await);
    let asked = [one, two, theirs, SubjectId(Uuid::from_u128(7)), one];
    let expected = HashMap::from([(one, ann), (two, bob)]);
    assert_eq!(vault.users(&a, &asked).await.unwrap(), expected);
    // The same holds after a start, with an empty cache.
    *vault.cache() = Cache::default();
    assert_eq!(vault.users(&a, &asked).await.unwrap(), expected);
}

#[tokio::test]
async fn same_user_in_two_tenants_has_two_subjects_and_keys() {
    let vault = Vault::in_memory().await.unwrap();
    let (a, ann) = name("a", "ann");
    let (b, _) = name("b", "ann");
    let (one, other) = (vault.subject(&a, &ann).await.unwrap(), vault.subject(&b, &ann).await.unwrap());
    assert_ne!(one.id, other.id);
    assert_ne!(one.key, other.key);
}

#[tokio::test]
async fn concurrent_requests_create_one_subject() {
    let vault = Vault::in_memory().await.unwrap();
    let (tenant, user) = name("a", "ann");
    let subjects = join_all((0..32).map(|_| vault.subject(&tenant, &user))).await;
    let first = subjects[0].as_ref().unwrap().clone();
    assert!(subjects.into_iter().all(|subject| subject.unwrap() == first));
}

#[tokio::test]
async fn file_of_a_newer_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault.db");
    let vault = Vault::open(&path).await.unwrap();
    sqlx::raw_sql("PRAGMA user_version = 99").execute(&vault.pool).await.unwrap();
    drop(vault);
    let refused = Vault::open(&path).await;
    assert!(matches!(refused, Err(VaultError::Newer(99))));
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
    sqlx::raw_sql("PRAGMA max_page_count = 1").execute(&vault.pool).await.unwrap();
    assert!(fill().await.unwrap_err().is_full());
    assert_eq!(vault.subject(&known.0, &known.1).await.unwrap(), subject);
    sqlx::raw_sql("PRAGMA max_page_count = 100000").execute(&vault.pool).await.unwrap();
    fill().await.unwrap();
}

#[tokio::test]
async fn file_that_is_not_a_vault_is_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault.db");
    let bytes = [b'x'; 5_000];
    std::fs::write(&path, bytes).unwrap();
    let refused = Vault::open(&path).await.unwrap_err();
    assert!(matches!(refused, VaultError::CorruptFile(_)), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[tokio::test]
async fn debug_output_hides_the_key() {
    let vault = Vault::in_memory().await.unwrap();
    let (tenant, user) = name("a", "ann");
    let subject = vault.subject(&tenant, &user).await.unwrap();
    assert!(format!("{subject:?}").contains("SubjectKey(..)"));
}
