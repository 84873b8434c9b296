use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use commands::{Commands, ExternalServices, Settings};
use domain::lease::LeaseTerms;
use event_log::clock::{Clock, Ids};
use event_log::{EventLog, Filter, Log, MemoryLog};
use event_log_embedded as embedded;
use event_log_embedded::EmbeddedLog;
use event_log_embedded::SimDisk;
use event_schemas::envelope::Envelope;
use event_schemas::ids::Position;
use poem::test::TestClient;
use poem_openapi::OpenApiService;
use serde_json::{Value, json};
use vault::Vault;
use web::caller::{Auth, Claims, Keys, Now, Roles, mint};
use web::routes::Routes;
use web::serve::{Layers, Settings as WebSettings, layers};

type Server = Layers;

/// A generous bound on what takes milliseconds on an idle machine.
const WAIT_MAX: Duration = Duration::from_secs(300);

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// A server, its log and its clock.
pub(crate) struct TestApp {
    pub(crate) clock: Clock,
    pub(crate) log: Log,
    pub(crate) commands: Commands,
    settings: Settings,
    external_services: ExternalServices,
    pub(crate) vault: Vault,
    client: TestClient<Server>,
    /// The OpenAPI document of the write routes.
    pub(crate) document: Value,
    has_keys: bool,
    /// The folder of the snapshots.
    snapshots: Option<Arc<tempfile::TempDir>>,
}

/// A response with its whole body.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TestResponse {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    /// In seconds.
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: Value,
}

impl TestResponse {
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{self:?}");
        self.body
    }

    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Value {
        assert_eq!((self.status, self.body["code"].as_str()), (status, Some(code)), "{self:?}");
        self.body
    }

    /// The fields that its problem names.
    pub(crate) fn fields(&self) -> Vec<String> {
        let errors = self.body["errors"].as_array().into_iter().flatten();
        errors.filter_map(|error| Some(error["field"].as_str()?.to_owned())).collect()
    }
}

/// One request, before it is sent.
pub(crate) struct Call<'a> {
    app: &'a TestApp,
    request: poem::test::TestRequestBuilder<'a, Server>,
}

