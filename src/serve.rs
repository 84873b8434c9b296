//! `matchbook serve`: runs the server until a signal or a disk failure.

use std::io::IsTerminal;

use poem::EndpointExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;
use web::server::Bounds;

use crate::address::ReservedAddress;
use crate::api_keys;
use crate::config::{Config, LogFormat};
use crate::failure::{Failure, print};
use crate::jwks::JwksClient;
use crate::{open_files, wiring};

/// `json` sets the log format to one JSON object per line, like the setting.
pub async fn run(config: Config, json: bool) -> Result<(), Failure> {
    let format = if json { LogFormat::Json } else { config.log_format };
    log_to_standard_error(&config.log, format)?;
    let auth = crate::access::auth(&config)?;
    let files = open_files::raise_limit()?;
    let jwks = config.jwks_url.as_deref().map(JwksClient::new).transpose()?;
    let (trigger, shutdown) = web::shutdown::channel();
    let address = ReservedAddress::new(config.listen, "--listen")?;
    let (running, api) = wiring::start(&config, &auth, shutdown.clone()).await?;
    let listener = match address.listen() {
        Ok(listener) => listener,
        Err(failure) => {
            trigger.request();
            running.stop().await;
            return Err(failure);
        }
    };
    let address = listener.local_addr().unwrap_or(config.listen);
    if auth.is_open() {
        tracing::warn!(
            "no keys are configured: every caller has every role; set MATCHBOOK_JWT_SECRET to change that"
        );
    }
    tracing::info!(%address, data = %config.data.display(), "serving; the console is at http://{address}/");

    let connections_max = open_files::connections_max(config.connections_max, files);
    let bounds = Bounds { connections_max, drain: config.shutdown_grace, ..Bounds::default() };
    if let Some(jwks) = jwks {
        tokio::spawn(jwks.follow(auth.clone()));
    }
    if let Some(file) = &config.api_keys_file {
        tokio::spawn(api_keys::follow(file.clone(), auth.clone()));
    }
    let slowdown = running.slowdown(&config);
    let caller_limits = config.callers.limits(auth.is_open());
    let endpoint = api.endpoint(auth, caller_limits, &config.cors_origins, slowdown)?;
    let mut signals = Signals::listen()?;
    let mut serving = tokio::spawn(web::server::run(listener, endpoint.boxed(), bounds, shutdown));
    let failed = tokio::select! {
        signal = signals.next() => {
            tracing::info!("stopping on {signal}");
            None
        }
        reason = running.disk_failure() => Some(reason),
    };
    trigger.request();
    running.cancel_waiters().await;
    tokio::select! {
        served = &mut serving => if served.is_err() {
            tracing::error!("the HTTP server failed");
        },
        signal = signals.next() => tracing::warn!("second {signal}: not waiting for active requests"),
    }
    running.stop().await;
    match failed {
        None => {
            tracing::info!("stopped");
            Ok(())
        }
        Some(reason) => Err(Failure::Disk(format!(
            "the log's disk failed: {reason}; acknowledged events are safe. Check the disk, then start again"
        ))),
    }
}

/// Prints the OpenAPI document, from a server on an empty folder.
pub async fn print_openapi() -> Result<(), Failure> {
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

/// The signals that stop the server: SIGTERM and SIGINT (Ctrl-C).
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
    // The client of the cluster logs the same events as our own code, so it is silenced.
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
