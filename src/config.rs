//! Every setting of the server, once: a flag, an environment variable, a key of the file and a default.
//!
//! A flag wins over the environment, the environment over the file, the file over the default. The file is read first,
//! and its values become the defaults of the flags, so that one parser checks all four.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{TypedValueParser, ValueParserFactory};
use clap::{Arg, Args, Command, FromArgMatches, ValueEnum};

use crate::cluster::ClusterUrl;

/// The settings of `matchbook serve`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Config {
    /// Where to listen for HTTP
    #[arg(long, env = "MATCHBOOK_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,

    /// The folder that holds everything: events, read models, names of people
    #[arg(long, env = "MATCHBOOK_DATA", value_name = "FOLDER", default_value = "./data")]
    pub(crate) data: PathBuf,

    /// Which event log to use: `embedded:` and a folder, or the `esdb://` URL of an EventStoreDB or KurrentDB cluster; better set by the environment if there is a password in it. Default: the folder `events` in the data folder
    #[arg(long, env = "MATCHBOOK_EVENT_LOG", value_name = "URL", hide_env_values = true)]
    pub(crate) event_log: Option<EventLogUrl>,

    /// Size of the segments of the embedded log, in bytes
    #[arg(long, env = "MATCHBOOK_SEGMENT_BYTES", value_name = "BYTES", default_value_t = 64 * 1024 * 1024)]
    pub(crate) segment_bytes: u64,

    /// Free disk space under which the embedded log takes no events until there is room again, in bytes
    #[arg(long, env = "MATCHBOOK_RESERVE_BYTES", value_name = "BYTES", default_value_t = 256 * 1024 * 1024)]
    pub(crate) reserve_bytes: u64,

    /// Shared secret (HS256, at least 32 bytes) that signs the callers' tokens; better set by the environment
    #[arg(long, env = "MATCHBOOK_JWT_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub(crate) jwt_secret: Option<String>,

    /// PEM file with a public key (RSA, EC or Ed25519) that checks the callers' tokens; may be given more than once
    #[arg(long, env = "MATCHBOOK_JWT_KEY_FILES", value_name = "FILE", value_delimiter = ',')]
    pub(crate) jwt_key_files: Vec<PathBuf>,

    /// The `iss` that tokens must carry
    #[arg(long, env = "MATCHBOOK_JWT_ISSUER", value_name = "TEXT", default_value = "matchbook")]
    pub(crate) jwt_issuer: String,

    /// The `aud` that tokens must carry
    #[arg(long, env = "MATCHBOOK_JWT_AUDIENCE", value_name = "TEXT", default_value = "matchbook")]
    pub(crate) jwt_audience: String,

    /// JSON file with hashed API keys: `[{"id", "sha256", "tenant", "user", "roles"}]`
    #[arg(long, env = "MATCHBOOK_API_KEYS_FILE", value_name = "FILE")]
    pub(crate) api_keys_file: Option<PathBuf>,

    /// Web origins that may call the API from a browser; none by default
    #[arg(long, env = "MATCHBOOK_CORS_ORIGINS", value_name = "ORIGIN", value_delimiter = ',')]
    pub(crate) cors_origins: Vec<String>,

    /// Answer `/metrics` to anyone
    #[arg(long, env = "MATCHBOOK_METRICS_OPEN", value_name = "BOOL", default_value = "false", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) metrics_open: bool,

    /// Where to serve the embedded log over the EventStoreDB protocol (gRPC); nowhere by default
    #[arg(long, env = "MATCHBOOK_ESDB_LISTEN", value_name = "ADDRESS")]
    pub(crate) esdb_listen: Option<SocketAddr>,

    /// The host and port that gossip tells clients of the EventStoreDB protocol. Default: where it listens
    #[arg(long, env = "MATCHBOOK_ESDB_ADVERTISE", value_name = "HOST:PORT")]
    pub(crate) esdb_advertise: Option<String>,

    /// Who may use the EventStoreDB protocol: names and passwords; better set by the environment. Without any, everyone on this machine may
    #[arg(
        long,
        env = "MATCHBOOK_ESDB_USERS",
        value_name = "NAME:PASSWORD",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub(crate) esdb_users: Vec<Login>,

    /// Who may also append the program's own events through it, as its adapter does
    #[arg(
        long,
        env = "MATCHBOOK_ESDB_TRUSTED_USERS",
        value_name = "NAME:PASSWORD",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub(crate) esdb_trusted_users: Vec<Login>,

    /// PEM file with the certificate that clients of the EventStoreDB protocol are shown, and those that signed it
    #[arg(long, env = "MATCHBOOK_ESDB_TLS_CERT", value_name = "FILE", requires = "esdb_tls_key")]
    pub(crate) esdb_tls_cert: Option<PathBuf>,

    /// PEM file with the key of that certificate
    #[arg(long, env = "MATCHBOOK_ESDB_TLS_KEY", value_name = "FILE", requires = "esdb_tls_cert")]
    pub(crate) esdb_tls_key: Option<PathBuf>,

    /// For tests of clients: the fault in this file, or none, is taken on at every SIGUSR1. See docs/testing.md
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) esdb_faults: Option<PathBuf>,

    /// How long a worker keeps a piece of work, and counts as present, without a heartbeat
    #[arg(long, env = "MATCHBOOK_LEASE_TERM", value_name = "DURATION", default_value = "45s", value_parser = duration)]
    pub(crate) lease_term: Duration,

    /// A running job without an event for so long is shown as stalled
    #[arg(long, env = "MATCHBOOK_STALLED_AFTER", value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub(crate) stalled_after: Duration,

    /// A match request that waits longer than this is shown as queue lag
    #[arg(long, env = "MATCHBOOK_QUEUE_LAG_AFTER", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(crate) queue_lag_after: Duration,

    /// The most analyses of videos that a tenant may have under way
    #[arg(long, env = "MATCHBOOK_ANALYSES_MAX", value_name = "NUMBER", default_value_t = 100)]
    pub(crate) analyses_max: usize,

    /// Put players together; `false` leaves it to another process on the same log, which knows their names
    #[arg(long, env = "MATCHBOOK_MATCHMAKING", value_name = "BOOL", default_value = "true", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) matchmaking: bool,

    /// The service that makes the games of matches, as `http://games:9000`: it is asked by `POST {url}/games`. https is not spoken: put a proxy before a service that asks for it. Without one, matches carry no game
    #[arg(long, env = "MATCHBOOK_GAME_SERVICE_URL", value_name = "URL", hide_env_values = true)]
    pub(crate) game_service_url: Option<String>,

    /// How long one call to the game service may take
    #[arg(long, env = "MATCHBOOK_GAME_SERVICE_TIMEOUT", value_name = "DURATION", default_value = "3s", value_parser = duration)]
    pub(crate) game_service_timeout: Duration,

    /// The tenants' rating service, as `http://ratings:9000`: it is asked by `GET {url}/ratings/{tenant}/{user_id}?pool_key=…`, which answers `{"rating": 1640}`, or 404 for a player whom it does not know. https is not spoken: put a proxy before a service that asks for it. Without one, and where it does not answer, players' own results say how strong they are
    #[arg(long, env = "MATCHBOOK_RATING_SERVICE_URL", value_name = "URL", hide_env_values = true)]
    pub(crate) rating_service_url: Option<String>,

    /// How long one call to the rating service may take; whoever joins a queue waits for it
    #[arg(long, env = "MATCHBOOK_RATING_SERVICE_TIMEOUT", value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub(crate) rating_service_timeout: Duration,

    /// The most connections at a time
    #[arg(long, env = "MATCHBOOK_CONNECTIONS_MAX", value_name = "NUMBER", default_value_t = 16_384)]
    pub(crate) connections_max: u32,

    /// How long requests under way may take to end when the server stops
    #[arg(long, env = "MATCHBOOK_SHUTDOWN_GRACE", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) shutdown_grace: Duration,

    /// What to log: a level, or directives such as `info,projections=debug`
    #[arg(long, env = "MATCHBOOK_LOG", value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,

    /// How to log
    #[arg(long, env = "MATCHBOOK_LOG_FORMAT", value_name = "FORMAT", default_value = "text", value_enum)]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// A name and a password, as one text that is shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login(pub(crate) String);

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login")
    }
}

