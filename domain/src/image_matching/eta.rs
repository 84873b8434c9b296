//! The estimated time to completion of matching, computed from the times of events only.
//!
//! Within a stage of known size ([`RateEstimator`]): the rate is an exponentially weighted mean over the time
//! since the start of the stage, with a half-life of 30 s, and the remaining work is divided by it. The
//! candidates of a report are spread over the time in which they were processed, and the sum is divided by
//! the weight of the whole time, not by an assumed infinite past. So a steady job has its true rate from its
//! first report on, however many workers report however often.

pub mod stages;

use std::collections::BTreeMap;

use event_schemas::ids::WorkerId;
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The age at which completed work has half its weight.
pub const HALF_LIFE_SECONDS: f64 = 30.0;

/// First reports within this time of each other describe concurrent work, not consecutive work.
const TOGETHER_SECONDS: f64 = 1.0;

/// The basis of an estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The rate of this stage so far.
    Rate,
    /// The durations of stages in earlier jobs, and the speed of this job compared with them.
    StageHistory,
}

/// The estimated time to completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eta {
    /// The most likely duration, in whole seconds.
    pub seconds: u64,
    /// The lower limit of the 80 % interval, in whole seconds.
    pub low: u64,
    /// The upper limit of the 80 % interval, in whole seconds.
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
        let whole = |seconds: f64| seconds.round().max(0.0) as u64;
        Self {
            seconds: whole(seconds),
            low: whole(seconds / spread),
            high: whole(seconds * spread),
            basis,
            samples,
        }
    }
}

/// Estimates the rate of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateEstimator {
    /// The start of the stage.
    start: Timestamp,
    /// The time of the latest report.
    last: Timestamp,
    /// The number of completed units, each weighted by its age at `last`.
    weighted: f64,
    reports: u32,
    /// For each worker, and for reports without a lease, the interval of its latest first report on a piece
    /// of work.
    workers: BTreeMap<WorkerId, WorkInterval>,
    unleased: Option<WorkInterval>,
}

/// An interval of work that ended with a report.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct WorkInterval {
    from: Timestamp,
    to: Timestamp,
}

/// A progress report, as input of the estimator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateSample<'a> {
    pub(crate) at: Timestamp,
    /// The number of newly completed units.
    pub(crate) units: u64,
    /// The worker that holds the lease; none for a report without a lease.
    pub(crate) worker: Option<&'a WorkerId>,
    /// The time of the current holder's previous report on this piece of work.
    pub(crate) reported: Option<Timestamp>,
    /// The time at which the current holder claimed it; none without a lease.
    pub(crate) claimed: Option<Timestamp>,
}

impl RateEstimator {
    /// An estimator for a stage that starts now.
    pub(crate) fn new(start: Timestamp) -> Self {
        Self { start, last: start, weighted: 0.0, reports: 0, workers: BTreeMap::new(), unleased: None }
    }

    pub(crate) fn add(&mut self, sample: RateSample<'_>) {
        let from = self.worked_from(&sample).max(self.start);
        let interval = WorkInterval { from, to: sample.at };
        match sample.worker {
            Some(worker) => self.workers.insert(worker.clone(), interval),
            None => self.unleased.replace(interval),
        };
        if sample.at > self.last {
            self.weighted *= weight(sample.at.seconds_since(self.last));
            self.last = sample.at;
        }
        self.weighted += sample.units as f64 * self.mean_weight(from, sample.at);
        self.reports = self.reports.saturating_add(1);
    }

    /// The time since which the reported units were processed: the previous report on the same work. For a
    /// first report it is the end of the worker's previous work, because a worker that has claimed several
    /// pieces processes them one after the other.
    fn worked_from(&self, sample: &RateSample<'_>) -> Timestamp {
        if let Some(reported) = sample.reported {
            return reported;
        }
        let before = match sample.worker {
            Some(worker) => self.workers.get(worker),
            None => self.unleased.as_ref(),
        };
        let free = before.map_or(self.start, |before| {
            let is_together = sample.at.seconds_since(before.to).abs() < TOGETHER_SECONDS;
            if is_together { before.from } else { before.to }
        });
        sample.claimed.map_or(free, |claimed| claimed.max(free)).min(sample.at)
    }

    /// The mean weight, at `last`, of the time between two instants.
    fn mean_weight(&self, from: Timestamp, to: Timestamp) -> f64 {
        let to = to.clamp(self.start, self.last);
        let length = decay_exponent(to.seconds_since(from));
        let newest = weight(self.last.seconds_since(to));
        if length > 0.0 { newest * -(-length).exp_m1() / length } else { newest }
    }

    /// Units per second; none before any time has passed.
    pub fn rate(&self) -> Option<f64> {
        let elapsed = self.last.seconds_since(self.start);
        let weighted_seconds =
            -(-decay_exponent(elapsed)).exp_m1() * HALF_LIFE_SECONDS / std::f64::consts::LN_2;
        (self.weighted > 0.0 && weighted_seconds > 0.0).then(|| self.weighted / weighted_seconds)
    }

    /// The time that `left` more units take at the current rate; none before there is a rate.
    ///
    /// The interval treats every report as one measurement of the rate with a relative error of 1, and never
    /// assumes an error of the rate below 10 %: σ² = 1/reports + 0.01.
    pub fn eta(&self, left: u64) -> Option<Eta> {
        let sigma = (1.0 / f64::from(self.reports.max(1)) + 0.01).sqrt();
        Some(Eta::new(left as f64 / self.rate()?, sigma, Basis::Rate, self.reports))
    }
}

