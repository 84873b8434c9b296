//! A server in memory and a client for it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::breaker::CircuitState;
use domain::image_matching::blockers::Thresholds;
use domain::job::service::Service;
use domain::recommend::experiment::Experiments;
use event_log::clock::Clock;
use event_log::{EventLog, Expected, Log, MemoryLog};
use event_schemas::envelope::{Actor, Cause, Event, NewEvent};
use event_schemas::ids::{CommandId, CorrelationId, JobId, Position, SubjectId, Tenant};
use event_schemas::job::Phase as JobPhase;
use event_schemas::sealed::{Sealed, SealedField};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use metrics_exporter_prometheus::PrometheusBuilder;
use poem::http::HeaderMap;
use poem::test::TestClient;
use poem::{EndpointExt, Route};
use poem_openapi::OpenApiService;
use projections::export::files::ExportFiles;
use projections::{ReadModels, ReadStore, Settings as ModelSettings, TextEncoder};
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tokio::net::TcpListener;
use uuid::Uuid;
use vault::Vault;
use web::caller::{Auth, Now};
use web::routes::Routes;
use web::serve::{Layers, Settings, layers};
use web::server::{self, Bounds};
use web::shutdown::Shutdown;

use super::events::{claimed, created, frames, images, match_found, match_id, phase, progress, requested};
use crate::media::MediaFolder;
use crate::server::{Access, Breakers, Component, ComponentHealth, LagLimits, LastSeen, ServerInfo};
use crate::subjects::SubjectDirectory;
use crate::{RAW_PATHS, ReadApi};

/// Small enough for a test to exceed them.
pub(super) const LAG_LIMITS: LagLimits = LagLimits { warn: 3, max: 6 };

pub(crate) struct ReadApiFixture {
    pub(crate) clock: Clock,
    pub(super) log: Log,
    pub(super) memory: MemoryLog,
    pub(super) client: TestClient<Arc<Layers>>,
    pub(crate) api: Arc<ReadApi>,
    endpoint: Arc<Layers>,
    vault: Vault,
    commands: Cell<u128>,
    /// The time that each append advances the clock by.
    pub(super) pace: Cell<Duration>,
    /// The time by which the producers' clocks are ahead of the server's.
    pub(super) ahead: Cell<Duration>,
    /// The media folder, among others.
    pub(super) folder: tempfile::TempDir,
    /// Closes the open breaker.
    pub(super) services_recovered: Arc<AtomicBool>,
}

/// A response.
#[derive(Debug)]
pub(crate) struct TestResponse {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl TestResponse {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{} {}", self.status, self.text))
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The status and body for a snapshot, without the random request id.
    pub(super) fn snapshot(&self) -> String {
        let mut body = self.json();
        if let Some(id) = body.get_mut("request_id") {
            *id = "…".into();
        }
        format!("{}\n{:#}", self.status, body)
    }
}

pub(super) fn start() -> Timestamp {
    "2026-11-20T10:00:00Z".parse().unwrap()
}

pub(crate) fn acme() -> Tenant {
    "default".parse().unwrap()
}

impl ReadApiFixture {
    pub(crate) async fn open() -> Self {
        Self::with(|clock| Auth::open(now(clock)), Access::Open, Vec::new()).await
    }

    pub(super) async fn with(
        auth: impl FnOnce(&Clock) -> Auth,
        access: Access,
        components: Vec<Component>,
    ) -> Self {
        Self::with_encoder(auth, access, components, None).await
    }

