//! `matchbook-bench`: measures a running server over its API, and the event log alone.

mod attacks;
#[cfg(feature = "eventstore")]
mod cluster;
mod log;
mod matchmaking;
mod open;
mod requests;
mod search;
mod server_process;
mod shop;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use matchbook::client::{Client, Server};
use matchbook::failure::{self, Failure, print};

/// The number of matches in one report.
const BATCH: u64 = 10_000;

/// Measures Matchbook: a running server over its API, or parts of it on this machine
#[derive(Parser, Debug)]
#[command(version, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    bench: Bench,

    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    failure::run(cli.bench.run(cli.json), cli.json)
}

#[derive(Subcommand, Debug)]
enum Bench {
    /// Measure the latency of `GET …/matching/summary` at a fixed rate, for jobs of different sizes
    Summary(Summary),
    /// Measure appends, opening and reading of the embedded log in a local folder, compared with SQLite and the bare disk
    Log(log::Log),
    /// Measure queue joins, pairing and replay throughput
    Matchmaking(matchmaking::Matchmaking),
    /// Measure the CPU time that a server takes for each command, match and read, and compare servers
    Requests(requests::Requests),
    /// Measure what honest clients notice while an attacker is at work, for each kind of attack
    Attacks(attacks::Attacks),
    /// Measure searches for vectors: their time, and the share of the exact results that they find behind filters
    Search(search::Search),
    /// Measure single interactions of users over many connections, also of another server with the same route
    Feedback(shop::Feedback),
    /// Measure lists and searches among many products and users, and the time from an interaction to a list that reflects it
    Recommend(shop::Recommend),
    /// Measure opening a large log, its memory, and the first access to its streams
    Open(open::Open),
    /// Measure appends and reads of the log on a cluster
    #[cfg(feature = "eventstore")]
    Cluster(cluster::Cluster),
}

#[derive(Args, Debug)]
struct Summary {
    #[command(flatten)]
    server: Server,
    /// The numbers of matches of the jobs
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "1000,1000000")]
    matches: Vec<u64>,
    /// Requests per second
    #[arg(long, value_name = "NUMBER", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// The duration of a round, which measures one job
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = humantime::parse_duration)]
    round: Duration,
    /// The number of rounds per job; the jobs take turns
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    rounds: u32,
}

impl Bench {
    async fn run(self, json: bool) -> Result<(), Failure> {
        match self {
            Self::Summary(summary) => summary.run(json).await,
            Self::Log(log) => log.run(json).await,
            Self::Matchmaking(matchmaking) => matchmaking.run(json).await,
            Self::Requests(requests) => requests.run(json).await,
            Self::Attacks(attacks) => attacks.run(json).await,
            Self::Search(search) => search.run(json).await,
            Self::Feedback(feedback) => feedback.run(json).await,
            Self::Recommend(recommend) => recommend.run(json).await,
            Self::Open(open) => open.run(json).await,
            #[cfg(feature = "eventstore")]
            Self::Cluster(cluster) => cluster.run(json).await,
        }
    }
}

/// A measured job.
struct MeasuredJob {
    path: String,
    matches: u64,
    /// The seconds that reporting the matches took.
    reporting: f64,
    /// The median and the 99th percentile of each round, in milliseconds.
    rounds: Vec<(f64, f64)>,
    failures: usize,
}

