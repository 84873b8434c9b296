mod simulation;

use super::*;

use Phase::{Analyzing, Downloading, FetchingChat, FindingHighlights, Transcribing};

const STAGES: [Phase; 5] = [Downloading, FetchingChat, Transcribing, Analyzing, FindingHighlights];

fn prior(phase: Phase, seconds_per_unit: f64) -> PhasePrior {
    PhasePrior { phase, log_seconds_per_unit: seconds_per_unit.ln(), variance: 0.04, samples: 10 }
}

fn progress(present: Phase, elapsed: f64, fraction: f64, done: &[(Phase, f64)]) -> StageProgress<'_> {
    StageProgress {
        kind: JobKind::VideoAnalysis,
        size: 100.0,
        done,
        present,
        elapsed,
        fraction,
        reported_after: elapsed,
    }
}

/// Each stage takes one second per unit, 100 seconds in total.
fn even() -> Vec<PhasePrior> {
    STAGES.map(|phase| prior(phase, 1.0)).to_vec()
}

#[test]
fn estimate_before_progress_uses_the_priors() {
    let eta = remaining(&even(), &progress(Downloading, 0.0, 0.0, &[])).unwrap();
    assert_eq!((eta.seconds, eta.basis, eta.samples), (500, Basis::StageHistory, 10));
    assert!(eta.low < 500 && 500 < eta.high);
}

#[test]
fn no_estimate_without_priors_and_progress() {
    assert_eq!(remaining(&[], &progress(Downloading, 10.0, 0.01, &[])), None);
    // Half of the first 30 percent took 30 seconds; the rest follows from the shares.
    let eta = remaining(&[], &progress(Downloading, 30.0, 0.5, &[])).unwrap();
    assert_eq!((eta.seconds, eta.basis), (30 + 130, Basis::Rate));
}

#[test]
fn slow_earlier_stages_make_later_ones_slow() {
    let done = [(Downloading, 100.0), (FetchingChat, 100.0), (Transcribing, 300.0)];
    let usual = remaining(&even(), &progress(Analyzing, 0.0, 0.0, &[])).unwrap();
    let slow = remaining(&even(), &progress(Analyzing, 0.0, 0.0, &done)).unwrap();
    assert_eq!(usual.seconds, 200);
    // Halfway, on a logarithmic scale, between the usual duration and three times that.
    assert_eq!(slow.seconds, (200.0 * 3.0_f64.sqrt()).round() as u64);
}

#[test]
fn slow_network_does_not_slow_down_compute_stages() {
    let done = [(Downloading, 500.0), (FetchingChat, 500.0)];
    assert_eq!(remaining(&even(), &progress(Transcribing, 0.0, 0.0, &done)).unwrap().seconds, 300);
}

#[test]
fn estimate_of_a_stalled_stage_grows() {
    let end_seen_at = |elapsed: f64| {
        let silent = StageProgress { reported_after: 50.0, ..progress(Transcribing, elapsed, 0.5, &[]) };
        elapsed + remaining(&even(), &silent).unwrap().seconds as f64
    };
    assert!(end_seen_at(200.0) > end_seen_at(100.0) + 50.0);
}

#[test]
fn prior_learns_from_every_job_and_forgets_slowly() {
    let first = learn(None, Transcribing, 100.0, 50.0);
    assert!((first.log_seconds_per_unit - 0.5_f64.ln()).abs() < 1e-12);
    let many = (0..200).fold(first, |prior, _| learn(Some(&prior), Transcribing, 100.0, 200.0));
    assert!((many.log_seconds_per_unit.exp() - 2.0).abs() < 0.05, "{many:?}");
    assert_eq!(many.samples, SAMPLES_MAX);
    assert!(many.variance < 0.05);
}

#[test]
fn stages_without_priors_take_as_long_per_percent_as_earlier() {
    let done = [(Downloading, 60.0), (FetchingChat, 10.0)];
    assert_eq!(remaining(&[], &progress(Transcribing, 0.0, 0.0, &done)).unwrap().seconds, 60 + 50 + 10);
}

#[test]
fn slow_stage_slows_down_all_others_if_sizes_are_unknown() {
    let vague = even().iter().map(|prior| PhasePrior { variance: 0.6, ..*prior }).collect::<Vec<_>>();
    let done = [(Downloading, 500.0), (FetchingChat, 500.0)];
    let seconds = remaining(&vague, &progress(Transcribing, 0.0, 0.0, &done)).unwrap().seconds;
    assert!(seconds > 900, "{seconds}");
}
