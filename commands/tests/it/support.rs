use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use commands::vault::Vault;
use commands::{Commands, Outside, Settings};
use domain::lease::LeaseTerms;
use event_log::clock::{Clock, Ids};
use event_log::embedded::{self, SimDisk};
use event_log::{EmbeddedLog, EventLog, Filter, Log, MemoryLog};
use event_schemas::envelope::Envelope;
use event_schemas::ids::Position;
use poem::endpoint::BoxEndpoint;
use poem::test::TestClient;
use poem_openapi::OpenApiService;
use serde_json::{Value, json};
use web::caller::{Auth, Claims, Keys, Now, Roles, mint};
use web::routes::Routes;
use web::serve::{Layers, Settings as Edge, layers};

type Server = Layers<BoxEndpoint<'static>>;

/// A generous bound on what takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(300);

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// A server, its log and its clock.
pub(crate) struct Bench {
    pub(crate) clock: Clock,
    pub(crate) log: Log,
    pub(crate) commands: Commands,
    settings: Settings,
    outside: Outside,
    pub(crate) vault: Vault,
    client: TestClient<Server>,
    keyed: bool,
}

/// An answer, read whole.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    /// In seconds.
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: Value,
}

impl Answer {
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
    bench: &'a Bench,
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

    /// The same, with a token that says more.
    pub(crate) fn claims(
        self,
        user: &str,
        roles: impl Into<Roles>,
        more: impl FnOnce(Claims) -> Claims,
    ) -> Self {
        let tenant = "default".parse().unwrap();
        let now = self.bench.clock.now();
        let claims = more(Claims::new(&tenant, user, roles.into(), now, Duration::from_secs(60)));
        let token = mint(SECRET, &claims).unwrap();
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn body(mut self, body: &Value) -> Self {
        self.request = self.request.content_type("application/json").body(body.to_string());
        self
    }

    pub(crate) fn text(mut self, content_type: &str, body: String) -> Self {
        self.request = self.request.content_type(content_type).body(body);
        self
    }

    pub(crate) async fn send(self) -> Answer {
        let response = self.request.send().await.0;
        let status = response.status().as_u16();
        let location = response.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after.map(|value| value.to_str().unwrap().parse().unwrap());
        let body = response.into_body().into_vec().await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Answer { status, location, retry_after, body }
    }
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let clock = Clock::manual("2026-11-20T10:00:00Z".parse().unwrap());
        let log = Log::Memory(MemoryLog::new(clock.clone()));
        let vault = Vault::in_memory(clock.clone(), Ids::Random).await.unwrap();
        Self::over(Settings::default(), Outside::default(), clock, log, vault, false).await
    }

    /// A server that asks these services.
    pub(crate) async fn with_outside(outside: Outside) -> Self {
        Self::new().await.asking(outside).await
    }

    /// A server whose leases, and silent workers, last so many seconds.
    pub(crate) async fn with_term(seconds: u64) -> Self {
        let bench = Self::new().await;
        let term = Duration::from_secs(seconds);
        let leases = LeaseTerms { term, heartbeat: term / 3 };
        let settings = Settings { leases, ..Settings::default() };
        Self { settings, ..bench }.restarted().await
    }

    /// A server that lets a tenant have so many analyses under way.
    pub(crate) async fn with_analyses_max(analyses_max: usize) -> Self {
        let bench = Self::new().await;
        let settings = Settings { analyses_max, ..Settings::default() };
        Self { settings, ..bench }.restarted().await
    }

    /// A server that leaves it to another to put players together.
    pub(crate) async fn without_matchmaking() -> Self {
        let bench = Self::new().await;
        let settings = Settings { puts_together: false, ..Settings::default() };
        Self { settings, ..bench }.restarted().await
    }

    /// A second server over the same log, with a memory of its own.
    pub(crate) async fn beside(&self) -> Self {
        let (clock, log, vault) = (self.clock.clone(), self.log.clone(), self.vault.clone());
        Self::over(self.settings, self.outside.clone(), clock, log, vault, self.keyed).await
    }

