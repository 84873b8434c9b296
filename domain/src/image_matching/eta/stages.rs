//! The estimated time to completion of a job with several stages, from the durations of the stages in earlier
//! jobs of the kind and the progress of this job.
//!
//! A percentage of the whole is a poor basis, because a percent does not take the same time everywhere. So
//! the estimate is a sum over stages. A stage's prior duration comes from earlier jobs, by size. A job that
//! was slower or faster than that in its earlier stages is expected to stay so, separately for stages that
//! wait for the network and stages that compute, unless the durations vary as much as those of jobs of unknown
//! size: then this job's stages tell more than the earlier jobs, and about all its stages. Within the current
//! stage, the weight moves from the prior to the observed progress, the more of the stage is done; and if
//! progress stops, the elapsed time makes the stage longer instead of freezing the estimate.
//!
//! A stage without a prior is expected to take as long per percent of overall progress as this job did until
//! now.

use event_schemas::job::{JobKind, Phase, PhasePrior};

use super::{Basis, Eta};
use crate::job::pipeline::{self, Stage};

/// The minimum fraction of a stage before its own speed is used.
const FRACTION_MIN: f64 = 0.02;

/// At this fraction of a stage, its own speed and a trusted prior have the same weight.
const BLEND: f64 = 0.25;

/// The same for an expectation from the job's earlier stages alone.
const BLEND_WITHOUT_PRIOR: f64 = 0.05;

/// Priors are trusted fully up to this mean variance of the logarithms of durations.
const TRUSTED_VARIANCE: f64 = 0.14;

/// The variance of the logarithm of the duration of a stage without a prior.
const VARIANCE_WITHOUT_PRIOR: f64 = 0.5;

/// The greatest variance of one with a prior: what this job shows reduces a greater one.
const VARIANCE_MAX: f64 = 0.3;

/// The variance of an extrapolation from the first progress of a stage; it falls with the rest of the stage.
const EXTRAPOLATION_VARIANCE: f64 = 0.1;

/// The correlation between the errors of two stages of a job.
const CORRELATION: f64 = 0.3;

/// The variance of an estimate for what neither earlier jobs nor this one tell.
const FUTURE_VARIANCE: f64 = 0.03;

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
/// The interval adds up the errors of the stages by their share, which are correlated in part.
pub fn remaining(priors: &[PhasePrior], progress: &StageProgress<'_>) -> Option<Eta> {
    let stages = pipeline::stages(progress.kind);
    let present = stages.iter().position(|stage| stage.phase == progress.present)?;
    let durations = StageDurations::new(priors, progress);
    let fraction = progress.fraction.clamp(0.0, 1.0);
    let blend = durations.blend(fraction);
    let whole = durations.present_stage(fraction, blend)?;
    let mut left = (whole - progress.elapsed).max(0.05 * progress.elapsed * (1.0 - fraction));
    let variance = (1.0 - blend).powi(2) * durations.variance(progress.present)
        + EXTRAPOLATION_VARIANCE * blend * (1.0 - fraction);
    let mut parts = vec![(left, variance)];
    for stage in stages.iter().skip(present + 1).filter(|stage| !pipeline::is_end(stage.phase)) {
        let seconds = durations.later_stage(stage, whole)?;
        parts.push((seconds, durations.variance(stage.phase)));
        left += seconds;
    }
    let deviations = parts.iter().map(|(seconds, variance)| variance.sqrt() * seconds / left.max(1e-9));
    let of_one_error = deviations.clone().sum::<f64>().powi(2);
    let of_many_errors: f64 = deviations.map(|deviation| deviation.powi(2)).sum();
    let spread = CORRELATION * of_one_error + (1.0 - CORRELATION) * of_many_errors;
    let samples = priors.iter().map(|prior| prior.samples).min().unwrap_or(0);
    let basis = if samples == 0 { Basis::Rate } else { Basis::StageHistory };
    Some(Eta::new(left, (spread + FUTURE_VARIANCE).sqrt(), basis, samples.max(1)))
}

