//! The recorded failures of jobs under other retry policies.
//!
//! Each failure is decided again, with the retries that the other policies would have made before. What is assumed: an attempt
//! ends as it did, however long the job waited before it. So where another policy stops earlier, it is known which
//! completions are lost; where it would have continued, the outcome is not known, and is counted as such. Delays that services
//! asked for, and those of circuit breakers, are kept.

use std::collections::HashMap;
use std::time::Duration;

use event_schemas::envelope::{Envelope, Event};
use event_schemas::failure::{ClassifiedError, FailureCategory};
use event_schemas::ids::{JobId, Position};
use event_schemas::job::{JobEvent, JobFailed, Phase, RetryReason, RetryState};
use event_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Spread;
use crate::job::retry::{Backoff, Policy, RetryCounts, RetryDecision, decide_retry_by};

/// What is assumed about the attempts.
pub const ASSUMPTION: &str = "an attempt ends as it did, however long the job waited before it";

/// How often, and how soon, a job is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WhatIfRetryPolicy")]
pub struct RetryPolicy {
    /// The most retries.
    pub retries: u32,
    /// The delay before the first retry.
    pub base_seconds: u32,
    /// The longest delay.
    pub cap_seconds: u32,
    pub backoff: Backoff,
}

impl From<RetryPolicy> for Policy {
    fn from(policy: RetryPolicy) -> Self {
        let RetryPolicy { retries, base_seconds, cap_seconds, backoff } = policy;
        let [base, cap] = [base_seconds, cap_seconds].map(|seconds| Duration::from_secs(seconds.into()));
        Self { retries, base, cap, backoff }
    }
}

/// The policies that differ from those in force, by category of error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WhatIfRetryPolicies")]
pub struct RetryPolicies {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<RetryPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<RetryPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<RetryPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<RetryPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processing: Option<RetryPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<RetryPolicy>,
}

impl From<Policy> for RetryPolicy {
    fn from(policy: Policy) -> Self {
        let Policy { retries, base, cap, backoff } = policy;
        let [base_seconds, cap_seconds] =
            [base, cap].map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
        Self { retries, base_seconds, cap_seconds, backoff }
    }
}

impl RetryPolicies {
    /// The policies of this program. Errors of the category `resource` may contain another delay.
    pub fn in_force() -> Self {
        let of = |category| Some(Policy::of_category(category).into());
        Self {
            network: of(FailureCategory::Network),
            input: of(FailureCategory::Input),
            resource: of(FailureCategory::Resource),
            external: of(FailureCategory::External),
            processing: of(FailureCategory::Processing),
            unknown: of(FailureCategory::Unknown),
        }
    }

    fn of(&self, error: &ClassifiedError) -> Policy {
        let other = match error.category {
            FailureCategory::Network => self.network,
            FailureCategory::Input => self.input,
            FailureCategory::Resource => self.resource,
            FailureCategory::External => self.external,
            FailureCategory::Processing => self.processing,
            FailureCategory::Unknown => self.unknown,
        };
        let in_force = Policy::of(error);
        match other {
            // A stopped worker is not a failure of the job.
            Some(other) if in_force.backoff != Backoff::Immediate => other.into(),
            _ => in_force,
        }
    }
}

/// What became of the jobs that failed at least once. A job that is retried by hand counts again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WhatIfRetryOutcomes")]
pub struct RetryOutcomes {
    /// The number of automatic retries.
    pub retries: u64,
    /// The number of jobs that completed after a retry.
    pub completed: u64,
    /// The number of jobs that failed for good.
    pub stopped: u64,
    /// The number of jobs that were cancelled.
    pub cancelled: u64,
    /// The number of jobs without an outcome yet.
    pub open: u64,
    /// The number of jobs that would be retried after the last recorded attempt, so that their outcome cannot be told.
    pub cannot_tell: u64,
    /// The delays before the retries, in seconds; null without one.
    pub delay_seconds: Option<Spread>,
}

/// The recorded failures under both policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WhatIfRetryComparison")]
pub struct RetryComparison {
    /// The number of jobs that failed at least once.
    pub jobs: u64,
    pub failures: u64,
    pub recorded: RetryOutcomes,
    pub other: RetryOutcomes,
    /// The number of jobs that completed, and would have failed for good before.
    pub lost_completions: u64,
    /// The number of recorded attempts that would not have been made.
    pub saved_attempts: u64,
}

/// What the other policies did with a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Course {
    /// As recorded so far.
    #[default]
    Same,
    Stopped,
    /// It would be retried beyond the last recorded attempt.
    Unknown,
}

/// A job from its creation, or its last retry by hand, on.
#[derive(Clone, Debug, Default)]
struct Run {
    counts: RetryCounts,
    /// A failure whose retry follows.
    failed: Option<(ClassifiedError, Timestamp)>,
    course: Course,
    has_failed: bool,
    has_stopped: bool,
}

/// The replay: the fold of all events of jobs.
#[derive(Clone, Debug)]
pub struct RetryReplay {
    policies: RetryPolicies,
    /// Jobs that fail after this position count.
    after: Position,
    runs: HashMap<JobId, Run>,
    comparison: RetryComparison,
    delays: [Vec<f64>; 2],
}

