//! The settings of the server. Each has a flag, an environment variable, a key of the settings file and a default.
//!
//! Flags take precedence over the environment, the environment over the file, the file over the defaults. The file is read
//! first, and its values become the defaults of the flags, so that one parser checks all of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, Args, Command, FromArgMatches, ValueEnum};
use domain::recommend::experiment::Experiments;
use domain::recommend::settings::Settings as RecommendSettings;
use projections::{PostgresUrl, ReadStore};

mod callers;
mod cutouts;
mod documentation;
mod experiments;
mod recommend;
mod value;

pub use callers::CallerSettings;
pub use cutouts::CutoutSettings;
pub use documentation::{json, markdown};
pub use value::{EventLogUrl, ExportStore, Login, secret_url};

/// The settings of `matchbook serve`.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// The address to listen on for HTTP
    #[arg(long, env = "MATCHBOOK_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// The folder of all data: events, read models, and the subject vault
    #[arg(long, env = "MATCHBOOK_DATA", value_name = "FOLDER", default_value = "./data")]
    pub data: PathBuf,

    /// The event log: `embedded:` and a folder, or the `esdb://` URL of an EventStoreDB or KurrentDB cluster; prefer the environment if it contains a password. Default: the folder `events` in the data folder
    #[arg(long, env = "MATCHBOOK_EVENT_LOG", value_name = "URL", hide_env_values = true, value_parser = secret_url::<EventLogUrl>())]
    pub event_log: Option<EventLogUrl>,

    /// The store of the read models and of the subject vault: the `postgres://` URL of an empty PostgreSQL database (15 or newer), which only servers with `--read-only` or `--standby` share; prefer the environment if it contains a password. Default: SQLite files in the data folder
    #[arg(long, env = "MATCHBOOK_READ_STORE", value_name = "URL", hide_env_values = true, value_parser = secret_url::<PostgresUrl>())]
    pub(crate) read_store: Option<PostgresUrl>,

    /// Start with a new vault although the log contains subjects whose vault is lost: their users get other subjects, and no longer find their data
    #[arg(long, env = "MATCHBOOK_ACCEPT_LOST_VAULT", value_name = "BOOL", default_value = "false", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) accept_lost_vault: bool,

    /// Answer reads only, from the read models and the vault that another server maintains in the same `--read-store`, over the same log on a cluster. Needs both settings; commands are not offered
    #[arg(long, env = "MATCHBOOK_READ_ONLY", value_name = "BOOL", default_value = "false", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) read_only: bool,

    /// Share `--read-store` and a log on a cluster with other servers that have this setting: one of them maintains the read models and offers commands, the others answer reads only, and one takes over within about 15 seconds when that server fails, or at once when it is stopped. Needs both settings
    #[arg(long, env = "MATCHBOOK_STANDBY", value_name = "BOOL", default_value = "false", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) standby: bool,

    /// The size of a segment of the embedded log, in bytes
    #[arg(long, env = "MATCHBOOK_SEGMENT_BYTES", value_name = "BYTES", default_value_t = 64 * 1024 * 1024)]
    pub segment_bytes: u64,

    /// Free disk space below which the embedded log is read-only until there is more space, in bytes
    #[arg(long, env = "MATCHBOOK_RESERVE_BYTES", value_name = "BYTES", default_value_t = 256 * 1024 * 1024)]
    pub reserve_bytes: u64,

    /// Shared secret (HS256, at least 32 bytes) for the tokens of callers; prefer the environment
    #[arg(long, env = "MATCHBOOK_JWT_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub jwt_secret: Option<String>,

    /// PEM file with a public key (RSA, EC or Ed25519) that verifies the tokens of callers; may be repeated
    #[arg(long, env = "MATCHBOOK_JWT_KEY_FILES", value_name = "FILE", value_delimiter = ',')]
    pub jwt_key_files: Vec<PathBuf>,

    /// The identity provider's public keys (a JWKS), such as `https://identity.example/jwks.json`: fetched every minute, and when a token names a key that is not known
    #[arg(long, env = "MATCHBOOK_JWKS_URL", value_name = "URL")]
    pub jwks_url: Option<String>,

    /// The required `iss` of tokens
    #[arg(long, env = "MATCHBOOK_JWT_ISSUER", value_name = "TEXT", default_value = "matchbook")]
    pub jwt_issuer: String,

    /// The required `aud` of tokens
    #[arg(long, env = "MATCHBOOK_JWT_AUDIENCE", value_name = "TEXT", default_value = "matchbook")]
    pub jwt_audience: String,

    /// JSON file with hashed API keys: `[{"id", "sha256", "tenant", "user", "roles"}]`
    #[arg(long, env = "MATCHBOOK_API_KEYS_FILE", value_name = "FILE")]
    pub api_keys_file: Option<PathBuf>,

    #[command(flatten)]
    pub callers: CallerSettings,

    /// Web origins other than this server's that may call the API, open streams and WebSockets from a browser; none by default
    #[arg(long, env = "MATCHBOOK_CORS_ORIGINS", value_name = "ORIGIN", value_delimiter = ',')]
    pub cors_origins: Vec<String>,

    /// The origins of product pictures that the console may show, such as `https://images.example.org`; by default it shows those of this server only
    #[arg(long, env = "MATCHBOOK_IMAGE_ORIGINS", value_name = "ORIGIN", value_delimiter = ',', value_parser = value::image_origin)]
    pub image_origins: Vec<String>,

    /// Serve `/metrics` without authentication
    #[arg(long, env = "MATCHBOOK_METRICS_OPEN", value_name = "BOOL", default_value = "false", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub metrics_open: bool,

    /// The folder of the evidence images that workers write, which `GET /jobs/{job_id}/matches/{match_id}/evidence` serves: `evidence_path` of a match is a path in it. With credentials it starts with the id of the job or the name of the tenant. Without a folder, no images are served
    #[arg(long, env = "MATCHBOOK_MEDIA", value_name = "FOLDER")]
    pub media: Option<PathBuf>,

    /// The store of exported vectors: a folder that no other server writes to, or `s3://BUCKET/FOLDER`, a bucket of an S3-compatible service: see docs/exports.md. `none` leaves exports to another process on the same log. Default: the folder `exports` in the data folder
    #[arg(long, env = "MATCHBOOK_EXPORTS", value_name = "STORE")]
    pub exports: Option<ExportStore>,

    /// The folder of a sentence encoder, whose name is that of its model: `model.onnx` with `tokenizer.json` or `vocab.txt`. Products and queries are compared by its vectors. Without a folder, the built-in encoder `lexical` compares them, which knows no synonyms
    #[arg(long, env = "MATCHBOOK_TEXT_ENCODER", value_name = "FOLDER")]
    pub text_encoder: Option<PathBuf>,

    /// The address to serve the embedded log on over the EventStoreDB protocol (gRPC); disabled by default
    #[arg(long, env = "MATCHBOOK_ESDB_LISTEN", value_name = "ADDRESS")]
    pub esdb_listen: Option<SocketAddr>,

    /// The host and port that gossip advertises to clients of the EventStoreDB protocol. Default: the listen address
    #[arg(long, env = "MATCHBOOK_ESDB_ADVERTISE", value_name = "HOST:PORT")]
    pub esdb_advertise: Option<String>,

    /// The users of the EventStoreDB protocol: names and passwords; prefer the environment. Without any, every user of this machine has access
    #[arg(
        long,
        env = "MATCHBOOK_ESDB_USERS",
        value_name = "NAME:PASSWORD",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub esdb_users: Vec<Login>,

    /// The users of the protocol that may also append the program's own events, as its adapter does
    #[arg(
        long,
        env = "MATCHBOOK_ESDB_TRUSTED_USERS",
        value_name = "NAME:PASSWORD",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub esdb_trusted_users: Vec<Login>,

    /// PEM file with the TLS certificate of the EventStoreDB protocol, and its chain
    #[arg(long, env = "MATCHBOOK_ESDB_TLS_CERT", value_name = "FILE", requires = "esdb_tls_key")]
    pub esdb_tls_cert: Option<PathBuf>,

    /// PEM file with the key of that certificate
    #[arg(long, env = "MATCHBOOK_ESDB_TLS_KEY", value_name = "FILE", requires = "esdb_tls_cert")]
    pub esdb_tls_key: Option<PathBuf>,

    /// For tests of clients: at every SIGUSR1 the fault in this file, or none, is injected. See docs/testing.md
    #[arg(long, value_name = "FILE", hide = true)]
    pub esdb_faults: Option<PathBuf>,

    /// The time without a heartbeat after which a lease expires and a worker counts as lost
    #[arg(long, env = "MATCHBOOK_LEASE_TERM", value_name = "DURATION", default_value = "45s", value_parser = duration)]
    pub lease_term: Duration,

    /// The time without an event after which a running job is shown as stalled
    #[arg(long, env = "MATCHBOOK_STALLED_AFTER", value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub stalled_after: Duration,

    /// The waiting time of a match request after which queue lag is shown
    #[arg(long, env = "MATCHBOOK_QUEUE_LAG_AFTER", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub queue_lag_after: Duration,

    /// The number of events behind the head of the log beyond which `/status` and `/health` warn of a read model
    #[arg(long, env = "MATCHBOOK_READ_MODEL_LAG_WARN", value_name = "EVENTS", default_value_t = 10_000)]
    pub(crate) read_model_lag_warn: u64,

    /// The number of events behind the head of the log beyond which a read model makes the server not ready
    #[arg(long, env = "MATCHBOOK_READ_MODEL_LAG_MAX", value_name = "EVENTS", default_value_t = 1_000_000)]
    pub(crate) read_model_lag_max: u64,

    /// The memory for the folded states of streams with few events, in bytes; a state that is not in memory is folded again by the next command
    #[arg(long, env = "MATCHBOOK_STATE_CACHE_BYTES", value_name = "BYTES", default_value_t = 32 * 1024 * 1024)]
    pub state_cache_bytes: usize,

    /// The memory for the folded states of streams with more than 4,096 events, in bytes; the ids of ten million matches of one job take 200 MB
    #[arg(long, env = "MATCHBOOK_LARGE_STATE_CACHE_BYTES", value_name = "BYTES", default_value_t = 256 * 1024 * 1024)]
    pub large_state_cache_bytes: usize,

    /// The memory for answers that are kept for the same request, in bytes: half of it for searches, half for recommendations; 0 keeps none
    #[arg(long, env = "MATCHBOOK_ANSWER_CACHE_BYTES", value_name = "BYTES", default_value_t = 32 * 1024 * 1024)]
    pub answer_cache_bytes: usize,

    /// The duration from which a search or a recommendation is listed in `/performance/slow-queries`
    #[arg(long, env = "MATCHBOOK_SLOW_QUERY", value_name = "DURATION", default_value = "300ms", value_parser = duration)]
    pub slow_query: Duration,

    /// The most video analyses of a tenant in progress
    #[arg(long, env = "MATCHBOOK_ANALYSES_MAX", value_name = "NUMBER", default_value_t = 100)]
    pub analyses_max: usize,

    /// Run the matchmaker, which pairs players; `false` leaves it to another process on the same log, with its own vault
    #[arg(long, env = "MATCHBOOK_MATCHMAKING", value_name = "BOOL", default_value = "true", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub matchmaking: bool,

    /// The service that creates the games of matches, such as `http://games:9000`: it is called by `POST {url}/games`. Without a service, matches have no game
    #[arg(long, env = "MATCHBOOK_GAME_SERVICE_URL", value_name = "URL", hide_env_values = true)]
    pub game_service_url: Option<String>,

    /// The timeout of a call to the game service
    #[arg(long, env = "MATCHBOOK_GAME_SERVICE_TIMEOUT", value_name = "DURATION", default_value = "3s", value_parser = duration)]
    pub game_service_timeout: Duration,

    /// The rating service of the tenants, such as `http://ratings:9000`: it is called by `GET {url}/ratings/{tenant}/{user_id}?pool_key=…`, which returns `{"rating": 1640}`, or 404 for an unknown player. Without a service, and if it fails, ratings come from the results of the players
    #[arg(long, env = "MATCHBOOK_RATING_SERVICE_URL", value_name = "URL", hide_env_values = true)]
    pub rating_service_url: Option<String>,

    /// The timeout of a call to the rating service; joining a queue waits for it
    #[arg(long, env = "MATCHBOOK_RATING_SERVICE_TIMEOUT", value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub rating_service_timeout: Duration,

    #[command(flatten)]
    pub cutouts: CutoutSettings,

    /// Comparisons of ranking variants, as JSON; in the file, a table: see docs/experiments.md
    #[arg(long, env = "MATCHBOOK_EXPERIMENTS", value_name = "JSON", value_parser = experiments::parse)]
    pub experiments: Option<Experiments>,

    /// How interactions and co-visits count in recommendations, as JSON; in the file, a table: see docs/production.md. What depends on it is rebuilt when it changes
    #[arg(long, env = "MATCHBOOK_RECOMMEND", value_name = "JSON", value_parser = recommend::parse)]
    pub recommend: Option<RecommendSettings>,

    /// The most open connections
    #[arg(long, env = "MATCHBOOK_CONNECTIONS_MAX", value_name = "NUMBER", default_value_t = 16_384)]
    pub connections_max: u32,

    /// The time that active requests have to finish when the server stops
    #[arg(long, env = "MATCHBOOK_SHUTDOWN_GRACE", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub shutdown_grace: Duration,

    /// The log filter: a level, or directives such as `info,projections=debug`
    #[arg(long, env = "MATCHBOOK_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,

    /// The log format
    #[arg(long, env = "MATCHBOOK_LOG_FORMAT", value_name = "FORMAT", default_value = "text", value_enum)]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl Config {
    /// The default settings with this data folder, for a server without clients.
    ///
    /// # Errors
    /// The environment has an invalid setting.
    pub fn in_folder(folder: &Path) -> Result<Self, crate::failure::Failure> {
        parse(&["--data", &folder.to_string_lossy(), "--reserve-bytes", "0"])
            .map_err(|error| crate::failure::Failure::Usage(error.to_string()))
    }

    /// The folder of the embedded log.
    pub fn events_folder(&self) -> PathBuf {
        match &self.event_log {
            Some(EventLogUrl::Embedded(folder)) => folder.clone(),
            _ => self.data.join("events"),
        }
    }

    pub fn read_store(&self) -> ReadStore {
        let folder = || ReadStore::Folder(self.data.join("read"));
        self.read_store.clone().map_or_else(folder, ReadStore::Postgres)
    }

    /// The folder of the snapshots of the write side's folds, a cache.
    pub(crate) fn snapshot_folder(&self) -> PathBuf {
        self.data.join("snapshots")
    }

    /// The store of exported vectors.
    pub(crate) fn export_store(&self) -> ExportStore {
        self.exports.clone().unwrap_or_else(|| ExportStore::Folder(self.data.join("exports")))
    }

    pub fn vault_file(&self) -> PathBuf {
        self.data.join("vault.sqlite")
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 45s, 5m or 1h"))
}

