//! The rules of the vault on both databases: one subject per user and tenant, and nothing of an erased user.

use std::collections::HashMap;

use event_schemas::ids::{ChallengeId, LogId, Position, Tenant, UserId};
use event_schemas::sealed::SealedField;
use event_schemas::time::Timestamp;
use futures_util::future::join_all;
use uuid::Uuid;

use super::*;
use place::{Place, on_both};

mod database;
mod file;
mod place;
#[path = "../../tests/it/support/postgres.rs"]
#[expect(dead_code, reason = "these tests run on both databases, without the setting of the others")]
mod postgres_server;

fn name(tenant: &str, user: &str) -> (Tenant, UserId) {
    (tenant.parse().unwrap(), user.parse().unwrap())
}

#[tokio::test]
async fn user_keeps_its_subject_after_restart() {
    on_both(async |place| {
        let (tenant, user) = name("a", "ann");
        let vault = place.open().await;
        let first = vault.subject(&tenant, &user).await.unwrap();
        assert_eq!(vault.subject(&tenant, &user).await.unwrap(), first);
        assert_eq!(place.open().await.subject(&tenant, &user).await.unwrap(), first);
    })
    .await;
}

#[tokio::test]
async fn subject_is_resolved_only_for_its_tenant() {
    on_both(async |place| {
        let vault = place.open().await;
        let (a, ann) = name("a", "ann");
        let (b, _) = name("b", "ann");
        let subject = vault.subject(&a, &ann).await.unwrap().id;
        assert_eq!(vault.user(&a, subject).await.unwrap(), Some(ann));
        assert_eq!(vault.user(&b, subject).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn finding_a_subject_creates_none() {
    on_both(async |place| {
        let vault = place.open().await;
        let (a, ann) = name("a", "ann");
        assert_eq!(vault.find_subject(&a, &ann).await.unwrap(), None);
        assert_eq!(place.rows().await, Vec::<String>::new());
        let subject = vault.subject(&a, &ann).await.unwrap().id;
        assert_eq!(vault.find_subject(&a, &ann).await.unwrap(), Some(subject));
    })
    .await;
}

#[tokio::test]
async fn users_omits_unknown_subjects_and_other_tenants() {
    on_both(async |place| {
        let vault = place.open().await;
        let (a, ann) = name("a", "ann");
        let (_, bob) = name("a", "bob");
        let (b, cat) = name("b", "cat");
        let subject = async |tenant, user| vault.subject(tenant, user).await.unwrap().id;
        let (one, two, theirs) = (subject(&a, &ann).await, subject(&a, &bob).await, subject(&b, &cat).await);
        let asked = [one, two, theirs, SubjectId(Uuid::from_u128(7)), one];
        let expected = HashMap::from([(one, ann), (two, bob)]);
        assert_eq!(vault.users(&a, &asked).await.unwrap(), expected);
        // The same holds after a start, with an empty cache.
        assert_eq!(place.open().await.users(&a, &asked).await.unwrap(), expected);
    })
    .await;
}

#[tokio::test]
async fn same_user_in_two_tenants_has_two_subjects_and_keys() {
    on_both(async |place| {
        let vault = place.open().await;
        let (a, ann) = name("a", "ann");
        let (b, _) = name("b", "ann");
        let (one, other) = (vault.subject(&a, &ann).await.unwrap(), vault.subject(&b, &ann).await.unwrap());
        assert_ne!(one.id, other.id);
        assert_ne!(one.key, other.key);
    })
    .await;
}

#[tokio::test]
async fn concurrent_requests_create_one_subject() {
    on_both(async |place| {
        // Two servers, each with many requests.
        let vaults = [place.open().await, place.open().await];
        let names: Vec<_> = (0..64).map(|n| name("a", &format!("user-{}", n % 16))).collect();
        let of = |vault: Vault, names: Vec<(Tenant, UserId)>| async move {
            join_all(names.iter().map(|(tenant, user)| vault.subject(tenant, user))).await
        };
        let [one, other] = vaults;
        let reversed = names.iter().rev().cloned().collect();
        let (forward, backward) = tokio::join!(of(one, names.clone()), of(other, reversed));
        let mut subjects = HashMap::new();
        let all = names.iter().zip(forward).chain(names.iter().rev().zip(backward));
        for (name, subject) in all {
            let subject = subject.unwrap();
            assert_eq!(subjects.entry(name.clone()).or_insert_with(|| subject.clone()), &subject);
        }
        assert_eq!(place.rows().await.len(), 16);
    })
    .await;
}

#[tokio::test]
async fn erased_user_is_unknown_and_returns_as_another_subject() {
    on_both(async |place| {
        let vault = place.open().await;
        let (tenant, user) = name("a", "ann");
        let field = SealedField::ChallengeMessage(ChallengeId(Uuid::from_u128(1)));
        let erased = vault.subject(&tenant, &user).await.unwrap();
        let sealed = vault.seal(&tenant, &erased, field, "hello").unwrap();
        let at = Timestamp::from_micros(7);
        assert!(vault.erase(&tenant, erased.id, at).await.unwrap());
        assert!(!vault.erase(&tenant, erased.id, at).await.unwrap(), "there is nothing left to destroy");
        // Also with an empty cache.
        for vault in [vault, place.open().await] {
            assert_eq!(vault.user(&tenant, erased.id).await.unwrap(), None);
            assert_eq!(vault.unseal(&tenant, erased.id, field, &sealed).await.unwrap(), None);
            assert_eq!(vault.find_subject(&tenant, &user).await.unwrap(), None);
            assert!(vault.knows(&tenant, erased.id).await.unwrap());
        }
        let vault = place.open().await;
        let again = vault.subject(&tenant, &user).await.unwrap();
        assert_ne!(again.id, erased.id);
        assert_ne!(again.key, erased.key);
        assert_eq!(place.rows().await.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn subject_of_another_tenant_is_not_erased() {
    on_both(async |place| {
        let vault = place.open().await;
        let (a, ann) = name("a", "ann");
        let subject = vault.subject(&a, &ann).await.unwrap().id;
        assert!(!vault.erase(&name("b", "ann").0, subject, Timestamp::EPOCH).await.unwrap());
        assert_eq!(place.open().await.user(&a, subject).await.unwrap(), Some(ann));
    })
    .await;
}

#[tokio::test]
async fn subject_erased_by_another_server_is_forgotten() {
    on_both(async |place| {
        let (one, other) = (place.open().await, place.open().await);
        let (a, ann) = name("a", "ann");
        let subject = one.subject(&a, &ann).await.unwrap().id;
        assert_eq!(other.user(&a, subject).await.unwrap(), Some(ann.clone()));
        one.erase(&a, subject, Timestamp::EPOCH).await.unwrap();
        other.forget(subject);
        assert_eq!(other.user(&a, subject).await.unwrap(), None);
        let again = other.subject(&a, &ann).await.unwrap().id;
        assert_ne!(again, subject);
        // The old subject does not take the new one with it.
        other.forget(subject);
        assert_eq!(other.user(&a, again).await.unwrap(), Some(ann));
    })
    .await;
}

#[tokio::test]
async fn position_of_erasures_is_of_one_log_and_epoch() {
    on_both(async |place| {
        let vault = place.open().await;
        let [log, other] = [1, 2].map(|n| LogId(Uuid::from_u128(n)));
        assert_eq!(vault.erased_up_to(log, 0).await.unwrap(), Position::START);
        for position in [7, 9] {
            vault.set_erased_up_to(log, 1, Position(position)).await.unwrap();
        }
        let vault = place.open().await;
        assert_eq!(vault.erased_up_to(log, 1).await.unwrap(), Position(9));
        assert_eq!(vault.erased_up_to(log, 0).await.unwrap(), Position::START);
        assert_eq!(vault.erased_up_to(other, 1).await.unwrap(), Position::START);
    })
    .await;
}

#[tokio::test]
async fn vault_of_a_newer_version_is_refused() {
    on_both(async |place| {
        drop(place.open().await);
        place.set_version(99).await;
        let refused = place.try_open().await;
        assert!(matches!(refused, Err(VaultError::Newer(99))), "{refused:?}");
    })
    .await;
}

#[tokio::test]
async fn migrated_vault_equals_a_new_one() {
    for (new, stepped) in [(Place::file(), Place::file()), (Place::database(), Place::database())] {
        drop(new.open().await);
        for version in 0..=stepped.migrations() {
            stepped.migrate(version).await;
            // Again, as the next start would.
            stepped.migrate(version).await;
        }
        drop(stepped.open().await);
        assert_eq!(stepped.definition().await, new.definition().await);
    }
}

#[tokio::test]
async fn debug_output_hides_the_key() {
    let vault = Vault::in_memory().await.unwrap();
    let (tenant, user) = name("a", "ann");
    let subject = vault.subject(&tenant, &user).await.unwrap();
    assert!(format!("{subject:?}").contains("SubjectKey(..)"));
}
