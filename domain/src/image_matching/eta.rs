//! The estimated time to completion of matching: a stage of known size.
//!
//! [`RateEstimator`] folds the progress reports in constant memory. It divides the time since a worker began with
//! the stage into *work* and *pauses*: a silence between two reports counts as work up to a few times the usual
//! one, and the rest is a pause. A burst, a stall or the death of all workers then does not change the rate of
//! work, and pauses prolong the estimate by their share of the time.
//!
//! - The rate is a mean over all work in which the work after `w` seconds of work has the weight `w^k`:
//!   polynomial-decay averaging (Shamir and Zhang, *Stochastic Gradient Descent for Non-smooth Optimization*,
//!   ICML 2013, section 4). The weights have no time constant, so that stages of seconds and of hours are
//!   treated alike. `k` is large while reports are regular, so that the rate follows changes, and small while
//!   they are not.
//! - The irregularity of reports is the mean square of the error of one-step forecasts (Trigg and Leach,
//!   *Exponential Smoothing with an Adaptive Response Rate*, 1967), as a time: over work of that duration, the
//!   relative error of the rate is 1.
//! - Pauses recur only as far as they have been seen to: `n` pauses have the credibility `n / (n + 2)`
//!   (Bühlmann, *Experience Rating and Credibility*, 1967).
//!
//! Between reports the estimate stands still, until the silence is a pause; then it grows.

pub mod stages;

use event_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Reports are together if this share of the silence before them is between them.
const TOGETHER: f64 = 1.0 / 16.0;

/// A silence is a pause if it is this many times as long as the mean of those before it.
const PAUSE: f64 = 2.5;

/// The number of pauses that have a credibility of a half.
const PAUSES_HALF_CREDIBLE: f64 = 2.0;

/// The bounds of the exponent of the weights: 0 is the mean since the start.
const EXPONENT_MIN: f64 = 0.5;
const EXPONENT_MAX: f64 = 4.0;

/// The number of steps for each 1 of the exponent: a few reports may be regular by chance.
const STEPS_PER_EXPONENT: f64 = 4.0;

/// The exponent grows until the variance of the rate's relative error has about half this value.
const RATE_VARIANCE: f64 = 0.05;

/// The assumed variance of the units of one report, relative to their square, before others are known.
const REPORT_VARIANCE: f64 = 0.3;

/// The variance of an estimate for what no report tells, such as a change of the rate from now on.
const FUTURE_VARIANCE: f64 = 0.03;

/// The weights of the squares of the rate's drift and of the share of pauses, in the variance of an estimate.
const DRIFT_WEIGHT: f64 = 2.0;
const PAUSE_WEIGHT: f64 = 0.5;

/// The basis of an estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "EtaBasis")]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The rate of this stage so far.
    Rate,
    /// The durations of stages in earlier jobs, and the speed of this job compared with them.
    StageHistory,
}

/// The estimated remaining time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Eta {
    /// The most likely time, in whole seconds.
    pub seconds: u64,
    /// The lower bound of the 80 % interval, in whole seconds.
    pub low: u64,
    /// The upper bound of the 80 % interval, in whole seconds.
    pub high: u64,
    pub basis: Basis,
    /// The number of reports, or earlier jobs, that it is based on.
    pub samples: u32,
}

impl Eta {
    /// The estimate for the same work, started this many seconds later.
    #[must_use]
    pub fn after(self, seconds: f64) -> Self {
        let pause = seconds.round().max(0.0) as u64;
        Self { seconds: self.seconds + pause, low: self.low + pause, high: self.high + pause, ..self }
    }

    /// The interval is `seconds · e^(±1.28 σ)`: 80 % of a lognormal distribution around the estimate.
    fn new(seconds: f64, sigma: f64, basis: Basis, samples: u32) -> Self {
        let spread = (1.28 * sigma).exp();
        Self {
            seconds: seconds.round() as u64,
            low: (seconds / spread).floor() as u64,
            high: (seconds * spread).ceil() as u64,
            basis,
            samples,
        }
    }
}

/// Estimates the rate of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateEstimator {
    /// The start of the stage; once a worker begins, that instant. The wait for the first worker says nothing of the rate.
    start: Timestamp,
    /// No worker has begun.
    is_waiting: bool,
    /// The time at which the log accepted the latest report.
    heard: Timestamp,
    reports: u32,
    /// The work before the latest step.
    before: Work,
    step: Step,
}

/// Reports that came together, and the silence before them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Step {
    /// The end of the step before.
    from: Timestamp,
    /// The times of the first and of the last of the reports.
    first: Timestamp,
    to: Timestamp,
    units: u64,
}

/// The work of a number of steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Work {
    steps: u32,
    pauses: u32,
    /// The time without pauses.
    seconds: f64,
    units: f64,
    /// Units per second, with the weights described above.
    rate: f64,
    /// The sum of the squared errors of each step's forecast, in seconds of work.
    squared_errors: f64,
}