/// Why the settings file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read the settings in {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not TOML: {source}", path.display())]
    Toml { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{} has the unknown setting `{key}`; `matchbook serve --help` lists them all", path.display())]
    UnknownKey { path: PathBuf, key: String },
    #[error("`{key}` in {} must be a string, a number, true or false, a list of strings, or a table", path.display())]
    Value { path: PathBuf, key: String },
}

/// Makes the values of the settings file the defaults of the command with [`Config`]. A key is the name of its flag; `-` and
/// `_` are equivalent.
///
/// # Errors
/// The file cannot be read, or has an invalid setting.
pub fn with_file(command: Command, path: &Path) -> Result<Command, FileError> {
    let file = || path.to_owned();
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read { path: file(), source })?;
    let table: BTreeMap<String, toml::Value> =
        toml::from_str(&text).map_err(|source| FileError::Toml { path: file(), source: Box::new(source) })?;
    let mut command = command;
    for (key, value) in table {
        let id = key.replace('-', "_");
        if !settings(&command).any(|setting| setting.get_id() == id.as_str()) {
            return Err(FileError::UnknownKey { path: file(), key });
        }
        let values = texts(value).ok_or_else(|| FileError::Value { path: file(), key })?;
        // The help shows defaults, and a value that is secret in the environment is so in the file.
        command = command.mut_arg(id, |arg| {
            let is_secret = arg.is_hide_env_values_set();
            arg.default_values(values).hide_default_value(is_secret)
        });
    }
    Ok(command)
}

