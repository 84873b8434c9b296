//! The client library and the workarounds for its defects. No other part of this crate uses it directly.
//!
//! It is the crate `eventstore` 4.0.0, the frozen predecessor of `kurrentdb`. To move there: change the imports,
//! `ExpectedRevision` to `StreamState` with its `StreamRevision`, and check which workarounds are still needed. The defects:
//!
//! - a client whose first connection failed stays broken: it is replaced ([`Connection::renew`]);
//! - after a node's failure it never leaves that node: the subscriber replaces it then;
//! - it panics if certificates are missing, even without TLS, and if another part of the process installed a cryptography
//!   provider: both are checked first, and without TLS it gets an empty certificate file;
//! - it panics at incomplete and at some unexpected responses: calls run under `catch_unwind`;
//! - its subscriptions spin for ever without yielding when a server ends one normally: `subscription` unwinds them;
//! - it does not set `TCP_NODELAY` (`nodelay`), and truncates times to seconds (`translation`);
//! - it waits before its first connection, half a second by default: the URL sets less ([`DISCOVERY_INTERVAL`]);
//! - it does not decode user names and passwords of the URL: `url` does;
//! - it only sends deadlines to the server: they are enforced here, too.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::eventstore::{
    AppendToStreamOptions, Client, ClientSettings, Credentials, Error, EventData, ExpectedRevision,
    ReadAllOptions, ReadStreamOptions, StreamPosition, SubscribeToAllOptions,
};
use bytes::Bytes;
use event_schemas::envelope::NewEvent;
use event_schemas::ids::{Position, Revision};
use futures_util::FutureExt;
use tracing::subscriber::NoSubscriber;

use super::nodelay::{self, Ports};
use super::tls::{self, TlsError};
use super::url::{ClusterUrl, InvalidClusterUrl};
use event_log::Expected;

mod subscription;
mod translation;

pub(super) use subscription::{AllSubscription, SubscriptionMessage};
pub(super) use translation::{CallError, ClusterEvent, ReadFrom, WriteResult};
use translation::{call_error, cluster_event, event_data, stream_position};

/// The default deadline of one call.
const DEADLINE: Duration = Duration::from_secs(5);

/// The default interval at which the library looks for a node. It waits as long before the first connection; the
/// exponential backoff is ours.
const DISCOVERY_INTERVAL: Duration = Duration::from_millis(20);

/// The certificate file for connections without TLS, so that the library does not load those of the system.
const NO_CERTIFICATES: &str = "/dev/null";

/// The one connection to the cluster.
pub(super) struct Connection {
    url: ClusterUrl,
    settings: ClientSettings,
    deadline: Duration,
    current: Mutex<CurrentClient>,
    /// The generation of the client whose connection has its socket options.
    tuned: AtomicU64,
    tuning_failure_logged: AtomicBool,
}

