//! How long a job of several stages will still take: what each stage cost in earlier jobs of the kind, blended with what
//! this job shows.
//!
//! A percentage of the whole says little, because a percent does not cost the same everywhere. So the estimate is a sum
//! over stages. A stage's prior duration is what it cost in earlier jobs, by size. A job that was slower or faster than
//! that in its earlier stages is expected to stay so, separately for stages that wait for the network and stages that
//! compute. Inside the present stage the prior gives way to what its progress says, the more of it is done; and if
//! progress stops, time that passes makes the stage longer instead of freezing the estimate.

use event_schemas::job::{JobKind, Phase, PhasePrior};

use super::{Basis, Eta};
use crate::job::pipeline::{self, Stage};

/// How much of a stage has to be done before its own speed says anything.
const FRACTION_MIN: f64 = 0.02;

/// At this fraction of a stage, its own speed and the prior count alike.
const BLEND: f64 = 0.25;

/// How much the assumption counts that a job is as fast as earlier ones, in stages.
const SPEED_PRIOR: f64 = 1.0;

/// Stages shorter than this say less about a job's speed.
const TELLING_SECONDS: f64 = 30.0;

/// How many earlier jobs a prior remembers; beyond that, older ones fade.
const SAMPLES_MAX: u32 = 50;

/// How far a job is.
#[derive(Clone, Debug, PartialEq)]
pub struct Course<'a> {
    pub kind: JobKind,
    /// In the kind's own unit, such as the length of a video in seconds.
    pub size: f64,
    /// Stages that are over, and how long they took, in seconds.
    pub done: &'a [(Phase, f64)],
    pub present: Phase,
    /// How long the present stage has lasted, in seconds.
    pub elapsed: f64,
    /// How much of it is done, from 0 to 1, …
    pub fraction: f64,
    /// … and how long it had lasted when that was reported, in seconds.
    pub reported_after: f64,
}

/// What waits for the same thing has the same speed.
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

/// The prior after one more job has spent `seconds` on a phase; the very first one is that job alone.
pub fn learn(prior: Option<&PhasePrior>, phase: Phase, size: f64, seconds: f64) -> PhasePrior {
    let observed = (seconds.max(1.0) / size.max(1e-9)).ln();
    let Some(prior) = prior else {
        // One job says nothing about how much jobs differ; half to double is a cautious guess.
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

/// How long the job will still take; none before anything is known, that is without priors and without progress.
///
/// The band adds up the variances of the stages by their share, and never believes the estimate to better than a tenth.
pub fn remaining(priors: &[PhasePrior], course: &Course<'_>) -> Option<Eta> {
    let stages = pipeline::stages(course.kind);
    let present = stages.iter().position(|stage| stage.phase == course.present)?;
    let book = Book { priors, course };
    let fraction = course.fraction.clamp(0.0, 1.0);
    let blend = if fraction > FRACTION_MIN { fraction / (fraction + BLEND) } else { 0.0 };
    let whole = book.present_stage(fraction, blend)?;
    let mut left = (whole - course.elapsed).max(0.05 * course.elapsed * (1.0 - fraction));
    let mut parts = vec![(left, (1.0 - blend).powi(2) * book.variance(course.present))];
    for stage in stages.iter().skip(present + 1).filter(|stage| !pipeline::is_end(stage.phase)) {
        let seconds = book.later_stage(stage, stages.get(present)?, whole)?;
        parts.push((seconds, book.variance(stage.phase)));
        left += seconds;
    }
    let spread: f64 =
        parts.iter().map(|(seconds, variance)| variance * (seconds / left.max(1e-9)).powi(2)).sum();
    let samples = priors.iter().map(|prior| prior.samples).min().unwrap_or(0);
    let basis = if samples == 0 { Basis::Rate } else { Basis::StageHistory };
    Some(Eta::new(left, (spread + 0.01).sqrt(), basis, samples.max(1)))
}

/// What is known of stages, by earlier jobs and by this one.
struct Book<'a> {
    priors: &'a [PhasePrior],
    course: &'a Course<'a>,
}

impl Book<'_> {
    fn of(&self, phase: Phase) -> Option<&PhasePrior> {
        self.priors.iter().find(|prior| prior.phase == phase && prior.samples > 0)
    }

    fn variance(&self, phase: Phase) -> f64 {
        self.of(phase).map_or(0.0, |prior| prior.variance)
    }

    /// What the stage costs by earlier jobs, in seconds.
    fn prior(&self, phase: Phase) -> Option<f64> {
        Some((self.of(phase)?.log_seconds_per_unit.exp() * self.course.size).max(1.0))
    }

    /// How much longer than in earlier jobs the stages of a group take in this one.
    fn slowness(&self, group_asked: Group) -> f64 {
        let done = self.course.done.iter().filter(|(phase, _)| group(*phase) == group_asked);
        let told = done.filter_map(|(phase, seconds)| {
            let prior = self.prior(*phase)?;
            Some(((prior / TELLING_SECONDS).min(1.0), (seconds.max(1.0) / prior).ln()))
        });
        let fraction = self.course.fraction;
        let present = self
            .prior(self.course.present)
            .filter(|_| group(self.course.present) == group_asked && fraction > FRACTION_MIN)
            .map(|prior| (fraction, ((self.course.reported_after / fraction).max(1e-9) / prior).ln()));
        let (weights, sum) =
            told.chain(present).fold((SPEED_PRIOR, 0.0), |(weights, sum), (weight, apart)| {
                (weights + weight, sum + weight * apart)
            });
        (sum / weights).exp()
    }

    /// How long the present stage takes in all.
    fn present_stage(&self, fraction: f64, blend: f64) -> Option<f64> {
        let Course { present, elapsed, reported_after, .. } = *self.course;
        let expected = self.prior(present).map(|prior| prior * self.slowness(group(present)));
        if fraction <= FRACTION_MIN {
            return expected;
        }
        // The second term lets a stage that has gone silent grow.
        let observed = (reported_after / fraction).max(elapsed / (fraction + 0.05).min(1.0)).max(1e-9);
        Some(
            expected
                .map_or(observed, |expected| (blend * observed.ln() + (1.0 - blend) * expected.ln()).exp()),
        )
    }

    /// How long a later stage takes. Without a prior, its share of the whole has to serve.
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
