//! The program: flags, environment, logging, signals and exit codes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use matchbook_analyst::analysis::WorkContext;
use matchbook_analyst::api::Api;
use matchbook_analyst::worker::{StopReason, Worker};
use matchbook_worker::client::{CallError, SetupError, server_url};
use matchbook_worker::worker::default_worker_id;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A Matchbook worker that finds the highlights of videos.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The address of the Matchbook server.
    #[arg(long, env = "MATCHBOOK_URL", value_name = "URL", default_value = "http://127.0.0.1:8080", value_parser = server_url)]
    url: String,
    /// The worker id; the host name and the process id by default.
    #[arg(long, env = "ANALYST_WORKER_ID")]
    worker_id: Option<String>,
    /// The folder of the videos, named by their ids: 2039.mp4. Nothing is downloaded.
    #[arg(long, env = "ANALYST_MEDIA", default_value = "examples/data/analysis")]
    media: PathBuf,
    /// A bearer token with the role `worker`, if the server requires one.
    #[arg(long, env = "MATCHBOOK_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Exit after this many seconds without work; without it, keep running.
    #[arg(long, env = "ANALYST_UNTIL_IDLE", value_name = "SECONDS")]
    until_idle: Option<u64>,
    /// Pause after each frame, in milliseconds, for demonstrations.
    #[arg(long, env = "ANALYST_PACE_MS", default_value_t = 0)]
    pace_ms: u64,
    /// Allow faults in job options: `{"options": {"fault": "network_timeout", "fault_attempts": 2}}`.
    #[arg(long, env = "ANALYST_FAULTS")]
    faults: bool,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("the server refused this worker: {0}")]
    Refused(#[from] CallError),
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
                // A running decoder is not waited for.
                runtime.shutdown_background();
                ended
            },
        );
    match ended {
        Ok(StopReason::Idle | StopReason::Stopped) => ExitCode::SUCCESS,
        Ok(StopReason::Vanished) => ExitCode::from(137),
        Err(error) => {
            tracing::error!(%error, "the worker failed");
            ExitCode::FAILURE
        }
    }
}

async fn work(cli: Cli) -> Result<StopReason, Failure> {
    // The handlers are installed before the first claim, so that no signal is missed while the worker has a lease.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let worker_id = cli.worker_id.unwrap_or_else(default_worker_id);
    let api = Api::new(&cli.url, worker_id, cli.token.as_deref())?;
    let context =
        WorkContext { media: cli.media, pace: Duration::from_millis(cli.pace_ms), faults: cli.faults };
    let worker = Worker { api, context, until_idle: cli.until_idle.map(Duration::from_secs) };
    Ok(worker.run(stop).await?)
}
