//! When the matching will be done, from the instants of events only.
//!
//! Inside a stage of known size ([`Pace`]): the rate is an exponentially weighted mean over the time since the stage
//! began, with a half-life of 30 s, and what is left is divided by it. The candidates of a report are spread over the
//! time in which they were worked on, and the sum is divided by the weight of the whole time, not by an assumed infinite
//! past: so a steady job has its true rate from its first report on, however many workers report however often.

pub mod stages;

use std::collections::BTreeMap;

use event_schemas::ids::WorkerId;
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

/// How long it takes until what was done counts half.
pub const HALF_LIFE_SECONDS: f64 = 30.0;

/// First reports that come this close together were worked on at the same time, not one after the other.
const TOGETHER_SECONDS: f64 = 1.0;

/// What an estimate rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// How fast this stage has gone so far.
    Rate,
    /// What stages cost in earlier jobs, and how this job compares with them.
    StageHistory,
}

/// How long it will still take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eta {
    /// The most likely time, in whole seconds.
    pub seconds: u64,
    /// In eight of ten cases it takes at least this long, …
    pub low: u64,
    /// … and at most this long.
    pub high: u64,
    pub basis: Basis,
    /// How many reports, or earlier jobs, it rests on.
    pub samples: u32,
}

impl Eta {
    /// The same work, begun so many seconds later.
    #[must_use]
    pub fn after(self, seconds: f64) -> Self {
        let pause = seconds.round().max(0.0) as u64;
        Self { seconds: self.seconds + pause, low: self.low + pause, high: self.high + pause, ..self }
    }

    /// The band is `seconds · e^(±1.28 σ)`: 80 % of a lognormal distribution around the estimate.
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

/// How fast a stage goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// When the stage began.
    start: Timestamp,
    /// The latest instant that a report spoke of.
    last: Timestamp,
    /// What was done, each unit weighted by its age at `last`.
    weighted: f64,
    reports: u32,
    /// For each worker, and for reports under no lease, when it last reported a first piece of work.
    workers: BTreeMap<WorkerId, Stretch>,
    unleased: Option<Stretch>,
}

/// A time in which someone worked, up to a report.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Stretch {
    from: Timestamp,
    to: Timestamp,
}

/// One report of progress, as the pace needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'a> {
    pub(crate) at: Timestamp,
    /// How many units were done that had not been reported before.
    pub(crate) units: u64,
    /// Under whose lease; none for a report without one.
    pub(crate) worker: Option<&'a WorkerId>,
    /// When this piece of work was last reported on by its present holder.
    pub(crate) reported: Option<Timestamp>,
    /// When its present holder took it up; none without a lease.
    pub(crate) claimed: Option<Timestamp>,
}

impl Pace {
    /// A stage that begins now.
    pub(crate) fn new(start: Timestamp) -> Self {
        Self { start, last: start, weighted: 0.0, reports: 0, workers: BTreeMap::new(), unleased: None }
    }

    pub(crate) fn add(&mut self, step: Step<'_>) {
        let from = self.worked_from(&step).max(self.start);
        let stretch = Stretch { from, to: step.at };
        match step.worker {
            Some(worker) => self.workers.insert(worker.clone(), stretch),
            None => self.unleased.replace(stretch),
        };
        if step.at > self.last {
            self.weighted *= weight(step.at.seconds_since(self.last));
            self.last = step.at;
        }
        self.weighted += step.units as f64 * self.mean_weight(from, step.at);
        self.reports = self.reports.saturating_add(1);
    }

    /// Since when the reported units were worked on: the report before on the same work; for a first report, the end of
    /// what its worker did before, since a worker that has claimed several pieces does them one after the other.
    fn worked_from(&self, step: &Step<'_>) -> Timestamp {
        if let Some(reported) = step.reported {
            return reported;
        }
        let before = match step.worker {
            Some(worker) => self.workers.get(worker),
            None => self.unleased.as_ref(),
        };
        let free = before.map_or(self.start, |before| {
            let is_together = step.at.seconds_since(before.to).abs() < TOGETHER_SECONDS;
            if is_together { before.from } else { before.to }
        });
        step.claimed.map_or(free, |claimed| claimed.max(free)).min(step.at)
    }

    /// The mean weight, at `last`, of the time between two instants.
    fn mean_weight(&self, from: Timestamp, to: Timestamp) -> f64 {
        let to = to.clamp(self.start, self.last);
        let length = decay_exponent(to.seconds_since(from));
        let newest = weight(self.last.seconds_since(to));
        if length > 0.0 { newest * -(-length).exp_m1() / length } else { newest }
    }

    /// Units a second; none before any time has passed.
    pub fn rate(&self) -> Option<f64> {
        let elapsed = self.last.seconds_since(self.start);
        let weighted_seconds =
            -(-decay_exponent(elapsed)).exp_m1() * HALF_LIFE_SECONDS / std::f64::consts::LN_2;
        (self.weighted > 0.0 && weighted_seconds > 0.0).then(|| self.weighted / weighted_seconds)
    }

