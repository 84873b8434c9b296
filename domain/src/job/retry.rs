//! Automatic retries of failed jobs.
//!
//! Every category of error has its own policy, and its own number of retries, counted since the last manual
//! retry. The delay before a retry is derived from a hash of the job, so that a replay computes the same
//! times. Three reasons use up no retry: a service returned a retry delay, the circuit breaker of a service
//! is open, or a worker was stopped. A job whose workers keep crashing is not retried, because the job itself
//! may crash them.

use std::time::Duration;

use event_schemas::failure::{ClassifiedError, FailureCategory, FailureCode};
use event_schemas::ids::JobId;
use event_schemas::job::{RetryReason, RetryState};
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkerEnd;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::failure;

/// A job is not retried after this many consecutive attempts that ended with a lost worker or out of memory.
pub const CRASHES_MAX: u32 = 2;

/// The growth of the delay from one retry to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Backoff {
    /// Doubles each time.
    Exponential,
    /// Grows by the base each time.
    Linear,
    /// Always the base.
    Fixed,
    /// No delay.
    Immediate,
}

/// The number of retries, and their delays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub retries: u32,
    pub base: Duration,
    pub cap: Duration,
    pub backoff: Backoff,
}

const NETWORK: Policy = exponential(3, 2, 30);
const PROCESSING: Policy = exponential(2, 5, 120);
const EXTERNAL: Policy = exponential(4, 1, 60);
const UNKNOWN: Policy =
    Policy { retries: 1, base: Duration::from_secs(5), cap: Duration::from_secs(5), backoff: Backoff::Fixed };
const INTERRUPTED: Policy =
    Policy { retries: u32::MAX, base: Duration::ZERO, cap: Duration::ZERO, backoff: Backoff::Immediate };

const fn exponential(retries: u32, base_seconds: u64, cap_seconds: u64) -> Policy {
    Policy {
        retries,
        base: Duration::from_secs(base_seconds),
        cap: Duration::from_secs(cap_seconds),
        backoff: Backoff::Exponential,
    }
}

impl Policy {
    /// The policy for an error, whether or not it is retryable.
    pub fn of(error: &ClassifiedError) -> Self {
        if error.code == FailureCode::WorkerStopped {
            return INTERRUPTED;
        }
        let policy = Self::of_category(error.category);
        match error.retry_after_seconds {
            Some(seconds) if error.category == FailureCategory::Resource => {
                Self { base: Duration::from_secs(seconds.into()), ..policy }
            }
            _ => policy,
        }
    }

    /// The policy for errors of a category. Memory and disk take time to become free, and their errors contain the delay;
    /// doubling it would not help.
    pub(crate) fn of_category(category: FailureCategory) -> Self {
        match category {
            FailureCategory::Network => NETWORK,
            FailureCategory::External => EXTERNAL,
            FailureCategory::Processing | FailureCategory::Input => PROCESSING,
            FailureCategory::Resource => Self { backoff: Backoff::Linear, ..PROCESSING },
            FailureCategory::Unknown => UNKNOWN,
        }
    }

    /// The delay before the `n`th retry of a job, from 1. Between half of the policy's delay and all of it,
    /// so that jobs that failed together are not retried together.
    pub fn delay(&self, job: JobId, n: u32) -> Duration {
        let steps = n.saturating_sub(1);
        let grown = match self.backoff {
            Backoff::Exponential => self.base.saturating_mul(2_u32.saturating_pow(steps)),
            Backoff::Linear => self.base.saturating_mul(n.max(1)),
            Backoff::Fixed => self.base,
            Backoff::Immediate => return Duration::ZERO,
        };
        grown.min(self.cap).mul_f64(0.5 + 0.5 * hash(job, n))
    }
}

/// A number from 0 to 1: always the same for the same job and retry, and evenly spread over all jobs.
fn hash(job: JobId, n: u32) -> f64 {
    let digest = Uuid::new_v5(&job.0, format!("retry {n}").as_bytes()).into_bytes();
    // The first six bytes of a version 5 UUID are all hash; the seventh contains the version.
    let drawn = digest.iter().take(6).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
    drawn as f64 / (1_u64 << 48) as f64
}

/// The outcomes of a job's attempts since it was created, or manually retried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryCounts {
    network: u32,
    input: u32,
    resource: u32,
    external: u32,
    processing: u32,
    unknown: u32,
    /// The number of consecutive ends with a lost worker or out of memory.
    crashes: u32,
    /// The category of the last failure, for which a scheduled retry counts.
    failed: Option<FailureCategory>,
}

