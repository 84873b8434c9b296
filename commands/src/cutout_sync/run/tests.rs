//! Syncs from a simulated upstream, in simulated time.

mod upstream;

use std::sync::Mutex;

use domain::lease::LeaseTerms;
use event_log::clock::Ids;
use event_log::{EventLog, Filter, Log, MemoryLog};
use event_schemas::cutout::CutoutEvent;
use event_schemas::envelope::{Actor, Cause, Event};
use event_schemas::ids::{CommandId, CorrelationId, Position, Tenant};
use event_schemas::job::{JobCreated, JobEvent, JobKind, JobSource};
use event_schemas::json_text::JsonText;
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkKind;
use serde_json::json;
use tokio::task::AbortHandle;
use uuid::Uuid;

use super::*;
use crate::engine::Engine;
use crate::jobs::{Jobs, server_work};
use crate::matchmaking::simulation::world::Rng;
use crate::processes;
use upstream::{State, Upstream, item};

/// A server on a log that outlives it.
struct Server {
    clock: Clock,
    log: Log,
    jobs: Arc<Jobs>,
    tasks: Vec<AbortHandle>,
    /// The events of jobs up to a position.
    known: Mutex<(Position, Vec<JobEvent>)>,
}

impl Server {
    async fn start<S>((clock, log): (&Clock, &Log), upstream: &S) -> Self
    where
        S: PageSource + Clone + 'static,
    {
        let engine = Arc::new(Engine::simulated(log.clone(), clock.clone(), Ids::Random));
        let catalogue = Arc::new(Catalogue::new(engine.clone()));
        let jobs = Arc::new(Jobs::new(engine, LeaseTerms::default(), 100));
        let mut tasks: Vec<AbortHandle> =
            processes::of_jobs(&jobs).map(|process| tokio::spawn(process).abort_handle()).into();
        let source = Arc::new(Source::new(upstream.clone(), clock.clone()));
        let time = clock.clone();
        let work = move |job| sync(catalogue.clone(), time.clone(), source.clone(), job);
        tasks.push(tokio::spawn(server_work::run(jobs.clone(), WorkKind::CutoutSync, work)).abort_handle());
        assert!(jobs.board.ready().await);
        let known = Mutex::new((Position::START, Vec::new()));
        Self { clock: clock.clone(), log: log.clone(), jobs, tasks, known }
    }

    /// Kills it, between any two steps.
    async fn kill(self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        run_ready_tasks().await;
    }

    async fn create(&self, options: &SyncOptions) {
        let id = Uuid::now_v7();
        let cause = Cause {
            command_id: CommandId(id),
            correlation_id: CorrelationId(id),
            event_id: None,
            tenant: "default".parse().unwrap(),
            actor: Actor::System("test".parse().unwrap()),
            subject: None,
            idempotency: None,
            traceparent: None,
        };
        let source = Some(JobSource::ServerWork { options: JsonText::new(options).unwrap() });
        let (kind, metadata) = (JobKind::CutoutSync, JsonText::default());
        let create = |job_id| JobCreated { job_id, kind, source, name: None, metadata };
        self.jobs.create(&cause, None, create).await.unwrap();
    }

    async fn events(&self, of: &str) -> Vec<Event> {
        let filter = Filter::StreamPrefixes(vec![of.to_owned()]);
        let page = self.log.read_all(Position::START, &filter, 1_000_000).await.unwrap();
        page.events.iter().map(|recorded| recorded.decode().unwrap().event).collect()
    }

    /// All events of jobs; each is read once.
    async fn of_jobs(&self) -> Vec<JobEvent> {
        let (after, mut known) = self.known.lock().unwrap().clone();
        let filter = Filter::StreamPrefixes(vec!["job-".to_owned()]);
        let page = self.log.read_all(after, &filter, 1_000_000).await.unwrap();
        known.extend(page.events.iter().filter_map(|recorded| match recorded.decode().unwrap().event {
            Event::Job(event) => Some(event),
            _ => None,
        }));
        *self.known.lock().unwrap() = (page.next, known.clone());
        known
    }

    /// The ids of the cutouts in the log, in the order in which they arrived.
    async fn cutouts(&self) -> Vec<u64> {
        let id = |event| match event {
            Event::Cutout(CutoutEvent::CutoutSynced(synced)) => Some(synced.cutout_id.get()),
            _ => None,
        };
        self.events("cutout-").await.into_iter().filter_map(id).collect()
    }

