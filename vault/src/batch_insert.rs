//! Batched inserts of new subjects: one transaction, and so one wait for the disk, inserts many subjects.
//!
//! The first pending subject starts a task that inserts all pending ones; subjects that arrive meanwhile are in its
//! next transaction.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use event_schemas::ids::{SubjectId, Tenant, UserId};
use event_schemas::time::Timestamp;
use futures_util::FutureExt;
use tokio::sync::oneshot;

use crate::{KEY_BYTES, Subject, Vault, VaultError, read_key};

/// The most subjects per transaction, so that lookups do not wait long.
const BATCH_MAX: usize = 256;

/// The subjects that are to be inserted.
#[derive(Debug, Default)]
pub(super) struct PendingSubjects(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<PendingSubject>,
    /// True while a task inserts the pending subjects, which it does until there are none.
    is_inserting: bool,
}

#[derive(Debug)]
struct PendingSubject {
    tenant: Tenant,
    user: UserId,
    reply: oneshot::Sender<Result<Subject, VaultError>>,
}

impl PendingSubjects {
    /// Adds a subject. True if the caller has to start the inserting task.
    fn push(&self, subject: PendingSubject) -> bool {
        let mut queue = self.queue();
        queue.waiting.push(subject);
        !std::mem::replace(&mut queue.is_inserting, true)
    }

    /// Takes the oldest subjects. If there are none, the inserting task ends.
    fn take(&self) -> Vec<PendingSubject> {
        let mut queue = self.queue();
        queue.is_inserting = !queue.waiting.is_empty();
        let count = queue.waiting.len().min(BATCH_MAX);
        let mut pending: Vec<_> = queue.waiting.drain(..count).collect();
        // In one order, so that the transactions of two servers on one database cannot block each other for ever.
        pending.sort_unstable_by(|a, b| {
            (a.tenant.as_str(), a.user.as_str()).cmp(&(b.tenant.as_str(), b.user.as_str()))
        });
        pending
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Each change is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vault {
    /// Creates a user's subject, unless another request was first.
    pub(super) async fn create_subject(&self, tenant: &Tenant, user: &UserId) -> Result<Subject, VaultError> {
        let (reply, inserted) = oneshot::channel();
        if self.pending_subjects.push(PendingSubject { tenant: tenant.clone(), user: user.clone(), reply }) {
            self.start_insertion();
        }
        // The sender is dropped only at the end of the process.
        inserted.await.unwrap_or_else(|_| Err(sqlx::Error::WorkerCrashed.into()))
    }

    /// On a task of its own, because a caller that disconnects must not leave a transaction half-way.
    fn start_insertion(&self) {
        tokio::spawn(self.clone().insert_pending().boxed());
    }

    async fn insert_pending(self) {
        loop {
            let pending = self.pending_subjects.take();
            if pending.is_empty() {
                return;
            }
            let results = match self.insert_batch(&pending).await {
                Ok(subjects) => subjects.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error); pending.len()],
            };
            for (subject, result) in pending.into_iter().zip(results) {
                // The subject exists even if its caller no longer waits.
                let _ = subject.reply.send(result);
            }
        }
    }

    async fn insert_batch(&self, pending: &[PendingSubject]) -> Result<Vec<Subject>, VaultError> {
        let mut transaction = self.store.begin().await?;
        let mut subjects = Vec::with_capacity(pending.len());
        // The system's own clock and ids: for operators only. No decision reads them.
        let created_at = Timestamp::from(SystemTime::now()).micros();
        for PendingSubject { tenant, user, .. } in pending {
            let mut key = [0; KEY_BYTES];
            SystemRandom::new().fill(&mut key).map_err(|_| VaultError::NoRandomness)?;
            let (id, key) = transaction.insert(tenant, user, &key, created_at).await?;
            subjects.push(Subject { id: SubjectId(id), key: read_key(key)? });
        }
        transaction.commit().await?;
        Ok(subjects)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    fn name(n: usize) -> (Tenant, UserId) {
        ("a".parse().unwrap(), format!("user-{n}").parse().unwrap())
    }

    async fn named(vault: &Vault, n: usize) -> Result<Subject, VaultError> {
        let (tenant, user) = name(n);
        vault.subject(&tenant, &user).await
    }

    #[tokio::test]
    async fn concurrent_subjects_share_transactions_and_are_durable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.db");
        let vault = Vault::open(&path).await.unwrap();
        // SQLite counts the writes in the file's header.
        let writes = || u32::from_be_bytes(std::fs::read(&path).unwrap()[24..28].try_into().unwrap());
        let before = writes();
        let subjects = join_all((0..600).map(|n| named(&vault, n % 500))).await;
        assert!(writes() - before <= 5, "{} transactions", writes() - before);
        drop(vault);
        let vault = Vault::open(&path).await.unwrap();
        for (n, subject) in subjects.into_iter().enumerate() {
            assert_eq!(named(&vault, n % 500).await.unwrap(), subject.unwrap());
        }
    }

    #[tokio::test]
    async fn cancelled_caller_does_not_block_other_subjects() {
        // In a file, because a connection that was left half-way may be closed, and a vault in memory with it.
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::open(&folder.path().join("vault.db")).await.unwrap();
        for round in 0..20 {
            let tasks: Vec<_> = (0..40)
                .map(|n| {
                    let vault = vault.clone();
                    tokio::spawn(async move { named(&vault, 100 * round + n).await })
                })
                .collect();
            // Each round a little later.
            for _ in 0..round * 3 {
                tokio::task::yield_now().await;
            }
            tasks[0].abort();
            for task in tasks.into_iter().skip(1) {
                task.await.unwrap().unwrap();
            }
        }
    }
}
