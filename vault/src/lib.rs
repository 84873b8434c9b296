//! The vault: the users behind the subjects in the log, and the keys that encrypt their texts.
//!
//! The log contains a person only as a random subject id. The mapping from this id to the user is stored here, outside
//! the log and its backups, so that a person can be erased although events never change. A subject is on disk before
//! its first use: an event whose subject has lost its user would be lost to its owner.
//!
//! The write side creates subjects and seals texts; the read side only looks up and unseals.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use event_schemas::ids::SubjectId;
use sqlx::sqlite::SqlitePool;

mod backup;
mod batch_insert;
mod error;
mod sealing;
mod store;
mod subjects;

pub use backup::{BackupError, back_up};
use batch_insert::PendingSubjects;
pub use error::VaultError;
use subjects::Cache;

/// The length of an AES-256 key, in bytes.
const KEY_BYTES: usize = 32;

/// A person's key. Never shown.
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

/// A person's subject id and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub id: SubjectId,
    pub key: SubjectKey,
}

/// A handle of the vault. Cheap to clone; clones share one file.
#[derive(Clone, Debug)]
pub struct Vault {
    pool: SqlitePool,
    cache: Arc<Mutex<Cache>>,
    pending_subjects: Arc<PendingSubjects>,
    /// Set by the first failure of the disk, and never reset.
    failed: Arc<AtomicBool>,
}

fn read_key(bytes: Vec<u8>) -> Result<SubjectKey, VaultError> {
    bytes.try_into().map(SubjectKey).map_err(|bytes: Vec<u8>| VaultError::CorruptKey(bytes.len()))
}

#[cfg(test)]
mod tests;
