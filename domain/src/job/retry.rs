//! Whether a job that failed is tried again by itself, and when.
//!
//! Every class of error has a policy of its own, and a number of tries of its own, counted since somebody last took the
//! job up by hand. The pause before a try is drawn from a hash of the job, so that a replay comes to the same instants.
//! Three things use no try: a service that says when to come back, a service that is left alone, and a worker that was
//! stopped. A job whose workers keep dying is not tried again, because it may be the job that kills them.

use std::time::Duration;

use event_schemas::failure::{ClassifiedError, FailureCategory, FailureCode};
use event_schemas::ids::JobId;
use event_schemas::job::{RetryReason, RetryState};
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkerEnd;
use uuid::Uuid;

/// After so many attempts in a row that ended with a lost worker or out of memory, a job is not tried again.
pub const CRASHES_MAX: u32 = 2;

/// How pauses grow from one try to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backoff {
    /// Twice as long each time.
    Exponential,
    /// Longer by the base each time.
    Linear,
    /// The base, always.
    Fixed,
    /// None at all.
    Immediate,
}

/// How often, and after which pauses, something is tried again.
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
    /// The policy for an error, whether or not it is of a kind that is tried again.
    pub fn of(error: &ClassifiedError) -> Self {
        if error.code == FailureCode::WorkerStopped {
            return INTERRUPTED;
        }
        match error.category {
            FailureCategory::Network => NETWORK,
            FailureCategory::External => EXTERNAL,
            FailureCategory::Processing | FailureCategory::Input => PROCESSING,
            // Memory and disk take time to become free, and the error says how much; doubling that helps nobody.
            FailureCategory::Resource => Policy {
                base: error
                    .retry_after_seconds
                    .map_or(PROCESSING.base, |seconds| Duration::from_secs(seconds.into())),
                backoff: Backoff::Linear,
                ..PROCESSING
            },
            FailureCategory::Unknown => UNKNOWN,
        }
    }

    /// How long to wait before the `n`th retry, from 1, of a job. Between half of what the policy says and all of it, so
    /// that jobs which failed together do not come back together.
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

/// The same for the same job and try for ever; over all jobs spread evenly from 0 to 1.
fn hash(job: JobId, n: u32) -> f64 {
    let digest = Uuid::new_v5(&job.0, format!("retry {n}").as_bytes()).into_bytes();
    // The first six bytes of a version 5 UUID are all hash; the seventh carries the version.
    let drawn = digest.iter().take(6).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
    drawn as f64 / (1_u64 << 48) as f64
}

/// What a job's attempts came to since it was created, or taken up by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    network: u32,
    input: u32,
    resource: u32,
    external: u32,
    processing: u32,
    unknown: u32,
    /// How many ends in a row were a lost worker or out of memory.
    crashes: u32,
    /// Of the last failure: the class that a scheduled retry counts for.
    failed: Option<FailureCategory>,
}

impl Tally {
    /// How often errors of this class were tried again.
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
    pub(super) fn failed(&mut self, error: &ClassifiedError) {
        self.crashes = if is_crash(error.code) { self.crashes + 1 } else { 0 };
        self.failed = Some(error.category);
    }

    /// A lease ended without a report.
    pub(super) fn left(&mut self, end: Option<WorkerEnd>) {
        self.crashes += u32::from(end.is_some_and(crashes));
    }

    /// A retry was scheduled.
    pub(super) fn scheduled(&mut self, reason: Option<RetryReason>) {
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

    /// Whether a worker that ends like this is one too many.
    pub fn is_crash_loop(&self, end: WorkerEnd) -> bool {
        crashes(end) && self.crashes + 1 >= CRASHES_MAX
    }
}

/// A worker that was stopped did not die of the job.
fn crashes(end: WorkerEnd) -> bool {
    end != WorkerEnd::Stopped
}

fn is_crash(code: FailureCode) -> bool {
    matches!(code, FailureCode::OutOfMemory | FailureCode::WorkerLost)
}

/// What becomes of a job that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Again { due_at: Timestamp, reason: RetryReason },
    Stop(RetryState),
}

/// Judges a failure at `at`. `left_alone_until` is when the service that failed is called again, if it is left alone.
pub fn judge(
    job: JobId,
    tally: &Tally,
    error: &ClassifiedError,
    at: Timestamp,
    left_alone_until: Option<Timestamp>,
) -> Verdict {
    let again = |wait: Duration, reason| Verdict::Again { due_at: at.after(wait), reason };
    if !is_retryable(tally, error) {
        let tried = error.category == FailureCategory::Unknown;
        return Verdict::Stop(if tried { RetryState::MaximumAttempts } else { RetryState::NonRetryable });
    }
    if is_crash(error.code) && tally.crashes + 1 >= CRASHES_MAX {
        return Verdict::Stop(RetryState::CrashLoop);
    }
    if error.code == FailureCode::RateLimited {
        let told = error.retry_after_seconds.unwrap_or_default();
        return again(Duration::from_secs(told.into()), RetryReason::RateLimited);
    }
    if let Some(until) = left_alone_until.filter(|until| *until > at) {
        return Verdict::Again { due_at: until, reason: RetryReason::Parked };
    }
    let policy = Policy::of(error);
    if policy.backoff == Backoff::Immediate {
        return again(Duration::ZERO, RetryReason::Interrupted);
    }
    let n = tally.retries(error.category) + 1;
    if n > policy.retries {
        return Verdict::Stop(RetryState::MaximumAttempts);
    }
    again(policy.delay(job, n), RetryReason::Backoff)
}

/// What is not known is tried again once, whatever went wrong before.
pub fn is_retryable(tally: &Tally, error: &ClassifiedError) -> bool {
    match error.category {
        FailureCategory::Unknown => tally.unknown == 0,
        _ => error.retryable,
    }
}

#[cfg(test)]
mod tests;
