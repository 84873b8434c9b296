//! The errors of the vault, and the codes of SQLite that they come from.

use std::borrow::Cow;
use std::sync::Arc;

use event_schemas::sealed::SealedField;

use crate::KEY_BYTES;

/// An error of the vault.
#[derive(Clone, Debug, thiserror::Error)]
pub enum VaultError {
    #[error("the vault cannot be used: {0}; check that its file exists and is writable")]
    Store(Arc<sqlx::Error>),
    #[error(
        "the vault's file is damaged or is not a vault: {0}; nothing was changed; restore it from a backup"
    )]
    CorruptFile(Arc<sqlx::Error>),
    #[error("the vault's file was written by a newer version of matchbook (format {0}); run that version")]
    Newer(i64),
    #[error("the vault contains a key of {0} bytes instead of {KEY_BYTES}; restore it from a backup")]
    CorruptKey(usize),
    #[error("the system returned no random numbers")]
    NoRandomness,
    #[error("the sealed text at {0} was not sealed for this field, or was changed since; it cannot be read")]
    Sealed(SealedField),
    #[error(
        "the vault's disk has failed, and its content is known only after a restart; check the disk, then restart the server"
    )]
    Failed,
}

/// `SQLITE_FULL`.
const FULL_CODE: &str = "13";
/// `SQLITE_CORRUPT`, `SQLITE_NOTADB`, and `SQLITE_IOERR_SHORT_READ` of a file that is shorter than its header states.
const CORRUPT_CODES: [&str; 3] = ["11", "26", "522"];

/// `SQLITE_IOERR` and all its extended codes.
const IO_CODE: i32 = 10;

impl From<sqlx::Error> for VaultError {
    fn from(error: sqlx::Error) -> Self {
        let is_corrupt = code(&error).is_some_and(|code| CORRUPT_CODES.contains(&code.as_ref()));
        let error = Arc::new(error);
        if is_corrupt { Self::CorruptFile(error) } else { Self::Store(error) }
    }
}

impl VaultError {
    /// True if the disk is full, which is transient.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Store(error) if code(error).is_some_and(|code| code == FULL_CODE))
    }

    /// True if the disk failed. A later sync can succeed although the data of an earlier one is lost.
    pub(crate) fn is_disk_failure(&self) -> bool {
        let of_disk = |code: Cow<'_, str>| code.parse().is_ok_and(|code: i32| code & 0xff == IO_CODE);
        matches!(self, Self::Store(error) if code(error).is_some_and(of_disk))
    }

    /// True if the vault can be used again only after a restart.
    pub fn is_failed(&self) -> bool {
        matches!(self, Self::Failed) || self.is_disk_failure()
    }
}

fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}
