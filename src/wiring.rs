//! How the parts are put together into one server, and taken apart at its end.

use std::path::Path;

use std::fs::File;

use commands::client::live_game::{self, LiveGame};
use commands::client::rating_service::{self, RatingService};
use commands::vault::{Vault, VaultError};
use commands::work::Readiness;
use commands::{Commands, Outside};
use domain::breaker::Phase;
use domain::lease::LeaseTerms;
use domain::matching::blockers::Thresholds;
use event_log::clock::{Clock, Ids};
use event_log::embedded::{EmbeddedLog, OpenError, Stopped};
use event_log::{EventLog, Log};
use event_schemas::ids::Position;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use projections::ReadModels;
use read_api::ReadApi;
use read_api::people::{People, Unnamed};
use read_api::server::{Access, Part, Server, Services, Standing};
use web::caller::Auth;
use web::shutdown::Shutdown;

use crate::api::Api;
use crate::cli::Failure;
use crate::cluster;
use crate::config::{Config, EventLogUrl};
use crate::wire::Wire;

/// Seconds: from half a millisecond to ten seconds, as requests and batches take.
const LATENCY_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The parts that run by themselves, whether anyone asks or not.
pub(crate) struct Running {
    log: Log,
    commands: Commands,
    models: ReadModels,
    wire: Option<Wire>,
    /// On the data folder, where the log does not have one.
    _lock: Option<File>,
}

/// Opens the log, the vault and the read models, and starts what runs by itself.
///
/// # Errors
/// The part that cannot be used, and what to do about it.
pub(crate) async fn start(
    config: &Config,
    auth: &Auth,
    shutdown: Shutdown,
) -> Result<(Running, Api), Failure> {
    let outside = outside(config)?;
    let metrics = metrics()?;
    let clock = Clock::System;
    let (log, lock) = open_log(config, clock.clone()).await?;
    let vault = open_vault(config, clock.clone(), *log.head().borrow()).await?;
    let settings = projections::Settings { folder: config.read_models_folder() };
    let models = ReadModels::open(settings, log.clone(), clock.clone())
        .await
        .map_err(|error| Failure::Disk(error.to_string()))?;
    let settings = command_settings(config);
    let commands = Commands::open(settings, log.clone(), clock.clone(), Ids::Random, vault.clone(), outside);
    commands.start();
    let wire = Wire::start(config, &log, clock.clone()).await?;
    let mut server = server(config, auth, &clock, &commands, &log, vault);
    server.parts.extend(wire.as_ref().map(Wire::part));
    let read = ReadApi::new(log.clone(), clock, models.clone(), metrics, server, shutdown);
    let api = Api::new(&commands, &read);
    Ok((Running { log, commands, models, wire, _lock: lock }, api))
}

/// What the read side cannot see by itself.
fn server(
    config: &Config,
    auth: &Auth,
    clock: &Clock,
    commands: &Commands,
    log: &Log,
    vault: Vault,
) -> Server {
    let mut parts = vec![work_board(commands), matchmaking(commands)];
    parts.extend(cluster::part(log));
    Server {
        version: env!("CARGO_PKG_VERSION"),
        started_at: clock.now(),
        access: if auth.is_open() { Access::Open } else { Access::Keys },
        log: cluster::url(log).unwrap_or_else(|| format!("embedded:{}", config.events_folder().display())),
        open_metrics: config.metrics_open,
        thresholds: Thresholds {
            stalled_after: config.stalled_after,
            queue_lag_after: config.queue_lag_after,
        },
        parts,
        services: services(commands),
        people: people(vault),
    }
}

impl Running {
    /// Waits until the log can take no more, which only a failed disk brings about, and says why.
    pub(crate) async fn disk_failure(&self) -> String {
        match &self.log {
            Log::Embedded(log) => match log.stopped().await {
                Stopped::Failed { reason } => reason,
                // Closed by ourselves: the end of the process is under way already.
                Stopped::Closed => std::future::pending().await,
            },
            // The disks of a cluster are its own concern.
            _ => std::future::pending().await,
        }
    }

