//! Those who come at once are named at once: one transaction, and so one wait for the disk, makes many names.
//!
//! Whoever finds nobody at it has all named who wait; those who come meanwhile are next.

use futures_util::FutureExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use event_schemas::ids::{SubjectId, Tenant, UserId};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{KEY_BYTES, Subject, Vault, VaultError, read_key};

/// How many are named in one transaction, so that those who only look somebody up are not kept long.
const AT_ONCE_MAX: usize = 256;

/// Those who are to be named.
#[derive(Debug, Default)]
pub(super) struct Newcomers(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    waiting: Vec<Newcomer>,
    /// Whether somebody names those who wait, and goes on until nobody does.
    is_served: bool,
}

#[derive(Debug)]
struct Newcomer {
    tenant: Tenant,
    user: UserId,
    named: oneshot::Sender<Result<Subject, VaultError>>,
}

impl Newcomers {
    /// Whether somebody has to begin naming those who wait.
    fn push(&self, newcomer: Newcomer) -> bool {
        let mut line = self.line();
        line.waiting.push(newcomer);
        !std::mem::replace(&mut line.is_served, true)
    }

    /// Those who came first; if there are none, whoever asks is at its end.
    fn take(&self) -> Vec<Newcomer> {
        let mut line = self.line();
        line.is_served = !line.waiting.is_empty();
        let count = line.waiting.len().min(AT_ONCE_MAX);
        line.waiting.drain(..count).collect()
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Newcomers come and go in one step each.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vault {
    /// Makes a user's subject, unless another request was first.
    pub(super) async fn make(&self, tenant: &Tenant, user: &UserId) -> Result<Subject, VaultError> {
        let (named, answer) = oneshot::channel();
        if self.newcomers.push(Newcomer { tenant: tenant.clone(), user: user.clone(), named }) {
            // On a task of its own, because a caller who goes away must not leave a transaction half-way.
            tokio::spawn(self.clone().name_those_who_wait().boxed());
        }
        // Nobody is forgotten but by the end of the process.
        answer.await.unwrap_or_else(|_| Err(sqlx::Error::WorkerCrashed.into()))
    }

    async fn name_those_who_wait(self) {
        loop {
            let newcomers = self.newcomers.take();
            if newcomers.is_empty() {
                return;
            }
            let answers = match self.name_all(&newcomers).await {
                Ok(subjects) => subjects.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error); newcomers.len()],
            };
            for (newcomer, answer) in newcomers.into_iter().zip(answers) {
                // Who does not wait any more has a name from now on nevertheless.
                let _ = newcomer.named.send(answer);
            }
        }
    }

    async fn name_all(&self, newcomers: &[Newcomer]) -> Result<Vec<Subject>, VaultError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let mut subjects = Vec::with_capacity(newcomers.len());
        for Newcomer { tenant, user, .. } in newcomers {
            let mut key = [0; KEY_BYTES];
            SystemRandom::new().fill(&mut key).map_err(|_| VaultError::NoRandomness)?;
            let made: Option<(Uuid, Vec<u8>)> = sqlx::query_as(
                "INSERT INTO subjects (subject_id, tenant, user_id, key, created_at) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT (tenant, user_id) DO NOTHING RETURNING subject_id, key",
            )
            .bind(self.ids.next())
            .bind(tenant.as_str())
            .bind(user.as_str())
            .bind(key.as_slice())
            .bind(self.clock.now().micros())
            .fetch_optional(&mut *transaction)
            .await?;
            let (id, key) = match made {
                Some(made) => made,
                // Another request was first; what the file says holds.
                None => {
                    sqlx::query_as("SELECT subject_id, key FROM subjects WHERE tenant = $1 AND user_id = $2")
                        .bind(tenant.as_str())
                        .bind(user.as_str())
                        .fetch_one(&mut *transaction)
                        .await?
                }
            };
            subjects.push(Subject { id: SubjectId(id), key: read_key(key)? });
        }
        transaction.commit().await?;
        Ok(subjects)
    }
}

#[cfg(test)]
mod tests {
    use event_log::clock::{Clock, Ids};
    use event_schemas::time::Timestamp;
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
    async fn many_who_come_at_once_wait_for_the_disk_together_and_are_all_there_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.db");
        let clock = Clock::manual(Timestamp::EPOCH);
        let vault = Vault::open(&path, clock.clone(), Ids::Random).await.unwrap();
        // SQLite counts in the file's header how often it was written to.
        let writes = || u32::from_be_bytes(std::fs::read(&path).unwrap()[24..28].try_into().unwrap());
        let before = writes();
        let subjects = join_all((0..600).map(|n| named(&vault, n % 500))).await;
        assert!(writes() - before <= 5, "{} transactions", writes() - before);
        drop(vault);
        let vault = Vault::open(&path, clock, Ids::Random).await.unwrap();
        for (n, subject) in subjects.into_iter().enumerate() {
            assert_eq!(named(&vault, n % 500).await.unwrap(), subject.unwrap());
        }
    }

    #[tokio::test]
    async fn whoever_goes_away_keeps_nobody_else_from_being_named() {
        // In a file, because a connection that was left half-way may be closed, and a vault in memory with it.
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp::EPOCH);
        let vault = Vault::open(&folder.path().join("vault.db"), clock, Ids::Random).await.unwrap();
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