struct CurrentClient {
    generation: u64,
    client: Option<Client>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Checks that the library accepts the URL.
pub(super) fn check(url: &ClusterUrl) -> Result<(), InvalidClusterUrl> {
    settings(url).map(|_| ())
}

fn settings(url: &ClusterUrl) -> Result<ClientSettings, InvalidClusterUrl> {
    let mut text = url.plain().to_owned();
    let mut add = |option: &str| {
        text.push(if text.contains('?') { '&' } else { '?' });
        text.push_str(option);
    };
    if !url.tls() {
        add(&format!("tlsCaFile={NO_CERTIFICATES}"));
    }
    if url.option("nodepreference").is_none() {
        add("nodePreference=leader");
    }
    if url.option("discoveryinterval").is_none() {
        add(&format!("discoveryInterval={}", DISCOVERY_INTERVAL.as_millis()));
    }
    // The library's warnings are suppressed: unknown options are logged once, when the log is opened.
    let parsed =
        tracing::subscriber::with_default(NoSubscriber::default(), || text.parse::<ClientSettings>());
    parsed.map_err(|error| match error.error() {
        Some(cause) => InvalidClusterUrl(cause.to_string()),
        None => InvalidClusterUrl(error.message().to_owned()),
    })
}

/// Creates the library's first client in the process, which connects to nothing. It installs the cryptography provider, and
/// panics if one is installed already; after that all clients of the library are broken.
async fn install_provider() -> Result<(), TlsError> {
    static INSTALLED: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let installed = INSTALLED.get_or_try_init(async || {
        let url = format!("esdb://localhost?tls=false&tlsCaFile={NO_CERTIFICATES}&maxDiscoverAttempts=0");
        let settings = tracing::subscriber::with_default(NoSubscriber::default(), || url.parse());
        let settings: ClientSettings = settings.expect("the library reads its own URLs");
        match Client::new(settings) {
            Ok(client) => match client.server_info().await {
                Err(Error::ConnectionClosed) => Err(TlsError::Provider),
                _ => Ok(()),
            },
            Err(_) => Err(TlsError::Provider),
        }
    });
    installed.await.copied()
}

impl Connection {
    /// Does not connect yet.
    pub(super) async fn new(url: ClusterUrl) -> Result<Self, TlsError> {
        install_provider().await?;
        tls::check(&url)?;
        let settings = settings(&url).expect("it was checked when the URL was read");
        let deadline = url.deadline().unwrap_or(DEADLINE);
        let current = Mutex::new(CurrentClient { generation: 1, client: None });
        Ok(Self {
            url,
            settings,
            deadline,
            current,
            tuned: AtomicU64::new(0),
            tuning_failure_logged: AtomicBool::new(false),
        })
    }

    pub(super) fn url(&self) -> &ClusterUrl {
        &self.url
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    fn client(&self) -> Result<(u64, Client), CallError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &current.client {
            return Ok((current.generation, client.clone()));
        }
        tls::check(&self.url)?;
        let client =
            Client::new(self.settings.clone()).map_err(|error| CallError::Unreachable(error.to_string()))?;
        current.client = Some(client.clone());
        Ok((current.generation, client))
    }

    /// Drops the client of `generation`, so that the next call creates a new one.
    pub(super) fn renew(&self, generation: u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.generation == generation {
            current.generation += 1;
            current.client = None;
        }
    }

    /// Makes one call with the deadline, and catches panics of the library.
    async fn call<T, F>(&self, make: impl FnOnce(Client) -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, Error>> + Send,
    {
        let (generation, client) = self.client()?;
        let call = Box::pin(AssertUnwindSafe(make(client)).catch_unwind());
        let error = match tokio::time::timeout(self.deadline, call).await {
            Ok(Ok(Ok(answer))) => {
                self.tune(generation).await;
                return Ok(answer);
            }
            Ok(Ok(Err(error))) => call_error(error),
            Ok(Err(_)) => CallError::Interrupted("the client library panicked at the response".to_owned()),
            Err(_) => CallError::Interrupted(format!("no response within {:?}", self.deadline)),
        };
        match error {
            CallError::Unreachable(_) => self.renew(generation),
            // The next call uses another connection.
            CallError::NotLeader | CallError::Interrupted(_) => self.tuned.store(0, Ordering::Relaxed),
            _ => {}
        }
        Err(error)
    }

    /// Sets the socket options of the connection, unless they are set.
    async fn tune(&self, generation: u64) {
        if self.tuned.swap(generation, Ordering::Relaxed) == generation {
            return;
        }
        let hosts = self.settings.hosts();
        let ports = match self.url.is_cluster() {
            true => Ports::All,
            false => Ports::Only(hosts.iter().filter_map(|host| u16::try_from(host.port).ok()).collect()),
        };
        let set = tokio::task::spawn_blocking(move || nodelay::set(&ports)).await;
        if let Ok(Err(error)) = set
            && !self.tuning_failure_logged.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                %error,
                "cannot set TCP_NODELAY on the connection to the cluster: a single call may take 40 ms longer; allow the \
                 system call pidfd_getfd to change that"
            );
        }
    }

    /// The credentials of the URL, in the library's form.
    fn login(&self) -> Option<Credentials> {
        let login = self.url.credentials()?;
        Some(Credentials::new(login.user.clone(), login.password.clone()))
    }