    /// Lets go of what would wait long: claims that no work has come for, and the processes. Commands under way are not
    /// touched.
    pub(crate) async fn send_home(&self) {
        if let Some(wire) = &self.wire {
            wire.send_home();
        }
        self.commands.shutdown().await;
    }

    /// Ends the parts in the order in which they depend on each other.
    pub(crate) async fn stop(self) {
        self.commands.shutdown().await;
        self.models.shutdown().await;
        if let Some(wire) = self.wire {
            wire.stop().await;
        }
        match &self.log {
            Log::Embedded(log) => log.close().await,
            log => cluster::close(log).await,
        }
    }
}

fn command_settings(config: &Config) -> commands::Settings {
    let leases = LeaseTerms { term: config.lease_term, heartbeat: config.lease_term / 3 };
    commands::Settings {
        leases,
        analyses_max: config.analyses_max,
        puts_together: config.matchmaking,
        ..commands::Settings::default()
    }
}

/// The clients of the services that are set.
fn outside(config: &Config) -> Result<Outside, Failure> {
    let games = config.game_service_url.as_ref().map(|url| {
        let settings =
            live_game::Settings { timeout: config.game_service_timeout, ..live_game::Settings::at(url) };
        LiveGame::new(&settings).map_err(|error| Failure::Usage(format!("--game-service-url: {error}")))
    });
    let ratings = config.rating_service_url.as_ref().map(|url| {
        let settings = rating_service::Settings { url: url.clone(), timeout: config.rating_service_timeout };
        RatingService::new(&settings)
            .map_err(|error| Failure::Usage(format!("--rating-service-url: {error}")))
    });
    Ok(Outside { games: games.transpose()?, ratings: ratings.transpose()? })
}

fn services(commands: &Commands) -> Services {
    let commands = commands.clone();
    Services::new(move || commands.services())
}

fn people(vault: Vault) -> People {
    let unnamed = |error: VaultError| Unnamed(error.to_string());
    let (finding, opening) = (vault.clone(), vault.clone());
    People::new(
        move |tenant, user| {
            let vault = finding.clone();
            Box::pin(async move { vault.known(&tenant, &user).await.map_err(unnamed) })
        },
        move |tenant, subjects| {
            let vault = vault.clone();
            Box::pin(async move { vault.users(&tenant, &subjects).await.map_err(unnamed) })
        },
        move |tenant, subject, place, sealed| {
            let vault = opening.clone();
            Box::pin(async move {
                match vault.unseal(&tenant, subject, place, &sealed).await {
                    // It never opens again: what stands around it is still worth reading.
                    Err(error @ VaultError::Sealed(_)) => {
                        tracing::error!(%error, "a sealed text is left out");
                        Ok(None)
                    }
                    opened => opened.map_err(unnamed),
                }
            })
        },
    )
}

fn work_board(commands: &Commands) -> Part {
    let commands = commands.clone();
    Part::new("work_board", move || {
        let status = commands.status();
        let waiting: usize = status.waiting.values().sum();
        let detail = match &status.readiness {
            Readiness::Stopped(reason) => format!("it hands out no work: {reason}"),
            Readiness::CatchingUp | Readiness::Ready | Readiness::Closing => format!(
                "{waiting} waiting, {} leased, {} workers present",
                status.leases, status.workers_present
            ),
        };
        Standing { ready: commands.is_ready(), position: Some(status.position), detail }
    })
}

