//! The program: flags and environment, logs, signals, exit codes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use matchbook_analyst::analysis::Bench;
use matchbook_analyst::api::{Api, Refused};
use matchbook_analyst::worker::{Ended, Worker};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Finds the highlights of videos, for a Matchbook server.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The Matchbook server.
    #[arg(long, env = "ANALYST_SERVER", default_value = "http://127.0.0.1:8080")]
    server: String,
    /// This worker's name at the server; the host's name and the process id unless given.
    #[arg(long, env = "ANALYST_WORKER_ID")]
    worker_id: Option<String>,
    /// The folder that holds the videos, named by their numbers: 2039.mp4. Nothing is downloaded.
    #[arg(long, env = "ANALYST_MEDIA", default_value = "examples/data/analysis")]
    media: PathBuf,
    /// A bearer token with the role `worker`, if the server wants one.
    #[arg(long, env = "MATCHBOOK_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Leave once no work has come for so many seconds; without it, stay.
    #[arg(long, env = "ANALYST_UNTIL_IDLE", value_name = "SECONDS")]
    until_idle: Option<u64>,
    /// Pause after each frame, in milliseconds, to watch a job go.
    #[arg(long, env = "ANALYST_PACE_MS", default_value_t = 0)]
    pace_ms: u64,
    /// Let jobs ask for faults: `{"options": {"fault": "network_timeout", "fault_attempts": 2}}`.
    #[arg(long, env = "ANALYST_FAULTS")]
    faults: bool,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot set up the http client: {0}")]
    Client(#[from] reqwest::Error),
    #[error("the server does not want this worker: {0}")]
    Refused(#[from] Refused),
    #[error("cannot set up signals and timers: {0}")]
    System(#[from] std::io::Error),
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    let ended =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::from).and_then(
            |runtime| {
                let ended = runtime.block_on(work(Cli::parse()));
                // A frame that is being decoded is not waited for.
                runtime.shutdown_background();
                ended
            },
        );
    match ended {
        Ok(Ended::Idle | Ended::Stopped) => ExitCode::SUCCESS,
        Ok(Ended::Vanished) => ExitCode::from(137),
        Err(error) => {
            tracing::error!(%error, "the worker ends");
            ExitCode::FAILURE
        }
    }
}

async fn work(cli: Cli) -> Result<Ended, Failure> {
    // Listened for before anything is claimed, so that no signal finds the worker holding work without its handler.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let worker_id = cli.worker_id.unwrap_or_else(default_worker_id);
    let api = Api::new(&cli.server, worker_id, cli.token)?;
    let bench = Bench { media: cli.media, pace: Duration::from_millis(cli.pace_ms), faults: cli.faults };
    let worker = Worker { api, bench, until_idle: cli.until_idle.map(Duration::from_secs) };
    Ok(worker.run(stop).await?)
}

fn default_worker_id() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '-' };
    format!("{}-{}", host.chars().map(plain).collect::<String>(), std::process::id())
}