impl From<&str> for Login {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Where the event log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EventLogUrl {
    Embedded(PathBuf),
    Cluster(ClusterUrl),
}

impl std::str::FromStr for EventLogUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("embedded", folder)) if !folder.is_empty() => Ok(Self::Embedded(folder.into())),
            _ if ClusterUrl::is_meant_by(text) => {
                text.parse::<ClusterUrl>().map(Self::Cluster).map_err(|error| error.to_string())
            }
            _ => Err("an event log is written as embedded:FOLDER, as in embedded:./data/events, or as the URL of an \
                      EventStoreDB or KurrentDB cluster, as in esdb://db1,db2,db3"
                .to_owned()),
        }
    }
}

/// Says what is wrong with a URL without showing it, because there may be a password in it.
#[derive(Clone, Debug)]
pub(crate) struct EventLogUrlParser;

impl ValueParserFactory for EventLogUrl {
    type Parser = EventLogUrlParser;

    fn value_parser() -> EventLogUrlParser {
        EventLogUrlParser
    }
}

impl TypedValueParser for EventLogUrlParser {
    type Value = EventLogUrl;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<EventLogUrl, clap::Error> {
        let wrong = |why: &str| {
            let argument = argument.map(ToString::to_string).unwrap_or_default();
            let message = format!("{argument}: {why}\n");
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, message).with_cmd(command)
        };
        let text = value.to_str().ok_or_else(|| wrong("it is not a text"))?;
        text.parse().map_err(|error: String| wrong(&error))
    }
}