    pub(super) async fn with_encoder(
        auth: impl FnOnce(&Clock) -> Auth,
        access: Access,
        components: Vec<Component>,
        encoder: Option<TextEncoder>,
    ) -> Self {
        let clock = Clock::manual(start());
        let memory = MemoryLog::new(clock.clone());
        let log = Log::new(memory.clone());
        let folder = tempfile::tempdir().unwrap();
        let settings = ModelSettings {
            store: ReadStore::Folder(folder.path().to_owned()),
            read_only: false,
            answer_cache_bytes: 1 << 20,
            vectors: None,
            encoder,
            recommend: domain::recommend::settings::Settings::default(),
        };
        let models = ReadModels::open(settings, log.clone(), clock.clone()).await.unwrap();
        let vault = vault_of_players(folder.path()).await;
        let services_recovered = Arc::new(AtomicBool::new(false));
        let server = ServerInfo {
            version: "0.1.0",
            started_at: start(),
            access,
            media: Some(MediaFolder::open(folder.path().to_owned(), access == Access::Keys).unwrap()),
            log: "memory".to_owned(),
            open_metrics: false,
            components,
            breakers: breakers(services_recovered.clone()),
            last_seen: LastSeen::new(|_, _| None),
            lists: None,
            exports: Some(ExportFiles::in_folder(&folder.path().join("exports")).unwrap()),
            image_origins: vec!["https://images.example.org".to_owned()],
            subjects: SubjectDirectory::new(vault.clone()),
            experiments: Experiments::default(),
            thresholds: Thresholds::default(),
            lag_limits: LAG_LIMITS,
            slow_query: Duration::ZERO,
        };
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let api = ReadApi::new(log.clone(), clock.clone(), models, metrics, server, Shutdown::never());
        let service = OpenApiService::new(api.routes(), "test", "1");
        let document = web::openapi::document(&service.spec()).unwrap();
        let routes = RAW_PATHS.iter().fold(Routes::from_document(&document), |routes, path| {
            routes.with(path, &[poem::http::Method::GET])
        });
        let settings = Settings::new(auth(&clock), routes);
        let endpoint = Arc::new(layers(api.mount(Route::new().nest("/", service)), settings));
        Self {
            clock,
            log,
            memory,
            client: TestClient::new(Arc::clone(&endpoint)),
            api,
            endpoint,
            vault,
            commands: Cell::new(1),
            pace: Cell::new(Duration::from_secs(1)),
            ahead: Cell::new(Duration::ZERO),
            folder,
            services_recovered,
        }
    }

    /// The text of a player, sealed for this field.
    pub(super) async fn seal(&self, n: u128, field: SealedField, text: &str) -> Sealed {
        let user = format!("player-{n}").parse().unwrap();
        let subject = self.vault.subject(&acme(), &user).await.unwrap();
        self.vault.seal(&acme(), &subject, field, text).unwrap()
    }

    pub(super) fn head(&self) -> Position {
        *self.log.head().borrow()
    }

    /// Appends the events of one command, then advances the clock by `pace`.
    pub(super) async fn append(&self, stream: StreamId, events: &[Event]) -> Position {
        self.append_for(&acme(), stream, events).await
    }

    pub(super) async fn append_for(&self, tenant: &Tenant, stream: StreamId, events: &[Event]) -> Position {
        let command = self.commands.get();
        self.commands.set(command + 1);
        let cause = Cause {
            command_id: CommandId(Uuid::from_u128(command)),
            correlation_id: CorrelationId(Uuid::from_u128(command)),
            event_id: None,
            tenant: tenant.clone(),
            actor: Actor::Service("test".parse().unwrap()),
            subject: None,
            idempotency: None,
            traceparent: None,
        };
        let occurred_at = self.clock.now().after(self.ahead.get());
        let events = events
            .iter()
            .enumerate()
            .map(|(index, event)| NewEvent::encode(&cause, &stream, index, occurred_at, event))
            .collect();
        let appended = self.log.append(&stream, Expected::Any, events).await.unwrap();
        self.clock.advance(self.pace.get());
        appended.position
    }

    pub(super) async fn job_event(&self, id: JobId, event: Event) -> Position {
        self.append(StreamId::job(id), &[event]).await
    }

    pub(super) async fn matching_event(&self, id: JobId, event: Event) -> Position {
        self.append(StreamId::image_matching(id), &[event]).await
    }

    pub(super) async fn match_found(
        &self,
        id: JobId,
        n: u32,
        score: f64,
        evidence: Option<&str>,
    ) -> Position {
        self.append(StreamId::image_match(id, &match_id(n)), &[match_found(n, score, evidence)]).await
    }

