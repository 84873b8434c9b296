//! The lease of the server that maintains the read models of a database, among servers that stand by for each other.
//!
//! It is a row that its holder renews. A server that stands by looks at the row once a second, and takes the lease over when
//! the row has not changed for ten looks: so the clocks of the servers do not matter, and neither does a time in which
//! the database could not be reached. The lease decides who opens the schemas for writing; what keeps a former holder from
//! writing is the term of each schema, see [`postgres`](super::postgres).

use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::task::JoinHandle;

use super::SqlError;
use super::postgres::{PostgresUrl, SchemaStore, within};

/// The interval at which the holder renews the lease.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// The interval at which a server that stands by looks at it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The number of looks in a row, after the first, that find the lease unchanged when it has ended.
pub(crate) const LOOKS: u32 = 10;

const CREATE: &str = "CREATE SCHEMA IF NOT EXISTS matchbook_lease; \
     CREATE TABLE IF NOT EXISTS matchbook_lease.lease \
         (id BIGINT PRIMARY KEY, term BIGINT NOT NULL, renewals BIGINT NOT NULL, is_held BOOLEAN NOT NULL); \
     INSERT INTO matchbook_lease.lease VALUES (1, 0, 0, FALSE) ON CONFLICT DO NOTHING";
const READ: &str = "SELECT term, renewals, is_held FROM matchbook_lease.lease WHERE id = 1";
const TAKE: &str = "UPDATE matchbook_lease.lease SET term = term + 1, renewals = 0, is_held = TRUE \
     WHERE id = 1 AND term = $1 AND renewals = $2 AND is_held = $3 RETURNING term";
const DURABLE: &str = "SET LOCAL synchronous_commit = on";
const RENEW: &str =
    "UPDATE matchbook_lease.lease SET renewals = renewals + 1 WHERE id = 1 AND term = $1 AND is_held";
const RELEASE: &str = "UPDATE matchbook_lease.lease SET is_held = FALSE WHERE id = 1 AND term = $1";

/// The connections that have the lock of a schema's writer.
const WRITERS: &str = "SELECT lock.pid FROM pg_locks lock \
     JOIN pg_database base ON base.oid = lock.database AND base.datname = current_database() \
     JOIN pg_namespace schema ON hashtextextended(CAST(schema.nspname AS TEXT), 0) \
         = ((CAST(lock.classid AS BIGINT) << 32) | CAST(lock.objid AS BIGINT)) \
     WHERE lock.locktype = 'advisory' AND lock.objsubid = 1 AND lock.granted";
const TERMINATE: &str = "SELECT pg_terminate_backend($1)";

/// The row, as a look finds it.
type Row = (i64, i64, bool);

/// A server that waits for the lease.
#[derive(Debug)]
pub struct Standby {
    database: PgPool,
    seen: Option<Row>,
    /// The number of looks in a row that found the same as the one before.
    unchanged: u32,
}

/// The lease, renewed in the background until this value is dropped.
#[derive(Debug)]
pub struct WriterLease {
    database: PgPool,
    term: i64,
    renewal: JoinHandle<()>,
}

impl Standby {
    pub fn new(database: &PostgresUrl) -> Self {
        Self { database: SchemaStore::new(database).into_control(), seen: None, unchanged: 0 }
    }

    /// Waits until the lease has ended, and takes it.
    pub async fn take(&mut self) -> WriterLease {
        loop {
            match self.look().await {
                Ok(Some(lease)) => return lease,
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "the writer lease cannot be read; retrying"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Looks at the lease once, and takes it if it has ended.
    ///
    /// # Errors
    /// The database cannot be used. What was seen before no longer counts, because the holder may not have been able to
    /// renew the lease either.
    pub async fn look(&mut self) -> Result<Option<WriterLease>, SqlError> {
        let (before, unchanged) = (self.seen.take(), std::mem::take(&mut self.unchanged));
        let row = self.read().await?;
        self.unchanged = if before == Some(row) { unchanged + 1 } else { 0 };
        self.seen = Some(row);
        let (_, _, is_held) = row;
        if is_held && self.unchanged < LOOKS {
            return Ok(None);
        }
        Ok(within(self.try_take(row)).await?.map(|term| WriterLease::renewed(self.database.clone(), term)))
    }

    async fn read(&self) -> Result<Row, SqlError> {
        match within(sqlx::query_as(READ).fetch_optional(&self.database)).await {
            Ok(Some(row)) => Ok(row),
            Ok(None) | Err(SqlError::Damaged(_)) => {
                within(sqlx::raw_sql(CREATE).execute(&self.database)).await?;
                within(sqlx::query_as(READ).fetch_one(&self.database)).await
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the lease if it is still as it was seen, and returns its term.
    async fn try_take(&self, (term, renewals, was_held): Row) -> sqlx::Result<Option<i64>> {
        let mut tx = self.database.begin().await?;
        let writers: Vec<(i32,)> = sqlx::query_as(WRITERS).fetch_all(&mut *tx).await?;
        if !was_held && !writers.is_empty() {
            // A server without a lease writes, or a former holder still closes its connections.
            return Ok(None);
        }
        let take = sqlx::query_as(TAKE).bind(term).bind(renewals).bind(was_held);
        let Some((term,)) = take.fetch_optional(&mut *tx).await? else { return Ok(None) };
        // A crash of the database must not return the lease to an earlier holder, who would not know.
        sqlx::raw_sql(DURABLE).execute(&mut *tx).await?;
        // The holder may be stopped or unreachable while its connections exist, which would keep their locks.
        for (writer,) in writers {
            sqlx::query(TERMINATE).bind(writer).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(Some(term))
    }
}

impl WriterLease {
    fn renewed(database: PgPool, term: i64) -> Self {
        let renewal = tokio::spawn(renew_until_lost(database.clone(), term));
        Self { database, term, renewal }
    }

    /// Waits until another server has the lease. Cancel safe.
    pub async fn lost(&mut self) {
        // The task ends in no other way, unless it panics: then the lease ends, too.
        let _ = (&mut self.renewal).await;
    }

    /// Ends the lease, so that another server takes it with its next look.
    ///
    /// # Errors
    /// The database cannot be used; then the lease ends because it is not renewed.
    pub async fn release(self) -> Result<(), SqlError> {
        self.renewal.abort();
        within(sqlx::query(RELEASE).bind(self.term).execute(&self.database)).await.map(drop)
    }
}

impl Drop for WriterLease {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

async fn renew_until_lost(database: PgPool, term: i64) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        match tokio::time::timeout(RENEW_EVERY, renew(&database, term)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the writer lease cannot be renewed; retrying");
            }
            Err(_) => tracing::warn!("the writer lease was not renewed in time; retrying"),
        }
    }
}

/// Renews the lease; false if another server has it.
async fn renew(database: &PgPool, term: i64) -> Result<bool, SqlError> {
    let renewed = within(sqlx::query(RENEW).bind(term).execute(database)).await?;
    Ok(renewed.rows_affected() == 1)
}

/// For tests: renews a lease now.
#[cfg(test)]
pub(crate) async fn renew_now(lease: &WriterLease) -> Result<bool, SqlError> {
    renew(&lease.database, lease.term).await
}

/// For tests: stops renewing, as a process does that is stopped.
#[cfg(test)]
pub(crate) fn stop_renewing(lease: &WriterLease) {
    lease.renewal.abort();
}
