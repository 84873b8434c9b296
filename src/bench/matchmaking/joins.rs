//! Measures queue joins over HTTP at a fixed rate, and the time until players are matched.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use domain::pool;
use event_log::{EventLog, Filter};
use event_schemas::envelope::Event;
use event_schemas::game_match::{GameMatchEvent, MatchPlayer, MatchProposed};
use event_schemas::ids::{EntryId, Position};
use event_schemas::player::PlayerEvent;
use event_schemas::time::Timestamp;
use futures_util::future::{join_all, ready};
use futures_util::{StreamExt, stream};
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Handle;
use uuid::Uuid;

use super::pass::failed;
use super::{Figures, crowd, metric, open, percentile};
use crate::server_process::{self, ServerProcess};
use matchbook::failure::Failure;

/// The requests before the measurement, so that connections are open.
const WARM_UP: u64 = 500;
/// The number of queue entries that are read after the joins.
const READS: usize = 1_000;
/// The number of players that are registered concurrently.
const REGISTRATIONS_IN_FLIGHT: usize = 256;

/// The result of a join.
enum JoinResult {
    /// The player, its queue entry, and the latency in milliseconds.
    Joined {
        number: u64,
        entry: String,
        time: f64,
    },
    Failed,
}

pub(super) async fn measure(folder: &TempDir, rate: u32, lasts: Duration) -> Result<Figures, Failure> {
    let mut server = ServerProcess::start(&server_process::beside_this()?, folder, &[]).await?;
    let client = server.client()?;
    let url = format!("{}/v1/matchmaking/queue", server.url);
    let players = WARM_UP + (lasts.as_secs_f64() * f64::from(rate)) as u64;
    let registered_per_second = register_players(&client, &url, players).await?;
    let warm_up = (0..WARM_UP).map(|number| join(client.clone(), url.clone(), number, Instant::now()));
    join_all(warm_up).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = server.cpu();
    let answers = all_join(&client, &url, rate, lasts).await;
    let cpu = server.cpu().saturating_sub(before);
    let mut times: Vec<f64> = joined(&answers).map(|(.., time)| time).collect();
    let failures = answers.len() - times.len();
    times.sort_by(f64::total_cmp);
    let mut reads = read_entries(&client, &url, joined(&answers).take(READS)).await;
    reads.sort_by(f64::total_cmp);
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.stop();
    let mut delays = pairing_delays(folder, WARM_UP).await?;
    delays.sort_by(f64::total_cmp);
    let join = |share| percentile(&times, share);
    let delay = |share| percentile(&delays, share);
    Ok(vec![
        (metric("registered_per_second", "new players registered per second"), registered_per_second),
        (metric("rate", "requested joins per second, of registered players"), f64::from(rate)),
        (metric("joined", "successful joins"), times.len() as f64),
        (metric("failures", "failed requests"), failures as f64),
        (metric("join_p50_ms", "POST queue, from the time it was due: p50, ms"), join(0.5)),
        (metric("join_p95_ms", "POST queue: p95, ms"), join(0.95)),
        (metric("join_p99_ms", "POST queue: p99, ms"), join(0.99)),
        (metric("read_p95_ms", "GET queue/{id}, sequential: p95, ms"), percentile(&reads, 0.95)),
        (metric("matches", "matches"), delays.len() as f64),
        (metric("pairing_p50_ms", "from feasible to confirmed on disk: p50, ms"), delay(0.5)),
        (metric("pairing_p95_ms", "from feasible to confirmed: p95, ms"), delay(0.95)),
        (metric("pairing_p99_ms", "from feasible to confirmed: p99, ms"), delay(0.99)),
        (
            metric("server_cpu_us", "CPU of the server per join, µs"),
            cpu.as_secs_f64() * 1e6 / times.len().max(1) as f64,
        ),
    ])
}

