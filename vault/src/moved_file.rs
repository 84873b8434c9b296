//! The move of a vault from its file into a database, when a server is switched to PostgreSQL.
//!
//! A server with an empty vault would give every user a new subject, and lose their previous one. So the people in the
//! file are moved, and a note beside it keeps a server without the database from starting with an empty file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sqlx::QueryBuilder;
use sqlx::postgres::{PgPool, Postgres};
use uuid::Uuid;

use crate::VaultError;
use crate::error::file_error;
use crate::sqlite::{self, create_private, sync_folder};
use crate::store::{Row, page_of_file, within};

const RANGE: &str = "SELECT subject_id, tenant, user_id, key, created_at, erased_at FROM subjects \
     WHERE subject_id BETWEEN $1 AND $2";

/// The note that the vault is not in the file.
fn note_path(file: &Path) -> PathBuf {
    file.with_extension("moved")
}

/// Reports whether the vault that belongs to this file is in a database.
pub fn has_moved(file: &Path) -> bool {
    !file.exists() && note_path(file).exists()
}

/// Reports whether the file does not exist or has no content.
pub(crate) fn is_missing(file: &Path) -> bool {
    !file.metadata().is_ok_and(|file| file.len() > 0)
}

/// Removes the note: the vault is in the file again.
pub(crate) fn remove_note(file: &Path) -> Result<(), VaultError> {
    match std::fs::remove_file(note_path(file)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file_error(error)),
        _ => Ok(()),
    }
}

/// Moves the people in the file, if there is one, into the database, and removes the file.
///
/// All rows are committed before the file is removed, so after a crash in between it is moved again: its rows are there
/// already, or have been erased since.
pub(crate) async fn move_into(pool: &PgPool, file: &Path) -> Result<(), VaultError> {
    create_private(&note_path(file)).map_err(file_error)?;
    if !file.exists() {
        return Ok(());
    }
    let source = sqlite::open(file).await?;
    let mut tx = within(pool.begin()).await?;
    let (mut after, mut people) = (Uuid::nil(), 0);
    loop {
        let rows = page_of_file(&source, after).await?;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { break };
        let range = (first.0, last.0);
        insert(&mut tx, &rows, file).await?;
        let stored = sqlx::query_as(RANGE).bind(range.0).bind(range.1).fetch_all(&mut *tx);
        let stored: Vec<Row> = within(stored).await?;
        let stored: HashMap<Uuid, &Row> = stored.iter().map(|row| (row.0, row)).collect();
        if !rows.iter().all(|row| stored.get(&row.0).is_some_and(|stored| is_same(row, stored))) {
            return Err(VaultError::OtherVault { file: file.to_owned() });
        }
        people += rows.len();
        after = range.1;
    }
    within(tx.commit()).await?;
    source.close().await;
    remove(file).map_err(file_error)?;
    tracing::info!(people, file = %file.display(), "the vault was moved from its file into the database");
    Ok(())
}

/// Removes the file and its journal.
fn remove(file: &Path) -> std::io::Result<()> {
    let mut journal = file.as_os_str().to_owned();
    journal.push("-journal");
    match std::fs::remove_file(PathBuf::from(journal)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::remove_file(file)?;
    sync_folder(file)
}

async fn insert(
    tx: &mut sqlx::Transaction<'static, Postgres>,
    rows: &[Row],
    file: &Path,
) -> Result<(), VaultError> {
    let mut text = QueryBuilder::<Postgres>::new(
        "INSERT INTO subjects (subject_id, tenant, user_id, key, created_at, erased_at) ",
    );
    text.push_values(rows, |mut row, (id, tenant, user, key, created_at, erased_at)| {
        row.push_bind(id).push_bind(tenant).push_bind(user).push_bind(key);
        row.push_bind(created_at).push_bind(erased_at);
    });
    text.push(" ON CONFLICT (subject_id) DO NOTHING");
    let inserted = within(text.build().execute(&mut **tx)).await.map(drop);
    inserted.map_err(|error| match error {
        // A user of the file has another subject in the database.
        VaultError::Refused(error) if is_duplicate(&error) => {
            VaultError::OtherVault { file: file.to_owned() }
        }
        error => error,
    })
}

fn is_duplicate(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// Reports whether the stored row is the one of the file, or has been erased since.
fn is_same(row: &Row, stored: &Row) -> bool {
    let is_erased = stored.5.is_some();
    row.1 == stored.1 && (is_erased || row == stored)
}
