//! The program: flags, environment, logging, signals and exit codes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use matchbook_embedder::compare::{CompareError, Half, compare};
use matchbook_embedder::extraction::{Embedder, KINDS};
use matchbook_embedder::fetch::Fetcher;
use matchbook_worker::client::{CallError, Client, SetupError, server_url};
use matchbook_worker::worker::{StopReason, Worker, default_worker_id};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;

/// A Matchbook worker that makes vectors of images.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    work: WorkArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Search the images of one folder among those of another, without a server, and print how many pairs are found.
    Compare(CompareArgs),
}

#[derive(Debug, Args)]
struct WorkArgs {
    /// The address of the Matchbook server.
    #[arg(long, env = "MATCHBOOK_URL", value_name = "URL", default_value = "http://127.0.0.1:8080", value_parser = server_url)]
    url: String,
    /// The worker id; the host name and the process id by default.
    #[arg(long, env = "EMBEDDER_WORKER_ID", value_parser = worker_id)]
    worker_id: Option<String>,
    /// A bearer token with the role `service`, if the server requires one.
    #[arg(long, env = "MATCHBOOK_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Make the worker's model the active one of images.
    #[arg(long, env = "EMBEDDER_ACTIVATE")]
    activate: bool,
    /// Download images also from this machine and from private networks.
    #[arg(long, env = "EMBEDDER_ALLOW_PRIVATE_ADDRESSES")]
    allow_private_addresses: bool,
    /// The number of images that are downloaded and described at a time; as many as processors by default.
    #[arg(long, env = "EMBEDDER_PARALLEL")]
    parallel: Option<usize>,
    /// Exit after this many seconds without work; without it, keep running.
    #[arg(long, env = "EMBEDDER_UNTIL_IDLE", value_name = "SECONDS")]
    until_idle: Option<u64>,
    /// Pause after each page of images, in milliseconds, for demonstrations.
    #[arg(long, env = "EMBEDDER_PACE_MS", default_value_t = 0)]
    pace_ms: u64,
}

#[derive(Debug, Args)]
struct CompareArgs {
    /// The images that are searched for.
    first: PathBuf,
    /// The images among which they are searched.
    second: PathBuf,
    /// The file with the names of the images, one a line.
    names: PathBuf,
    /// The pairs that count.
    #[arg(long, value_enum, default_value = "all")]
    half: CliHalf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CliHalf {
    All,
    Tuning,
    Test,
}

fn worker_id(text: &str) -> Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !text.is_empty() && text.chars().all(is_allowed) {
        return Ok(text.to_owned());
    }
    Err("use letters, digits, `-`, `_` and `.`".to_owned())
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("cannot set up the http client for images: {0}")]
    Client(#[from] reqwest::Error),
    #[error("the server refused this worker: {0}")]
    Refused(#[from] CallError),
    #[error("cannot set up signals and timers: {0}")]
    System(#[from] std::io::Error),
    #[error("cannot read {path}: {source}")]
    Names { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Compare(#[from] CompareError),
    #[error("cannot write the result as json: {0}")]
    Json(#[from] serde_json::Error),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Compare(args)) => run_compare(&args),
        None => run_worker(cli.work),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("matchbook-embedder: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_compare(args: &CompareArgs) -> Result<(), Failure> {
    let names = std::fs::read_to_string(&args.names);
    let names = names.map_err(|source| Failure::Names { path: args.names.clone(), source })?;
    let names: Vec<String> = names.lines().map(str::to_owned).collect();
    let half = match args.half {
        CliHalf::All => Half::All,
        CliHalf::Tuning => Half::Tuning,
        CliHalf::Test => Half::Test,
    };
    println!("{}", serde_json::to_string(&compare(&args.first, &args.second, &names, half)?)?);
    Ok(())
}

fn run_worker(args: WorkArgs) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    // One thread for the calls; images are described on others.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(work(args));
    // An image that is being decoded is not waited for.
    runtime.shutdown_background();
    ended
}

async fn work(args: WorkArgs) -> Result<(), Failure> {
    // The handlers are installed before the first claim, so that no signal is missed while the worker has a lease.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tokio::pin!(stop);
    let client = Client::new(&args.url, args.token.as_deref())?;
    let fetcher = Fetcher::new(client.server(), args.allow_private_addresses)?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let parallel = args.parallel.unwrap_or(processors);
    let embedder =
        Embedder { client: client.clone(), fetcher, parallel, pace: Duration::from_millis(args.pace_ms) };
    tokio::select! {
        () = &mut stop => return Ok(()),
        registered = embedder.register(args.activate) => registered?,
    }
    let worker = Worker {
        client,
        worker_id: args.worker_id.unwrap_or_else(default_worker_id),
        kinds: KINDS,
        version: env!("CARGO_PKG_VERSION"),
        until_idle: args.until_idle.map(Duration::from_secs),
    };
    match worker.run(stop, async |claimed| embedder.extract(claimed).await).await? {
        StopReason::Idle => info!("stopped: no work"),
        StopReason::Stopped => info!("stopped by a signal"),
    }
    Ok(())
}