/// Registers the players in the vault, as happens once for each player, and returns the registrations per second. Deleting
/// an entry that does not exist returns 404, and registers the player.
async fn register_players(client: &Client, url: &str, players: u64) -> Result<f64, Failure> {
    let since = Instant::now();
    let deletes = stream::iter(0..players).map(async |number| {
        let entry = Uuid::from_u128(number.into());
        let answer = client.delete(format!("{url}/{entry}")).header("x-user", user(number)).send().await;
        answer.is_ok_and(|answer| answer.status().as_u16() == 404)
    });
    let registered = deletes
        .buffer_unordered(REGISTRATIONS_IN_FLIGHT)
        .filter(|registered| ready(*registered))
        .count()
        .await;
    if registered as u64 != players {
        return Err(Failure::Failed(format!("{registered} of {players} players could be registered")));
    }
    Ok(players as f64 / since.elapsed().as_secs_f64())
}

/// Sends joins at the rate, without waiting for responses.
async fn all_join(client: &Client, url: &str, rate: u32, lasts: Duration) -> Vec<JoinResult> {
    let gap = Duration::from_secs(1) / rate;
    let requests = (lasts.as_secs_f64() * f64::from(rate)) as u32;
    let (client, url, runtime) = (client.clone(), url.to_owned(), Handle::current());
    // On its own thread: the runtime's timers have a resolution of a millisecond, and would send requests in bursts.
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
    join_all(asked).await.into_iter().map(|answer| answer.unwrap_or(JoinResult::Failed)).collect()
}

/// Joins the queue; the latency counts from the time the request was due to its complete response.
async fn join(client: Client, url: String, number: u64, due: Instant) -> JoinResult {
    let rating = crowd::rating(number).points();
    let request = client.post(url).header("x-user", user(number));
    let request = request.json(&json!({ "pool_key": crowd::pool(), "rating": rating }));
    let Ok(answer) = request.send().await else { return JoinResult::Failed };
    let is_joined = answer.status().as_u16() == 201;
    let Ok(body) = answer.bytes().await else { return JoinResult::Failed };
    let time = due.elapsed().as_secs_f64() * 1e3;
    let entry =
        serde_json::from_slice(&body).ok().and_then(|body: Value| Some(body.get("id")?.as_str()?.to_owned()));
    match entry {
        Some(entry) if is_joined => JoinResult::Joined { number, entry, time },
        _ => JoinResult::Failed,
    }
}

/// The successful joins: player, queue entry, and latency in milliseconds.
fn joined(answers: &[JoinResult]) -> impl Iterator<Item = (u64, &str, f64)> {
    answers.iter().filter_map(|answer| match answer {
        JoinResult::Joined { number, entry, time } => Some((*number, entry.as_str(), *time)),
        JoinResult::Failed => None,
    })
}

fn user(number: u64) -> String {
    format!("player-{number}")
}

/// Reads queue entries sequentially, and returns the latencies in milliseconds.
async fn read_entries(
    client: &Client,
    url: &str,
    joined: impl Iterator<Item = (u64, &str, f64)>,
) -> Vec<f64> {
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

/// For each match, the milliseconds from the time its entries could be paired until the match was confirmed on disk.
async fn pairing_delays(folder: &TempDir, skipped: u64) -> Result<Vec<f64>, Failure> {
    let log = open(folder).await?;
    let mut queued: HashMap<EntryId, (u64, Timestamp)> = HashMap::new();
    let mut proposed = HashMap::new();
    let mut delays = Vec::new();
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
                Event::GameMatch(GameMatchEvent::MatchProposed(event)) => {
                    proposed.insert(envelope.stream, event);
                }
                Event::GameMatch(GameMatchEvent::MatchConfirmed(_)) => {
                    let Some(event) = proposed.remove(&envelope.stream) else { continue };
                    if let Some((number, feasible)) = feasible(&event, &queued)
                        && number >= skipped
                    {
                        delays.push(envelope.recorded_at.since(feasible).as_secs_f64() * 1e3);
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
    Ok(delays)
}

/// The earliest pairing time of a match: both entries are in the log, and the window of the older entry includes the other.
fn feasible(event: &MatchProposed, queued: &HashMap<EntryId, (u64, Timestamp)>) -> Option<(u64, Timestamp)> {
    let of = |player: &MatchPlayer| queued.get(&player.entry_id?).copied();
    let (first, second) = (of(&event.first)?, of(&event.second)?);
    let wait = pool::wait_for(&pool::DEFAULTS, event.first.rating.distance(event.second.rating))?;
    let widened = event.first.queued_at?.min(event.second.queued_at?).after(wait);
    Some((first.0.min(second.0), first.1.max(second.1).max(widened)))
}
