//! `matchbook simulate log`: fault tests of the event log on a simulated disk.

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use event_log_embedded::{DamageStats, SimulationStats, Violation, simulate};
use serde_json::json;

use matchbook::failure::{Failure, print};

/// The interval of progress reports on standard error.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// The number of failures after which the simulation stops.
const FAILURES_MAX: usize = 20;

#[derive(Subcommand, Debug)]
pub(crate) enum Simulate {
    /// Test the event log on a simulated disk with power cuts, failed calls, full disks and damage
    Log(LogSimulation),
}

impl Simulate {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        match self {
            Self::Log(simulation) => simulation.run(json).await,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct LogSimulation {
    /// The number of histories; each has its own seed
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    seeds: u64,
    /// The first seed
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    from: u64,
    /// The number of threads; by default one per processor
    #[arg(long, value_name = "NUMBER")]
    threads: Option<usize>,
}

/// The outcome of one history.
struct HistoryOutcome {
    seed: u64,
    outcome: Result<SimulationStats, String>,
    violation: Option<Violation>,
}

/// The outcomes of all histories.
#[derive(Default)]
struct Summary {
    histories: u64,
    stats: SimulationStats,
    lost: u64,
    phantom: u64,
    duplicate: u64,
    failures: Vec<(u64, String)>,
}

impl LogSimulation {
    async fn run(self, json: bool) -> Result<(), Failure> {
        let running = tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            let summary = self.run_all(started);
            (summary, started.elapsed())
        });
        let (summary, took) =
            running.await.map_err(|error| Failure::Failed(format!("the simulation failed: {error}")))?;
        summary.report(took, json)
    }

    /// Runs the histories on several threads.
    fn run_all(&self, started: Instant) -> Summary {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.threads.unwrap_or_else(processors).max(1);
        let (next, enough) = (AtomicU64::new(0), AtomicBool::new(false));
        let (sender, outcomes) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let (sender, next, enough) = (sender.clone(), &next, &enough);
                scope.spawn(move || {
                    while !enough.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= self.seeds
                            || sender.send(run_history(self.from.wrapping_add(number))).is_err()
                        {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            let (mut summary, mut reported) = (Summary::default(), started);
            for outcome in outcomes {
                summary.add(outcome);
                enough.store(summary.failures.len() >= FAILURES_MAX, Ordering::Relaxed);
                if reported.elapsed() > PROGRESS_EVERY {
                    reported = Instant::now();
                    let left = (self.seeds - summary.histories) as f64 / summary.histories as f64;
                    eprintln!(
                        "{} of {} histories, {} failed, about {:.0}s left",
                        summary.histories,
                        self.seeds,
                        summary.failures.len(),
                        started.elapsed().as_secs_f64() * left,
                    );
                }
            }
            summary.failures.sort_unstable();
            summary
        })
    }
}

/// Runs one history. A panic counts as a failure.
fn run_history(seed: u64) -> HistoryOutcome {
    match catch_unwind(|| simulate(seed)) {
        Ok(Ok(stats)) => HistoryOutcome { seed, outcome: Ok(stats), violation: None },
        Ok(Err(violation)) => {
            HistoryOutcome { seed, outcome: Err(violation.to_string()), violation: Some(violation) }
        }
        Err(_) => HistoryOutcome { seed, outcome: Err("it panicked".to_owned()), violation: None },
    }
}

impl Summary {
    fn add(&mut self, HistoryOutcome { seed, outcome, violation }: HistoryOutcome) {
        self.histories += 1;
        match violation {
            Some(Violation::Lost(_)) => self.lost += 1,
            Some(Violation::Phantom(_)) => self.phantom += 1,
            Some(Violation::Duplicate(_)) => self.duplicate += 1,
            Some(_) | None => {}
        }
        match outcome {
            Ok(stats) => self.stats += stats,
            Err(what) => {
                // Printed immediately, because a long run may be interrupted before its report.
                eprintln!("failed: matchbook simulate log --from {seed} --seeds 1    # {what}");
                self.failures.push((seed, what));
            }
        }
    }