    /// Advances the time until the last job has ended, and returns its end.
    async fn end(&self) -> JobEvent {
        for _ in 0..100_000 {
            run_ready_tasks().await;
            let last = self.of_jobs().await.pop();
            match last {
                Some(end @ (JobEvent::JobCompleted(_) | JobEvent::JobFailed(_))) => return end,
                _ => self.to_next_instant().await,
            }
        }
        panic!("the job does not end: {:#?}", self.of_jobs().await.pop());
    }

    async fn to_next_instant(&self) {
        if let Some(next) = self.clock.next_sleeper() {
            self.clock.set(next.max(self.clock.now()));
        }
        run_ready_tasks().await;
    }

    async fn result(&self) -> Value {
        match self.end().await {
            JobEvent::JobCompleted(completed) => completed.result.unwrap().to_value(),
            other => panic!("{other:?}"),
        }
    }
}

async fn run_ready_tasks() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

fn world() -> (Clock, Log) {
    let clock = Clock::manual(Timestamp::EPOCH);
    (clock.clone(), Log::new(MemoryLog::new(clock)))
}

/// Syncs once from a script, on a new log.
async fn synced(upstream: &Upstream) -> (Server, Value) {
    let (clock, log) = world();
    let server = Server::start((&clock, &log), upstream).await;
    server.create(&SyncOptions::default()).await;
    let result = server.result().await;
    (server, result)
}

fn counts(result: &Value) -> [u64; 5] {
    ["fetched", "new", "changed", "unchanged", "failed"].map(|name| result[name].as_u64().unwrap())
}

