//! The program: flags, environment, logging, signals and exit codes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use matchbook_matcher::api::{Api, CallError, SetupError};
use matchbook_matcher::check::check;
use matchbook_matcher::media::{Folder, Media, MediaError};
use matchbook_matcher::request::WorkContext;
use matchbook_matcher::wire::{Exit, WorkerId};
use matchbook_matcher::worker::{Signal, StopReason, Worker};
use matchbook_worker::client::server_url;
use matchbook_worker::worker::default_worker_id;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// A lease lasts 45 s, which is three heartbeats.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);
/// The longest wait of a stopping worker for a running comparison.
const VISION_GRACE: Duration = Duration::from_millis(500);

/// A Matchbook worker that finds product images in video frames.
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
    /// Compare every product image with every frame of a folder, without a server, and print the result.
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct WorkArgs {
    /// The address of the Matchbook server.
    #[arg(long, env = "MATCHBOOK_URL", value_name = "URL", default_value = "http://127.0.0.1:8080", value_parser = server_url)]
    url: String,
    /// The worker id; the host name and the process id by default.
    #[arg(long, env = "MATCHER_WORKER_ID")]
    worker_id: Option<String>,
    /// The folder with products/ and frames/.
    #[arg(long, env = "MATCHER_MEDIA", default_value = "examples/data/matching")]
    media: PathBuf,
    /// The folder for evidence images, with a subfolder for each job.
    #[arg(long, env = "MATCHER_EVIDENCE", default_value = "./evidence")]
    evidence: PathBuf,
    /// A bearer token with the role `worker`, if the server requires one.
    #[arg(long, env = "MATCHBOOK_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Exit after this many seconds without work; without it, keep running.
    #[arg(long, env = "MATCHER_UNTIL_IDLE", value_name = "SECONDS")]
    until_idle: Option<u64>,
    /// Pause after each candidate, in milliseconds, for demonstrations.
    #[arg(long, env = "MATCHER_PACE_MS", default_value_t = 0)]
    pace_ms: u64,
    /// Log as JSON, one object per line.
    #[arg(long, env = "MATCHER_JSON")]
    json: bool,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The folder with products/ and frames/.
    #[arg(long, env = "MATCHER_MEDIA", default_value = "examples/data/matching")]
    media: PathBuf,
    /// Print JSON, with every match.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Check(args)) => run_check(&args),
        None => run_worker(cli.work),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("matchbook-matcher: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Media(#[from] MediaError),
    #[error("the server refused this worker: {0}")]
    Refused(#[from] CallError),
    #[error("the worker panicked; its log has the message")]
    Panicked,
    #[error("cannot set up signals and timers: {0}")]
    System(#[from] std::io::Error),
    #[error("cannot write the table as json: {0}")]
    Json(#[from] serde_json::Error),
}

fn run_check(args: &CheckArgs) -> Result<(), Failure> {
    let media = Media::new(args.media.clone());
    let (images, frames) = (media.ids(Folder::Products)?, media.ids(Folder::Frames)?);
    let checked = check(&media, &images, &frames)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&checked)?);
    } else {
        println!("{checked}");
    }
    Ok(())
}

fn run_worker(args: WorkArgs) -> Result<(), Failure> {
    start_logging(args.json);
    // One thread for the calls; comparisons run on their own threads.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(work(args));
    runtime.shutdown_timeout(VISION_GRACE);
    result
}

async fn work(args: WorkArgs) -> Result<(), Failure> {
    // The handlers are installed before the first claim, so that no signal is missed while the worker has a lease.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => Signal::Interrupt,
            _ = terminate.recv() => Signal::Terminate,
        }
    };
    let worker_id = WorkerId(args.worker_id.unwrap_or_else(default_worker_id));
    let api = Api::new(&args.url, worker_id, args.token.as_deref())?;
    let context = WorkContext {
        media: Arc::new(Media::new(args.media)),
        evidence: args.evidence,
        pace: Duration::from_millis(args.pace_ms),
    };
    let until_idle = args.until_idle.map(Duration::from_secs);
    let worker = Arc::new(Worker::new(api, context, until_idle, HEARTBEAT_EVERY));
    // A separate task, so that a panic is reported as well.
    let running = Arc::clone(&worker);
    match tokio::spawn(async move { running.run(stop).await }).await {
        Ok(Ok(StopReason::Idle)) => info!("stopped: no work"),
        Ok(Ok(StopReason::Signalled(signal))) => info!(?signal, "stopped by a signal"),
        Ok(Err(refused)) => return Err(refused.into()),
        Err(panic) => {
            error!(%panic, "the worker panicked");
            let exit = Exit { exit_code: 101, signal: None, reason: format!("panic: {panic}") };
            worker.report_exit(&exit).await;
            return Err(Failure::Panicked);
        }
    }
    Ok(())
}

/// Logs to standard error; standard output is for results. `RUST_LOG` sets the filter.
fn start_logging(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logging = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        logging.json().flatten_event(true).init();
    } else {
        logging.with_target(false).init();
    }
}