fn texts(value: toml::Value) -> Option<Vec<String>> {
    Some(match value {
        toml::Value::String(text) => vec![text],
        toml::Value::Integer(number) => vec![number.to_string()],
        toml::Value::Boolean(truth) => vec![truth.to_string()],
        toml::Value::Array(values) => {
            values.into_iter().map(|value| value.as_str().map(str::to_owned)).collect::<Option<_>>()?
        }
        toml::Value::Table(table) => vec![serde_json::to_string(&table).ok()?],
        _ => return None,
    })
}

fn settings(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| arg.get_env().is_some_and(|name| name != "MATCHBOOK_CONFIG"))
}

pub fn parse(arguments: &[&str]) -> Result<Config, clap::Error> {
    let command = Config::augment_args(Command::new("serve").no_binary_name(true));
    command.try_get_matches_from(arguments).and_then(|matches| Config::from_arg_matches(&matches))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(super) fn from_file(text: &str, arguments: &[&str]) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let command = Config::augment_args(Command::new("serve").no_binary_name(true));
        let command = with_file(command, file.path()).map_err(|error| error.to_string())?;
        let matches = command.try_get_matches_from(arguments).map_err(|error| error.to_string())?;
        Config::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn flag_wins_over_the_file_and_the_file_over_the_default() {
        let text = "listen = \"127.0.0.1:9000\"\nlease-term = \"10s\"\ncors_origins = [\"http://a\", \"http://b\"]\n";
        let config = from_file(text, &["--lease-term", "20s"]).unwrap();
        assert_eq!(config.listen, "127.0.0.1:9000".parse().unwrap());
        assert_eq!(config.lease_term, Duration::from_secs(20));
        assert_eq!(config.cors_origins, ["http://a", "http://b"]);
        assert_eq!(config.stalled_after, Duration::from_secs(300));
    }

    #[test]
    fn image_origin_cannot_change_the_policy_of_the_page() {
        let config = parse(&["--image-origins", "https://images.example.org,http://localhost:9000"]).unwrap();
        assert_eq!(config.image_origins, ["https://images.example.org", "http://localhost:9000"]);
        for refused in ["*", "data:", "https://a;script-src", "https://a/b", "https://a b"] {
            assert!(parse(&["--image-origins", refused]).is_err(), "{refused}");
        }
    }

    #[test]
    fn unknown_setting_in_the_file_is_named() {
        assert!(from_file("lisen = \"x\"", &[]).unwrap_err().contains("unknown setting `lisen`"));
    }

    #[test]
    fn help_does_not_show_secrets_of_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "jwt_secret = \"of-the-file\"\nlisten = \"127.0.0.1:9000\"").unwrap();
        let mut command = with_file(Config::augment_args(Command::new("serve")), file.path()).unwrap();
        let help = command.render_long_help().to_string();
        assert!(help.contains("127.0.0.1:9000") && !help.contains("of-the-file"), "{help}");
    }

    #[test]
    fn value_in_the_file_is_checked_like_a_flag() {
        assert!(from_file("lease_term = \"soon\"", &[]).is_err());
        assert!(from_file("reserve_bytes = -1", &[]).is_err());
    }

    #[test]
    fn store_of_exports_is_a_folder_or_a_bucket() {
        let exports = |text: &str| parse(&["--exports", text]).map(|config| config.exports.unwrap());
        assert_eq!(exports("./files").unwrap(), ExportStore::Folder("./files".into()));
        assert_eq!(exports("none").unwrap(), ExportStore::None);
        let bucket =
            |folder: &str| ExportStore::Bucket { name: "files".to_owned(), folder: folder.to_owned() };
        assert_eq!(exports("s3://files").unwrap(), bucket(""));
        assert_eq!(exports("s3://files/a/b/").unwrap(), bucket("a/b"));
        for refused in
            ["", "s3://", "s3:///a", "gs://files", "s3://files/../a", "s3://files/a?b", "s3://files//a"]
        {
            assert!(exports(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn event_log_must_name_its_kind() {
        assert!(parse(&["--event-log", "./events"]).is_err());
        let config = parse(&["--event-log", "embedded:/var/lib/events"]).unwrap();
        assert_eq!(config.events_folder(), PathBuf::from("/var/lib/events"));
    }

    #[cfg(feature = "eventstore")]
    #[test]
    fn cluster_url_is_never_printed_with_its_password() {
        let config = parse(&["--event-log", "esdb://ann:secret@db1,db2?tls=false"]).unwrap();
        assert!(matches!(&config.event_log, Some(EventLogUrl::Cluster(_))));
        assert!(!format!("{config:?}").contains("ann:secret"));
        for wrong in ["esdb://ann:secret@db:x", "esbd://ann:secret@db", "esdb://ann:secret@db?tls=perhaps"] {
            let error = parse(&["--event-log", wrong]).unwrap_err().to_string();
            assert!(error.contains("--event-log <URL>") && error.contains("esdb://"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn documentation_lists_the_settings_of_the_program() {
        let documented = include_str!("../docs/configuration.md");
        assert_eq!(documented, markdown(), "run `matchbook settings > docs/configuration.md`");
    }
}