impl Config {
    /// The settings as they are, but for the folder: for a server that nobody reaches.
    ///
    /// # Errors
    /// The environment holds a setting that is none.
    pub(crate) fn in_folder(folder: &Path) -> Result<Self, crate::cli::Failure> {
        parse(&["--data", &folder.to_string_lossy(), "--reserve-bytes", "0"])
            .map_err(|error| crate::cli::Failure::Usage(error.to_string()))
    }

    /// The folder of the embedded log.
    pub(crate) fn events_folder(&self) -> PathBuf {
        match &self.event_log {
            Some(EventLogUrl::Embedded(folder)) => folder.clone(),
            _ => self.data.join("events"),
        }
    }

    pub(crate) fn read_models_folder(&self) -> PathBuf {
        self.data.join("read")
    }

    pub(crate) fn vault_file(&self) -> PathBuf {
        self.data.join("vault.sqlite")
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 45s, 5m or 1h"))
}

/// Why the file with the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot read the settings in {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not TOML: {source}", path.display())]
    Toml { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{} has the unknown setting `{key}`; `matchbook serve --help` lists them all", path.display())]
    UnknownKey { path: PathBuf, key: String },
    #[error("`{key}` in {} must be a text, a number, true or false, or a list of texts", path.display())]
    Value { path: PathBuf, key: String },
}

/// Makes the values of the settings file the defaults of the command that carries [`Config`]. A key is the name of its
/// flag; `-` and `_` are the same in it.
///
/// # Errors
/// The file cannot be read, or says something that is no setting.
pub(crate) fn with_file(command: Command, path: &Path) -> Result<Command, FileError> {
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
        command = command.mut_arg(id, |arg| arg.default_values(values));
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
        _ => return None,
    })
}

fn settings(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| arg.get_env().is_some_and(|name| name != "MATCHBOOK_CONFIG"))
}

pub(crate) fn parse(arguments: &[&str]) -> Result<Config, clap::Error> {
    let command = Config::augment_args(Command::new("serve").no_binary_name(true));
    command.try_get_matches_from(arguments).and_then(|matches| Config::from_arg_matches(&matches))
}

/// A setting as the documents show it.
struct Shown {
    flag: String,
    environment: String,
    key: String,
    default: Option<String>,
    meaning: String,
}