/// A progress report, as input of the estimator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateSample {
    pub(crate) occurred_at: Timestamp,
    pub(crate) recorded_at: Timestamp,
    /// The number of newly completed units.
    pub(crate) units: u64,
}

impl RateEstimator {
    /// An estimator for a stage that starts now.
    pub(crate) fn new(start: Timestamp) -> Self {
        let step = Step { from: start, first: start, to: start, units: 0 };
        Self { start, is_waiting: true, heard: start, reports: 0, before: Work::default(), step }
    }

    /// A worker begins with a part of the stage.
    pub(crate) fn begin(&mut self, at: Timestamp) {
        if self.is_waiting {
            *self = Self { is_waiting: false, ..Self::new(at.max(self.start)) };
        }
    }

    pub(crate) fn add(&mut self, sample: RateSample) {
        let at = sample.occurred_at;
        self.is_waiting = false;
        let Step { from, first, to, units } = self.step;
        if at.seconds_since(first) > TOGETHER * first.seconds_since(from) {
            self.before = self.work();
            // Units that were reported in no time belong to the next step.
            let untimed = if to == from { units } else { 0 };
            self.step = Step { from: to, first: at.max(to), to: at.max(to), units: untimed };
        }
        self.step.to = self.step.to.max(at);
        self.step.units = self.step.units.saturating_add(sample.units);
        self.heard = self.heard.max(sample.recorded_at);
        self.reports = self.reports.saturating_add(1);
    }

    /// All the work, up to the latest report.
    fn work(&self) -> Work {
        self.before.after(self.step.to.seconds_since(self.step.from), self.step.units as f64)
    }

    /// Units per second of work; none before any time has passed.
    pub fn rate(&self) -> Option<f64> {
        Some(self.work().rate).filter(|rate| *rate > 0.0)
    }

    /// The time that `left` more units take from `now` on; none before there is a rate.
    pub fn eta(&self, left: u64, now: Timestamp) -> Option<Eta> {
        let work = self.work();
        let seconds_left = left as f64 / self.rate()?;
        let silence = (now.seconds_since(self.heard) - work.longest_silence()).max(0.0);
        let paused = (self.step.to.seconds_since(self.start) - work.seconds).max(0.0) + silence;
        let pauses = f64::from(work.pauses) + if silence > 0.0 { 1.0 } else { 0.0 };
        let pause_per_second = pauses / (pauses + PAUSES_HALF_CREDIBLE) * paused / work.seconds;
        let variance = work.variance(seconds_left)
            + PAUSE_WEIGHT * (paused / (paused + work.seconds)).powi(2)
            + FUTURE_VARIANCE;
        // The variance of the logarithm of a lognormal distribution with this relative variance.
        let sigma = variance.ln_1p().sqrt();
        Some(Eta::new(seconds_left * (1.0 + pause_per_second), sigma, Basis::Rate, self.reports))
    }
}

impl Work {
    /// The longest silence that is not a pause.
    fn longest_silence(&self) -> f64 {
        if self.steps == 0 { f64::INFINITY } else { PAUSE * self.seconds / f64::from(self.steps) }
    }

    /// The work after one more step.
    fn after(mut self, silence: f64, units: f64) -> Self {
        if silence <= 0.0 {
            return self;
        }
        let seconds = silence.min(self.longest_silence());
        self.pauses += u32::from(silence > seconds);
        if self.rate > 0.0 {
            self.squared_errors += (units / self.rate - seconds).powi(2);
        }
        let before = self.seconds;
        self.steps = self.steps.saturating_add(1);
        self.seconds += seconds;
        self.units += units;
        let kept = (before / self.seconds).powf(self.exponent() + 1.0);
        self.rate = kept * self.rate + (1.0 - kept) * units / seconds;
        self
    }

    /// The exponent of the weights.
    fn exponent(&self) -> f64 {
        let steps_of_error_1 = self.seconds.powi(2) / self.squared_errors.max(f64::MIN_POSITIVE);
        let most = (f64::from(self.steps) / STEPS_PER_EXPONENT).clamp(EXPONENT_MIN, EXPONENT_MAX);
        (RATE_VARIANCE * steps_of_error_1 - 1.0).clamp(EXPONENT_MIN, most)
    }

    /// The variance of the relative error of an estimate for so many seconds of work: that of the rate until
    /// now, that of the work left, and a drift of the rate from its mean to its present value.
    fn variance(&self, seconds_left: f64) -> f64 {
        let (steps, k) = (f64::from(self.steps), self.exponent());
        let error_time = (self.squared_errors / self.seconds * (steps - 1.0)
            + REPORT_VARIANCE * self.seconds / steps)
            / steps;
        let of_rate = error_time / self.seconds * (k + 1.0).powi(2) / (2.0 * k + 1.0);
        let drift = (self.rate * self.seconds / self.units).ln();
        of_rate + error_time / seconds_left.max(1e-9) + DRIFT_WEIGHT * drift.powi(2)
    }
}

#[cfg(test)]
mod tests;
