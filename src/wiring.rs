//! Starts all components of the server, and stops them in order.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use commands::engine::execute::StateCacheLimits;
use commands::jobs::scheduler::Readiness;
use commands::matchmaking::live_game::{self, LiveGame};
use commands::matchmaking::rating_service::{self, RatingService};
use commands::{Commands, ExternalServices};
use domain::image_matching::blockers::Thresholds;
use domain::lease::LeaseTerms;
use event_log::clock::{Clock, Ids};
use event_log::{EventLog, Log};
use event_log_embedded::{EmbeddedLog, Stopped};
use futures_util::FutureExt;
use metrics_exporter_prometheus::PrometheusHandle;
use projections::{ReadModels, ReadStore, SqlError, StoreError};
use read_api::ReadApi;
use read_api::media::MediaFolder;
use read_api::server::{
    Access, Breakers, Component, ComponentHealth, LagLimits, LastSeen, ListRecorder, RecordedLists,
    ServerInfo,
};
use read_api::subjects::SubjectDirectory;
use tokio::task::JoinHandle;
use vault::Vault;
use web::caller::Auth;
use web::shutdown::Shutdown;

use crate::api::{Api, Slowdown};
use crate::cluster::{self, OpenedCluster};
use crate::config::{Config, EventLogUrl};
use crate::encoder_component::encoder_component;
use crate::export_store;
use crate::exports::Exports;
use crate::failure::{Failure, open_failure};
use crate::open_files::exhausted;
use crate::open_vault::open_vault;
use crate::text_encoder;
use crate::wire::Wire;

/// The log of this process.
struct OpenedLog {
    log: Log,
    /// The same log, if it is embedded.
    embedded: Option<EmbeddedLog>,
    /// Its address without credentials, for `/status`.
    address: String,
    /// The connection to the cluster, if it is on one.
    connection: Option<Component>,
    /// The lock on the data folder, if the log is not embedded.
    lock: Option<File>,
}

/// The running components of the server.
pub(crate) struct RunningServer {
    log: Log,
    embedded: Option<EmbeddedLog>,
    /// None on a server that only reads.
    commands: Option<Commands>,
    models: ReadModels,
    wire: Option<Wire>,
    /// The task that deletes expired exports.
    deleting_exports: Option<JoinHandle<()>>,
    /// The lock on the data folder, if the log is not embedded.
    _lock: Option<File>,
}

/// Opens the log, the vault and the read models, and starts the background processes.
///
/// # Errors
/// The component that cannot be used, with the remedy.
pub(crate) async fn start(
    config: &Config,
    auth: &Auth,
    metrics: PrometheusHandle,
    shutdown: Shutdown,
) -> Result<(RunningServer, Api), Failure> {
    let wire_address = Wire::reserve(config)?;
    let external_services = external_services(config)?;
    let media = media_folder(config, auth)?;
    let clock = Clock::System;
    let OpenedLog { log, embedded, address, connection, lock } = open_log(config, clock.clone()).await?;
    let vault = open_vault(config, &log).await?;
    let encoder = text_encoder::load(config).await?;
    let settings = projections::Settings {
        store: config.read_store(),
        read_only: config.read_only,
        answer_cache_bytes: config.answer_cache_bytes,
        vectors: Some(config.data.join("read/vectors")),
        encoder,
        recommend: config.recommend.unwrap_or_default(),
    };
    let models = ReadModels::open(settings, log.clone(), clock.clone())
        .await
        .map_err(|error| read_store_failure(&error))?;
    let settings = command_settings(config);
    let commands = (!config.read_only).then(|| {
        let (log, clock, vault) = (log.clone(), clock.clone(), vault.clone());
        let commands = Commands::open(settings, log, clock, Ids::Random, vault, external_services);
        commands.start();
        commands
    });
    let export_files = export_store::open(config)?;
    let deleting_exports = commands.as_ref().zip(export_files.clone()).map(|(commands, files)| {
        Exports::new(config, files, log.clone(), clock.clone(), models.clone()).start(commands)
    });
    let wire = Wire::start(config, wire_address, embedded.as_ref(), clock.clone()).await?;
    if commands.is_none() {
        tokio::spawn(SubjectDirectory::new(vault.clone()).follow_erasures(log.clone()));
    }
    let mut server = server(config, auth, &clock, commands.as_ref(), address, vault, media);
    server.components.extend(connection);
    server.components.extend(config.standby.then(|| standby(config.read_only)));
    server.components.extend(wire.as_ref().map(Wire::component));
    server.components.push(encoder_component(&models));
    server.exports = export_files;
    let read = ReadApi::new(log.clone(), clock, models.clone(), metrics, server, shutdown);
    let api = Api::new(commands.as_ref(), &read);
    Ok((RunningServer { log, embedded, commands, models, wire, deleting_exports, _lock: lock }, api))
}