impl Call<'_> {
    pub(crate) fn key(mut self, key: &str) -> Self {
        self.request = self.request.header("Idempotency-Key", key);
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn tenant(self, tenant: &str) -> Self {
        self.header("X-Tenant", tenant)
    }

    /// As this user, on an open server.
    pub(crate) fn user(self, user: &str) -> Self {
        self.header("X-User", user)
    }

    /// As a caller with these roles only, on a server with keys.
    pub(crate) fn roles(self, user: &str, roles: impl Into<Roles>) -> Self {
        self.claims(user, roles, |claims| claims)
    }

    /// The same, with more claims in the token.
    pub(crate) fn claims(
        self,
        user: &str,
        roles: impl Into<Roles>,
        more: impl FnOnce(Claims) -> Claims,
    ) -> Self {
        let tenant = "default".parse().unwrap();
        let now = self.app.clock.now();
        let claims = more(Claims::new(&tenant, user, roles.into(), now, Duration::from_secs(60)));
        let token = mint(SECRET, &claims).unwrap();
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn body(mut self, body: &Value) -> Self {
        self.request = self.request.content_type("application/json").body(body.to_string());
        self
    }

    /// A body without a media type.
    pub(crate) fn untyped(mut self, body: &'static str) -> Self {
        self.request = self.request.body(body);
        self
    }

    pub(crate) fn text(mut self, content_type: &str, body: String) -> Self {
        self.request = self.request.content_type(content_type).body(body);
        self
    }

    pub(crate) async fn send(self) -> TestResponse {
        let response = self.request.send().await.0;
        let status = response.status().as_u16();
        let location = response.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after.map(|value| value.to_str().unwrap().parse().unwrap());
        let body = response.into_body().into_vec().await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        TestResponse { status, location, retry_after, body }
    }
}

impl TestApp {
    pub(crate) async fn new() -> Self {
        let clock = Clock::manual("2026-11-20T10:00:00Z".parse().unwrap());
        let log = Log::new(MemoryLog::new(clock.clone()));
        let vault = Vault::in_memory().await.unwrap();
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let settings = Settings { snapshots: Some(folder.path().to_owned()), ..Settings::default() };
        let app = Self::build(settings, ExternalServices::default(), clock, log, vault, false).await;
        Self { snapshots: Some(folder), ..app }
    }

    /// A server that calls these services.
    pub(crate) async fn with_external_services(external_services: ExternalServices) -> Self {
        Self::new().await.with_services(external_services).await
    }

    /// A server whose leases, and silent workers, last so many seconds.
    pub(crate) async fn with_term(seconds: u64) -> Self {
        let app = Self::new().await;
        let term = Duration::from_secs(seconds);
        let leases = LeaseTerms { term, heartbeat: term / 3 };
        let settings = Settings { leases, ..app.settings.clone() };
        Self { settings, ..app }.restarted().await
    }

    /// A server that lets a tenant have so many analyses in progress.
    pub(crate) async fn with_analyses_max(analyses_max: usize) -> Self {
        let app = Self::new().await;
        let settings = Settings { analyses_max, ..app.settings.clone() };
        Self { settings, ..app }.restarted().await
    }

    /// A server without a matchmaker.
    pub(crate) async fn without_matchmaking() -> Self {
        let app = Self::new().await;
        let settings = Settings { run_matchmaker: false, ..app.settings.clone() };
        Self { settings, ..app }.restarted().await
    }

    /// A second server over the same log, with a memory of its own.
    pub(crate) async fn second_server(&self) -> Self {
        let (clock, log, vault) = (self.clock.clone(), self.log.clone(), self.vault.clone());
        let settings = Settings { snapshots: None, ..self.settings.clone() };
        Self::build(settings, self.external_services.clone(), clock, log, vault, self.has_keys).await
    }

    /// A server over this log.
    pub(crate) async fn over(log: Log, clock: Clock) -> Self {
        let vault = Vault::in_memory().await.unwrap();
        Self::build(Settings::default(), ExternalServices::default(), clock, log, vault, false).await
    }

    /// A server over the log of a simulated disk.
    pub(crate) async fn on_disk(disk: &SimDisk) -> Self {
        let clock = Clock::manual("2026-11-20T10:00:00Z".parse().unwrap());
        let settings = embedded::Settings { reserve_bytes: 64 << 10, ..embedded::Settings::new("simulated") };
        let (log, _) = EmbeddedLog::open_simulated(disk.clone(), &settings, clock.clone()).unwrap();
        Self::over(Log::new(log), clock).await
    }

    /// Closes the log, as the end of the process would.
    pub(crate) async fn stopped(self) {
        self.commands.shutdown().await;
        self.log.close().await;
    }

    /// A server that requires a token.
    pub(crate) async fn with_keys() -> Self {
        let open = Self::new().await;
        Self { has_keys: true, ..open }.restarted().await
    }

    /// The same server after a restart, with this vault.
    pub(crate) async fn with_vault(self, vault: Vault) -> Self {
        Self { vault, ..self }.restarted().await
    }

    /// The same server after a restart, with these external services.
    pub(crate) async fn with_services(self, external_services: ExternalServices) -> Self {
        Self { external_services, ..self }.restarted().await
    }

    /// The server after a restart: the same log and snapshots, without any state in memory.
    pub(crate) async fn restarted(self) -> Self {
        self.commands.shutdown().await;
        let Self { settings, external_services, clock, log, vault, has_keys, snapshots, .. } = self;
        let app = Self::build(settings, external_services, clock, log, vault, has_keys).await;
        Self { snapshots, ..app }
    }

    async fn build(
        settings: Settings,
        external_services: ExternalServices,
        clock: Clock,
        log: Log,
        vault: Vault,
        has_keys: bool,
    ) -> Self {
        let services = external_services.clone();
        let commands = Commands::open(
            settings.clone(),
            log.clone(),
            clock.clone(),
            Ids::Random,
            vault.clone(),
            services,
        );
        // The vault works on a thread of its own, for which simulated time does not wait.
        vault.subject(&"default".parse().unwrap(), &"local".parse().unwrap()).await.unwrap();
        commands.start();
        assert!(commands.ready().await);
        let service = OpenApiService::new(commands.routes(), "test", "1");
        let document = web::openapi::document(&service.spec()).unwrap();
        let routes = commands::route_limits()
            .try_fold(Routes::from_document(&document), |routes, (path, limits)| routes.limits(path, limits))
            .unwrap();
        let now = {
            let clock = clock.clone();
            Now::new(move || clock.now())
        };
        let auth = if has_keys {
            Auth::with_keys(Keys::default().secret(SECRET).unwrap(), vec![], now)
        } else {
            Auth::open(now)
        };
        let client = TestClient::new(layers(service, WebSettings::new(auth, routes)));
        Self {
            clock,
            log,
            commands,
            settings,
            external_services,
            vault,
            client,
            document,
            has_keys,
            snapshots: None,
        }
    }

    pub(crate) fn call(&self, method: &str, path: impl AsRef<str>) -> Call<'_> {
        let request = self.client.request(method.parse().unwrap(), path.as_ref());
        Call { app: self, request }
    }

    pub(crate) async fn post(&self, path: impl AsRef<str>, body: &Value) -> TestResponse {
        self.call("POST", path).body(body).send().await
    }

    pub(crate) async fn put(&self, path: impl AsRef<str>, body: &Value) -> TestResponse {
        self.call("PUT", path).body(body).send().await
    }

    /// All events in the log.
    pub(crate) async fn events(&self) -> Vec<Envelope> {
        let (mut events, mut after) = (Vec::new(), Position::START);
        loop {
            let page = self.log.read_all(after, &Filter::All, 100_000).await.unwrap();
            events.extend(page.events.iter().map(|recorded| recorded.decode().unwrap()));
            after = page.next;
            if page.at_head {
                return events;
            }
        }
    }

    /// The number of events of each type.
    pub(crate) async fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for envelope in self.events().await {
            *counts.entry(envelope.event.event_type().to_string()).or_default() += 1;
        }
        counts
    }

    pub(crate) async fn count(&self, event_type: &str) -> usize {
        self.counts().await.get(event_type).copied().unwrap_or(0)
    }

    pub(crate) fn head(&self) -> u64 {
        self.log.head().borrow().0
    }

    /// Runs all tasks that are ready without a change of time.
    pub(crate) async fn run_ready_tasks(&self) {
        for _ in 0..300 {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        self.run_ready_tasks().await;
    }

    /// Waits until the log has so many events of the type. Background processes need a few steps only.
    #[track_caller]
    pub(crate) fn until_count<'a>(
        &'a self,
        event_type: &'a str,
        count: usize,
    ) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let started = Instant::now();
            for round in 0.. {
                if self.count(event_type).await >= count {
                    return;
                }
                // A service outside of this thread may be involved, and the machine may be busy.
                if round > 10_000 && started.elapsed() > WAIT_MAX {
                    break;
                }
                tokio::task::yield_now().await;
            }
            panic!(
                "{event_type} was not recorded {count} times, awaited at {caller}: {:?}",
                self.counts().await
            );
        }
    }

    /// Waits until the log has so many events of the type, where that involves services outside of simulated time.
    #[track_caller]
    pub(crate) fn until_recorded<'a>(
        &'a self,
        event_type: &'a str,
        count: usize,
    ) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let mut head = self.log.head();
            let waiting = async {
                while self.count(event_type).await < count {
                    // The log lives as long as the server.
                    head.changed().await.unwrap();
                }
            };
            if tokio::time::timeout(Duration::from_secs(60), waiting).await.is_err() {
                panic!(
                    "{event_type} was not recorded {count} times, awaited at {caller}: {:?}",
                    self.counts().await
                );
            }
        }
    }

    /// A new matching job's path.
    pub(crate) async fn job(&self) -> String {
        let job = self.post("/jobs", &json!({})).await.ok();
        format!("/jobs/{}", job["id"].as_str().unwrap())
    }

    /// A job in `matching`, with one product, one video, and `requests` requests of 10 candidates.
    pub(crate) async fn job_with_requests(&self, requests: usize) -> String {
        let job = self.job().await;
        self.post(
            format!("{job}/products"),
            &json!([{"product_id": "hedge", "images": [{"img_id": "i1", "url": "file:i1"}]}]),
        )
        .await
        .ok();
        self.post(
            format!("{job}/videos"),
            &json!([{"video_id": "garden", "frames": [{"frame_id": "f1", "timestamp_ms": 40}]}]),
        )
        .await
        .ok();
        let requests: Vec<Value> = (0..requests).map(|n| request(&format!("r{n}"))).collect();
        self.post(format!("{job}/match-requests"), &requests.into()).await.ok();
        self.put(format!("{job}/phase"), &json!({"phase": "matching"})).await.ok();
        job
    }

    /// Claims up to `max` match requests for a worker.
    pub(crate) async fn claim(&self, worker: &str, max: usize) -> Vec<Value> {
        let body = json!({"worker_id": worker, "kinds": ["match_request"], "max": max});
        let claimed = self.post("/internal/work/claim", &body).await.ok();
        claimed["items"].as_array().unwrap().clone()
    }
}

pub(crate) fn request(id: &str) -> Value {
    json!({"request_id": id, "product_id": "hedge", "video_id": "garden", "candidates": 10})
}

pub(crate) fn a_match(n: usize) -> Value {
    json!({
        "match_id": format!("m{n}"), "product_id": "hedge", "video_id": "garden", "img_id": "i1",
        "frame_id": "f1", "score": 0.5,
    })
}

pub(crate) fn lease(item: &Value) -> &str {
    item["lease_id"].as_str().unwrap()
}