    /// A job of 2 images × 10 frames, half of them processed, with three image matches.
    pub(crate) async fn running_job(&self, id: JobId) {
        self.job_event(id, created(id, "spring catalogue")).await;
        self.job_event(id, phase(JobPhase::Queued, JobPhase::Collecting)).await;
        self.append(StreamId::image_matching(id), &[images(2), frames(10)]).await;
        self.job_event(id, phase(JobPhase::Collecting, JobPhase::Matching)).await;
        self.append(StreamId::image_matching(id), &[requested(1, 10), requested(2, 10)]).await;
        let lease_until = self.clock.now().after(Duration::from_secs(45));
        self.matching_event(id, claimed(1, 1, lease_until)).await;
        self.match_found(id, 1, 0.9, Some("evidence/1.jpg")).await;
        self.match_found(id, 2, 0.75, None).await;
        self.match_found(id, 3, 0.5, None).await;
        self.matching_event(id, progress(1, 10)).await;
    }

    /// Serves on a local port, for WebSockets.
    pub(super) async fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endpoint = Arc::clone(&self.endpoint);
        tokio::spawn(server::run(listener, endpoint.boxed(), Bounds::default(), Shutdown::never()));
        address
    }

    /// Sends a GET that waits for the read models.
    pub(crate) async fn get(&self, path: &str) -> TestResponse {
        self.get_with(path, &[]).await
    }

    pub(super) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> TestResponse {
        let mut request = self.client.get(path).header("X-Min-Position", self.head().to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        read(request.send().await.0).await
    }

    /// Sends a POST that waits for the read models.
    pub(super) async fn post_json(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> TestResponse {
        let mut request = self.client.post(path).header("X-Min-Position", self.head().to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        read(request.body_json(body).send().await.0).await
    }

    pub(super) async fn post(&self, path: &str) -> TestResponse {
        read(self.client.post(path).send().await.0).await
    }
}

pub(super) fn now(clock: &Clock) -> Now {
    let clock = clock.clone();
    Now::new(move || clock.now())
}

async fn read(mut response: poem::Response) -> TestResponse {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.take_body().into_string().await.unwrap();
    TestResponse { status, headers, text }
}

/// One open circuit breaker, one half-open, and the others closed.
fn breakers(recovered: Arc<AtomicBool>) -> Breakers {
    Breakers::new(move |_| {
        let until = start().after(Duration::from_secs(30));
        let phase = |service| match service {
            Service::SpeechToText if !recovered.load(Ordering::SeqCst) => (CircuitState::Open { until }, 1),
            Service::Chat => (CircuitState::HalfOpen, 2),
            _ => (CircuitState::Closed, 0),
        };
        Service::ALL
            .iter()
            .map(|service| (service.into_str(), phase(*service).0, phase(*service).1))
            .collect()
    })
}

/// The subject of the user `player-<n>`; from 900 on, erased.
pub(super) fn player(n: u128) -> SubjectId {
    SubjectId(Uuid::from_u128(n))
}

/// A vault with the users `player-<n>` up to 899; later ones count as erased.
async fn vault_of_players(folder: &Path) -> Vault {
    let file = folder.join("vault.sqlite");
    drop(Vault::open(&file).await.unwrap());
    let mut store = SqliteConnectOptions::new().filename(&file).connect().await.unwrap();
    let players = "WITH RECURSIVE player (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM player WHERE n < 899) \
         INSERT INTO subjects (subject_id, tenant, user_id, key, created_at) \
         SELECT unhex(printf('%032x', n)), $1, 'player-' || n, randomblob(32), 0 FROM player";
    sqlx::query(players).bind(acme().as_str()).execute(&mut store).await.unwrap();
    store.close().await.unwrap();
    Vault::open(&file).await.unwrap()
}

/// A component with the given health.
pub(super) fn component(name: &'static str, ready: bool, detail: &'static str) -> Component {
    Component::new(name, move || ComponentHealth {
        ready,
        position: Some(Position(1)),
        detail: detail.to_owned(),
    })
}
