//! The estimated time to completion of a job with several stages, from the durations of the stages in earlier
//! jobs of the kind and the progress of this job.
//!
//! A percentage of the whole is a poor basis, because a percent does not take the same time everywhere. So
//! the estimate is a sum over stages. A stage's prior duration comes from earlier jobs, by size. A job that
//! was slower or faster than that in its earlier stages is expected to stay so, separately for stages that
//! wait for the network and stages that compute. Within the current stage, the weight moves from the prior to
//! the observed progress, the more of the stage is done; and if progress stops, the elapsed time makes the
//! stage longer instead of freezing the estimate.

use event_schemas::job::{JobKind, Phase, PhasePrior};

use super::{Basis, Eta};
use crate::job::pipeline::{self, Stage};

/// The minimum fraction of a stage before its own speed is used.
const FRACTION_MIN: f64 = 0.02;

/// At this fraction of a stage, its own speed and the prior have the same weight.
const BLEND: f64 = 0.25;

/// The weight of the assumption that a job is as fast as earlier ones, in stages.
const SPEED_PRIOR: f64 = 1.0;

/// Stages shorter than this have less weight for a job's speed.
const FULL_WEIGHT_SECONDS: f64 = 30.0;

/// The number of earlier jobs that a prior remembers; beyond that, older jobs fade.
const SAMPLES_MAX: u32 = 50;

/// The progress of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct StageProgress<'a> {
    pub kind: JobKind,
    /// In the unit of the job's kind, such as the length of a video in seconds.
    pub size: f64,
    /// The completed stages, with their durations in seconds.
    pub done: &'a [(Phase, f64)],
    pub present: Phase,
    /// The elapsed time of the current stage, in seconds.
    pub elapsed: f64,
    /// The completed fraction of the current stage, from 0 to 1.
    pub fraction: f64,
    /// The elapsed time of the stage when that fraction was reported, in seconds.
    pub reported_after: f64,
}

/// Stages that wait for the same resource have the same speed.
#[derive(Clone, Copy, PartialEq)]
enum Group {
    Network,
    Compute,
}

fn group(phase: Phase) -> Group {
    match phase {
        Phase::Downloading | Phase::FetchingChat => Group::Network,
        _ => Group::Compute,
    }
}

/// The prior after one more job has spent `seconds` on a phase; the first prior consists of that job alone.
pub fn learn(prior: Option<&PhasePrior>, phase: Phase, size: f64, seconds: f64) -> PhasePrior {
    let observed = (seconds.max(1.0) / size.max(1e-9)).ln();
    let Some(prior) = prior else {
        // One job contains no information about the variance; half to double is a cautious assumption.
        return PhasePrior { phase, log_seconds_per_unit: observed, variance: 0.25, samples: 1 };
    };
    let samples = (prior.samples + 1).min(SAMPLES_MAX);
    let share = 1.0 / f64::from(samples);
    let apart = observed - prior.log_seconds_per_unit;
    PhasePrior {
        phase,
        log_seconds_per_unit: prior.log_seconds_per_unit + share * apart,
        variance: (1.0 - share) * (prior.variance + share * apart * apart),
        samples,
    }
}

/// The estimated time to completion of the job; none without priors and without progress.
///
/// The interval adds up the variances of the stages by their share, and never assumes an error of the
/// estimate below 10 %.
pub fn remaining(priors: &[PhasePrior], progress: &StageProgress<'_>) -> Option<Eta> {
    let stages = pipeline::stages(progress.kind);
    let present = stages.iter().position(|stage| stage.phase == progress.present)?;
    let durations = StageDurations { priors, progress };
    let fraction = progress.fraction.clamp(0.0, 1.0);
    let blend = if fraction > FRACTION_MIN { fraction / (fraction + BLEND) } else { 0.0 };
    let whole = durations.present_stage(fraction, blend)?;
    let mut left = (whole - progress.elapsed).max(0.05 * progress.elapsed * (1.0 - fraction));
    let mut parts = vec![(left, (1.0 - blend).powi(2) * durations.variance(progress.present))];
    for stage in stages.iter().skip(present + 1).filter(|stage| !pipeline::is_end(stage.phase)) {
        let seconds = durations.later_stage(stage, stages.get(present)?, whole)?;
        parts.push((seconds, durations.variance(stage.phase)));
        left += seconds;
    }
    let spread: f64 =
        parts.iter().map(|(seconds, variance)| variance * (seconds / left.max(1e-9)).powi(2)).sum();
    let samples = priors.iter().map(|prior| prior.samples).min().unwrap_or(0);
    let basis = if samples == 0 { Basis::Rate } else { Basis::StageHistory };
    Some(Eta::new(left, (spread + 0.01).sqrt(), basis, samples.max(1)))
}

/// The known speed of stages, from earlier jobs and from this one.
struct StageDurations<'a> {
    priors: &'a [PhasePrior],
    progress: &'a StageProgress<'a>,
}

impl StageDurations<'_> {
    fn of(&self, phase: Phase) -> Option<&PhasePrior> {
        self.priors.iter().find(|prior| prior.phase == phase && prior.samples > 0)
    }

    fn variance(&self, phase: Phase) -> f64 {
        self.of(phase).map_or(0.0, |prior| prior.variance)
    }

    /// The stage's duration in earlier jobs, in seconds.
    fn prior(&self, phase: Phase) -> Option<f64> {
        Some((self.of(phase)?.log_seconds_per_unit.exp() * self.progress.size).max(1.0))
    }

    /// The factor by which the stages of a group take longer in this job than in earlier ones.
    fn slowness(&self, group_asked: Group) -> f64 {
        let done = self.progress.done.iter().filter(|(phase, _)| group(*phase) == group_asked);
        let observed = done.filter_map(|(phase, seconds)| {
            let prior = self.prior(*phase)?;
            Some(((prior / FULL_WEIGHT_SECONDS).min(1.0), (seconds.max(1.0) / prior).ln()))
        });
        let fraction = self.progress.fraction;
        let present = self
            .prior(self.progress.present)
            .filter(|_| group(self.progress.present) == group_asked && fraction > FRACTION_MIN)
            .map(|prior| (fraction, ((self.progress.reported_after / fraction).max(1e-9) / prior).ln()));
        let (weights, sum) =
            observed.chain(present).fold((SPEED_PRIOR, 0.0), |(weights, sum), (weight, apart)| {
                (weights + weight, sum + weight * apart)
            });
        (sum / weights).exp()
    }

    /// The total duration of the current stage.
    fn present_stage(&self, fraction: f64, blend: f64) -> Option<f64> {
        let StageProgress { present, elapsed, reported_after, .. } = *self.progress;
        let expected = self.prior(present).map(|prior| prior * self.slowness(group(present)));
        if fraction <= FRACTION_MIN {
            return expected;
        }
        // The second term lets a stage without progress grow.
        let observed = (reported_after / fraction).max(elapsed / (fraction + 0.05).min(1.0)).max(1e-9);
        Some(
            expected
                .map_or(observed, |expected| (blend * observed.ln() + (1.0 - blend) * expected.ln()).exp()),
        )
    }

    /// The duration of a later stage. Without a prior, it is derived from the stage's share of the whole.
    fn later_stage(&self, stage: &Stage, present: &Stage, present_seconds: f64) -> Option<f64> {
        if let Some(prior) = self.prior(stage.phase) {
            return Some(prior * self.slowness(group(stage.phase)));
        }
        let share = present.to - present.from;
        (share > 0.0).then(|| present_seconds * (stage.to - stage.from) / share)
    }
}

#[cfg(test)]
mod tests;
