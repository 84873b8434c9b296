//! The vault's rules: one name each, nobody else's, and what a bad file or disk does.

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
async fn asking_who_somebody_is_makes_no_name() {
    let vault = Vault::in_memory(clock(), Ids::Random).await.unwrap();
    let (a, ann) = name("a", "ann");
    assert_eq!(vault.known(&a, &ann).await.unwrap(), None);
    let count: (i64,) = sqlx::query_as("SELECT COUNT(*) FROM subjects").fetch_one(&vault.pool).await.unwrap();
    assert_eq!(count.0, 0);
    let subject = vault.subject(&a, &ann).await.unwrap().id;
    assert_eq!(vault.known(&a, &ann).await.unwrap(), Some(subject));
}

#[tokio::test]
async fn many_are_named_at_once_without_those_whom_nobody_can_name() {
    let vault = Vault::in_memory(clock(), Ids::Random).await.unwrap();
    let (a, ann) = name("a", "ann");
    let (_, bob) = name("a", "bob");
    let (b, cat) = name("b", "cat");
    let subject = async |tenant, user| vault.subject(tenant, user).await.unwrap().id;
    let (one, two, theirs) = (subject(&a, &ann).await, subject(&a, &bob).await, subject(&b, &cat).await);
    let asked = [one, two, theirs, SubjectId(Uuid::from_u128(7)), one];
    let expected = HashMap::from([(one, ann), (two, bob)]);
    assert_eq!(vault.users(&a, &asked).await.unwrap(), expected);
    // And so after a start, when nothing is remembered.
    *vault.cache() = Cache::default();
    assert_eq!(vault.users(&a, &asked).await.unwrap(), expected);
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