impl Summary {
    async fn run(self, json: bool) -> Result<(), Failure> {
        let client = Client::new(self.server.clone())?;
        let mut jobs = Vec::new();
        for matches in &self.matches {
            jobs.push(create_job(&client, *matches).await?);
        }
        for round in 0..self.rounds {
            for job in &mut jobs {
                let (latencies, failures) = self.ask(&client, &job.path).await;
                let at = |share: f64| percentile(&latencies, share);
                job.rounds.push((at(0.5), at(0.99)));
                job.failures += failures;
                eprintln!(
                    "round {}: {} matches, {} requests, p50 {:.3} ms, p99 {:.3} ms",
                    round + 1,
                    job.matches,
                    latencies.len(),
                    at(0.5),
                    at(0.99),
                );
            }
        }
        for job in &jobs {
            let (p50, p99) = (median(job, |round| round.0), median(job, |round| round.1));
            if json {
                print(&json!({ "bench": "summary", "matches": job.matches, "rate": self.rate,
                            "p50_ms": p50, "p99_ms": p99, "failures": job.failures,
                            "reported_per_second": job.matches as f64 / job.reporting }))?;
            } else {
                print(&format_args!(
                    "{:>9} matches (reported at {:.0}/s): p50 {p50:.3} ms, p99 {p99:.3} ms at {}/s, {} failures",
                    job.matches,
                    job.matches as f64 / job.reporting,
                    self.rate,
                    job.failures,
                ))?;
            }
        }
        Ok(())
    }

    /// Sends requests at the rate without waiting for responses: the latency counts from the time a request was due.
    async fn ask(&self, client: &Client, path: &str) -> (Vec<f64>, usize) {
        let gap = Duration::from_secs(1) / self.rate;
        let requests = (self.round.as_secs_f64() / gap.as_secs_f64()) as u32;
        let (client, path, runtime) = (client.clone(), path.to_owned(), Handle::current());
        // On its own thread: the runtime's timers have a resolution of a millisecond, and would send requests in bursts.
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

/// The milliseconds from the time the request was due to its complete response; none if it failed.
async fn timed(client: Client, path: String, due: Instant) -> Option<f64> {
    let answer = client.stream(&path, "application/json").await.ok()?;
    answer.bytes().await.ok()?;
    Some(due.elapsed().as_secs_f64() * 1000.0)
}

/// Creates a job in `matching` with this number of matches, all with different scores.
async fn create_job(client: &Client, matches: u64) -> Result<MeasuredJob, Failure> {
    let job: Value = client.post("/jobs", &json!({ "name": format!("bench: {matches} matches") })).await?;
    let job = format!("/jobs/{}", job.get("job_id").and_then(Value::as_str).unwrap_or_default());
    let _: Value = client.put(&format!("{job}/phase"), &json!({ "phase": "matching" })).await?;
    let start = Instant::now();
    let mut position = 0;
    for first in (0..matches).step_by(BATCH as usize) {
        let batch: Vec<Value> = (first..matches.min(first + BATCH)).map(image_match).collect();
        let answer: Value = client.post(&format!("{job}/matches"), &batch.into()).await?;
        position = answer.get("position").and_then(Value::as_u64).unwrap_or_default();
        if first % 100_000 == 0 && first > 0 {
            eprintln!("reported {first} of {matches} matches");
        }
    }
    let reporting = start.elapsed().as_secs_f64();
    let path = format!("{job}/matching/summary");
    loop {
        let summary: domain::image_matching::summary::Summary = client.get(&path).await?;
        if summary.position.0 >= position {
            return Ok(MeasuredJob { path, matches, reporting, rounds: Vec::new(), failures: 0 });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn image_match(n: u64) -> Value {
    // Spread evenly over the unit interval: multiples of the golden ratio.
    let score = (n as f64 * 0.618_033_988_749_894_9).fract();
    json!({ "match_id": format!("m{n}"), "product_id": format!("p{}", n % 100), "video_id": "v",
            "img_id": format!("p{}-1", n % 100), "frame_id": format!("f{}", n / 100), "score": score })
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    let index = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

fn median(job: &MeasuredJob, of: impl Fn(&(f64, f64)) -> f64) -> f64 {
    let mut values: Vec<f64> = job.rounds.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    percentile(&values, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_one_of_the_measured_times() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&sorted, 0.5), 51.0);
        assert_eq!(percentile(&sorted, 0.99), 99.0);
        assert!(percentile(&[], 0.5).is_nan());
    }
}
