//! `retries`: the retries and outcomes of a tenant's failures, one row for each class of error.

use std::collections::BTreeMap;
use std::sync::Arc;

use event_log::Log;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::failure::{FailureCategory, FailureCode};
use event_schemas::ids::{JobId, Position, Tenant};
use event_schemas::job::{JobEvent, RetryReason, RetryState};
use event_schemas::stream::Category;
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::generation::{QueryError, Slot};
use crate::projection::{Name, Projection, StorePolicy};
use crate::row::{parse_json, store_error, to_json, variant_name};
use crate::sql::{Db, Ddl, SqlError, Statement, Tx, ddl, row};

pub(crate) const UPSERT: &str = "INSERT INTO retries (tenant, code, class, position) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (tenant, code) DO UPDATE SET class = excluded.class, position = excluded.position";
pub(crate) const ONE: &str = "SELECT class FROM retries WHERE tenant = $1 AND code = $2";
pub(crate) const LIST: &str = "SELECT class FROM retries WHERE tenant = $1 ORDER BY code";
pub(crate) const UPSERT_JOB: &str = "INSERT INTO retried_jobs (job_id, code) VALUES ($1, $2) \
     ON CONFLICT (job_id) DO UPDATE SET code = excluded.code";
pub(crate) const DROP_JOB: &str = "DELETE FROM retried_jobs WHERE job_id = $1";
pub(crate) const JOB: &str = "SELECT code FROM retried_jobs WHERE job_id = $1";

#[cfg(test)]
pub(crate) fn sql_texts() -> Vec<String> {
    [UPSERT, ONE, LIST, UPSERT_JOB, DROP_JOB, JOB].map(str::to_owned).into()
}

/// The number of scheduled retries, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryCounts {
    pub backoff: u64,
    pub rate_limited: u64,
    pub parked: u64,
    pub interrupted: u64,
    /// A caller requested an immediate retry.
    pub asked: u64,
}

/// The outcomes of failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// The job was retried and completed.
    pub recovered: u64,
    /// The job was cancelled before it ended.
    pub cancelled: u64,
    pub non_retryable: u64,
    pub maximum_attempts: u64,
    pub crash_loop: u64,
    pub no_policy: u64,
}

/// A class of errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryClass {
    pub code: FailureCode,
    pub category: FailureCategory,
    /// The number of attempts that failed with it.
    pub failed_attempts: u64,
    pub retries: RetryCounts,
    /// The total delay before all retries, in microseconds.
    pub delay_micros: u64,
    pub longest_delay_micros: u64,
    pub outcomes: Outcomes,
    pub last_failed_at: Timestamp,
    /// The position of the last event that changed it.
    pub position: Position,
}

impl RetryClass {
    /// The total number of scheduled retries.
    pub fn scheduled(&self) -> u64 {
        let RetryCounts { backoff, rate_limited, parked, interrupted, asked } = self.retries;
        backoff + rate_limited + parked + interrupted + asked
    }

    fn count_outcome(&mut self, state: RetryState) {
        let outcomes = &mut self.outcomes;
        match state {
            RetryState::InProgress => {}
            RetryState::NonRetryable => outcomes.non_retryable += 1,
            RetryState::MaximumAttempts => outcomes.maximum_attempts += 1,
            RetryState::CrashLoop => outcomes.crash_loop += 1,
            RetryState::NoPolicy => outcomes.no_policy += 1,
        }
    }

    fn count_retry(&mut self, reason: Option<RetryReason>, delay_micros: u64) {
        let count = match reason {
            Some(RetryReason::RateLimited) => &mut self.retries.rate_limited,
            Some(RetryReason::Parked) => &mut self.retries.parked,
            Some(RetryReason::Interrupted) => &mut self.retries.interrupted,
            Some(RetryReason::Asked) => &mut self.retries.asked,
            Some(RetryReason::Backoff) | None => &mut self.retries.backoff,
        };
        *count += 1;
        self.delay_micros += delay_micros;
        self.longest_delay_micros = self.longest_delay_micros.max(delay_micros);
    }
}

/// The changes that are not stored.
#[derive(Debug, Default)]
pub(crate) struct RetryRows {
    classes: BTreeMap<(Tenant, FailureCode), RetryClass>,
    /// None for a job that has ended.
    jobs: BTreeMap<JobId, Option<FailureCode>>,
}

row! {
    struct Stored {
        class: String,
    }
}

row! {
    struct StoredJob {
        code: String,
    }
}

fn damaged(error: &serde_json::Error) -> SqlError {
    SqlError::Damaged(error.to_string())
}

impl RetryRows {
    async fn class(
        &mut self,
        db: &Db,
        tenant: &Tenant,
        code: FailureCode,
    ) -> Result<Option<&mut RetryClass>, SqlError> {
        let key = (tenant.clone(), code);
        if !self.classes.contains_key(&key) {
            let statement = Statement::new(ONE).bind(tenant.as_str()).bind(variant_name(&code));
            let row: Option<Stored> = db.optional(statement).await?;
            if let Some(row) = row {
                let class = serde_json::from_str(&row.class).map_err(|error| damaged(&error))?;
                self.classes.insert(key.clone(), class);
            }
        }
        Ok(self.classes.get_mut(&key))
    }

    /// The job's last error, if it has failed.
    async fn code(&self, db: &Db, job: JobId) -> Result<Option<FailureCode>, SqlError> {
        if let Some(code) = self.jobs.get(&job) {
            return Ok(*code);
        }
        let row: Option<StoredJob> = db.optional(Statement::new(JOB).bind(job.0)).await?;
        let parse = |row: StoredJob| serde_json::from_value(row.code.into()).map_err(|error| damaged(&error));
        row.map(parse).transpose()
    }