    /// A server over the log on a disk, as it was left there.
    pub(crate) async fn on_disk(disk: &SimDisk) -> Self {
        let clock = Clock::manual("2026-11-20T10:00:00Z".parse().unwrap());
        let settings = embedded::Settings { reserve_bytes: 64 << 10, ..embedded::Settings::new("simulated") };
        let (log, _) = EmbeddedLog::open_simulated(disk.clone(), &settings, clock.clone()).unwrap();
        let vault = Vault::in_memory(clock.clone(), Ids::Random).await.unwrap();
        Self::over(Settings::default(), Outside::default(), clock, Log::Embedded(log), vault, false).await
    }

    /// Lets go of the log, as the end of the process would.
    pub(crate) async fn stopped(self) {
        self.commands.shutdown().await;
        if let Log::Embedded(log) = &self.log {
            log.close().await;
        }
    }

    /// A server that lets in who has a token only.
    pub(crate) async fn with_keys() -> Self {
        let open = Self::new().await;
        Self { keyed: true, ..open }.restarted().await
    }

    /// The same server, started anew, asks these services.
    pub(crate) async fn asking(self, outside: Outside) -> Self {
        Self { outside, ..self }.restarted().await
    }

    /// Another server over the same log, with nothing of the first one's memory.
    pub(crate) async fn restarted(self) -> Self {
        self.commands.shutdown().await;
        Self::over(self.settings, self.outside, self.clock, self.log, self.vault, self.keyed).await
    }

    async fn over(
        settings: Settings,
        outside: Outside,
        clock: Clock,
        log: Log,
        vault: Vault,
        keyed: bool,
    ) -> Self {
        let services = outside.clone();
        let commands =
            Commands::open(settings, log.clone(), clock.clone(), Ids::Random, vault.clone(), services);
        // The vault works on a thread of its own, for which simulated time would not wait.
        vault.subject(&"default".parse().unwrap(), &"local".parse().unwrap()).await.unwrap();
        commands.start();
        assert!(commands.ready().await);
        let service = OpenApiService::new(commands.routes(), "test", "1");
        let document = web::openapi::document(&service.spec()).unwrap();
        let routes = commands::routes::CLASSES
            .into_iter()
            .try_fold(Routes::from_document(&document), |routes, (path, class)| routes.class(path, class))
            .unwrap();
        let now = {
            let clock = clock.clone();
            Now::new(move || clock.now())
        };
        let auth = if keyed {
            Auth::with_keys(Keys::default().secret(SECRET).unwrap(), vec![], now)
        } else {
            Auth::open(now)
        };
        let client = TestClient::new(layers(service, Edge::new(auth, routes)));
        Self { clock, log, commands, settings, outside, vault, client, keyed }
    }

    pub(crate) fn call(&self, method: &str, path: impl AsRef<str>) -> Call<'_> {
        let request = self.client.request(method.parse().unwrap(), path.as_ref());
        Call { bench: self, request }
    }

    pub(crate) async fn post(&self, path: impl AsRef<str>, body: &Value) -> Answer {
        self.call("POST", path).body(body).send().await
    }

    pub(crate) async fn put(&self, path: impl AsRef<str>, body: &Value) -> Answer {
        self.call("PUT", path).body(body).send().await
    }

    /// Everything in the log.
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

    /// How many events of each type there are.
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

    /// Lets everything happen that can happen without time passing.
    pub(crate) async fn rest(&self) {
        for _ in 0..300 {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        self.rest().await;
    }

    /// Waits until the log has so many events of the type. What happens by itself does so in a few steps.
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
                // A service outside this thread may have a part in it, and the machine may be busy.
                if round > 10_000 && started.elapsed() > PATIENCE {
                    break;
                }
                tokio::task::yield_now().await;
            }
            panic!("{event_type} did not happen {count} times, asked at {caller}: {:?}", self.counts().await);
        }
    }

    /// Waits until the log has so many events of the type, where that takes others who are not in simulated time.
    #[track_caller]
    pub(crate) fn happened<'a>(&'a self, event_type: &'a str, count: usize) -> impl Future<Output = ()> + 'a {
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
                    "{event_type} did not happen {count} times, asked at {caller}: {:?}",
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
