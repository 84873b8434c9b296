//! `matchbook-bench requests`: the CPU time that a server takes for each request, whatever else the machine does.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use super::image_match;
use super::matchmaking::{Figures, metric, report};
use super::server_process::{self, ServerProcess};
use matchbook::failure::Failure;

/// The number of matches in a batch.
const BATCH: u64 = 1_000;
/// The number of batches, and of those in flight.
const BATCHES: u64 = 100;
const BATCHES_IN_FLIGHT: usize = 2;
/// The number of summaries that are read for each job that is created.
const SUMMARIES: u64 = 10;
/// The interval at which it is checked whether a server is still busy, and the number of idle intervals after which it is not.
const SETTLE_STEP: Duration = Duration::from_millis(100);
const SETTLE_STEPS: u32 = 3;

#[derive(Args, Debug)]
pub(crate) struct Requests {
    /// The server programs, which take turns; by default the one that was built with this program
    #[arg(value_name = "PROGRAM")]
    programs: Vec<PathBuf>,
    /// The parent of temporary folders for the servers
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// The number of jobs and of players
    #[arg(long, value_name = "NUMBER", default_value_t = 3_000)]
    jobs: u64,
    /// The number of requests in flight
    #[arg(long, value_name = "NUMBER", default_value_t = 64)]
    in_flight: usize,
    /// The number of rounds
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// A server to which requests are sent.
struct MeasuredServer {
    process: ServerProcess,
    client: Client,
    in_flight: usize,
}

impl Requests {
    pub(super) async fn run(mut self, json: bool) -> Result<(), Failure> {
        if self.programs.is_empty() {
            self.programs.push(server_process::beside_this()?);
        }
        let mut rounds: Vec<Vec<Figures>> = vec![Vec::new(); self.programs.len()];
        for _ in 0..self.rounds {
            for (program, rounds) in self.programs.iter().zip(&mut rounds) {
                rounds.push(self.measure(program).await?);
            }
        }
        for (program, rounds) in self.programs.iter().zip(&rounds) {
            report(&format!("requests to {}", program.display()), rounds, json)?;
        }
        Ok(())
    }

    async fn measure(&self, program: &std::path::Path) -> Result<Figures, Failure> {
        let folder = tempfile::tempdir_in(&self.folder).map_err(|error| {
            Failure::Disk(format!("cannot create a folder in {}: {error}", self.folder.display()))
        })?;
        let process = ServerProcess::start(program, &folder, &[]).await?;
        let client = process.client()?;
        let mut server = MeasuredServer { process, client, in_flight: self.in_flight };
        let memory_idle = server.process.memory();
        let create = server.cost(0..self.jobs, MeasuredServer::create).await?;
        let changes = ["collecting", "extracting", "matching", "evidence", "completed"]
            .into_iter()
            .flat_map(|phase| (0..self.jobs).map(move |number| (number, phase)));
        let phase = server.cost(changes, |server, (number, phase)| server.phase(number, phase)).await?;
        // Another job, which has not ended.
        let job = self.jobs;
        server.cost([job], MeasuredServer::create).await?;
        server.cost([job], |server, job| server.phase(job, "matching")).await?;
        server.in_flight = BATCHES_IN_FLIGHT;
        let batch = server.cost(0..BATCHES, |server, number| server.matches(job, number)).await?;
        server.in_flight = self.in_flight;
        let summaries = 0..self.jobs * SUMMARIES;
        let summary = server.cost(summaries, |server, _| server.summary(job)).await?;
        let join = server.cost(0..self.jobs, MeasuredServer::join).await?;
        let memory = server.process.memory();
        server.process.stop();
        Ok(vec![
            (metric("create_us", "POST /jobs: CPU, µs"), create),
            (metric("phase_us", "PUT phase, with a key: CPU, µs"), phase),
            (metric("match_us", "a match in a batch of 1,000, with a key: CPU, µs"), batch / BATCH as f64),
            (metric("summary_us", "GET summary: CPU, µs"), summary),
            (metric("join_us", "POST queue of a new player, and its pairing: CPU, µs"), join),
            (metric("memory_idle_mib", "memory after the start, MiB"), memory_idle),
            (metric("memory_mib", "memory at the end, MiB"), memory),
        ])
    }
}

impl MeasuredServer {
    /// Sends the requests, and returns the microseconds of CPU for each of them, with all that follows from it.
    async fn cost<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        request: impl Fn(&Self, T) -> RequestBuilder,
    ) -> Result<f64, Failure> {
        self.settle().await;
        let before = self.process.cpu();
        let sent = stream::iter(items.into_iter().map(|item| {
            let request = request(self, item);
            async move {
                let answer = request.send().await?.error_for_status()?;
                answer.bytes().await.map(drop)
            }
        }));
        let count =
            sent.buffer_unordered(self.in_flight).try_fold(0_u64, async |count, ()| Ok(count + 1)).await;
        let count = count.map_err(|error| Failure::Failed(format!("a request failed: {error}")))?;
        self.settle().await;
        Ok((self.process.cpu() - before).as_secs_f64() * 1e6 / count.max(1) as f64)
    }

    /// Waits until the server has processed everything.
    async fn settle(&self) {
        let (mut idle, mut last) = (0, self.process.cpu());
        while idle < SETTLE_STEPS {
            tokio::time::sleep(SETTLE_STEP).await;
            let now = self.process.cpu();
            // A timer may cost one tick.
            idle = if now - last <= Duration::from_millis(10) { idle + 1 } else { 0 };
            last = now;
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.process.url)
    }

    fn create(&self, number: u64) -> RequestBuilder {
        self.client.post(self.url("/jobs")).json(&json!({ "job_id": job_id(number), "name": "bench" }))
    }

    fn phase(&self, number: u64, phase: &str) -> RequestBuilder {
        let request = self.client.put(self.url(&format!("/jobs/{}/phase", job_id(number))));
        request.header("idempotency-key", phase).json(&json!({ "phase": phase }))
    }

    fn matches(&self, job: u64, batch: u64) -> RequestBuilder {
        let matches: Vec<Value> = (batch * BATCH..(batch + 1) * BATCH).map(image_match).collect();
        let request = self.client.post(self.url(&format!("/jobs/{}/matches", job_id(job))));
        request.header("idempotency-key", batch.to_string()).json(&matches)
    }

    fn summary(&self, job: u64) -> RequestBuilder {
        self.client.get(self.url(&format!("/jobs/{}/matching/summary", job_id(job))))
    }

    /// Two players in each pool, so that they are paired.
    fn join(&self, number: u64) -> RequestBuilder {
        let request =
            self.client.post(self.url("/v1/matchmaking/queue")).header("x-user", format!("player-{number}"));
        request.json(&json!({ "pool_key": format!("pool-{}", number / 2), "rating": 1500 }))
    }
}

fn job_id(number: u64) -> Uuid {
    Uuid::from_u128(number.into())
}
