//! The erasure of a person: their key and their user id are destroyed, and how far the erasures in a log are carried out.

use std::sync::atomic::Ordering;

use event_schemas::ids::{LogId, Position, SubjectId, Tenant};
use event_schemas::time::Timestamp;

use crate::{Vault, VaultError};

impl Vault {
    /// Destroys the key and the user id of a subject, durably. It can be repeated: false if there was nothing to destroy.
    ///
    /// # Errors
    /// [`VaultError`] if the vault cannot be written. From the first attempt on, no lookup returns the subject's user or
    /// opens its texts.
    pub async fn erase(
        &self,
        tenant: &Tenant,
        subject: SubjectId,
        at: Timestamp,
    ) -> Result<bool, VaultError> {
        self.forget(subject);
        if self.failed.load(Ordering::Relaxed) {
            return Err(VaultError::Failed);
        }
        let erased = self.store.erase(tenant, subject, at.micros()).await;
        erased.inspect_err(|error| self.note_failure(error))
    }

    /// Removes a subject from the memory of this server, because it was erased by another one.
    pub fn forget(&self, subject: SubjectId) {
        self.cache().forget(subject);
    }

    /// The position of a log up to which the vault has carried out all erasures: the start for a vault from a backup, and
    /// for a log that was restored.
    ///
    /// # Errors
    /// [`VaultError`] if the vault cannot be read.
    pub async fn erased_up_to(&self, log: LogId, epoch: u32) -> Result<Position, VaultError> {
        let position = self.store.erased_up_to(log, epoch).await?;
        Ok(position.map_or(Position::START, Position::from_i64))
    }

    /// Records that the vault has carried out all erasures up to this position.
    ///
    /// # Errors
    /// [`VaultError`] if the vault cannot be written.
    pub async fn set_erased_up_to(
        &self,
        log: LogId,
        epoch: u32,
        position: Position,
    ) -> Result<(), VaultError> {
        let set = self.store.set_erased_up_to(log, epoch, position.to_i64()).await;
        set.inspect_err(|error| self.note_failure(error))
    }
}