impl RetryCounts {
    /// The number of retries for errors of this category.
    pub fn retries(&self, category: FailureCategory) -> u32 {
        match category {
            FailureCategory::Network => self.network,
            FailureCategory::Input => self.input,
            FailureCategory::Resource => self.resource,
            FailureCategory::External => self.external,
            FailureCategory::Processing => self.processing,
            FailureCategory::Unknown => self.unknown,
        }
    }

    /// An attempt failed.
    pub(crate) fn failed(&mut self, error: &ClassifiedError) {
        self.crashes = if is_crash(error.code) { self.crashes + 1 } else { 0 };
        self.failed = Some(error.category);
    }

    /// A lease ended without a report.
    pub(crate) fn lease_ended(&mut self, end: Option<WorkerEnd>) {
        self.crashes += u32::from(end.is_some_and(crashes));
    }

    /// The job got further than before: it is not what crashed its last worker.
    pub(crate) fn progressed(&mut self) {
        self.crashes = 0;
    }

    /// A retry was scheduled.
    pub(crate) fn scheduled(&mut self, reason: Option<RetryReason>) {
        if reason != Some(RetryReason::Backoff) {
            return;
        }
        match self.failed {
            Some(FailureCategory::Network) => self.network += 1,
            Some(FailureCategory::Input) => self.input += 1,
            Some(FailureCategory::Resource) => self.resource += 1,
            Some(FailureCategory::External) => self.external += 1,
            Some(FailureCategory::Processing) => self.processing += 1,
            Some(FailureCategory::Unknown) => self.unknown += 1,
            None => {}
        }
    }

    /// Whether a worker that ends like this exceeds the limit of crashes.
    pub fn is_crash_loop(&self, end: WorkerEnd) -> bool {
        crashes(end) && self.crashes + 1 >= CRASHES_MAX
    }
}

/// A stopped worker was not crashed by the job.
fn crashes(end: WorkerEnd) -> bool {
    end != WorkerEnd::Stopped
}

fn is_crash(code: FailureCode) -> bool {
    matches!(code, FailureCode::OutOfMemory | FailureCode::WorkerLost)
}

/// The consequence of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    Retry { due_at: Timestamp, reason: RetryReason },
    Stop(RetryState),
}

/// Decides about a failure at `at`. `circuit_open_until` is the time until which the failed service's circuit
/// breaker is open, if it is.
pub fn decide_retry(
    job: JobId,
    counts: &RetryCounts,
    error: &ClassifiedError,
    at: Timestamp,
    circuit_open_until: Option<Timestamp>,
) -> RetryDecision {
    decide_retry_by(&Policy::of(error), job, counts, error, at, circuit_open_until)
}

/// Decides as [`decide_retry`], under another policy for the error.
pub(crate) fn decide_retry_by(
    policy: &Policy,
    job: JobId,
    counts: &RetryCounts,
    error: &ClassifiedError,
    at: Timestamp,
    circuit_open_until: Option<Timestamp>,
) -> RetryDecision {
    let again = |wait: Duration, reason| RetryDecision::Retry { due_at: at.after(wait), reason };
    match error.category {
        FailureCategory::Unknown if counts.unknown >= policy.retries => {
            return RetryDecision::Stop(RetryState::MaximumAttempts);
        }
        FailureCategory::Unknown => {}
        _ if !error.retryable => return RetryDecision::Stop(RetryState::NonRetryable),
        _ => {}
    }
    if is_crash(error.code) && counts.crashes + 1 >= CRASHES_MAX {
        return RetryDecision::Stop(RetryState::CrashLoop);
    }
    if error.code == FailureCode::RateLimited {
        let told = error.retry_after_seconds.unwrap_or_default();
        return again(Duration::from_secs(told.into()), RetryReason::RateLimited);
    }
    let requested = failure::requested_delay(error);
    if let Some(until) = circuit_open_until.filter(|until| *until > at) {
        let requested = at.after(requested.unwrap_or_default());
        return RetryDecision::Retry { due_at: until.max(requested), reason: RetryReason::Parked };
    }
    if policy.backoff == Backoff::Immediate {
        return again(requested.unwrap_or_default(), RetryReason::Interrupted);
    }
    let n = counts.retries(error.category) + 1;
    if n > policy.retries {
        return RetryDecision::Stop(RetryState::MaximumAttempts);
    }
    again(requested.unwrap_or_else(|| policy.delay(job, n)), RetryReason::Backoff)
}

/// An unknown error is retried once, regardless of earlier errors.
pub fn is_retryable(counts: &RetryCounts, error: &ClassifiedError) -> bool {
    match error.category {
        FailureCategory::Unknown => counts.unknown == 0,
        _ => error.retryable,
    }
}

#[cfg(test)]
mod tests;