impl RetryReplay {
    pub fn new(policies: RetryPolicies, after: Position) -> Self {
        let (runs, comparison) = (HashMap::new(), RetryComparison::default());
        Self { policies, after, runs, comparison, delays: Default::default() }
    }

    /// Applies the next event of any stream of a tenant; ignores other categories.
    pub fn apply(&mut self, envelope: &Envelope) {
        let (Event::Job(event), Some(job)) = (&envelope.event, envelope.stream.job_id()) else { return };
        let at = envelope.metadata.occurred_at;
        match event {
            JobEvent::JobLeaseExpired(expired) => {
                self.runs.entry(job).or_default().counts.lease_ended(expired.end);
            }
            // The owner of the job decides: there is no policy.
            JobEvent::JobFailed(failed) if failed.retry_state.is_none_or(|of| of == RetryState::NoPolicy) => {
            }
            JobEvent::JobFailed(failed) => self.fail(job, failed, at, envelope.position > self.after),
            JobEvent::JobRetryScheduled(retry) => {
                let Some(run) = self.runs.get_mut(&job) else { return };
                if let Some((error, failed_at)) = run.failed.take() {
                    let parked = retry.reason == Some(RetryReason::Parked);
                    let delay = retry.due_at.since(failed_at).as_secs_f64();
                    let until = parked.then_some(retry.due_at);
                    self.decide(job, &error, failed_at, until, Some(delay));
                }
            }
            JobEvent::JobPhaseChanged(changed) if changed.from == Phase::Failed => self.end(job, None),
            JobEvent::JobCompleted(_) => self.end(job, Some(Phase::Completed)),
            JobEvent::JobCancelled(_) => self.end(job, Some(Phase::Cancelled)),
            _ => {}
        }
    }

    fn fail(&mut self, job: JobId, failed: &JobFailed, at: Timestamp, counts: bool) {
        let run = self.runs.entry(job).or_default();
        if counts {
            self.comparison.failures += 1;
            self.comparison.jobs += u64::from(!run.has_failed);
            run.has_failed = true;
        }
        match failed.retry_state {
            Some(RetryState::InProgress) => run.failed = Some((failed.error.clone(), at)),
            _ => {
                run.has_stopped = true;
                self.decide(job, &failed.error, at, None, None);
            }
        }
    }

    /// Decides about a failure as the other policies do. `recorded` is the delay of the recorded retry; none if the job stopped.
    fn decide(
        &mut self,
        job: JobId,
        error: &ClassifiedError,
        at: Timestamp,
        circuit_open_until: Option<Timestamp>,
        recorded: Option<f64>,
    ) {
        let Some(run) = self.runs.get_mut(&job) else { return };
        let [delays, other_delays] = &mut self.delays;
        if let Some(delay) = recorded.filter(|_| run.has_failed) {
            self.comparison.recorded.retries += 1;
            delays.push(delay);
        }
        if run.course != Course::Same {
            self.comparison.saved_attempts += u64::from(recorded.is_some() && run.has_failed);
            return;
        }
        let policy = self.policies.of(error);
        let decision = decide_retry_by(&policy, job, &run.counts, error, at, circuit_open_until);
        run.counts.failed(error);
        match decision {
            RetryDecision::Stop(_) => {
                run.course = Course::Stopped;
                self.comparison.saved_attempts += u64::from(recorded.is_some() && run.has_failed);
            }
            RetryDecision::Retry { due_at, reason } => {
                run.counts.scheduled(Some(reason));
                if run.has_failed {
                    self.comparison.other.retries += 1;
                    other_delays.push(due_at.since(at).as_secs_f64());
                }
                if recorded.is_none() {
                    run.course = Course::Unknown;
                }
            }
        }
    }

    /// Counts the outcome of a job; without a phase, one that failed for good or has no outcome yet.
    fn end(&mut self, job: JobId, phase: Option<Phase>) {
        let Some(run) = self.runs.remove(&job).filter(|run| run.has_failed) else { return };
        let outcome = |of: &mut RetryOutcomes| match phase {
            Some(Phase::Completed) => of.completed += 1,
            Some(_) => of.cancelled += 1,
            None if run.has_stopped => of.stopped += 1,
            None => of.open += 1,
        };
        outcome(&mut self.comparison.recorded);
        match run.course {
            Course::Same => outcome(&mut self.comparison.other),
            Course::Stopped => {
                self.comparison.other.stopped += 1;
                self.comparison.lost_completions += u64::from(phase == Some(Phase::Completed));
            }
            Course::Unknown => self.comparison.other.cannot_tell += 1,
        }
    }

    /// The comparison of all events that were applied.
    pub fn finish(mut self) -> RetryComparison {
        for job in self.runs.keys().copied().collect::<Vec<_>>() {
            self.end(job, None);
        }
        let [delays, other_delays] = self.delays;
        self.comparison.recorded.delay_seconds = Spread::of(delays);
        self.comparison.other.delay_seconds = Spread::of(other_delays);
        self.comparison
    }
}

#[cfg(test)]
mod tests;