fn shown() -> Vec<Shown> {
    let command = Config::augment_args(Command::new("serve"));
    let show = |arg: &Arg| {
        let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        Shown {
            flag: format!("--{}", arg.get_long().unwrap_or_default()),
            environment: arg.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            key: arg.get_id().to_string(),
            default: (!defaults.is_empty()).then(|| defaults.join(",")),
            meaning: arg.get_help().map(ToString::to_string).unwrap_or_default(),
        }
    };
    settings(&command).map(show).collect()
}

/// The table of all settings, as `docs/configuration.md` shows it.
pub(crate) fn markdown() -> String {
    let mut text = String::from(
        "# Settings\n\n\
         Made from the program by `matchbook settings`; a test compares it.\n\n\
         A flag wins over the environment, the environment over the file (`--config FILE`, TOML), the file over the\n\
         default.\n\n\
         | flag | environment | file key | default | meaning |\n|---|---|---|---|---|\n",
    );
    for Shown { flag, environment, key, default, meaning } in shown() {
        let default = default.map_or_else(|| "–".to_owned(), |default| format!("`{default}`"));
        let _ = writeln!(text, "| `{flag}` | `{environment}` | `{key}` | {default} | {meaning} |");
    }
    text
}

/// The same for programs.
pub(crate) fn json() -> serde_json::Value {
    let object = |setting: Shown| {
        serde_json::json!({
            "flag": setting.flag, "environment": setting.environment, "key": setting.key,
            "default": setting.default, "meaning": setting.meaning,
        })
    };
    shown().into_iter().map(object).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_file(text: &str, arguments: &[&str]) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let command = Config::augment_args(Command::new("serve").no_binary_name(true));
        let command = with_file(command, file.path()).map_err(|error| error.to_string())?;
        let matches = command.try_get_matches_from(arguments).map_err(|error| error.to_string())?;
        Config::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let text = "listen = \"127.0.0.1:9000\"\nlease-term = \"10s\"\ncors_origins = [\"http://a\", \"http://b\"]\n";
        let config = from_file(text, &["--lease-term", "20s"]).unwrap();
        assert_eq!(config.listen, "127.0.0.1:9000".parse().unwrap());
        assert_eq!(config.lease_term, Duration::from_secs(20));
        assert_eq!(config.cors_origins, ["http://a", "http://b"]);
        assert_eq!(config.stalled_after, Duration::from_secs(300));
    }

    #[test]
    fn an_unknown_setting_in_the_file_is_named() {
        assert!(from_file("lisen = \"x\"", &[]).unwrap_err().contains("unknown setting `lisen`"));
    }

    #[test]
    fn a_value_in_the_file_is_checked_like_a_flag() {
        assert!(from_file("lease_term = \"soon\"", &[]).is_err());
        assert!(from_file("reserve_bytes = -1", &[]).is_err());
    }

    #[test]
    fn an_event_log_must_name_its_kind() {
        assert!(parse(&["--event-log", "./events"]).is_err());
        let config = parse(&["--event-log", "embedded:/var/lib/events"]).unwrap();
        assert_eq!(config.events_folder(), PathBuf::from("/var/lib/events"));
    }

    #[cfg(feature = "eventstore")]
    #[test]
    fn the_url_of_a_cluster_is_read_and_never_shown_with_its_password() {
        let config = parse(&["--event-log", "esdb://ann:secret@db1,db2?tls=false"]).unwrap();
        assert!(matches!(&config.event_log, Some(EventLogUrl::Cluster(_))));
        assert!(!format!("{config:?}").contains("ann:secret"));
        for wrong in ["esdb://ann:secret@db:x", "esbd://ann:secret@db", "esdb://ann:secret@db?tls=perhaps"] {
            let said = parse(&["--event-log", wrong]).unwrap_err().to_string();
            assert!(said.contains("--event-log <URL>") && said.contains("esdb://"), "{said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn the_documented_settings_are_those_of_the_program() {
        let documented = include_str!("../docs/configuration.md");
        assert_eq!(documented, markdown(), "run `matchbook settings > docs/configuration.md`");
    }
}
