//! The program: flags and environment, logs, signals, exit codes.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use matchbook_arena::api::Api;
use matchbook_arena::arena::{Arena, Play};
use matchbook_arena::crowd::{self, Plan};
use matchbook_arena::fault::{Fault, NotAFault};
use matchbook_arena::report::Reporter;
use matchbook_arena::service;
use matchbook_arena::strength::Strengths;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// How long the game server tries to tell that its games are aborted when it stops.
const FAREWELL: Duration = Duration::from_secs(3);

/// A stand-in game server and players, for trying out the matchmaking of a Matchbook server.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes games, plays them by itself, and reports their results.
    Serve(ServeArgs),
    /// Players who queue, challenge each other and play.
    Bots(BotsArgs),
}

#[derive(Debug, Args)]
struct Common {
    /// The Matchbook server.
    #[arg(long, env = "ARENA_SERVER", default_value = "http://127.0.0.1:8080")]
    server: String,
    /// The same seed gives the same players, as strong as before.
    #[arg(long, env = "ARENA_SEED", default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    common: Common,
    /// Where games are made: POST /games. Faults: POST and DELETE /faults.
    #[arg(long, env = "ARENA_LISTEN", default_value = "127.0.0.1:8090")]
    listen: String,
    /// A bearer token with the role `worker`, if the server wants one.
    #[arg(long, env = "MATCHBOOK_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// How long a game takes on average, in seconds.
    #[arg(long, env = "ARENA_GAME_SECONDS", default_value_t = 10.0, value_parser = seconds)]
    game_seconds: f64,
    /// Of the games, this share is not played to an end: 0 to 1.
    #[arg(long, env = "ARENA_ABORTED_SHARE", default_value_t = 0.02, value_parser = share)]
    aborted_share: f64,
    /// Fail from the start: `error`, `error:3` (three times), `lost_answer:20%` (a fifth of the calls). Repeatable.
    #[arg(long, value_name = "FAULT")]
    fault: Vec<Fault>,
}

#[derive(Debug, Args)]
struct BotsArgs {
    #[command(flatten)]
    common: Common,
    /// How many players there are.
    #[arg(long, env = "ARENA_PLAYERS", default_value_t = 40)]
    players: usize,
    /// The pools they play in.
    #[arg(long, env = "ARENA_POOLS", value_delimiter = ',', default_value = "blitz,rapid")]
    pools: Vec<String>,
    /// How many want to play in a minute, of all together.
    #[arg(long, env = "ARENA_RATE", default_value_t = 40.0, value_parser = rate)]
    rate: f64,
    /// The tenant that they belong to, on a server without keys.
    #[arg(long, env = "ARENA_TENANT", default_value = "default")]
    tenant: String,
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

fn number(text: &str, is_right: impl Fn(f64) -> bool, what: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "is no number".to_owned())?;
    if is_right(number) { Ok(number) } else { Err(what.to_owned()) }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot set up the http client: {0}")]
    Client(#[from] reqwest::Error),
    #[error("cannot listen on {address}: {error}; choose another address with --listen")]
    Listen { address: String, error: std::io::Error },
    #[error("cannot fail as told: {0}")]
    Fault(#[from] NotAFault),
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
        // A call that hangs on purpose is not waited for.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the program ends");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: ServeArgs) -> Result<(), Failure> {
    let stop = stop()?;
    let listener = TcpListener::bind(&args.listen)
        .await
        .map_err(|error| Failure::Listen { address: args.listen.clone(), error })?;
    let play = Play {
        strengths: Strengths::new(args.common.seed),
        length: Duration::from_secs_f64(args.game_seconds),
        aborted_share: args.aborted_share,
    };
    let reporter = Reporter::new(Api::new(&args.common.server, args.token)?);
    let arena = Arc::new(Arena::new(play, Some(reporter)));
    for fault in args.fault {
        arena.faults.add(fault)?;
        tracing::warn!(kind = fault.kind.name(), times = fault.times, share = fault.share, "failing");
    }
    tracing::info!(listen = %listener.local_addr()?, server = args.common.server, "makes games");
    tokio::select! {
        never = service::serve(Arc::clone(&arena), listener) => match never {},
        () = stop => {}
    }
    if tokio::time::timeout(FAREWELL, arena.stop()).await.is_err() {
        tracing::warn!("not all games could be reported as aborted; they end by themselves");
    }
    Ok(())
}

async fn bots(args: BotsArgs) -> Result<(), Failure> {
    let stop = stop()?;
    let api = Api::new(&args.common.server, None)?;
    let plan = Plan {
        tenant: args.tenant,
        players: args.players,
        pools: args.pools,
        arrivals_a_minute: args.rate,
        strengths: Strengths::new(args.common.seed),
    };
    tracing::info!(
        players = plan.players,
        pools = plan.pools.join(", "),
        a_minute = plan.arrivals_a_minute,
        "play"
    );
    crowd::play(&plan, &api, stop).await;
    tracing::info!("left");
    Ok(())
}

/// Listened for before anything else, so that no signal finds the program without its handler.
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