    /// The class of the job's last error.
    async fn class_of_job(
        &mut self,
        db: &Db,
        tenant: &Tenant,
        job: JobId,
    ) -> Result<Option<&mut RetryClass>, SqlError> {
        match self.code(db, job).await? {
            Some(code) => self.class(db, tenant, code).await,
            None => Ok(None),
        }
    }

    async fn apply(
        &mut self,
        db: &Db,
        envelope: &Envelope,
        job: JobId,
        event: &JobEvent,
    ) -> Result<(), SqlError> {
        let tenant = &envelope.metadata.tenant;
        let at = envelope.metadata.occurred_at;
        match event {
            JobEvent::JobFailed(failed) => {
                let (code, category) = (failed.error.code, failed.error.category);
                if self.class(db, tenant, code).await?.is_none() {
                    let class = RetryClass {
                        code,
                        category,
                        failed_attempts: 0,
                        retries: RetryCounts::default(),
                        delay_micros: 0,
                        longest_delay_micros: 0,
                        outcomes: Outcomes::default(),
                        last_failed_at: at,
                        position: envelope.position,
                    };
                    self.classes.insert((tenant.clone(), code), class);
                }
                if let Some(class) = self.class(db, tenant, code).await? {
                    class.failed_attempts += 1;
                    class.last_failed_at = class.last_failed_at.max(at);
                    class.count_outcome(failed.retry_state.unwrap_or(RetryState::NoPolicy));
                    class.position = envelope.position;
                }
                self.jobs.insert(job, Some(code));
            }
            JobEvent::JobRetryScheduled(retry) => {
                if let Some(class) = self.class_of_job(db, tenant, job).await? {
                    let delay = retry.due_at.since(at).as_micros();
                    class.count_retry(retry.reason, u64::try_from(delay).unwrap_or(u64::MAX));
                    class.position = envelope.position;
                }
            }
            JobEvent::JobCompleted(_) | JobEvent::JobCancelled(_) => {
                if let Some(class) = self.class_of_job(db, tenant, job).await? {
                    match event {
                        JobEvent::JobCompleted(_) => class.outcomes.recovered += 1,
                        _ => class.outcomes.cancelled += 1,
                    }
                    class.position = envelope.position;
                    self.jobs.insert(job, None);
                }
            }
            JobEvent::JobCreated(_)
            | JobEvent::JobPhaseChanged(_)
            | JobEvent::JobProgressReported(_)
            | JobEvent::JobClaimed(_)
            | JobEvent::JobLeaseExpired(_)
            | JobEvent::JobQuarantined(_)
            | JobEvent::JobResultExpired(_) => {}
        }
        Ok(())
    }
}

impl Projection for RetryRows {
    const NAME: Name = Name::Retries;
    const REVISION: u32 = 2;
    const DDL: Ddl = ddl!("retries");
    const CATEGORIES: &'static [Category] = &[Category::Job];
    const STORE: StorePolicy = StorePolicy::EachBatch;

    type View = ();
    type Shared = ();
    type Request = std::convert::Infallible;

    async fn open(_: &Db, (): &(), _: Position) -> Result<Self, SqlError> {
        Ok(Self::default())
    }

    fn view(&self) {}

    async fn fold(&mut self, db: &Db, events: &[&Envelope], _: Position) -> Result<(), SqlError> {
        for envelope in events {
            if let (Event::Job(event), Some(job)) = (&envelope.event, envelope.stream.job_id()) {
                self.apply(db, envelope, job, event).await?;
            }
        }
        Ok(())
    }

    async fn store(&mut self, tx: &mut Tx) -> Result<(), SqlError> {
        for ((tenant, code), class) in &self.classes {
            let statement = Statement::new(UPSERT)
                .bind(tenant.as_str())
                .bind(variant_name(code))
                .bind(to_json(class))
                .bind(class.position.to_i64());
            tx.execute(statement).await?;
        }
        for (job, code) in &self.jobs {
            let statement = match code {
                Some(code) => Statement::new(UPSERT_JOB).bind(job.0).bind(variant_name(code)),
                None => Statement::new(DROP_JOB).bind(job.0),
            };
            tx.execute(statement).await?;
        }
        Ok(())
    }

    fn on_stored(&mut self) {
        self.classes.clear();
        self.jobs.clear();
    }

    async fn handle_request(
        &mut self,
        request: Self::Request,
        _: &Log,
        _: &Db,
        _: Position,
    ) -> Result<(), SqlError> {
        match request {}
    }
}

/// The queries of `retries`.
#[derive(Clone, Debug)]
pub struct Retries {
    pub(crate) slot: Arc<Slot<()>>,
}

impl Retries {
    /// The error classes of the tenant's failed jobs, by code, and the position up to which they are complete.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn classes(&self, tenant: &Tenant) -> Result<(Vec<RetryClass>, Position), QueryError> {
        let generation = self.slot.live()?;
        let position = generation.position();
        let statement = Statement::new(LIST).bind(tenant.as_str());
        let rows: Vec<Stored> =
            generation.db.all(statement).await.map_err(|error| store_error(Name::Retries, error))?;
        let classes: Result<Vec<RetryClass>, QueryError> =
            rows.iter().map(|row| parse_json(Name::Retries, &row.class)).collect();
        Ok((classes?, position))
    }
}
