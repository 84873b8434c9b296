//! `matchbook serve`: the server, until it is told to stop or its disk fails.

use std::io::IsTerminal;

use futures_util::FutureExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;
use web::server::Bounds;

use super::{Failure, print};
use crate::config::{Config, LogFormat};
use crate::wiring;

/// `json` makes the log one JSON object a line, as the setting does.
pub(crate) async fn run(config: Config, json: bool) -> Result<(), Failure> {
    let format = if json { LogFormat::Json } else { config.log_format };
    log_to_standard_error(&config.log, format)?;
    let auth = crate::access::auth(&config)?;
    let (end, shutdown) = web::shutdown::channel();
    let (running, api) = wiring::start(&config, &auth, shutdown.clone()).await?;
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        Failure::InUse(format!(
            "cannot listen on {}: {error}; choose another address with --listen",
            config.listen
        ))
    })?;
    let address = listener.local_addr().unwrap_or(config.listen);
    if auth.is_open() {
        tracing::warn!(
            "no keys are configured: every caller has every role; set MATCHBOOK_JWT_SECRET to change that"
        );
    }
    tracing::info!(%address, data = %config.data.display(), "serving; the console is at http://{address}/");

    let bounds =
        Bounds { connections_max: config.connections_max, drain: config.shutdown_grace, ..Bounds::default() };
    let endpoint = api.endpoint(auth, &config.cors_origins)?;
    let mut signals = Signals::listen()?;
    let mut serving = tokio::spawn(web::server::run(listener, endpoint, bounds, shutdown).boxed());
    let failed = tokio::select! {
        signal = signals.next() => {
            tracing::info!("asked to stop by {signal}");
            None
        }
        reason = running.disk_failure() => Some(reason),
    };
    end.begin();
    running.send_home().await;
    tokio::select! {
        served = &mut serving => if served.is_err() {
            tracing::error!("the HTTP server broke off");
        },
        signal = signals.next() => tracing::warn!("asked again by {signal}: not waiting for what is under way"),
    }
    running.stop().await;
    match failed {
        None => {
            tracing::info!("stopped");
            Ok(())
        }
        Some(reason) => Err(Failure::Disk(format!(
            "the log's disk failed: {reason}; what was acknowledged is safe. Look at the disk, then start again"
        ))),
    }
}

/// The OpenAPI document, from a server over nothing.
pub(crate) async fn print_openapi() -> Result<(), Failure> {
    let folder = tempfile::tempdir().map_err(|error| Failure::Disk(error.to_string()))?;
    let config = Config::in_folder(folder.path())?;
    let auth = crate::access::auth(&config)?;
    let (running, api) = wiring::start(&config, &auth, web::shutdown::Shutdown::never()).await?;
    running.stop().await;
    let text =
        serde_json::to_string_pretty(api.document()).map_err(|error| Failure::Failed(error.to_string()))?;
    print(&text)?;
    Ok(())
}

/// What asks the server to stop: SIGTERM, or Ctrl-C.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let cannot = |error| Failure::Failed(format!("cannot wait for signals: {error}"));
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(cannot)?,
            interrupt: signal(SignalKind::interrupt()).map_err(cannot)?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn log_to_standard_error(filter: &str, format: LogFormat) -> Result<(), Failure> {
    // The client of a cluster tells in its own words what our log tells already.
    let quiet = if filter.contains("eventstore") { "" } else { ",eventstore=off" };
    let filter = EnvFilter::try_new(format!("{filter}{quiet}")).map_err(|error| {
        Failure::Usage(format!("--log: {error}; write it as info, or info,projections=debug"))
    })?;
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true);
    match format {
        LogFormat::Json => subscriber.json().init(),
        LogFormat::Text => subscriber.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    Ok(())
}
