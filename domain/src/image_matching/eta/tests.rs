pub(super) mod shapes;

use std::time::Duration;

use super::*;

fn at(seconds: f64) -> Timestamp {
    Timestamp::EPOCH.after(Duration::from_secs_f64(seconds))
}

fn report(seconds: f64, units: u64) -> RateSample {
    RateSample { occurred_at: at(seconds), recorded_at: at(seconds), units }
}

fn estimator(samples: impl IntoIterator<Item = RateSample>) -> RateEstimator {
    samples.into_iter().fold(RateEstimator::new(at(0.0)), |mut estimator, sample| {
        estimator.add(sample);
        estimator
    })
}

/// A report of as many units every so many seconds, until second 60.
fn steady(every: u32, units: u64) -> RateEstimator {
    estimator((1..=60 / every).map(|n| report(f64::from(n * every), units)))
}

#[track_caller]
fn assert_eta(estimator: &RateEstimator, left: u64, seconds: u64) {
    let eta = estimator.eta(left, at(60.0));
    assert_eq!(eta.map(|eta| eta.seconds), Some(seconds), "{estimator:?}");
}

#[test]
fn half_done_in_60_s_leaves_60_s_however_often_it_is_reported() {
    assert_eta(&steady(60, 90), 90, 60);
    assert_eta(&steady(10, 33), 6 * 33, 60);
    assert_eta(&steady(1, 7), 7 * 60, 60);
    assert_eta(&estimator((1..=600).map(|n| report(f64::from(n) / 10.0, 1))), 600, 60);
}

#[test]
fn half_done_in_60_s_leaves_60_s_with_simultaneous_reports() {
    assert_eta(&estimator((0..4).map(|_| report(60.0, 25))), 100, 60);
    let skewed = [15.0, 15.4, 30.0, 30.1, 45.0, 45.3, 60.0, 60.2];
    assert_eta(&estimator(skewed.map(|seconds| report(seconds, 20))), 160, 60);
}

#[test]
fn late_reports_count_as_if_they_were_on_time() {
    let ordered: Vec<_> = (1..=60).map(|n| report(f64::from(n), 10)).collect();
    let mut shuffled = ordered.clone();
    shuffled.chunks_mut(3).for_each(<[_]>::reverse);
    assert_eta(&estimator(shuffled), 600, 60);
}

#[test]
fn units_reported_at_the_start_are_counted() {
    assert_eta(&estimator([report(0.0, 50), report(60.0, 50)]), 100, 60);
}

#[test]
fn no_eta_before_any_time_has_passed() {
    assert_eq!(RateEstimator::new(at(0.0)).eta(10, at(5.0)), None);
    assert_eq!(estimator([report(0.0, 10)]).eta(10, at(5.0)), None);
    assert_eq!(estimator([report(-0.0, 10)]).eta(10, at(5.0)), None);
}

#[test]
fn nothing_left_takes_no_time() {
    let eta = steady(10, 10).eta(0, at(60.0)).unwrap();
    assert_eq!((eta.low, eta.seconds, eta.high), (0, 0, 0));
}

#[test]
fn rate_follows_a_speed_up() {
    let slow = (1..=60).map(|n| report(f64::from(n), 1));
    let fast = (61..=180).map(|n| report(f64::from(n), 10));
    let rate = estimator(slow.chain(fast)).rate().unwrap();
    assert!((8.5..=10.0).contains(&rate), "{rate}");
}

#[test]
fn estimate_stands_still_between_reports_and_grows_in_silence() {
    let estimator = steady(10, 10);
    let seconds = |now: f64| estimator.eta(60, at(now)).unwrap().seconds;
    assert_eq!([60.0, 70.0, 85.0].map(seconds), [60, 60, 60]);
    let in_silence = [100.0, 120.0, 160.0, 260.0].map(seconds);
    assert!(in_silence.is_sorted_by(|earlier, later| earlier < later), "{in_silence:?}");
    assert!((75..=120).contains(&in_silence[3]), "{in_silence:?}");
}

#[test]
fn silence_counts_from_the_acceptance_of_a_report() {
    let mut estimator = RateEstimator::new(at(0.0));
    for n in 1..=6 {
        let occurred_at = at(f64::from(n) * 10.0);
        estimator.add(RateSample {
            recorded_at: occurred_at.after(Duration::from_secs(3600)),
            occurred_at,
            units: 10,
        });
    }
    assert_eq!(estimator.eta(60, at(3660.0)).unwrap().seconds, 60);
}

#[test]
fn pause_prolongs_the_estimate_and_leaves_the_rate() {
    let before = (1..=30).map(|n| report(f64::from(n), 10));
    let after = (131..=160).map(|n| report(f64::from(n), 10));
    let paused = estimator(before.chain(after));
    assert!((paused.rate().unwrap() - 10.0).abs() < 0.5, "{paused:?}");
    let seconds = paused.eta(600, at(160.0)).unwrap().seconds;
    assert!((61..160).contains(&seconds), "{seconds}");
}

#[test]
fn interval_narrows_with_every_report() {
    let (few, many) = (steady(60, 10).eta(100, at(60.0)).unwrap(), steady(1, 1).eta(100, at(60.0)).unwrap());
    for eta in [few, many] {
        assert!(eta.low < eta.seconds && eta.seconds < eta.high, "{eta:?}");
    }
    assert!(few.high - few.low > 6 * (many.high - many.low), "{few:?} {many:?}");
    assert_eq!((few.samples, many.samples), (1, 60));
}

/// The fold is stored as JSON, which has no number that is not finite.
#[test]
fn extreme_reports_leave_a_state_that_can_be_stored() {
    let most = u64::MAX / 4;
    let times = [0.0, 1e-6, 2e-6, 5.0, 5.0, 1e9, 1e9 + 1e-6];
    let mut estimator = estimator(times.map(|seconds| report(seconds, most)));
    estimator.add(report(2e9, 1));
    let stored = serde_json::to_string(&estimator).unwrap();
    assert_eq!(serde_json::from_str::<RateEstimator>(&stored).unwrap(), estimator);
    assert!(estimator.eta(u64::MAX, at(3e9)).is_some());
}