fn matchmaking(commands: &Commands) -> Part {
    let commands = commands.clone();
    Part::new("matchmaking", move || {
        let status = commands.matchmaking();
        if status.is_elsewhere {
            let detail = "it is left to another process on the same log (--matchmaking)".to_owned();
            return Standing { ready: true, position: None, detail };
        }
        let games = match status.games {
            None => "no game service is set".to_owned(),
            Some(Phase::Closed) => "the game service is asked".to_owned(),
            Some(Phase::Open { until }) => format!("the game service failed and is left alone until {until}"),
            Some(Phase::Probing) => "a few calls find out whether the game service is back".to_owned(),
        };
        let detail = if status.is_stopped {
            "it puts nobody together any more: the log could not be read, and why is in the server's log; start it again"
                .to_owned()
        } else {
            format!("{} searching, {} being placed or let go; {games}", status.searching, status.unfinished)
        };
        Standing { ready: status.is_ready, position: Some(status.position), detail }
    })
}

async fn open_log(config: &Config, clock: Clock) -> Result<(Log, Option<File>), Failure> {
    event_log::embedded::make_folder(&config.data).map_err(|error| {
        Failure::Disk(format!(
            "cannot use the data folder {}: {error}; check that the disk works and that this user may write there",
            config.data.display()
        ))
    })?;
    match &config.event_log {
        Some(EventLogUrl::Cluster(url)) => {
            let lock = cluster::lock(&config.data)?;
            Ok((cluster::open(url.clone()).await?, Some(lock)))
        }
        Some(EventLogUrl::Embedded(_)) | None => {
            Ok((Log::Embedded(open_embedded(config, clock).await?), None))
        }
    }
}

async fn open_embedded(config: &Config, clock: Clock) -> Result<EmbeddedLog, Failure> {
    let settings = event_log::embedded::Settings {
        segment_bytes: config.segment_bytes,
        reserve_bytes: config.reserve_bytes,
        ..event_log::embedded::Settings::new(config.events_folder())
    };
    let opening = tokio::task::spawn_blocking(move || EmbeddedLog::open(&settings, clock)).await;
    let (log, opened) = opening
        .map_err(|error| Failure::Failed(format!("opening the log broke off: {error}")))?
        .map_err(|error| open_failure(&error))?;
    tracing::info!(
        events = opened.events,
        segments = opened.segments,
        took_ms = opened.duration.as_millis(),
        head = %*log.head().borrow(),
        "opened the event log"
    );
    if let Some(cut) = opened.cut {
        tracing::warn!(
            bytes = cut.bytes,
            position = %cut.position,
            kept_in = cut.kept_in,
            "cut off a write that a crash had left unfinished; it was never acknowledged"
        );
    }
    Ok(log)
}

async fn open_vault(config: &Config, clock: Clock, head: Position) -> Result<Vault, Failure> {
    let file = config.vault_file();
    if head > Position::START && !file.exists() {
        tracing::warn!(
            file = %file.display(),
            "the vault is gone although the log holds events: a new one is begun, in which nobody of before has a name; \
             to have the names back, stop, restore the file from a backup, and start again"
        );
    }
    Vault::open(&file, clock, Ids::Random).await.map_err(|error| vault_failure(&file, &error))
}

pub(crate) fn vault_failure(file: &Path, error: &VaultError) -> Failure {
    let message = format!("{}: {error}", file.display());
    match error {
        VaultError::Unsound(_) | VaultError::Damaged(_) | VaultError::Sealed(_) => Failure::Damaged(message),
        VaultError::Newer(_) => Failure::Usage(message),
        VaultError::Store(_) | VaultError::NoRandomness | VaultError::Failed => Failure::Disk(message),
    }
}

pub(crate) fn open_failure(error: &OpenError) -> Failure {
    let message = error.to_string();
    match error {
        OpenError::Locked { .. } => Failure::InUse(message),
        OpenError::Damaged { .. } | OpenError::HalfRepaired { .. } => Failure::Damaged(message),
        OpenError::NewerFormat { .. } | OpenError::NotALog { .. } => Failure::Usage(message),
        OpenError::Full { .. } | OpenError::Io(_) => Failure::Disk(message),
    }
}

/// The recorder that all parts count into.
fn metrics() -> Result<PrometheusHandle, Failure> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), LATENCY_BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| Failure::Failed(format!("cannot count metrics: {error}")))
}
