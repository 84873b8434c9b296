//! Players who join over HTTP, at a rate that does not wait for answers, and how soon they meet somebody.

use std::collections::HashMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use domain::pool;
use event_log::{EventLog, Filter};
use event_schemas::envelope::Event;
use event_schemas::ids::{EntryId, Position};
use event_schemas::match_record::{MatchPlayer, MatchProposed, MatchRecordEvent};
use event_schemas::player::PlayerEvent;
use event_schemas::time::Timestamp;
use futures_util::future::{join_all, ready};
use futures_util::{StreamExt, stream};
use reqwest::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Handle;
use uuid::Uuid;

use super::pass::failed;
use super::{Figures, crowd, open, percentile, what};
use crate::cli::Failure;

/// How long the server may take to start, and the last players to meet.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests before it counts, so that connections are there.
const WARM_UP: u64 = 500;
/// How many of those who joined look what became of them.
const LOOKS: usize = 1_000;
/// How many players are made known at once.
const NEWCOMERS_AT_ONCE: usize = 256;
/// In which Linux counts CPU time for programs.
const TICK_MILLIS: u64 = 10;

/// A server in a process of its own. Ends when it is dropped.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    async fn start(folder: &TempDir) -> Result<Self, Failure> {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = port.map_err(|error| failed(&error))?.to_string();
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        let mut command = Command::new(program);
        command.args(["serve", "--log=warn", "--reserve-bytes=0", "--listen", &address, "--data"]);
        command.arg(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        // Its keys and addresses are not those of a server that is meant otherwise.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MATCHBOOK_") {
                command.env_remove(name);
            }
        }
        let child = command.spawn().map_err(|error| failed(&error))?;
        let server = Self { child, url: format!("http://{address}") };
        let (client, since) = (Client::new(), Instant::now());
        while since.elapsed() < PATIENCE {
            let answer = client.get(format!("{}/ready", server.url)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(server);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(Failure::Unreachable("the server did not become ready".to_owned()))
    }

    /// CPU time that it used so far.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * TICK_MILLIS)
    }

    /// Lets it end in order, so that its log can be opened.
    fn stop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How a request went.
enum Answered {
    /// Who, in which entry, and after how many milliseconds.
    Joined {
        number: u64,
        entry: String,
        time: f64,
    },
    Failed,
}

pub(super) async fn measure(folder: &TempDir, rate: u32, lasts: Duration) -> Result<Figures, Failure> {
    let mut server = Server::start(folder).await?;
    let client = Client::builder().pool_max_idle_per_host(1_024).build().map_err(|error| failed(&error))?;
    let url = format!("{}/v1/matchmaking/queue", server.url);
    let players = WARM_UP + (lasts.as_secs_f64() * f64::from(rate)) as u64;
    let newcomers = make_known(&client, &url, players).await?;
    let warm_up = (0..WARM_UP).map(|number| join(client.clone(), url.clone(), number, Instant::now()));
    join_all(warm_up).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = server.cpu();
    let answers = all_join(&client, &url, rate, lasts).await;
    let cpu = server.cpu().saturating_sub(before);
    let mut times: Vec<f64> = joined(&answers).map(|(.., time)| time).collect();
    let failures = answers.len() - times.len();
    times.sort_by(f64::total_cmp);
    let mut looks = look(&client, &url, joined(&answers).take(LOOKS)).await;
    looks.sort_by(f64::total_cmp);
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.stop();
    let mut met = meetings(folder, WARM_UP).await?;
    met.sort_by(f64::total_cmp);
    let join = |share| percentile(&times, share);
    let meet = |share| percentile(&met, share);
    Ok(vec![
        (what("newcomers_per_second", "players whom nobody knew before, made known in a second"), newcomers),
        (what("rate", "joins asked for in a second, by players who are known"), f64::from(rate)),
        (what("joined", "players who joined"), times.len() as f64),
        (what("failures", "requests that failed"), failures as f64),
        (what("join_p50_ms", "POST queue, from when it was due: p50, ms"), join(0.5)),
        (what("join_p95_ms", "POST queue: p95, ms"), join(0.95)),
        (what("join_p99_ms", "POST queue: p99, ms"), join(0.99)),
        (what("look_p95_ms", "GET queue/{id}, one after the other: p95, ms"), percentile(&looks, 0.95)),
        (what("met", "matches"), met.len() as f64),
        (what("meet_p50_ms", "from feasible to confirmed on disk: p50, ms"), meet(0.5)),
        (what("meet_p95_ms", "from feasible to confirmed: p95, ms"), meet(0.95)),
        (what("meet_p99_ms", "from feasible to confirmed: p99, ms"), meet(0.99)),
        (
            what("server_cpu_us", "CPU of the server for each who joined, µs"),
            cpu.as_secs_f64() * 1e6 / times.len().max(1) as f64,
        ),
    ])
}

/// Lets the server give everybody a name, as it does once for each player, and answers how many it gave in a second. Whoever
/// leaves an entry that never was is told so, and is known from then on.
async fn make_known(client: &Client, url: &str, players: u64) -> Result<f64, Failure> {
    let since = Instant::now();
    let leaving = stream::iter(0..players).map(async |number| {
        let entry = Uuid::from_u128(number.into());
        let answer = client.delete(format!("{url}/{entry}")).header("x-user", user(number)).send().await;
        answer.is_ok_and(|answer| answer.status().as_u16() == 404)
    });
    let known = leaving.buffer_unordered(NEWCOMERS_AT_ONCE).filter(|known| ready(*known)).count().await;
    if known as u64 != players {
        return Err(Failure::Failed(format!("{known} of {players} players could be made known")));
    }
    Ok(players as f64 / since.elapsed().as_secs_f64())
}