/// The known speed of stages, from earlier jobs and from this one.
struct StageDurations<'a> {
    priors: &'a [PhasePrior],
    progress: &'a StageProgress<'a>,
    /// From 0 to 1: how well the priors foretell the duration of a job.
    trust: f64,
}

impl<'a> StageDurations<'a> {
    fn new(priors: &'a [PhasePrior], progress: &'a StageProgress<'a>) -> Self {
        let variance = priors.iter().map(|prior| prior.variance).sum::<f64>() / priors.len().max(1) as f64;
        Self { priors, progress, trust: (TRUSTED_VARIANCE / variance.max(1e-9)).min(1.0) }
    }

    fn of(&self, phase: Phase) -> Option<&PhasePrior> {
        self.priors.iter().find(|prior| prior.phase == phase && prior.samples > 0)
    }

    fn variance(&self, phase: Phase) -> f64 {
        self.of(phase).map_or(VARIANCE_WITHOUT_PRIOR, |prior| prior.variance.min(VARIANCE_MAX))
    }

    /// The stage's duration in earlier jobs, in seconds.
    fn prior(&self, phase: Phase) -> Option<f64> {
        Some((self.of(phase)?.log_seconds_per_unit.exp() * self.progress.size).max(1.0))
    }

    /// The weight of the present stage's own speed.
    fn blend(&self, fraction: f64) -> f64 {
        if fraction <= FRACTION_MIN {
            return 0.0;
        }
        let has_prior = self.of(self.progress.present).is_some();
        fraction / (fraction + if has_prior { BLEND * self.trust } else { BLEND_WITHOUT_PRIOR })
    }

    /// The factor by which the stages of a group take longer in this job than in earlier ones.
    fn slowness(&self, group_asked: Group) -> f64 {
        let relevance =
            |phase: Phase| if group(phase) == group_asked { 1.0 } else { (1.0 - self.trust) / 2.0 };
        let observed = self.progress.done.iter().filter_map(|(phase, seconds)| {
            let prior = self.prior(*phase)?;
            let weight = relevance(*phase) * (prior / FULL_WEIGHT_SECONDS).min(1.0);
            Some((weight, (seconds.max(1.0) / prior).ln()))
        });
        let StageProgress { present, fraction, reported_after, .. } = *self.progress;
        let present = self.prior(present).filter(|_| fraction > FRACTION_MIN).map(|prior| {
            (relevance(present) * fraction, ((reported_after / fraction).max(1e-9) / prior).ln())
        });
        let (weights, sum) =
            observed.chain(present).fold((self.trust, 0.0), |(weights, sum), (weight, apart)| {
                (weights + weight, sum + weight * apart)
            });
        (sum / weights).exp()
    }

    /// The total duration of the current stage.
    fn present_stage(&self, fraction: f64, blend: f64) -> Option<f64> {
        let StageProgress { present, elapsed, reported_after, .. } = *self.progress;
        let expected = match self.prior(present) {
            Some(prior) => Some(prior * self.slowness(group(present))),
            None => self.by_share(self.progress.done.iter().copied(), self.share(present)),
        };
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

    /// The duration of a later stage.
    fn later_stage(&self, stage: &Stage, present_seconds: f64) -> Option<f64> {
        if let Some(prior) = self.prior(stage.phase) {
            return Some(prior * self.slowness(group(stage.phase)));
        }
        let known = self.progress.done.iter().copied().chain([(self.progress.present, present_seconds)]);
        self.by_share(known, stage.to - stage.from)
    }

    /// The duration of a share of overall progress, from stages of known duration.
    fn by_share(&self, known: impl Iterator<Item = (Phase, f64)>, share: f64) -> Option<f64> {
        let (seconds, covered) = known.fold((0.0, 0.0), |(seconds, covered), (phase, more)| {
            (seconds + more, covered + self.share(phase))
        });
        (covered > 0.0 && seconds > 0.0).then(|| share * seconds / covered)
    }

    /// The stage's share of overall progress, in percent.
    fn share(&self, phase: Phase) -> f64 {
        let stage = pipeline::stages(self.progress.kind).iter().find(|stage| stage.phase == phase);
        stage.map_or(0.0, |stage| stage.to - stage.from)
    }
}

#[cfg(test)]
mod tests;