fn sorted(mut ids: Vec<u64>) -> Vec<u64> {
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn second_sync_records_only_what_changed() {
    let upstream = Upstream::new(1..=25, |_, _, _| None);
    let (server, result) = synced(&upstream).await;
    assert_eq!((counts(&result), &result["pages"]), ([25, 25, 0, 0, 0], &json!(3)));
    upstream.state(|state| {
        state.items.insert(7, json!({"id": 7, "image_url": "/other.jpg", "predicted_upc": "4006381333931"}));
        state.items.insert(26, item(26));
    });
    server.create(&SyncOptions::default()).await;
    server.end().await;
    server.to_next_instant().await;
    assert_eq!(counts(&server.result().await), [26, 1, 1, 24, 0]);
    assert_eq!(server.cutouts().await.len(), 27);
}

#[tokio::test]
async fn pages_that_shift_under_inserts_lose_and_double_nothing() {
    // Before the second page twelve cutouts arrive before all others, and the third page moves again.
    let upstream = Upstream::new((100..150).step_by(2), |call, _, state| {
        let arriving = match call {
            1 => 0..12,
            2 => 20..23,
            _ => 0..0,
        };
        state.items.extend(arriving.map(|id| (id, item(id))));
        None
    });
    let (server, result) = synced(&upstream).await;
    let present: Vec<u64> = (100..150).step_by(2).collect();
    let found = sorted(server.cutouts().await);
    assert!(present.iter().all(|id| found.contains(id)), "{found:?}");
    assert_eq!(counts(&result)[0], found.len() as u64);
    assert_eq!(found.len(), found.iter().collect::<std::collections::BTreeSet<_>>().len());
}

#[tokio::test]
async fn cutouts_that_move_to_an_earlier_page_are_not_lost() {
    // Five cutouts of the first page are removed: those at the start of the second page move to the first one.
    let upstream = Upstream::new(1..=30, |call, _, state| {
        if call == 1 {
            state.items.retain(|id, _| *id > 5);
        }
        None
    });
    let (server, result) = synced(&upstream).await;
    assert_eq!(sorted(server.cutouts().await), (1..=30).collect::<Vec<_>>());
    assert_eq!(counts(&result), [30, 30, 0, 0, 0]);
    assert_eq!(upstream.pages(), [1, 2, 1, 2, 3]);
}

#[tokio::test]
async fn expired_token_resumes_at_the_last_page() {
    let upstream = Upstream::new(1..=40, |call, place, state| {
        state.has_cursors = true;
        (call == 2).then(|| {
            assert_eq!(place.cursor.as_deref(), Some("20"));
            CallError::CursorExpired
        })
    });
    let (server, result) = synced(&upstream).await;
    assert_eq!(server.cutouts().await.len(), 40);
    assert_eq!(counts(&result), [40, 40, 0, 0, 0]);
    // By its number, the third page begins with a new id, so the second one is read again.
    assert_eq!(upstream.pages(), [1, 2, 3, 3, 2, 3, 4]);
}

#[tokio::test]
async fn rate_limit_waits_for_its_delay() {
    let upstream = Upstream::new(1..=20, |call, _, _| (call == 1).then_some(CallError::RateLimited(Some(7))));
    let (server, result) = synced(&upstream).await;
    assert_eq!(counts(&result), [20, 20, 0, 0, 0]);
    assert_eq!(server.clock.now(), Timestamp::EPOCH.after(Duration::from_secs(7)));
    // A delay that is longer than a page waits parks the job, and uses up no retry.
    let limited =
        |call, _: &Place, _: &mut State| (1..=6).contains(&call).then_some(CallError::RateLimited(Some(600)));
    let upstream = Upstream::new(1..=20, limited);
    let (server, result) = synced(&upstream).await;
    assert_eq!(counts(&result), [20, 20, 0, 0, 0]);
    assert_eq!(server.clock.now(), Timestamp::EPOCH.after(Duration::from_secs(3_600)));
    assert_eq!(upstream.pages(), [1, 2, 2, 2, 2, 2, 2, 2, 1, 2]);
}

#[tokio::test]
async fn failed_page_is_read_again_and_others_are_not() {
    let failed =
        || CallError::Failed("connection reset: the cutout upstream closed the connection".to_owned());
    let upstream = Upstream::new(1..=30, move |call, _, _| (2..=4).contains(&call).then(failed));
    let (server, result) = synced(&upstream).await;
    assert_eq!(counts(&result), [30, 30, 0, 0, 0]);
    assert_eq!(upstream.pages(), [1, 2, 3, 3, 3, 3]);
    assert_eq!(server.clock.now(), Timestamp::EPOCH.after(Duration::from_secs(7)));
}

#[tokio::test]
async fn refused_credentials_fail_the_job_at_once() {
    let upstream = Upstream::new(1..=30, |_, _, _| {
        let text = "authentication failed: the cutout upstream responded 401 Unauthorized; set a valid token with \
                    --cutouts-token-file or MATCHBOOK_CUTOUTS_TOKEN";
        Some(CallError::Refused(text.to_owned()))
    });
    let (clock, log) = world();
    let server = Server::start((&clock, &log), &upstream).await;
    server.create(&SyncOptions::default()).await;
    let JobEvent::JobFailed(failed) = server.end().await else { panic!() };
    let error = failed.error;
    assert_eq!(error.code, event_schemas::failure::FailureCode::ServiceAuthentication);
    assert!(!error.retryable && error.message.contains("--cutouts-token-file"), "{error:?}");
    assert_eq!(upstream.pages(), [1]);
}

#[tokio::test]
async fn repeated_ids_count_once_and_wrong_items_stop_nothing() {
    let upstream = Upstream::new(1..=25, |_, _, state| {
        state.items.insert(3, json!({"id": 3, "image_url": "javascript:alert(1)"}));
        state.items.insert(4, json!({"id": "four", "image_url": "/4.jpg"}));
        state.items.insert(5, json!("secret text of the upstream"));
        state.items.insert(6, json!({"id": 6}));
        state.items.insert(7, item(8));
        state.items.insert(12, item(9));
        state.items.insert(13, json!({"id": 13, "image_url": "/13.jpg", "predicted_upc": "x".repeat(65)}));
        None
    });
    let (server, result) = synced(&upstream).await;
    let wrong = [3, 4, 5, 6, 7, 12, 13];
    let expected: Vec<u64> = (1..=25).filter(|id| !wrong.contains(id)).collect();
    assert_eq!(sorted(server.cutouts().await), expected);
    assert_eq!(counts(&result), [expected.len() as u64 + 5, expected.len() as u64, 0, 0, 5]);
    let failures: Vec<&str> =
        result["failures"].as_array().unwrap().iter().map(|reason| reason.as_str().unwrap()).collect();
    assert_eq!(
        failures,
        [
            "cutout 3: `image_url` must be an address that starts with https:// or http://, or a path that starts with one /",
            "item 4 of page 1: `id` must be a whole number from 0 that is below 2⁵³",
            "item 5 of page 1: must be an object",
            "cutout 6: `image_url` must be a text",
            "cutout 13: `predicted_upc` is too long",
        ]
    );
}

/// An upstream that ignores the number of the page.
#[derive(Clone)]
struct Repeating(Upstream);

impl PageSource for Repeating {
    async fn page(&self, tenant: &Tenant, _place: &Place) -> Result<Page, CallError> {
        self.0.page(tenant, &Place::START).await
    }
}

#[tokio::test]
async fn upstream_that_repeats_its_pages_fails_the_job() {
    let (clock, log) = world();
    let upstream = Upstream::new(1..=30, |_, _, _| None);
    let server = Server::start((&clock, &log), &Repeating(upstream.clone())).await;
    server.create(&SyncOptions::default()).await;
    let mut failed = 0;
    while failed < 2 {
        server.to_next_instant().await;
        failed =
            server.of_jobs().await.iter().filter(|event| matches!(event, JobEvent::JobFailed(_))).count();
    }
    assert_eq!(server.cutouts().await.len(), 10);
    assert!(upstream.pages().len() <= 2 * (REPEATED_PAGES_MAX as usize + 2), "{}", upstream.pages().len());
}

#[tokio::test]
async fn sync_killed_between_pages_resumes_there() {
    let (clock, log) = world();
    let upstream = Upstream::new(1..=100, |_, _, _| None);
    let mut server = Server::start((&clock, &log), &upstream).await;
    server.create(&SyncOptions::default()).await;
    while server.cutouts().await.len() < 50 {
        tokio::task::yield_now().await;
    }
    server.kill().await;
    let read = upstream.pages().len();
    server = Server::start((&clock, &log), &upstream).await;
    let result = server.result().await;
    assert_eq!(sorted(server.cutouts().await), (1..=100).collect::<Vec<_>>());
    assert_eq!(counts(&result)[0], 100);
    // At most one page is read again, and the one before it, which shows that none has moved.
    let again = upstream.pages().len() - read;
    assert!(again <= 10 - read + 3, "{:?}", upstream.pages());
}

/// Random failures of all kinds, changes and kills.
async fn hour(seed: u64) {
    let (clock, log) = world();
    let mut rng = Rng(seed);
    let mut faults = Rng(seed ^ 0xfa17);
    let upstream = Upstream::new((1..=500).map(|n| n * 3), move |_, place, state| {
        state.has_cursors = seed.is_multiple_of(2);
        // Cutouts arrive before and after the place.
        for _ in 0..faults.below(3) {
            let id = faults.below(2_000);
            state.items.entry(id).or_insert_with(|| item(id));
        }
        match faults.below(12) {
            0 => Some(CallError::Failed("503 Service Unavailable".to_owned())),
            1 => Some(CallError::Failed("timeout: the cutout upstream did not respond in time".to_owned())),
            2 => Some(CallError::RateLimited(Some(faults.below(20) as u32))),
            3 if place.cursor.is_some() => Some(CallError::CursorExpired),
            _ => None,
        }
    });
    let end = clock.now().after(Duration::from_secs(3_600));
    let mut server = Server::start((&clock, &log), &upstream).await;
    let mut checkpoint = None;
    while clock.now() < end {
        server.create(&SyncOptions::after(checkpoint.take())).await;
        for _ in 0..rng.below(200) {
            server.to_next_instant().await;
        }
        // It is killed while a sync is in progress; the lease of that one expires, or it is in quarantine.
        server.kill().await;
        clock.advance(Duration::from_secs(rng.below(300)));
        server = Server::start((&clock, &log), &upstream).await;
        let ended = server.end().await;
        if let JobEvent::JobFailed(_) = ended {
            let last = server.of_jobs().await.into_iter().rev().find_map(|event| match event {
                JobEvent::JobProgressReported(report) => report.checkpoint,
                _ => None,
            });
            checkpoint = last.map(|last| last.to_value());
        }
    }
    // The last sync has no failures, and reads what arrived behind the place of the one before.
    upstream.0.lock().unwrap().1 = Box::new(|_, _, _| None);
    server.create(&SyncOptions::default()).await;
    server.to_next_instant().await;
    server.result().await;
    let expected: Vec<u64> = upstream.state(|state| state.items.keys().copied().collect());
    assert_eq!(sorted(server.cutouts().await), expected, "seed {seed}");
}

#[tokio::test]
async fn hour_of_random_failures_ends_with_each_cutout_once() {
    for seed in 0..2 {
        hour(seed).await;
    }
}