    /// How long `left` more units take at the present rate; none before there is one.
    ///
    /// The band takes every report as one look at the rate, wrong by its own size, and never believes the rate to better
    /// than a tenth: σ² = 1/reports + 0.01.
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

    fn unleased(seconds: f64, units: u64, reported: Option<f64>) -> Step<'static> {
        Step { at: at(seconds), units, worker: None, reported: reported.map(at), claimed: None }
    }

    fn pace(steps: &[Step<'_>]) -> Pace {
        steps.iter().fold(Pace::new(at(0.0)), |mut pace, step| {
            pace.add(*step);
            pace
        })
    }

    #[track_caller]
    fn assert_says(pace: &Pace, left: u64, seconds: u64) {
        assert_eq!(pace.eta(left).map(|eta| eta.seconds), Some(seconds), "{pace:?}");
    }

    #[test]
    fn half_the_work_in_60_seconds_says_60_after_a_single_report() {
        assert_says(&pace(&[unleased(60.0, 90, None)]), 90, 60);
    }

    #[test]
    fn half_the_work_in_60_seconds_says_60_after_many_reports() {
        let steps: Vec<_> =
            (1..=600).map(|n| unleased(f64::from(n) / 10.0, 1, Some(f64::from(n - 1) / 10.0))).collect();
        assert_says(&pace(&steps), 600, 60);
    }

    #[test]
    fn half_the_work_in_60_seconds_says_60_when_requests_are_done_one_after_the_other() {
        let steps: Vec<_> = (1..=6).map(|n| unleased(f64::from(n) * 10.0, 33, None)).collect();
        assert_says(&pace(&steps), 6 * 33, 60);
    }

    #[test]
    fn half_the_work_in_60_seconds_says_60_when_several_requests_are_reported_at_once() {
        let steps: Vec<_> = (0..4).map(|_| unleased(60.0, 25, None)).collect();
        assert_says(&pace(&steps), 100, 60);
    }

    #[test]
    fn several_workers_that_report_at_almost_the_same_time_add_up() {
        let (a, b): (WorkerId, WorkerId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut steps = Vec::new();
        for n in 1..=4 {
            for (worker, skew) in [(&a, 0.0), (&b, 0.000_1)] {
                let to = f64::from(n) * 15.0 + skew;
                steps.push(Step {
                    at: at(to),
                    units: 20,
                    worker: Some(worker),
                    reported: None,
                    claimed: Some(at((to - 15.0).max(0.0))),
                });
            }
        }
        assert_says(&pace(&steps), 160, 60);
    }

    #[test]
    fn a_worker_that_claims_several_requests_does_them_one_after_the_other() {
        let worker: WorkerId = "a".parse().unwrap();
        let steps: Vec<_> = (1..=6)
            .map(|n| Step {
                at: at(f64::from(n) * 10.0),
                units: 10,
                worker: Some(&worker),
                reported: None,
                claimed: Some(at(0.0)),
            })
            .collect();
        assert_says(&pace(&steps), 60, 60);
    }

    #[test]
    fn reports_that_arrive_out_of_order_say_about_the_same() {
        let ordered: Vec<_> = (1..=60).map(|n| unleased(f64::from(n), 10, Some(f64::from(n - 1)))).collect();
        let mut shuffled = ordered.clone();
        shuffled.chunks_mut(3).for_each(<[_]>::reverse);
        assert_says(&pace(&shuffled), 600, 60);
        let rates = [pace(&ordered).rate().unwrap(), pace(&shuffled).rate().unwrap()];
        assert!((rates[0] - rates[1]).abs() < 1e-9, "{rates:?}");
    }

    #[test]
    fn a_job_that_has_become_faster_is_believed_after_a_few_half_lives() {
        let mut steps: Vec<_> = (1..=60).map(|n| unleased(f64::from(n), 1, Some(f64::from(n - 1)))).collect();
        steps.extend((61..=180).map(|n| unleased(f64::from(n), 10, Some(f64::from(n - 1)))));
        let rate = pace(&steps).rate().unwrap();
        assert!((9.0..=10.0).contains(&rate), "{rate}");
    }

    #[test]
    fn nothing_is_said_before_any_time_has_passed() {
        assert_eq!(Pace::new(at(0.0)).eta(10), None);
        assert_eq!(pace(&[unleased(0.0, 10, None)]).eta(10), None);
    }

    #[test]
    fn the_band_narrows_with_every_report_and_holds_the_estimate() {
        let few = pace(&[unleased(10.0, 10, None)]).eta(100).unwrap();
        let many: Vec<_> = (1..=100).map(|n| unleased(f64::from(n), 1, Some(f64::from(n - 1)))).collect();
        let many = pace(&many).eta(100).unwrap();
        for eta in [few, many] {
            assert!(eta.low < eta.seconds && eta.seconds < eta.high, "{eta:?}");
        }
        assert!(few.high > many.high);
        assert_eq!((few.samples, many.samples), (1, 100));
    }
}