/// A server that only reads, or stands by, needs a log and read models that another server writes at the same time.
///
/// # Errors
/// The settings exclude each other.
pub(crate) fn check_shared(config: &Config) -> Result<(), Failure> {
    let flag = match (config.read_only, config.standby) {
        (false, false) => return Ok(()),
        (true, false) => "--read-only",
        (false, true) => "--standby",
        (true, true) => {
            let reason = "a server with --read-only never takes over; remove it, or remove --standby";
            return Err(Failure::Usage(reason.to_owned()));
        }
    };
    let is_on_cluster = matches!(config.event_log, Some(EventLogUrl::Cluster(_)));
    if is_on_cluster && matches!(config.read_store(), ReadStore::Postgres(_)) {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{flag} needs an --event-log on a cluster and a PostgreSQL --read-store, which several servers share; set both, \
         or remove {flag}"
    )))
}

/// What a server does that shares its read models.
fn standby(stands_by: bool) -> Component {
    let detail = if stands_by {
        "stands by: offers no commands, and takes over when the writer lease of the server that does ends"
    } else {
        "holds the writer lease: maintains the read models and offers commands"
    };
    Component::new("standby", move || ComponentHealth {
        ready: true,
        position: None,
        detail: detail.to_owned(),
    })
}

/// The information about the server that the read API needs.
fn server(
    config: &Config,
    auth: &Auth,
    clock: &Clock,
    commands: Option<&Commands>,
    log: String,
    vault: Vault,
    media: Option<MediaFolder>,
) -> ServerInfo {
    ServerInfo {
        version: env!("CARGO_PKG_VERSION"),
        started_at: clock.now(),
        access: if auth.is_open() { Access::Open } else { Access::Keys },
        log,
        open_metrics: config.metrics_open,
        thresholds: Thresholds {
            stalled_after: config.stalled_after,
            queue_lag_after: config.queue_lag_after,
        },
        slow_query: config.slow_query,
        lag_limits: LagLimits { warn: config.read_model_lag_warn, max: config.read_model_lag_max },
        components: commands
            .map_or_else(Vec::new, |commands| vec![work_board(commands), matchmaking(commands)]),
        breakers: commands.map_or_else(|| Breakers::new(|_| Vec::new()), breakers),
        last_seen: commands.map_or_else(|| LastSeen::new(|_, _| None), last_seen),
        lists: commands.map(list_recorder),
        subjects: SubjectDirectory::new(vault),
        experiments: config.experiments.clone().unwrap_or_default(),
        media,
        image_origins: config.image_origins.clone(),
        exports: None,
    }
}

impl RunningServer {
    /// What slows writers down that are faster than the read models.
    pub(crate) fn slowdown(&self, config: &Config) -> Slowdown {
        Slowdown { models: self.models.clone(), lag_warn: config.read_model_lag_warn }
    }

    /// Waits until the log cannot be written any more, which only a failed disk causes, and returns the reason.
    pub(crate) async fn disk_failure(&self) -> String {
        // A cluster handles failures of its own disks.
        let Some(log) = &self.embedded else { return std::future::pending().await };
        match log.stopped().await {
            Stopped::Failed { reason } => reason,
            // Closed by this process: it is already shutting down.
            Stopped::Closed => std::future::pending().await,
        }
    }