/// Joins are sent at the rate, whether answers come or not.
async fn all_join(client: &Client, url: &str, rate: u32, lasts: Duration) -> Vec<Answered> {
    let gap = Duration::from_secs(1) / rate;
    let requests = (lasts.as_secs_f64() * f64::from(rate)) as u32;
    let (client, url, runtime) = (client.clone(), url.to_owned(), Handle::current());
    // A thread of its own: the runtime's timers have a grain of a millisecond, and would let requests go in bursts.
    let pacing = tokio::task::spawn_blocking(move || {
        let start = Instant::now();
        let ask = |number: u32| {
            let due = start + gap * number;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            runtime.spawn(join(client.clone(), url.clone(), WARM_UP + u64::from(number), due))
        };
        (0..requests).map(ask).collect::<Vec<_>>()
    });
    let asked = pacing.await.unwrap_or_default();
    join_all(asked).await.into_iter().map(|answer| answer.unwrap_or(Answered::Failed)).collect()
}

/// Milliseconds from when the request was due to its whole answer.
async fn join(client: Client, url: String, number: u64, due: Instant) -> Answered {
    let rating = crowd::rating(number).points();
    let request = client.post(url).header("x-user", user(number));
    let request = request.json(&json!({ "pool_key": crowd::pool(), "rating": rating }));
    let Ok(answer) = request.send().await else { return Answered::Failed };
    let is_joined = answer.status().as_u16() == 201;
    let Ok(body) = answer.bytes().await else { return Answered::Failed };
    let time = due.elapsed().as_secs_f64() * 1e3;
    let entry =
        serde_json::from_slice(&body).ok().and_then(|body: Value| Some(body.get("id")?.as_str()?.to_owned()));
    match entry {
        Some(entry) if is_joined => Answered::Joined { number, entry, time },
        _ => Answered::Failed,
    }
}

/// Of those who joined: who, in which entry, and after how many milliseconds.
fn joined(answers: &[Answered]) -> impl Iterator<Item = (u64, &str, f64)> {
    answers.iter().filter_map(|answer| match answer {
        Answered::Joined { number, entry, time } => Some((*number, entry.as_str(), *time)),
        Answered::Failed => None,
    })
}

fn user(number: u64) -> String {
    format!("player-{number}")
}

/// Some of them look what became of them, one after the other.
async fn look(client: &Client, url: &str, joined: impl Iterator<Item = (u64, &str, f64)>) -> Vec<f64> {
    let mut times = Vec::new();
    for (number, entry, _) in joined {
        let since = Instant::now();
        let answer = client.get(format!("{url}/{entry}")).header("x-user", user(number)).send().await;
        let Ok(answer) = answer else { continue };
        if answer.status().is_success() && answer.bytes().await.is_ok() {
            times.push(since.elapsed().as_secs_f64() * 1e3);
        }
    }
    times
}

/// Of each match, the milliseconds from when its two may have met to when its game was confirmed on disk.
async fn meetings(folder: &TempDir, skipped: u64) -> Result<Vec<f64>, Failure> {
    let log = open(folder).await?;
    let mut queued: HashMap<EntryId, (u64, Timestamp)> = HashMap::new();
    let mut proposed = HashMap::new();
    let mut met = Vec::new();
    let mut after = Position::START;
    loop {
        let page = log.read_all(after, &Filter::All, 4096).await.map_err(|error| failed(&error))?;
        for recorded in &page.events {
            let envelope = recorded.decode().map_err(|error| failed(&error))?;
            match envelope.event {
                Event::Player(PlayerEvent::PlayerQueued(event)) => {
                    let number = queued.len() as u64;
                    queued.insert(event.entry_id, (number, envelope.recorded_at));
                }
                Event::MatchRecord(MatchRecordEvent::MatchProposed(event)) => {
                    proposed.insert(envelope.stream, event);
                }
                Event::MatchRecord(MatchRecordEvent::MatchConfirmed(_)) => {
                    let Some(event) = proposed.remove(&envelope.stream) else { continue };
                    if let Some((number, feasible)) = feasible(&event, &queued)
                        && number >= skipped
                    {
                        met.push(envelope.recorded_at.since(feasible).as_secs_f64() * 1e3);
                    }
                }
                _ => {}
            }
        }
        after = page.next;
        if page.at_head {
            break;
        }
    }
    log.close().await;
    Ok(met)
}

/// When the two of a match could meet: once both were in the log, and the window of who came first reached the other.
fn feasible(event: &MatchProposed, queued: &HashMap<EntryId, (u64, Timestamp)>) -> Option<(u64, Timestamp)> {
    let of = |player: &MatchPlayer| queued.get(&player.entry_id?).copied();
    let (first, second) = (of(&event.first)?, of(&event.second)?);
    let wait = pool::wait_for(&pool::DEFAULTS, event.first.rating.distance(event.second.rating))?;
    let widened = event.first.queued_at?.min(event.second.queued_at?).after(wait);
    Some((first.0.min(second.0), first.1.max(second.1).max(widened)))
}