    pub(super) async fn append(
        &self,
        stream: &str,
        expected: Expected,
        events: &[NewEvent],
    ) -> Result<WriteResult, CallError> {
        let expected = match expected {
            Expected::NoStream => ExpectedRevision::NoStream,
            Expected::At(revision) => ExpectedRevision::Exact(revision.0),
            Expected::Any => ExpectedRevision::Any,
        };
        let events: Vec<EventData> = events.iter().map(event_data).collect();
        let options = AppendToStreamOptions::default();
        let options = options.expected_revision(expected).deadline(self.deadline).requires_leader(true);
        let options = match self.login() {
            Some(login) => options.authenticated(login),
            None => options,
        };
        let appended =
            self.call(|client| async move { client.append_to_stream(stream, &options, events).await }).await;
        match appended {
            Ok(written) => Ok(WriteResult {
                position: Position(written.position.commit),
                revision: Revision(written.next_expected_version),
            }),
            // A node that does not know the leader.
            Err(CallError::StreamNotFound) => Err(CallError::NotLeader),
            Err(error) => Err(error),
        }
    }

    /// The data of a stream's last event of any type.
    pub(super) async fn read_last(&self, stream: &str) -> Result<Option<Bytes>, CallError> {
        let options =
            ReadStreamOptions::default().position(StreamPosition::End).max_count(1).deadline(self.deadline);
        let options = match self.login() {
            Some(login) => options.authenticated(login),
            None => options,
        };
        self.call(|client| async move {
            let event = client.read_stream(stream, &options).await?.next().await?;
            Ok(event.and_then(|event| event.event).map(|event| event.data))
        })
        .await
    }

    /// At most `events_max` events of a stream. From its end they are read backwards.
    pub(super) async fn read_stream(
        &self,
        stream: &str,
        from: ReadFrom<Revision>,
        events_max: usize,
    ) -> Result<Vec<ClusterEvent>, CallError> {
        let position = match from {
            ReadFrom::Start => StreamPosition::Start,
            ReadFrom::At(revision) => StreamPosition::Position(revision.0),
            ReadFrom::End => StreamPosition::End,
        };
        let options =
            ReadStreamOptions::default().position(position).max_count(events_max).deadline(self.deadline);
        let options = match self.login() {
            Some(login) => options.authenticated(login),
            None => options,
        };
        self.call(|client| async move {
            let mut reading = client.read_stream(stream, &options).await?;
            let mut found = Vec::new();
            while let Some(event) = reading.next().await? {
                found.extend(event.event.map(cluster_event));
            }
            Ok(found)
        })
        .await
    }

    /// At most `events_max` events of the whole log. From its end they are read backwards.
    pub(super) async fn read_all(
        &self,
        from: ReadFrom<Position>,
        events_max: usize,
    ) -> Result<Vec<ClusterEvent>, CallError> {
        let options = ReadAllOptions::default()
            .position(stream_position(from))
            .max_count(events_max)
            .deadline(self.deadline);
        let options = match self.login() {
            Some(login) => options.authenticated(login),
            None => options,
        };
        self.call(|client| async move {
            let mut reading = client.read_all(&options).await?;
            let mut found = Vec::new();
            while let Some(event) = reading.next().await? {
                found.extend(event.event.map(cluster_event));
            }
            Ok(found)
        })
        .await
    }

    /// Subscribes to the whole log: all events after a position, then new ones.
    pub(super) async fn subscribe(&self, after: Position) -> Result<AllSubscription, CallError> {
        let (generation, client) = self.client()?;
        let from = if after == Position::START { ReadFrom::Start } else { ReadFrom::At(after) };
        let options = SubscribeToAllOptions::default().position(stream_position(from));
        let options = match self.login() {
            Some(login) => options.authenticated(login),
            None => options,
        };
        let subscription = client.subscribe_to_all(&options).await;
        Ok(AllSubscription::new(subscription, generation, self.deadline))
    }

    /// Sets the socket options again after a subscription was confirmed, possibly on a new connection.
    pub(super) async fn confirmed(&self, generation: u64) {
        self.tuned.store(0, Ordering::Relaxed);
        self.tune(generation).await;
    }
}
