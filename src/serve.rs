//! `matchbook serve`: runs the server until a signal or a disk failure.

use std::io::IsTerminal;

use metrics_exporter_prometheus::PrometheusHandle;
use poem::EndpointExt;
use projections::{PostgresUrl, ReadStore, Standby};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;
use web::caller::Auth;
use web::server::Bounds;

use crate::address::ReservedAddress;
use crate::api_keys;
use crate::config::{Config, LogFormat};
use crate::failure::{Failure, print};
use crate::jwks::JwksClient;
use crate::{metrics, open_files, wiring};

/// `json` sets the log format to one JSON object per line, like the setting.
pub async fn run(config: Config, json: bool) -> Result<(), Failure> {
    let format = if json { LogFormat::Json } else { config.log_format };
    log_to_standard_error(&config.log, format)?;
    let auth = crate::access::auth(&config)?;
    wiring::check_shared(&config)?;
    let files = open_files::raise_limit()?;
    let jwks = config.jwks_url.as_deref().map(JwksClient::new).transpose()?;
    let reserved = ReservedAddress::new(config.listen, "--listen")?;
    let metrics = metrics::install()?;
    if let Some(jwks) = jwks {
        tokio::spawn(jwks.follow(auth.clone()));
    }
    if let Some(file) = &config.api_keys_file {
        tokio::spawn(api_keys::follow(file.clone(), auth.clone()));
    }
    let mut process =
        Process { auth, files, metrics, reserved: Some(reserved), listener: None, signals: None };
    match config.read_store() {
        ReadStore::Postgres(database) if config.standby => {
            Box::pin(process.stand_by(config, &database)).await
        }
        _ => process.serve(&config, std::future::pending::<()>()).await.map(drop),
    }
}

/// What lasts as long as the process, which with `--standby` serves in two roles by turns.
struct Process {
    auth: Auth,
    files: u64,
    metrics: PrometheusHandle,
    /// Until the first server listens.
    reserved: Option<ReservedAddress>,
    /// Afterwards. Between two roles, connections wait in its backlog.
    listener: Option<std::net::TcpListener>,
    /// None until the first server has started: before that, a signal ends the process.
    signals: Option<Signals>,
}

impl Process {
    /// Answers reads until this process gets the lease, then maintains the read models until it loses it.
    async fn stand_by(&mut self, config: Config, database: &PostgresUrl) -> Result<(), Failure> {
        let reader = Config { read_only: true, ..config.clone() };
        loop {
            let mut standby = Standby::new(database);
            // A database that cannot be reached is waited for as a reader.
            let free = standby.look().await.ok().flatten();
            let taken = match free {
                Some(lease) => Some(lease),
                None => Box::pin(self.serve(&reader, standby.take())).await?,
            };
            let Some(mut lease) = taken else { return Ok(()) };
            tracing::info!(
                "this server has the writer lease: it maintains the read models and offers commands"
            );
            let served = self.serve(&config, lease.lost()).await;
            if let Err(error) = lease.release().await {
                tracing::warn!(%error, "the writer lease could not be released; it ends because it is not renewed");
            }
            match served {
                Ok(Some(())) => tracing::warn!("another server has the writer lease: this one stands by"),
                // The former holder has not left yet.
                Err(Failure::InUse(reason)) => tracing::warn!(reason, "cannot take over yet: standing by"),
                ended => return ended.map(drop),
            }
        }
    }

    /// Serves until a signal or a disk failure, or until the future ends, whose result is returned.
    async fn serve<T>(
        &mut self,
        config: &Config,
        until: impl Future<Output = T>,
    ) -> Result<Option<T>, Failure> {
        let (trigger, shutdown) = web::shutdown::channel();
        let starting = wiring::start(config, &self.auth, self.metrics.clone(), shutdown.clone());
        let (running, api) = match &mut self.signals {
            None => Box::pin(starting).await?,
            Some(signals) => tokio::select! {
                started = Box::pin(starting) => started?,
                _ = signals.next() => return Ok(None),
            },
        };
        let listener = match self.listen() {
            Ok(listener) => listener,
            Err(failure) => {
                trigger.request();
                running.stop().await;
                return Err(failure);
            }
        };
        let address = listener.local_addr().unwrap_or(config.listen);
        if self.auth.is_open() {
            tracing::warn!(
                "no keys are configured: every caller has every role; set MATCHBOOK_JWT_SECRET to change that"
            );
        }
        tracing::info!(%address, data = %config.data.display(), "serving; the console is at http://{address}/");

        let connections_max = open_files::connections_max(config.connections_max, self.files);
        let bounds = Bounds { connections_max, drain: config.shutdown_grace, ..Bounds::default() };
        let slowdown = running.slowdown(config);
        let caller_limits = config.callers.limits(self.auth.is_open());
        let endpoint = api.endpoint(self.auth.clone(), caller_limits, &config.cors_origins, slowdown)?;
        let signals = match &mut self.signals {
            Some(signals) => signals,
            none => none.insert(Signals::listen()?),
        };
        let mut serving = tokio::spawn(web::server::run(listener, endpoint.boxed(), bounds, shutdown));
        let (mut ended, mut failed) = (None, None);
        tokio::select! {
            signal = signals.next() => tracing::info!("stopping on {signal}"),
            reason = running.disk_failure() => failed = Some(reason),
            result = until => ended = Some(result),
        }
        if ended.is_none() {
            // New connections are refused from now on.
            self.listener = None;
        }
        trigger.request();
        running.cancel_waiters().await;
        tokio::select! {
            served = &mut serving => if served.is_err() {
                tracing::error!("the HTTP server failed");
            },
            signal = signals.next() => tracing::warn!("second {signal}: not waiting for active requests"),
        }
        running.stop().await;
        if let Some(reason) = failed {
            return Err(Failure::Disk(format!(
                "the log's disk failed: {reason}; acknowledged events are safe. Check the disk, then start again"
            )));
        }
        if ended.is_none() {
            tracing::info!("stopped");
        }
        Ok(ended)
    }

    fn listen(&mut self) -> Result<TcpListener, Failure> {
        let cannot = |error: std::io::Error| Failure::Failed(format!("cannot listen: {error}; start again"));
        if let Some(reserved) = self.reserved.take() {
            self.listener = Some(reserved.listen()?.into_std().map_err(cannot)?);
        }
        let listener =
            self.listener.as_ref().ok_or_else(|| cannot(std::io::ErrorKind::NotConnected.into()))?;
        listener.try_clone().and_then(TcpListener::from_std).map_err(cannot)
    }
}

/// Prints the OpenAPI document, from a server on an empty folder.
pub async fn print_openapi() -> Result<(), Failure> {
    let folder = tempfile::tempdir().map_err(|error| Failure::Disk(error.to_string()))?;
    let config = Config::in_folder(folder.path())?;
    let auth = crate::access::auth(&config)?;
    let never = web::shutdown::Shutdown::never();
    let (running, api) = wiring::start(&config, &auth, metrics::install()?, never).await?;
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
