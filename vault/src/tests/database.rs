//! The vault in a database: the move from the file, the way back, and a database that fails.

use std::fs;

use super::name;
use super::place::Place;
use super::postgres_server::PostgresServer;
use crate::{Subject, Vault, VaultError, back_up, back_up_database};

/// Registers the users in a vault, and returns their subjects.
async fn register(vault: &Vault, users: &[&str]) -> Vec<Subject> {
    let mut subjects = Vec::new();
    for user in users {
        let (tenant, user) = name("a", user);
        subjects.push(vault.subject(&tenant, &user).await.unwrap());
    }
    subjects
}

#[tokio::test]
async fn vault_moves_from_its_file_into_the_database() {
    let place = Place::database();
    let users: Vec<String> = (0..1_203).map(|n| format!("user-{n}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let subjects = register(&Vault::open(&place.path()).await.unwrap(), &users).await;
    let vault = place.open().await;
    assert_eq!(register(&vault, &users).await, subjects);
    assert_eq!(place.rows().await.len(), users.len());
    // Neither the file nor its journal is left.
    let left: Vec<_> = fs::read_dir(place.folder()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left, ["vault.moved"]);
    // The next start finds no file, and the same people.
    assert_eq!(register(&place.open().await, &users).await, subjects);
}

#[tokio::test]
async fn interrupted_move_is_repeated_and_erases_nothing() {
    let place = Place::database();
    let subjects = register(&Vault::open(&place.path()).await.unwrap(), &["ann", "bob"]).await;
    let copy = place.folder().join("copy");
    back_up(&place.path(), &copy).await.unwrap();
    let vault = place.open().await;
    // The file is back, as if the server had been killed before it was removed, and ann has been erased since.
    fs::rename(&copy, place.path()).unwrap();
    place.run("UPDATE subjects SET user_id = NULL, key = NULL, erased_at = 1 WHERE user_id = 'ann'").await;
    drop(vault);
    let (tenant, ann) = name("a", "ann");
    let vault = place.open().await;
    assert!(!place.path().exists());
    assert_eq!(vault.user(&tenant, subjects[0].id).await.unwrap(), None);
    assert_eq!(vault.find_subject(&tenant, &ann).await.unwrap(), None);
    assert_eq!(register(&vault, &["bob"]).await, subjects[1..]);
}

#[tokio::test]
async fn file_of_another_server_is_refused_and_kept() {
    let place = Place::database();
    register(&place.open().await, &["ann"]).await;
    fs::remove_file(place.folder().join("vault.moved")).unwrap();
    let other = register(&Vault::open(&place.path()).await.unwrap(), &["bob", "ann"]).await;
    let refused = place.try_open().await.unwrap_err();
    assert!(matches!(refused, VaultError::OtherVault { .. }), "{refused}");
    assert_eq!(place.rows().await.len(), 1);
    fs::remove_file(place.folder().join("vault.moved")).unwrap();
    assert_eq!(register(&Vault::open(&place.path()).await.unwrap(), &["bob", "ann"]).await, other);
}

#[tokio::test]
async fn way_back_to_a_file_is_a_backup() {
    let place = Place::database();
    let subjects = register(&place.open().await, &["ann", "bob"]).await;
    place.run("UPDATE subjects SET user_id = NULL, key = NULL, erased_at = 1 WHERE user_id = 'bob'").await;
    let refused = Vault::open(&place.path()).await.unwrap_err();
    assert!(matches!(refused, VaultError::Moved { .. }), "{refused}");
    assert!(!place.path().exists());
    assert_eq!(back_up_database(place.url(), &place.path()).await.unwrap(), 2);
    let vault = Vault::open(&place.path()).await.unwrap();
    assert_eq!(register(&vault, &["ann"]).await, subjects[..1]);
    let (tenant, bob) = name("a", "bob");
    assert_eq!(vault.user(&tenant, subjects[1].id).await.unwrap(), None);
    assert_eq!(vault.find_subject(&tenant, &bob).await.unwrap(), None);
}

#[tokio::test]
async fn database_without_a_vault_cannot_be_backed_up() {
    let place = Place::database();
    let refused = back_up_database(place.url(), &place.path()).await.unwrap_err();
    assert!(refused.to_string().contains("contains no vault"), "{refused}");
    assert!(!place.path().exists());
}

#[tokio::test]
async fn lost_connection_heals_and_loses_nothing() {
    let server = PostgresServer::start();
    let place = Place::in_database(server.database());
    let file = register(&Vault::open(&place.path()).await.unwrap(), &["ann"]).await;
    server.crash();
    // The vault is opened, and its file moved, when the database is there.
    let vault = place.open().await;
    let (tenant, bob) = name("a", "bob");
    let refused = vault.subject(&tenant, &bob).await.unwrap_err();
    assert!(matches!(refused, VaultError::Unavailable(_)), "{refused}");
    assert!(place.path().exists());
    assert!(server.resume());
    assert_eq!(register(&vault, &["ann"]).await, file);
    let bob = register(&vault, &["bob"]).await;
    server.crash();
    let (_, cat) = name("a", "cat");
    let refused = vault.subject(&tenant, &cat).await.unwrap_err();
    assert!(matches!(refused, VaultError::Unavailable(_)), "{refused}");
    // The cached subjects need no database.
    assert_eq!(register(&vault, &["bob"]).await, bob);
    assert!(server.resume());
    register(&vault, &["cat"]).await;
    assert_eq!(register(&place.open().await, &["ann", "bob"]).await, [file, bob].concat());
}

#[tokio::test]
async fn damaged_schema_is_reported_and_not_replaced() {
    let place = Place::database();
    register(&place.open().await, &["ann"]).await;
    place.run("ALTER TABLE subjects RENAME TO lost").await;
    let vault = place.open().await;
    let (tenant, bob) = name("a", "bob");
    let refused = vault.subject(&tenant, &bob).await.unwrap_err();
    assert!(matches!(refused, VaultError::Damaged(_)), "{refused}");
    place.run("ALTER TABLE lost RENAME TO subjects").await;
    register(&vault, &["bob"]).await;
    assert_eq!(place.rows().await.len(), 2);
}