    /// Cancels everything that could wait long: claims without work, subscriptions and background processes. Commands in
    /// progress continue.
    pub(crate) async fn cancel_waiters(&self) {
        if let Some(wire) = &self.wire {
            wire.cancel_waiters();
        }
        self.stop_commands().await;
    }

    async fn stop_commands(&self) {
        if let Some(commands) = &self.commands {
            commands.shutdown().await;
        }
    }

    /// Stops the components in the order of their dependencies.
    pub(crate) async fn stop(self) {
        self.stop_commands().await;
        if let Some(task) = &self.deleting_exports {
            task.abort();
        }
        self.models.shutdown().await;
        if let Some(wire) = self.wire {
            wire.stop().await;
        }
        self.log.close().await;
    }
}

fn command_settings(config: &Config) -> commands::Settings {
    let leases = LeaseTerms { term: config.lease_term, heartbeat: config.lease_term / 3 };
    commands::Settings {
        leases,
        analyses_max: config.analyses_max,
        run_matchmaker: config.matchmaking,
        state_cache: StateCacheLimits {
            small: config.state_cache_bytes,
            large: config.large_state_cache_bytes,
        },
        snapshots: Some(config.snapshot_folder()),
    }
}

fn media_folder(config: &Config, auth: &Auth) -> Result<Option<MediaFolder>, Failure> {
    let open = |path: &PathBuf| {
        MediaFolder::open(path.clone(), !auth.is_open()).map_err(|error| {
            let shown = path.display();
            Failure::Usage(format!(
                "--media: cannot read the folder {shown}: {error}; create it, or name another one"
            ))
        })
    };
    config.media.as_ref().map(open).transpose()
}

/// The clients of the configured external services.
fn external_services(config: &Config) -> Result<ExternalServices, Failure> {
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
    let cutouts = config.cutouts.upstream()?;
    Ok(ExternalServices { games: games.transpose()?, ratings: ratings.transpose()?, cutouts })
}

fn breakers(commands: &Commands) -> Breakers {
    let commands = commands.clone();
    Breakers::new(move |tenant| commands.services(tenant))
}

fn last_seen(commands: &Commands) -> LastSeen {
    let commands = commands.clone();
    LastSeen::new(move |tenant, worker_id| commands.last_seen(tenant, worker_id))
}

fn list_recorder(commands: &Commands) -> ListRecorder {
    let commands = commands.clone();
    ListRecorder::new(move |caller, trace, idempotency, lists| {
        let commands = commands.clone();
        async move {
            let (ids, position, is_repeated) =
                commands.record_lists(&caller, trace, idempotency, lists).await?;
            Ok(RecordedLists { ids, position, is_repeated })
        }
        .boxed()
    })
}

fn work_board(commands: &Commands) -> Component {
    let commands = commands.clone();
    Component::new("work_board", move || {
        let status = commands.status();
        let waiting: usize = status.waiting.values().sum();
        let detail = match &status.readiness {
            Readiness::Stopped(reason) => format!("stopped, and gives out no work: {reason}"),
            Readiness::CatchingUp | Readiness::Ready | Readiness::Closing => format!(
                "{waiting} waiting, {} leased, {} workers present",
                status.leases, status.workers_present
            ),
        };
        ComponentHealth { ready: commands.is_ready(), position: Some(status.position), detail }
    })
}

fn matchmaking(commands: &Commands) -> Component {
    let commands = commands.clone();
    Component::new("matchmaking", move || {
        let status = commands.matchmaking();
        if status.is_elsewhere {
            let detail =
                "disabled: another process on the same log runs the matchmaker (--matchmaking)".to_owned();
            return ComponentHealth { ready: true, position: None, detail };
        }
        let games = match status.games {
            None => "no game service is configured".to_owned(),
            Some((0, 0)) => "the game service is available".to_owned(),
            Some((open, half_open)) => format!(
                "the circuit breaker of the game service is open (tenants: {open}) or half-open (tenants: {half_open}); see GET /internal/retries"
            ),
        };
        let detail = if status.is_stopped {
            "the matchmaker stopped: the log could not be read; see the server's log for the cause, then restart the server"
                .to_owned()
        } else {
            format!("{} searching, {} being placed or released; {games}", status.searching, status.unfinished)
        };
        ComponentHealth { ready: status.is_ready, position: Some(status.position), detail }
    })
}

