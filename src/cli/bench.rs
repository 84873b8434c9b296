//! `matchbook bench`: figures about a running server, as its callers meet them, and about the log by itself.

#[cfg(feature = "eventstore")]
mod cluster;
mod log;
mod matchmaking;
mod open;

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::client::{Client, Server};
use super::{Failure, print};

/// Matches in one report.
const BATCH: u64 = 10_000;

#[derive(Subcommand, Debug)]
pub(crate) enum Bench {
    /// How long `GET …/matching/summary` takes at a fixed rate, for jobs of different sizes in turn
    Summary(Summary),
    /// How fast the embedded log appends, opens and reads in a folder of this machine, beside SQLite and the bare disk
    Log(log::Log),
    /// How fast players are taken in over HTTP and put together, and a long history of them is read again
    Matchmaking(matchmaking::Matchmaking),
    /// What a log of many events costs to open and to hold open, and how fast it answers about streams nobody asked about
    Open(open::Open),
    /// How fast the log on a cluster appends and is read, as its callers meet it
    #[cfg(feature = "eventstore")]
    Cluster(cluster::Cluster),
}

#[derive(Args, Debug)]
pub(crate) struct Summary {
    #[command(flatten)]
    server: Server,
    /// How many matches the jobs have
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "1000,1000000")]
    matches: Vec<u64>,
    /// Requests a second
    #[arg(long, value_name = "NUMBER", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// How long each round asks one job
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = humantime::parse_duration)]
    round: Duration,
    /// How often each job is asked; the jobs take turns
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    rounds: u32,
}

impl Bench {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        match self {
            Self::Summary(summary) => summary.run(json).await,
            Self::Log(log) => log.run(json).await,
            Self::Matchmaking(matchmaking) => matchmaking.run(json).await,
            Self::Open(open) => open.run(json).await,
            #[cfg(feature = "eventstore")]
            Self::Cluster(cluster) => cluster.run(json).await,
        }
    }
}

/// One job of the run.
struct Subject {
    path: String,
    matches: u64,
    /// Seconds that reporting them took.
    reporting: f64,
    /// Of each round: median and 99th percentile, in milliseconds.
    rounds: Vec<(f64, f64)>,
    failures: usize,
}

impl Summary {
    async fn run(self, json: bool) -> Result<(), Failure> {
        let client = Client::new(self.server.clone())?;
        let mut subjects = Vec::new();
        for matches in &self.matches {
            subjects.push(subject(&client, *matches).await?);
        }
        for round in 0..self.rounds {
            for subject in &mut subjects {
                let (latencies, failures) = self.ask(&client, &subject.path).await;
                let at = |share: f64| percentile(&latencies, share);
                subject.rounds.push((at(0.5), at(0.99)));
                subject.failures += failures;
                eprintln!(
                    "round {}: {} matches, {} requests, p50 {:.3} ms, p99 {:.3} ms",
                    round + 1,
                    subject.matches,
                    latencies.len(),
                    at(0.5),
                    at(0.99),
                );
            }
        }
        for subject in &subjects {
            let (p50, p99) = (median(subject, |round| round.0), median(subject, |round| round.1));
            if json {
                print(&json!({ "bench": "summary", "matches": subject.matches, "rate": self.rate,
                            "p50_ms": p50, "p99_ms": p99, "failures": subject.failures,
                            "reported_per_second": subject.matches as f64 / subject.reporting }))?;
            } else {
                print(&format_args!(
                    "{:>9} matches (reported at {:.0}/s): p50 {p50:.3} ms, p99 {p99:.3} ms at {}/s, {} failures",
                    subject.matches,
                    subject.matches as f64 / subject.reporting,
                    self.rate,
                    subject.failures,
                ))?;
            }
        }
        Ok(())
    }

    /// Asks at the rate, whether answers come or not: a request's time counts from when it was due.
    async fn ask(&self, client: &Client, path: &str) -> (Vec<f64>, usize) {
        let gap = Duration::from_secs(1) / self.rate;
        let requests = (self.round.as_secs_f64() / gap.as_secs_f64()) as u32;
        let (client, path, runtime) = (client.clone(), path.to_owned(), Handle::current());
        // A thread of its own: the runtime's timers have a grain of a millisecond, and would let requests go in bursts.
        let pacing = tokio::task::spawn_blocking(move || {
            let start = Instant::now();
            let ask = |number: u32| {
                let due = start + gap * number;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                runtime.spawn(timed(client.clone(), path.clone(), due))
            };
            (0..requests).map(ask).collect::<Vec<_>>()
        });
        let asked = pacing.await.unwrap_or_default();
        let answers = join_all(asked).await;
        let mut latencies: Vec<f64> = answers.iter().filter_map(|answer| *answer.as_ref().ok()?).collect();
        latencies.sort_by(f64::total_cmp);
        let failures = answers.len() - latencies.len();
        (latencies, failures)
    }
}

/// Milliseconds from when the request was due to its whole answer; none if it failed.
async fn timed(client: Client, path: String, due: Instant) -> Option<f64> {
    let answer = client.stream(&path, "application/json").await.ok()?;
    answer.bytes().await.ok()?;
    Some(due.elapsed().as_secs_f64() * 1000.0)
}

/// A job in `matching` with so many matches, all with different scores.
async fn subject(client: &Client, matches: u64) -> Result<Subject, Failure> {
    let job: Value = client.post("/jobs", &json!({ "name": format!("bench: {matches} matches") })).await?;
    let job = format!("/jobs/{}", job.get("job_id").and_then(Value::as_str).unwrap_or_default());
    let _: Value = client.put(&format!("{job}/phase"), &json!({ "phase": "matching" })).await?;
    let start = Instant::now();
    let mut position = 0;
    for first in (0..matches).step_by(BATCH as usize) {
        let batch: Vec<Value> = (first..matches.min(first + BATCH)).map(found).collect();
        let answer: Value = client.post(&format!("{job}/matches"), &batch.into()).await?;
        position = answer.get("position").and_then(Value::as_u64).unwrap_or_default();
        if first % 100_000 == 0 && first > 0 {
            eprintln!("reported {first} of {matches} matches");
        }
    }
    let reporting = start.elapsed().as_secs_f64();
    let path = format!("{job}/matching/summary");
    loop {
        let summary: Value = client.get(&path).await?;
        if summary.get("position").and_then(Value::as_u64).unwrap_or_default() >= position {
            return Ok(Subject { path, matches, reporting, rounds: Vec::new(), failures: 0 });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn found(n: u64) -> Value {
    // Spread over the unit interval without a pattern: the golden ratio's multiples.
    let score = (n as f64 * 0.618_033_988_749_894_9).fract();
    json!({ "match_id": format!("m{n}"), "product_id": format!("p{}", n % 100), "video_id": "v",
            "img_id": format!("p{}-1", n % 100), "frame_id": format!("f{}", n / 100), "score": score })
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    let index = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

fn median(subject: &Subject, of: impl Fn(&(f64, f64)) -> f64) -> f64 {
    let mut values: Vec<f64> = subject.rounds.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    percentile(&values, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_of_a_round_is_one_of_its_times() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&sorted, 0.5), 51.0);
        assert_eq!(percentile(&sorted, 0.99), 99.0);
        assert!(percentile(&[], 0.5).is_nan());
    }
}
