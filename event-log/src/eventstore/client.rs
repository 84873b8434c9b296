//! The client library, and everything that has to be known about it: nothing else of this crate names it.
//!
//! It is the crate `eventstore` 4.0.0, the frozen predecessor of `kurrentdb`. To move there: change the imports,
//! `ExpectedRevision` to `StreamState` with its `StreamRevision`, and see which of the measures below are still needed.
//! They are:
//!
//! - a client whose first connection failed answers nothing any more: a new one takes its place ([`Connection::renew`]);
//! - after a node's failure it stays with that node for ever: who follows the log renews it then;
//! - it panics where certificates are missing, even without TLS, and where another part has chosen the cryptography: both
//!   are looked at before, and without TLS it is given an empty file of certificates;
//! - it panics at answers that lack a part, and at some that it does not expect: calls are made where that is caught;
//! - its subscriptions turn for ever, and never yield, when a server ends one in order: `following` gets them out;
//! - it sets no `TCP_NODELAY` (`nodelay`), and cuts times to seconds (`translation`);
//! - it waits before its first connection, half a second by default: the URL says less ([`DISCOVERY_INTERVAL`]);
//! - it does not decode user names and passwords of the URL: `url` does;
//! - a deadline is told to the server only: the time is kept here, too.

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
use super::tls::{self, TlsFault};
use super::url::{ClusterUrl, NotACluster};
use crate::Expected;

mod following;
mod translation;

pub(super) use following::{Following, Heard};
pub(super) use translation::{Fault, Found, ReadFrom, Written};
use translation::{fault, proposed, read, start};

/// How long one call may take, if the URL does not say.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long the library waits between two looks for a node, if the URL does not say. It does so before the first
/// connection as well; the waits that grow are ours.
const DISCOVERY_INTERVAL: Duration = Duration::from_millis(20);

/// Where the connection has no certificates to check, so that the library need not load those of the system.
const NO_CERTIFICATES: &str = "/dev/null";

/// The one connection to the cluster.
pub(super) struct Connection {
    url: ClusterUrl,
    settings: ClientSettings,
    deadline: Duration,
    held: Mutex<Held>,
    /// The generation whose connection has got its options.
    tuned: AtomicU64,
    untuned_told: AtomicBool,
}

struct Held {
    generation: u64,
    client: Option<Client>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Whether the library understands the URL.
pub(super) fn check(url: &ClusterUrl) -> Result<(), NotACluster> {
    settings(url).map(|_| ())
}

fn settings(url: &ClusterUrl) -> Result<ClientSettings, NotACluster> {
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
    // What the library would warn of here is told by us, once.
    let parsed =
        tracing::subscriber::with_default(NoSubscriber::default(), || text.parse::<ClientSettings>());
    parsed.map_err(|error| match error.error() {
        Some(cause) => NotACluster(cause.to_string()),
        None => NotACluster(error.message().to_owned()),
    })
}

/// The library's first client in a process chooses the cryptography, and panics if another part was faster; then all of
/// its clients are dead. One that connects to nobody shows how it is.
async fn be_first() -> Result<(), TlsFault> {
    static FIRST: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let first = FIRST.get_or_try_init(async || {
        let url = format!("esdb://localhost?tls=false&tlsCaFile={NO_CERTIFICATES}&maxDiscoverAttempts=0");
        let settings = tracing::subscriber::with_default(NoSubscriber::default(), || url.parse());
        let settings: ClientSettings = settings.expect("the library reads its own URLs");
        match Client::new(settings) {
            Ok(client) => match client.server_info().await {
                Err(Error::ConnectionClosed) => Err(TlsFault::Provider),
                _ => Ok(()),
            },
            Err(_) => Err(TlsFault::Provider),
        }
    });
    first.await.copied()
}

impl Connection {
    /// Makes no connection yet.
    pub(super) async fn new(url: ClusterUrl) -> Result<Self, TlsFault> {
        be_first().await?;
        tls::check(&url)?;
        let settings = settings(&url).expect("it was checked when the URL was read");
        let deadline = url.deadline().unwrap_or(DEADLINE);
        let held = Mutex::new(Held { generation: 1, client: None });
        Ok(Self {
            url,
            settings,
            deadline,
            held,
            tuned: AtomicU64::new(0),
            untuned_told: AtomicBool::new(false),
        })
    }

    pub(super) fn url(&self) -> &ClusterUrl {
        &self.url
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    fn client(&self) -> Result<(u64, Client), Fault> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &held.client {
            return Ok((held.generation, client.clone()));
        }
        tls::check(&self.url)?;
        let client =
            Client::new(self.settings.clone()).map_err(|error| Fault::Unreachable(error.to_string()))?;
        held.client = Some(client.clone());
        Ok((held.generation, client))
    }

