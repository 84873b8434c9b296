//! The program: flags, environment, logging, signals and exit codes.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use matchbook_arena::api::Api;
use matchbook_arena::arena::{Arena, GameRules};
use matchbook_arena::crowd::{self, CrowdSettings};
use matchbook_arena::fault::{Fault, InvalidFault};
use matchbook_arena::report::Reporter;
use matchbook_arena::service;
use matchbook_arena::strength::Strengths;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The timeout for reporting aborted games when the game server stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// A simulated game server and players, for the matchmaking of a Matchbook server.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the game server, which simulates games and reports their results.
    Serve(ServeArgs),
    /// Run simulated players, which join queues and challenge each other.
    Bots(BotsArgs),
}

#[derive(Debug, Args)]
struct Common {
    /// The address of the Matchbook server.
    #[arg(long, env = "MATCHBOOK_URL", value_name = "URL", default_value = "http://127.0.0.1:8080", value_parser = server_url)]
    url: String,
    /// The seed of the players and their strengths.
    #[arg(long, env = "ARENA_SEED", default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    common: Common,
    /// The listen address. Games: POST /games. Faults: POST and DELETE /faults.
    #[arg(long, env = "ARENA_LISTEN", default_value = "127.0.0.1:8090")]
    listen: String,
    /// A bearer token with the role `worker`, if the server requires one.
    #[arg(long, env = "MATCHBOOK_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The average length of a game, in seconds.
    #[arg(long, env = "ARENA_GAME_SECONDS", default_value_t = 10.0, value_parser = seconds)]
    game_seconds: f64,
    /// The share of games that are aborted: 0 to 1.
    #[arg(long, env = "ARENA_ABORTED_SHARE", default_value_t = 0.02, value_parser = share)]
    aborted_share: f64,
    /// Inject a fault from the start: `error`, `error:3` (three times), `lost_answer:20%` (a fifth of the calls). Repeatable.
    #[arg(long, value_name = "FAULT")]
    fault: Vec<Fault>,
}

#[derive(Debug, Args)]
struct BotsArgs {
    #[command(flatten)]
    common: Common,
    /// The number of players.
    #[arg(long, env = "ARENA_PLAYERS", default_value_t = 40)]
    players: usize,
    /// The pools of the players.
    #[arg(long, env = "ARENA_POOLS", value_delimiter = ',', default_value = "blitz,rapid")]
    pools: Vec<String>,
    /// The arrivals per minute of all players together.
    #[arg(long, env = "ARENA_RATE", default_value_t = 40.0, value_parser = rate)]
    rate: f64,
    /// The tenant of the players, on a server without keys.
    #[arg(long, env = "ARENA_TENANT", default_value = "default")]
    tenant: String,
}

/// Checks the address of the server, so that a wrong one is an error instead of an unreachable server.
fn server_url(text: &str) -> Result<String, String> {
    match reqwest::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(text.trim_end_matches('/').to_owned()),
        Ok(url) => Err(format!("`{}:` is not supported; write it as http://host:port", url.scheme())),
        Err(error) => Err(format!("it is not a URL ({error}); write it as http://host:port")),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    number(text, |seconds| (0.0..=86_400.0).contains(&seconds), "must be from 0 to 86400")
}

fn share(text: &str) -> Result<f64, String> {
    number(text, |share| (0.0..=1.0).contains(&share), "must be from 0 to 1")
}

fn rate(text: &str) -> Result<f64, String> {
    number(text, |rate| rate > 0.0 && rate <= 60_000.0, "must be above 0, and at most 60000")
}

fn number(text: &str, is_valid: impl Fn(f64) -> bool, what: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "is not a number".to_owned())?;
    if is_valid(number) { Ok(number) } else { Err(what.to_owned()) }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot set up the http client: {0}")]
    Client(#[from] reqwest::Error),
    #[error("cannot listen on {address}: {error}; choose another address with --listen")]
    Listen { address: String, error: std::io::Error },
    #[error("invalid --fault: {0}")]
    Fault(#[from] InvalidFault),
    #[error("cannot set up signals and timers: {0}")]
    System(#[from] std::io::Error),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = runtime.map_err(Failure::from).and_then(|runtime| {
        let ended = runtime.block_on(async {
            match cli.command {
                Command::Serve(args) => serve(args).await,
                Command::Bots(args) => bots(args).await,
            }
        });
        // Calls that hang on purpose are not waited for.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the program failed");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: ServeArgs) -> Result<(), Failure> {
    let stop = stop()?;
    let listener = TcpListener::bind(&args.listen)
        .await
        .map_err(|error| Failure::Listen { address: args.listen.clone(), error })?;
    let rules = GameRules {
        strengths: Strengths::new(args.common.seed),
        length: Duration::from_secs_f64(args.game_seconds),
        aborted_share: args.aborted_share,
    };
    let reporter = Reporter::new(Api::new(&args.common.url, args.token)?);
    let arena = Arc::new(Arena::new(rules, Some(reporter)));
    for fault in args.fault {
        arena.faults.add(fault)?;
        tracing::warn!(
            kind = fault.kind.into_str(),
            times = fault.times,
            share = fault.share,
            "fault injected"
        );
    }
    tracing::info!(listen = %listener.local_addr()?, server = args.common.url, "serving games");
    tokio::select! {
        never = service::serve(Arc::clone(&arena), listener) => match never {},
        () = stop => {}
    }
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, arena.stop()).await.is_err() {
        tracing::warn!("not all games could be reported as aborted; their matches expire");
    }
    Ok(())
}

async fn bots(args: BotsArgs) -> Result<(), Failure> {
    let stop = stop()?;
    let api = Api::new(&args.common.url, None)?;
    let settings = CrowdSettings {
        tenant: args.tenant,
        players: args.players,
        pools: args.pools,
        arrivals_per_minute: args.rate,
        strengths: Strengths::new(args.common.seed),
    };
    tracing::info!(
        players = settings.players,
        pools = settings.pools.join(", "),
        per_minute = settings.arrivals_per_minute,
        "players started"
    );
    crowd::play(&settings, &api, stop).await;
    tracing::info!("players stopped");
    Ok(())
}

/// Installs the signal handlers before anything else, so that no signal is missed.
fn stop() -> Result<impl Future<Output = ()>, std::io::Error> {
    let (mut interrupt, mut terminate): (Signal, Signal) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