    fn report(&self, took: Duration, json: bool) -> Result<(), Failure> {
        let Self { histories, stats, lost, phantom, duplicate, failures } = self;
        if json {
            print(&json!({
                "histories": histories,
                "seconds": took.as_secs_f64(),
                "acknowledged_events": stats.acknowledged,
                "lost": lost,
                "phantom": phantom,
                "duplicate": duplicate,
                "refused_appends": stats.refused,
                "unknown_appends": stats.unknown,
                "failed_starts": stats.failed_starts,
                "power_cuts": stats.power_cuts,
                "failed_calls": stats.failed_calls,
                "full_disks": stats.full_disks,
                "truncated_writes": stats.truncated_writes,
                "flipped_bits": damage_json(stats.flipped_bits),
                "misdirected_writes": damage_json(stats.misdirected_writes),
                "lost_writes": damage_json(stats.lost_writes),
                "lost_ends": damage_json(stats.lost_ends),
                "fault_points": { "hit": stats.fault_points.hit(), "total": stats.fault_points.total() },
                "repairs": stats.repairs,
                "faults_in_repairs": stats.faults_in_repairs,
                "quarantined_events": stats.quarantined,
                "failures": failures.iter().map(|(seed, what)| json!({ "seed": seed, "what": what })).collect::<Vec<_>>(),
            }))?;
        } else {
            print(&format_args!("{histories} histories in {:.1} s", took.as_secs_f64()))?;
            print(&format_args!(
                "faults: {} power cuts, {} failed calls, {} full disks; {} of {} fault points (call, kind of file, kind of fault)",
                stats.power_cuts,
                stats.failed_calls,
                stats.full_disks,
                stats.fault_points.hit(),
                stats.fault_points.total(),
            ))?;
            print(&format_args!(
                "appends: {} events acknowledged; {} refused, {} unknown; {} incomplete writes truncated",
                stats.acknowledged, stats.refused, stats.unknown, stats.truncated_writes,
            ))?;
            print(&format_args!("starts that failed because of a disk fault: {}", stats.failed_starts))?;
            for (what, DamageStats { detected, harmless }) in [
                ("flipped bits", stats.flipped_bits),
                ("misdirected writes", stats.misdirected_writes),
                ("lost writes", stats.lost_writes),
                ("lost ends", stats.lost_ends),
            ] {
                print(&format_args!("{what}: {detected} detected, {harmless} harmless"))?;
            }
            print(&format_args!(
                "damaged logs repaired: {}, with {} faults during repairs; {} readable events quarantined",
                stats.repairs, stats.faults_in_repairs, stats.quarantined,
            ))?;
            print(&format_args!(
                "histories with a lost event: {lost}, a phantom event: {phantom}, a duplicate: {duplicate}"
            ))?;
            for (seed, what) in failures {
                print(&format_args!("matchbook simulate log --from {seed} --seeds 1    # {what}"))?;
            }
        }
        match failures.len() {
            0 => Ok(()),
            failed => Err(Failure::Failed(format!("{failed} histories violated the log's contract"))),
        }
    }
}

fn damage_json(DamageStats { detected, harmless }: DamageStats) -> serde_json::Value {
    json!({ "detected": detected, "harmless": harmless })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violation_is_counted_and_fails_the_command() {
        let mut summary = Summary::default();
        summary.add(run_history(1));
        let violation = Violation::Lost(event_schemas::ids::Position(3));
        summary.add(HistoryOutcome {
            seed: 7,
            outcome: Err(violation.to_string()),
            violation: Some(violation),
        });
        assert_eq!((summary.histories, summary.lost, summary.failures[0].0), (2, 1, 7));
        assert!(matches!(summary.report(Duration::ZERO, true), Err(Failure::Failed(_))));
    }

    #[test]
    fn every_seed_runs_once() {
        let summary = LogSimulation { seeds: 9, from: 100, threads: None }.run_all(Instant::now());
        assert_eq!((summary.histories, summary.failures.len()), (9, 0));
    }
}