    /// The next call makes a new client, unless one was made since `generation`.
    pub(super) fn renew(&self, generation: u64) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.generation == generation {
            held.generation += 1;
            held.client = None;
        }
    }

    /// Makes one call, in the time that it may take, and survives whatever the library does.
    async fn call<T, F>(&self, make: impl FnOnce(Client) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Error>> + Send,
    {
        let (generation, client) = self.client()?;
        let calling = Box::pin(AssertUnwindSafe(make(client)).catch_unwind());
        let fault = match tokio::time::timeout(self.deadline, calling).await {
            Ok(Ok(Ok(answer))) => {
                self.tune(generation).await;
                return Ok(answer);
            }
            Ok(Ok(Err(error))) => fault(error),
            Ok(Err(_)) => Fault::Broken("the client library panicked at the answer".to_owned()),
            Err(_) => Fault::Broken(format!("nothing came within {:?}", self.deadline)),
        };
        match fault {
            Fault::Unreachable(_) => self.renew(generation),
            // The next connection will be another.
            Fault::NotLeader | Fault::Broken(_) => self.tuned.store(0, Ordering::Relaxed),
            _ => {}
        }
        Err(fault)
    }

    /// Gives the connection its options, unless it has them.
    async fn tune(&self, generation: u64) {
        if self.tuned.swap(generation, Ordering::Relaxed) == generation {
            return;
        }
        let hosts = self.settings.hosts();
        let ports = match self.url.is_cluster() {
            true => Ports::All,
            false => Ports::These(hosts.iter().filter_map(|host| u16::try_from(host.port).ok()).collect()),
        };
        let set = tokio::task::spawn_blocking(move || nodelay::set(&ports)).await;
        if let Ok(Err(error)) = set
            && !self.untuned_told.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                %error,
                "cannot set TCP_NODELAY on the connection to the cluster: a lone call may take 40 ms longer; allow the \
                 system call pidfd_getfd to change that"
            );
        }
    }

    /// The credentials of the URL, as the library takes them.
    fn login(&self) -> Option<Credentials> {
        let login = self.url.credentials()?;
        Some(Credentials::new(login.user.clone(), login.password.clone()))
    }

    pub(super) async fn append(
        &self,
        stream: &str,
        expected: Expected,
        events: &[NewEvent],
    ) -> Result<Written, Fault> {
        let expected = match expected {
            Expected::NoStream => ExpectedRevision::NoStream,
            Expected::At(revision) => ExpectedRevision::Exact(revision.0),
            Expected::Any => ExpectedRevision::Any,
        };
        let events: Vec<EventData> = events.iter().map(proposed).collect();
        let options = AppendToStreamOptions::default();
        let options = options.expected_revision(expected).deadline(self.deadline).requires_leader(true);
        let options = match self.login() {
            Some(login) => options.authenticated(login),
            None => options,
        };
        let appended =
            self.call(|client| async move { client.append_to_stream(stream, &options, events).await }).await;
        match appended {
            Ok(written) => Ok(Written {
                position: Position(written.position.commit),
                revision: Revision(written.next_expected_version),
            }),
            // A node that knows no leader to name.
            Err(Fault::Missing) => Err(Fault::NotLeader),
            Err(fault) => Err(fault),
        }
    }

    /// The data of a stream's last event, whatever it is.
    pub(super) async fn read_last(&self, stream: &str) -> Result<Option<Bytes>, Fault> {
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
    ) -> Result<Vec<Found>, Fault> {
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
                found.extend(event.event.map(read));
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
    ) -> Result<Vec<Found>, Fault> {
        let options =
            ReadAllOptions::default().position(start(from)).max_count(events_max).deadline(self.deadline);
        let options = match self.login() {
            Some(login) => options.authenticated(login),
            None => options,
        };
        self.call(|client| async move {
            let mut reading = client.read_all(&options).await?;
            let mut found = Vec::new();
            while let Some(event) = reading.next().await? {
                found.extend(event.event.map(read));
            }
            Ok(found)
        })
        .await
    }

    /// All events behind a position, then those that come.
    pub(super) async fn follow(&self, after: Position) -> Result<Following, Fault> {
        let (generation, client) = self.client()?;
        let from = if after == Position::START { ReadFrom::Start } else { ReadFrom::At(after) };
        let options = SubscribeToAllOptions::default().position(start(from));
        let options = match self.login() {
            Some(login) => options.authenticated(login),
            None => options,
        };
        let subscription = client.subscribe_to_all(&options).await;
        Ok(Following::new(subscription, generation, self.deadline))
    }

    /// What is to be done once a subscription is known to live.
    pub(super) async fn confirmed(&self, generation: u64) {
        self.tuned.store(0, Ordering::Relaxed);
        self.tune(generation).await;
    }
}
