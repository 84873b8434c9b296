//! `retries`: the retries and outcomes of a tenant's failures, one row for each class of error.

use std::collections::BTreeSet;
use std::sync::Arc;

use event_schemas::envelope::{Envelope, Event};
use event_schemas::failure::{FailureCategory, FailureCode};
use event_schemas::ids::{JobId, Position, Tenant};
use event_schemas::job::{JobEvent, JobFailed, RetryReason, RetryState};
use event_schemas::stream::Category;
use event_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::generation::{QueryError, Slot};
use crate::projection::Name;
use crate::row::{to_json, variant_name};
use crate::rows::{RowModel, Rows, Table, json};
use crate::sql::{Batch, Db, Ddl, SqlError, Statement, Value, ddl};

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

/// The number of scheduled retries by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RetryCounts {
    /// After the backoff of the retry policy; only these count as attempts.
    pub backoff: u64,
    /// After the delay that a service requested.
    pub rate_limited: u64,
    /// Because the circuit breaker of a service is open.
    pub parked: u64,
    /// Because a worker stopped.
    pub interrupted: u64,
    /// Because a caller requested an immediate retry.
    pub asked: u64,
}

/// The outcomes of failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RetryOutcomes")]
pub struct Outcomes {
    /// The job was retried and completed.
    pub recovered: u64,
    /// The job was cancelled before it completed or failed.
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

/// The rows by tenant and error.
#[derive(Debug)]
pub(crate) struct Classes;

impl Table for Classes {
    type Key = (Tenant, FailureCode);
    type Value = RetryClass;
    const ONE: &'static str = ONE;

    fn key((tenant, code): &Self::Key) -> Vec<Value> {
        vec![tenant.as_str().into(), variant_name(code).into()]
    }

    fn write((tenant, code): &Self::Key, class: Option<&RetryClass>) -> Option<Statement> {
        let class = class?;
        let statement = Statement::new(UPSERT)
            .bind(tenant.as_str())
            .bind(variant_name(code))
            .bind(to_json(class))
            .bind(class.position.to_i64());
        Some(statement)
    }
}

/// The last error of each job that has failed and not ended since.
#[derive(Debug)]
pub(crate) struct FailedJobs;

impl Table for FailedJobs {
    type Key = JobId;
    type Value = FailureCode;
    const ONE: &'static str = JOB;

    fn key(job: &JobId) -> Vec<Value> {
        vec![job.0.into()]
    }

    fn write(job: &JobId, code: Option<&FailureCode>) -> Option<Statement> {
        Some(match code {
            Some(code) => Statement::new(UPSERT_JOB).bind(job.0).bind(to_json(code)),
            None => Statement::new(DROP_JOB).bind(job.0),
        })
    }
}

#[derive(Debug, Default)]
pub(crate) struct RetryRows {
    classes: Rows<Classes>,
    jobs: Rows<FailedJobs>,
}

impl RetryRows {
    /// Loads the last errors of the jobs, and the classes of these errors and of new ones.
    async fn load(&mut self, db: &Db, events: &[(JobId, &Envelope, &JobEvent)]) -> Result<(), SqlError> {
        let needs_code = |event: &JobEvent| {
            matches!(
                event,
                JobEvent::JobRetryScheduled(_) | JobEvent::JobCompleted(_) | JobEvent::JobCancelled(_)
            )
        };
        let jobs: Vec<JobId> =
            events.iter().filter(|(_, _, event)| needs_code(event)).map(|(job, ..)| *job).collect();
        self.jobs.load(db, jobs).await?;
        let class = |(job, envelope, event): &(JobId, &Envelope, &JobEvent)| {
            let code = match event {
                JobEvent::JobFailed(failed) => failed.error.code,
                _ => *self.jobs.get(job)?,
            };
            Some((envelope.metadata.tenant.clone(), code))
        };
        let classes: BTreeSet<_> = events.iter().filter_map(class).collect();
        self.classes.load(db, classes).await
    }

    /// The class of the job's last error.
    fn class_of_job(&mut self, tenant: &Tenant, job: JobId) -> Option<&mut RetryClass> {
        let code = *self.jobs.get(&job)?;
        self.classes.change(&(tenant.clone(), code))
    }

    fn fail(&mut self, envelope: &Envelope, job: JobId, failed: &JobFailed) {
        let at = envelope.metadata.occurred_at;
        let key = (envelope.metadata.tenant.clone(), failed.error.code);
        let mut class = self.classes.get(&key).cloned().unwrap_or(RetryClass {
            code: failed.error.code,
            category: failed.error.category,
            failed_attempts: 0,
            retries: RetryCounts::default(),
            delay_micros: 0,
            longest_delay_micros: 0,
            outcomes: Outcomes::default(),
            last_failed_at: at,
            position: envelope.position,
        });
        class.failed_attempts += 1;
        class.last_failed_at = class.last_failed_at.max(at);
        class.count_outcome(failed.retry_state.unwrap_or(RetryState::NoPolicy));
        class.position = envelope.position;
        self.classes.set(key, Some(class));
        self.jobs.set(job, Some(failed.error.code));
    }

    fn apply(&mut self, job: JobId, envelope: &Envelope, event: &JobEvent) {
        let tenant = &envelope.metadata.tenant;
        match event {
            JobEvent::JobFailed(failed) => self.fail(envelope, job, failed),
            JobEvent::JobRetryScheduled(retry) => {
                if let Some(class) = self.class_of_job(tenant, job) {
                    let delay = retry.due_at.since(envelope.metadata.occurred_at).as_micros();
                    class.count_retry(retry.reason, u64::try_from(delay).unwrap_or(u64::MAX));
                    class.position = envelope.position;
                }
            }
            JobEvent::JobCompleted(_) | JobEvent::JobCancelled(_) => {
                if let Some(class) = self.class_of_job(tenant, job) {
                    match event {
                        JobEvent::JobCompleted(_) => class.outcomes.recovered += 1,
                        _ => class.outcomes.cancelled += 1,
                    }
                    class.position = envelope.position;
                    self.jobs.set(job, None);
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
    }
}

impl RowModel for RetryRows {
    const NAME: Name = Name::Retries;
    const REVISION: u32 = 3;
    const DDL: Ddl = ddl!("retries");
    const CATEGORIES: &'static [Category] = &[Category::Job];

    async fn fold(&mut self, db: &Db, events: &[&Envelope]) -> Result<(), SqlError> {
        let events: Vec<(JobId, &Envelope, &JobEvent)> = events
            .iter()
            .filter_map(|envelope| match &envelope.event {
                Event::Job(event) => Some((envelope.stream.job_id()?, *envelope, event)),
                _ => None,
            })
            .collect();
        self.load(db, &events).await?;
        for (job, envelope, event) in events {
            self.apply(job, envelope, event);
        }
        Ok(())
    }

    fn store(&self, batch: &mut Batch) {
        self.classes.store(batch);
        self.jobs.store(batch);
    }

    fn has_changes(&self) -> bool {
        self.classes.has_changes() || self.jobs.has_changes()
    }

    fn on_stored(&mut self) {
        self.classes.on_stored();
        self.jobs.on_stored();
    }

    fn on_published(&mut self) {
        self.classes.on_published();
        self.jobs.on_published();
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
        let rows: Vec<(String,)> = generation
            .db
            .all(statement)
            .await
            .map_err(|error| generation.query_error(Name::Retries, error))?;
        let classes = rows.into_iter().map(|row| json(Name::Retries, row)).collect();
        Ok((generation.parsed(classes)?, position))
    }
}
