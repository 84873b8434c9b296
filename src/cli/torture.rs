//! `matchbook torture`: the log on a simulated disk that fails, fills up and loses its power, for as many seeds as wanted.

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Args;
use event_log::embedded::{Broken, Damaged, Tally, torture};
use serde_json::json;

use super::{Failure, print};

/// How often standard error says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// More failures than this say nothing new.
const FAILURES_MAX: usize = 20;

#[derive(Args, Debug)]
pub(crate) struct Torture {
    /// How many histories; each is drawn from a seed of its own
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    seeds: u64,
    /// The first seed
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    from: u64,
    /// How many at a time; as many as there are processors otherwise
    #[arg(long, value_name = "NUMBER")]
    threads: Option<usize>,
}

/// How a seed's history ended: what broke, if something did.
struct Ended {
    seed: u64,
    outcome: Result<Tally, String>,
    broken: Option<Broken>,
}

/// What all histories came to.
#[derive(Default)]
struct Sum {
    histories: u64,
    tally: Tally,
    lost: u64,
    phantom: u64,
    duplicate: u64,
    failures: Vec<(u64, String)>,
}

impl Torture {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let running = tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            let sum = self.play(started);
            (sum, started.elapsed())
        });
        let (sum, took) =
            running.await.map_err(|error| Failure::Failed(format!("the histories broke off: {error}")))?;
        sum.report(took, json)
    }

    /// Plays the seeds, several at a time.
    fn play(&self, started: Instant) -> Sum {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.threads.unwrap_or_else(processors).max(1);
        let (next, enough) = (AtomicU64::new(0), AtomicBool::new(false));
        let (ended, endings) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let (ended, next, enough) = (ended.clone(), &next, &enough);
                scope.spawn(move || {
                    while !enough.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= self.seeds || ended.send(play(self.from.wrapping_add(number))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(ended);
            let (mut sum, mut said) = (Sum::default(), started);
            for ending in endings {
                sum.add(ending);
                enough.store(sum.failures.len() >= FAILURES_MAX, Ordering::Relaxed);
                if said.elapsed() > PROGRESS_EVERY {
                    said = Instant::now();
                    let left = (self.seeds - sum.histories) as f64 / sum.histories as f64;
                    eprintln!(
                        "{} of {} histories, {} failed, about {:.0}s left",
                        sum.histories,
                        self.seeds,
                        sum.failures.len(),
                        started.elapsed().as_secs_f64() * left,
                    );
                }
            }
            sum.failures.sort_unstable();
            sum
        })
    }
}

/// A panic is a failure like any other.
fn play(seed: u64) -> Ended {
    match catch_unwind(|| torture(seed)) {
        Ok(Ok(tally)) => Ended { seed, outcome: Ok(tally), broken: None },
        Ok(Err(broken)) => Ended { seed, outcome: Err(broken.to_string()), broken: Some(broken) },
        Err(_) => Ended { seed, outcome: Err("it panicked".to_owned()), broken: None },
    }
}

impl Sum {
    fn add(&mut self, Ended { seed, outcome, broken }: Ended) {
        self.histories += 1;
        match broken {
            Some(Broken::Lost(_)) => self.lost += 1,
            Some(Broken::Phantom(_)) => self.phantom += 1,
            Some(Broken::Duplicate(_)) => self.duplicate += 1,
            Some(_) | None => {}
        }
        match outcome {
            Ok(tally) => self.tally += tally,
            Err(what) => {
                // A long run may be broken off before it reports.
                eprintln!("failed: matchbook torture --from {seed} --seeds 1    # {what}");
                self.failures.push((seed, what));
            }
        }
    }

    fn report(&self, took: Duration, json: bool) -> Result<(), Failure> {
        let Self { histories, tally, lost, phantom, duplicate, failures } = self;
        if json {
            print(&json!({
                "histories": histories,
                "seconds": took.as_secs_f64(),
                "acknowledged_events": tally.acknowledged,
                "lost": lost,
                "phantom": phantom,
                "duplicate": duplicate,
                "refused_appends": tally.refused,
                "unknown_appends": tally.unknown,
                "refused_starts": tally.refused_starts,
                "power_cuts": tally.power_cuts,
                "failed_calls": tally.failed_calls,
                "full_disks": tally.full_disks,
                "cut_writes": tally.cut_writes,
                "changed_bits": damaged(tally.changed_bits),
                "misdirected_writes": damaged(tally.misdirected_writes),
                "lost_writes": damaged(tally.lost_writes),
                "fault_points": { "hit": tally.points.hit(), "all": tally.points.all() },
                "repairs": tally.repairs,
                "faults_in_repairs": tally.faults_in_repairs,
                "events_set_aside": tally.set_aside,
                "failures": failures.iter().map(|(seed, what)| json!({ "seed": seed, "what": what })).collect::<Vec<_>>(),
            }))?;
        } else {
            print(&format_args!("{histories} histories in {:.1} s", took.as_secs_f64()))?;
            print(&format_args!(
                "met: {} power cuts, {} failed calls, {} full disks; {} of {} fault points (call, kind of file, trouble)",
                tally.power_cuts,
                tally.failed_calls,
                tally.full_disks,
                tally.points.hit(),
                tally.points.all(),
            ))?;
            print(&format_args!(
                "appends: {} events acknowledged; {} refused, {} unknown; {} unfinished writes kept aside",
                tally.acknowledged, tally.refused, tally.unknown, tally.cut_writes,
            ))?;
            print(&format_args!("starts that a failing disk refused: {}", tally.refused_starts))?;
            for (what, Damaged { found, harmless }) in [
                ("changed bits", tally.changed_bits),
                ("misdirected writes", tally.misdirected_writes),
                ("lost writes", tally.lost_writes),
            ] {
                print(&format_args!("{what}: {found} found, {harmless} harmless"))?;
            }
            print(&format_args!(
                "damaged logs repaired: {}, through {} faults; {} events set aside readable",
                tally.repairs, tally.faults_in_repairs, tally.set_aside,
            ))?;
            print(&format_args!(
                "histories that lost an event: {lost}, made one up: {phantom}, doubled one: {duplicate}"
            ))?;
            for (seed, what) in failures {
                print(&format_args!("matchbook torture --from {seed} --seeds 1    # {what}"))?;
            }
        }
        match failures.len() {
            0 => Ok(()),
            failed => Err(Failure::Failed(format!("{failed} histories broke a promise of the log"))),
        }
    }
}

fn damaged(Damaged { found, harmless }: Damaged) -> serde_json::Value {
    json!({ "found": found, "harmless": harmless })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_that_breaks_a_promise_is_counted_and_makes_the_command_fail() {
        let mut sum = Sum::default();
        sum.add(play(1));
        let broken = Broken::Lost(event_schemas::ids::Position(3));
        sum.add(Ended { seed: 7, outcome: Err(broken.to_string()), broken: Some(broken) });
        assert_eq!((sum.histories, sum.lost, sum.failures[0].0), (2, 1, 7));
        assert!(matches!(sum.report(Duration::ZERO, true), Err(Failure::Failed(_))));
    }

    #[test]
    fn every_seed_is_played_once() {
        let sum = Torture { seeds: 9, from: 100, threads: None }.play(Instant::now());
        assert_eq!((sum.histories, sum.failures.len()), (9, 0));
    }
}