fn decay_exponent(seconds: f64) -> f64 {
    seconds.max(0.0) * std::f64::consts::LN_2 / HALF_LIFE_SECONDS
}

fn weight(age_seconds: f64) -> f64 {
    (-decay_exponent(age_seconds)).exp()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: f64) -> Timestamp {
        Timestamp::EPOCH.after(Duration::from_secs_f64(seconds))
    }

    fn unleased(seconds: f64, units: u64, reported: Option<f64>) -> RateSample<'static> {
        RateSample { at: at(seconds), units, worker: None, reported: reported.map(at), claimed: None }
    }

    fn estimator(samples: &[RateSample<'_>]) -> RateEstimator {
        samples.iter().fold(RateEstimator::new(at(0.0)), |mut estimator, sample| {
            estimator.add(*sample);
            estimator
        })
    }

    #[track_caller]
    fn assert_eta(estimator: &RateEstimator, left: u64, seconds: u64) {
        assert_eq!(estimator.eta(left).map(|eta| eta.seconds), Some(seconds), "{estimator:?}");
    }

    #[test]
    fn half_done_in_60_s_leaves_60_s_after_one_report() {
        assert_eta(&estimator(&[unleased(60.0, 90, None)]), 90, 60);
    }

    #[test]
    fn half_done_in_60_s_leaves_60_s_after_many_reports() {
        let samples: Vec<_> =
            (1..=600).map(|n| unleased(f64::from(n) / 10.0, 1, Some(f64::from(n - 1) / 10.0))).collect();
        assert_eta(&estimator(&samples), 600, 60);
    }

    #[test]
    fn half_done_in_60_s_leaves_60_s_with_sequential_requests() {
        let samples: Vec<_> = (1..=6).map(|n| unleased(f64::from(n) * 10.0, 33, None)).collect();
        assert_eta(&estimator(&samples), 6 * 33, 60);
    }

    #[test]
    fn half_done_in_60_s_leaves_60_s_with_simultaneous_reports() {
        let samples: Vec<_> = (0..4).map(|_| unleased(60.0, 25, None)).collect();
        assert_eta(&estimator(&samples), 100, 60);
    }

    #[test]
    fn rates_of_concurrent_workers_add_up() {
        let (a, b): (WorkerId, WorkerId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut samples = Vec::new();
        for n in 1..=4 {
            for (worker, skew) in [(&a, 0.0), (&b, 0.000_1)] {
                let to = f64::from(n) * 15.0 + skew;
                samples.push(RateSample {
                    at: at(to),
                    units: 20,
                    worker: Some(worker),
                    reported: None,
                    claimed: Some(at((to - 15.0).max(0.0))),
                });
            }
        }
        assert_eta(&estimator(&samples), 160, 60);
    }

    #[test]
    fn requests_of_one_worker_are_processed_sequentially() {
        let worker: WorkerId = "a".parse().unwrap();
        let samples: Vec<_> = (1..=6)
            .map(|n| RateSample {
                at: at(f64::from(n) * 10.0),
                units: 10,
                worker: Some(&worker),
                reported: None,
                claimed: Some(at(0.0)),
            })
            .collect();
        assert_eta(&estimator(&samples), 60, 60);
    }

    #[test]
    fn out_of_order_reports_give_about_the_same_rate() {
        let ordered: Vec<_> = (1..=60).map(|n| unleased(f64::from(n), 10, Some(f64::from(n - 1)))).collect();
        let mut shuffled = ordered.clone();
        shuffled.chunks_mut(3).for_each(<[_]>::reverse);
        assert_eta(&estimator(&shuffled), 600, 60);
        let rates = [estimator(&ordered).rate().unwrap(), estimator(&shuffled).rate().unwrap()];
        assert!((rates[0] - rates[1]).abs() < 1e-9, "{rates:?}");
    }

    #[test]
    fn rate_follows_a_speed_up_within_a_few_half_lives() {
        let mut samples: Vec<_> =
            (1..=60).map(|n| unleased(f64::from(n), 1, Some(f64::from(n - 1)))).collect();
        samples.extend((61..=180).map(|n| unleased(f64::from(n), 10, Some(f64::from(n - 1)))));
        let rate = estimator(&samples).rate().unwrap();
        assert!((9.0..=10.0).contains(&rate), "{rate}");
    }

    #[test]
    fn no_eta_before_any_time_has_passed() {
        assert_eq!(RateEstimator::new(at(0.0)).eta(10), None);
        assert_eq!(estimator(&[unleased(0.0, 10, None)]).eta(10), None);
    }

    #[test]
    fn interval_narrows_with_every_report() {
        let few = estimator(&[unleased(10.0, 10, None)]).eta(100).unwrap();
        let many: Vec<_> = (1..=100).map(|n| unleased(f64::from(n), 1, Some(f64::from(n - 1)))).collect();
        let many = estimator(&many).eta(100).unwrap();
        for eta in [few, many] {
            assert!(eta.low < eta.seconds && eta.seconds < eta.high, "{eta:?}");
        }
        assert!(few.high > many.high);
        assert_eq!((few.samples, many.samples), (1, 100));
    }
}
