//! `matchbook-bench attacks`: what honest clients notice while one attacker is at work, and the server's memory.

mod attacker;
mod http2;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use futures_util::future::join_all;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;
use uuid::Uuid;
use web::caller::{Claims, Role, Roles, mint};

use self::attacker::Attack;
use super::server_process::{self, ServerProcess};
use super::{image_match, percentile};
use matchbook::failure::{Failure, print};

/// The secret with which tokens are signed.
const SECRET: &str = "bench-bench-bench-bench-bench-bench";
/// The number of matches in the largest job, and in one batch.
const MATCHES: u64 = 100_000;
const BATCH: u64 = 10_000;
/// The number of jobs.
const JOBS: u64 = 500;
/// The pause between two samples of the memory.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);

#[derive(Args, Debug)]
pub(crate) struct Attacks {
    /// The attacks; all by default
    #[arg(value_name = "ATTACK")]
    attacks: Vec<Attack>,
    /// The server program; by default the one that was built with this program
    #[arg(long, value_name = "PROGRAM")]
    program: Option<PathBuf>,
    /// The parent of a temporary folder for the server
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// The number of honest clients, each with a connection of its own
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    clients: u32,
    /// The requests per second of all honest clients together
    #[arg(long, value_name = "NUMBER", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// The duration of an attack, and of the time before it
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    lasts: Duration,
}

/// The server that is attacked, with what is in it.
pub(super) struct Victim {
    process: ServerProcess,
    /// The address of the EventStoreDB protocol.
    pub(super) wire: String,
    pub(super) job: Uuid,
    admin: String,
    /// A caller of the same tenant without further rights, and one that may report matches.
    pub(super) user: String,
    pub(super) worker: String,
}

/// What honest clients noticed.
struct Noticed {
    latencies: Vec<f64>,
    failures: usize,
    /// The slowest `GET /live`, in milliseconds.
    live_max: f64,
    memory_max: f64,
}

impl Attacks {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let attacks = if self.attacks.is_empty() { Attack::value_variants() } else { &self.attacks };
        for attack in attacks.iter().copied() {
            let folder = tempfile::tempdir_in(&self.folder).map_err(|error| {
                Failure::Disk(format!("cannot create a folder in {}: {error}", self.folder.display()))
            })?;
            let program = self.program.clone().map_or_else(server_process::beside_this, Ok)?;
            let victim = Arc::new(Victim::start(&program, &folder).await?);
            self.notice(&victim).await?;
            let before = self.notice(&victim).await?;
            // A thread of their own, so that an honest client does not wait for an attacker's work in this program.
            let attackers = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .map_err(|error| Failure::Failed(format!("cannot start the attackers: {error}")))?;
            attack.start(&victim, &attackers);
            let during = self.notice(&victim).await?;
            attackers.shutdown_background();
            report(attack, &before, &during, json)?;
        }
        Ok(())
    }

    /// Sends the requests of the honest clients.
    async fn notice(&self, victim: &Arc<Victim>) -> Result<Noticed, Failure> {
        let ends = Instant::now() + self.lasts;
        let gap = Duration::from_secs(1) * self.clients / self.rate;
        let mut clients = Vec::new();
        for number in 0..self.clients {
            let (client, victim) = (victim.process.client()?, victim.clone());
            // They do not all send at once.
            let first = Instant::now() + gap * number / self.clients;
            clients
                .push(tokio::spawn(async move { honest(&client, &victim, number, first, gap, ends).await }));
        }
        let prober = tokio::spawn(probe(victim.process.client()?, victim.clone(), ends));
        let mut memory_max: f64 = 0.0;
        while Instant::now() < ends {
            memory_max = memory_max.max(victim.process.memory());
            tokio::time::sleep(SAMPLE_EVERY).await;
        }
        let noticed: Vec<_> = join_all(clients).await.into_iter().flatten().flatten().collect();
        let mut latencies: Vec<f64> = noticed.iter().flatten().copied().collect();
        latencies.sort_by(f64::total_cmp);
        let failures = noticed.len() - latencies.len();
        let live_max = prober.await.unwrap_or(f64::INFINITY);
        Ok(Noticed { latencies, failures, live_max, memory_max })
    }
}

/// The milliseconds of each response since its request was due; none for a failure.
async fn honest(
    client: &Client,
    victim: &Victim,
    number: u32,
    first: Instant,
    gap: Duration,
    ends: Instant,
) -> Vec<Option<f64>> {
    let mut due = tokio::time::interval_at(first.into(), gap);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut latencies = Vec::new();
    let mut turn = number;
    loop {
        let was_due = due.tick().await.into_std();
        if was_due >= ends {
            return latencies;
        }
        turn += 1;
        let job = format!("/jobs/{}", job_id(u64::from(turn) * 7 % JOBS));
        let (method, path, body) = match turn % 10 {
            0 => (Method::POST, "/jobs".to_owned(), Some(json!({ "name": "honest" }))),
            1..4 => (Method::GET, job, None),
            _ => (Method::GET, format!("{job}/matching/summary"), None),
        };
        let answer = victim.send(client, method, &path, &victim.admin, body.as_ref()).await;
        latencies.push(answer.is_ok().then(|| was_due.elapsed().as_secs_f64() * 1e3));
    }
}