async fn open_log(config: &Config, clock: Clock) -> Result<OpenedLog, Failure> {
    event_log_embedded::make_folder(&config.data).map_err(|error| {
        Failure::Disk(format!(
            "cannot use the data folder {}: {error}; check the disk, and that this user may write there",
            config.data.display()
        ))
    })?;
    warn_if_shared(&config.data);
    refuse_backup(config)?;
    if let Some(EventLogUrl::Cluster(url)) = &config.event_log {
        let OpenedCluster { log, address, connection, lock } =
            cluster::open(url.clone(), &config.data).await?;
        let (connection, lock) = (Some(connection), Some(lock));
        return Ok(OpenedLog { log, embedded: None, address, connection, lock });
    }
    let log = open_embedded(config, clock).await?;
    let address = format!("embedded:{}", config.events_folder().display());
    Ok(OpenedLog { log: Log::new(log.clone()), embedded: Some(log), address, connection: None, lock: None })
}

/// Warns about a data folder of which other users may read something. New folders and files are private.
fn warn_if_shared(folder: &Path) {
    let Ok(found) = std::fs::metadata(folder) else { return };
    let mode = found.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(
            folder = %folder.display(),
            mode = format!("{:o}", mode & 0o777),
            "other users of this machine may read the data folder; to change that: chmod -R go= {}",
            folder.display()
        );
    }
}

/// A new log in the folder of a backup would hide that the backup was not restored.
fn refuse_backup(config: &Config) -> Result<(), Failure> {
    let folders = [config.data.clone(), config.events_folder()];
    match folders.iter().find(|folder| folder.join("backup.json").exists()) {
        None => Ok(()),
        Some(folder) => Err(Failure::Usage(format!(
            "{0} is a backup, not a data folder: restore it with `matchbook events restore --from {0} --data FOLDER`, then start \
             the server with this FOLDER",
            folder.display()
        ))),
    }
}

async fn open_embedded(config: &Config, clock: Clock) -> Result<EmbeddedLog, Failure> {
    let settings = event_log_embedded::Settings {
        segment_bytes: config.segment_bytes,
        reserve_bytes: config.reserve_bytes,
        ..event_log_embedded::Settings::new(config.events_folder())
    };
    let opening = tokio::task::spawn_blocking(move || EmbeddedLog::open(&settings, clock)).await;
    let (log, opened) = opening
        .map_err(|error| Failure::Failed(format!("opening the log failed: {error}")))?
        .map_err(|error| open_failure(&error))?;
    tracing::info!(
        log_id = %log.identity().id,
        events = opened.events,
        segments = opened.segments,
        took_ms = opened.duration.as_millis(),
        head = %*log.head().borrow(),
        "opened the event log"
    );
    if let Some(truncated) = opened.truncated {
        tracing::warn!(
            bytes = truncated.bytes,
            position = %truncated.position,
            kept_in = truncated.kept_in,
            "truncated a write that a crash had left unfinished; it was never acknowledged"
        );
    }
    Ok(log)
}

fn read_store_failure(error: &projections::OpenError) -> Failure {
    let message = error.to_string();
    if let Some(failure) = exhausted(&message) {
        return failure;
    }
    match &error.source {
        StoreError::Database { source: SqlError::InUse(_), .. } => Failure::InUse(message),
        StoreError::Database { source: SqlError::Refused(_), .. } => Failure::Usage(message),
        StoreError::Folder { .. } | StoreError::File { .. } | StoreError::Database { .. } => {
            Failure::Disk(message)
        }
        StoreError::OtherWeights { .. } => Failure::Usage(message),
        StoreError::Thread(_) => Failure::Failed(message),
    }
}
