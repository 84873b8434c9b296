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

/// A small deterministic generator, so that the simulation is the same everywhere: the bounds below are measured with it.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    fn lognormal(&mut self, sigma: f64) -> f64 {
        (sigma * self.normal()).exp()
    }
}

/// The true course of a job.
struct Truth {
    size: f64,
    stages: Vec<(Phase, f64, Shape)>,
}

/// The progress over a stage's time: faster or slower at first, and possibly with a stall.
#[derive(Clone, Copy)]
struct Shape {
    bend: f64,
    stall_from: f64,
    stall_share: f64,
}

impl Shape {
    /// The completed fraction after a share of the stage's time.
    fn done(&self, share: f64) -> f64 {
        let stalled = (share - self.stall_from).clamp(0.0, self.stall_share);
        ((share - stalled) / (1.0 - self.stall_share)).clamp(0.0, 1.0).powf(self.bend)
    }
}

fn truth(random: &mut Random) -> Truth {
    // Seconds per second of video: transcribing takes most of the time, but has 30 percent of the bar.
    const COSTS: [f64; 5] = [0.04, 0.01, 0.20, 0.05, 0.0125];
    let size = 90.0 * 60.0 * random.lognormal(0.8);
    let (network, compute) = (random.lognormal(0.4), random.lognormal(0.3));
    let stages = STAGES
        .into_iter()
        .zip(COSTS)
        .map(|(phase, cost)| {
            let speed = if group(phase) == Group::Network { network } else { compute };
            let has_stall = random.uniform() < 0.15;
            let stall_share = if has_stall { 0.1 + 0.3 * random.uniform() } else { 0.0 };
            let shape =
                Shape { bend: random.lognormal(0.25), stall_from: random.uniform() * 0.6, stall_share };
            let seconds = cost * size * speed * random.lognormal(0.15) / (1.0 - stall_share);
            (phase, seconds, shape)
        })
        .collect();
    Truth { size, stages }
}

/// The mean of |estimate − truth| ÷ duration over a job's progress: for this estimator, and for elapsed time ÷
/// percentage.
fn errors(job: &Truth, priors: &[PhasePrior]) -> (f64, f64) {
    const LOOKS: u32 = 40;
    let total: f64 = job.stages.iter().map(|(_, seconds, _)| seconds).sum();
    let (mut ours, mut linear) = (0.0, 0.0);
    for look in 0..LOOKS {
        let now = (f64::from(look) + 0.5) / f64::from(LOOKS) * total;
        let mut start = 0.0;
        let mut done = Vec::new();
        for (phase, seconds, shape) in &job.stages {
            if start + seconds <= now {
                done.push((*phase, *seconds));
                start += seconds;
                continue;
            }
            let elapsed = now - start;
            let fraction = shape.done(elapsed / seconds);
            let present = StageProgress {
                kind: JobKind::VideoAnalysis,
                size: job.size,
                done: &done,
                present: *phase,
                elapsed,
                fraction,
                reported_after: elapsed,
            };
            let estimate = remaining(priors, &present).map_or(total, |eta| eta.seconds as f64);
            ours += (estimate - (total - now)).abs() / total;
            let percentage =
                pipeline::percentage(JobKind::VideoAnalysis, *phase, fraction).unwrap().max(0.1) / 100.0;
            linear += (now / percentage - now - (total - now)).abs() / total;
            break;
        }
    }
    (ours / f64::from(LOOKS), linear / f64::from(LOOKS))
}

#[test]
fn mean_error_over_600_simulated_jobs_is_under_12_percent() {
    let mut random = Random(7);
    let mut priors: Vec<PhasePrior> = Vec::new();
    let (mut ours, mut linear, mut jobs) = (0.0, 0.0, 0.0);
    for number in 0..630 {
        let job = truth(&mut random);
        // The first jobs only train the priors.
        if number >= 30 {
            let (of_ours, of_linear) = errors(&job, &priors);
            ours += of_ours;
            linear += of_linear;
            jobs += 1.0;
        }
        priors = job
            .stages
            .iter()
            .map(|(phase, seconds, _)| {
                learn(priors.iter().find(|prior| prior.phase == *phase), *phase, job.size, *seconds)
            })
            .collect();
    }
    let (ours, linear) = (ours / jobs, linear / jobs);
    assert!(ours < 0.12, "{ours}");
    assert!(ours < linear / 1.5, "{ours} against {linear} of elapsed time by percentage");
}