/// The slowest `GET /live`, in milliseconds.
async fn probe(client: Client, victim: Arc<Victim>, ends: Instant) -> f64 {
    let mut slowest: f64 = 0.0;
    while Instant::now() < ends {
        let start = Instant::now();
        let answer = client.get(victim.url("/live")).send().await;
        let taken = if answer.is_ok() { start.elapsed().as_secs_f64() * 1e3 } else { f64::INFINITY };
        slowest = slowest.max(taken);
        tokio::time::sleep(SAMPLE_EVERY).await;
    }
    slowest
}

impl Victim {
    async fn start(program: &std::path::Path, folder: &tempfile::TempDir) -> Result<Self, Failure> {
        let wire = server_process::free_address()?;
        let secret = format!("--jwt-secret={SECRET}");
        let (listen, users) = (format!("--esdb-listen={wire}"), "--esdb-users=ops:operations".to_owned());
        let process = ServerProcess::start(program, folder, &[&secret, &listen, &users]).await?;
        let token = |user: &str, roles: Roles| {
            let tenant = "bench".parse().map_err(|error| Failure::Failed(format!("{error}")))?;
            let now = event_log::clock::Clock::System.now();
            let claims = Claims::new(&tenant, user, roles, now, Duration::from_secs(86_400));
            mint(SECRET.as_bytes(), &claims).map_err(|error| Failure::Failed(error.to_string()))
        };
        let admin = token("honest", Role::Admin | Role::User | Role::Worker | Role::Service)?;
        let (user, worker) =
            (token("attacker", Role::User | Role::Auditor)?, token("attacker", Role::Worker.into())?);
        let victim = Self { process, wire, job: job_id(0), admin, user, worker };
        let client = victim.process.client()?;
        for number in 0..JOBS {
            let job = job_id(number);
            let body = json!({ "job_id": job, "name": "bench" });
            victim.send(&client, Method::POST, "/jobs", &victim.admin, Some(&body)).await?;
            let phase = format!("/jobs/{job}/phase");
            victim
                .send(&client, Method::PUT, &phase, &victim.admin, Some(&json!({ "phase": "matching" })))
                .await?;
            let matches = if number == 0 { MATCHES } else { 20 };
            for from in (0..matches).step_by(BATCH as usize) {
                let batch: Vec<Value> = (from..matches.min(from + BATCH)).map(image_match).collect();
                let path = format!("/jobs/{job}/matches");
                victim.send(&client, Method::POST, &path, &victim.admin, Some(&batch.into())).await?;
            }
        }
        Ok(victim)
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.process.url)
    }

    /// The address without its scheme.
    pub(super) fn address(&self) -> &str {
        self.process.url.trim_start_matches("http://")
    }

    async fn send(
        &self,
        client: &Client,
        method: Method,
        path: &str,
        token: &str,
        body: Option<&Value>,
    ) -> Result<(), Failure> {
        let mut request = client.request(method, self.url(path)).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let failed = |error: reqwest::Error| Failure::Failed(format!("a request failed: {error}"));
        let answer = request.send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
        answer.bytes().await.map(drop).map_err(failed)
    }
}

fn job_id(number: u64) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + u128::from(number))
}

fn report(attack: Attack, before: &Noticed, during: &Noticed, json: bool) -> Result<(), Failure> {
    let p99 = |noticed: &Noticed| percentile(&noticed.latencies, 0.99);
    let p50 = |noticed: &Noticed| percentile(&noticed.latencies, 0.5);
    let ratio = p99(during) / p99(before);
    if json {
        return print(&json!({ "bench": "attacks", "attack": attack.name(),
            "p50_before_ms": p50(before), "p50_ms": p50(during), "p99_before_ms": p99(before), "p99_ms": p99(during),
            "failures": during.failures, "live_max_ms": during.live_max,
            "memory_before_mib": before.memory_max, "memory_mib": during.memory_max }));
    }
    print(&format_args!(
        "{:<18} p50 {:>6.1} -> {:>6.1} ms, p99 {:>6.1} -> {:>6.1} ms ({ratio:.1} times), {} of {} failed, /live at most \
         {:>6.1} -> {:>6.1} ms, memory {:.0} -> {:.0} MiB",
        attack.name(),
        p50(before),
        p50(during),
        p99(before),
        p99(during),
        during.failures,
        during.latencies.len() + during.failures,
        before.live_max,
        during.live_max,
        before.memory_max,
        during.memory_max,
    ))
}
