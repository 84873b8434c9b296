use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use domain::lease::LeaseTerms;
use event_log::clock::{Clock, Ids};
use event_log::{EventLog, Filter, Log, MemoryLog};
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{CorrelationId, Position};
use event_schemas::job::{JobEvent, JobKind, JobSource, RetryState};
use serde_json::json;
use tokio::task::AbortHandle;
use uuid::Uuid;

use super::*;
use crate::engine::Engine;
use crate::jobs::processes::{lease_expiry, worker_timeout};
use crate::jobs::scheduler;

const KIND: WorkKind = WorkKind::CutoutSync;

/// A server on a log that outlives it.
struct Server {
    clock: Clock,
    log: Log,
    jobs: Arc<Jobs>,
    tasks: Vec<AbortHandle>,
}

impl Server {
    async fn start<Performing>(
        (clock, log): (&Clock, &Log),
        perform: impl Fn(ServerJob) -> Performing + Send + Sync + 'static,
    ) -> Self
    where
        Performing: Future<Output = Result<Value, WorkFailure>> + Send + 'static,
    {
        let engine = Engine::simulated(log.clone(), clock.clone(), Ids::Random);
        let jobs = Arc::new(Jobs::new(Arc::new(engine), LeaseTerms::default(), 100));
        let tasks = vec![
            tokio::spawn(scheduler::follow(jobs.clone())).abort_handle(),
            tokio::spawn(lease_expiry::run(jobs.clone())).abort_handle(),
            tokio::spawn(worker_timeout::run(jobs.clone())).abort_handle(),
            tokio::spawn(run(jobs.clone(), KIND, perform)).abort_handle(),
        ];
        assert!(jobs.board.ready().await);
        Self { clock: clock.clone(), log: log.clone(), jobs, tasks }
    }

    /// Kills it, between any two steps.
    fn kill(self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }

    async fn create(&self, tenant: &str) -> JobId {
        let id = Uuid::now_v7();
        let cause = Cause {
            command_id: CommandId(id),
            correlation_id: CorrelationId(id),
            event_id: None,
            tenant: tenant.parse().unwrap(),
            actor: Actor::System("test".parse().unwrap()),
            subject: None,
            idempotency: None,
            traceparent: None,
        };
        let source = Some(JobSource::ServerWork { options: json!({"first": 7}).into() });
        let (kind, metadata) = (JobKind::CutoutSync, JsonText::default());
        let create = |job_id| JobCreated { job_id, kind, source, name: None, metadata };
        self.jobs.create(&cause, None, create).await.unwrap().created.job_id
    }

    async fn events(&self) -> Vec<Envelope> {
        let page = self.log.read_all(Position::START, &Filter::All, 100_000).await.unwrap();
        page.events.iter().map(|recorded| recorded.decode().unwrap()).collect()
    }

    async fn of_jobs(&self) -> Vec<JobEvent> {
        let of_job = |envelope: Envelope| match envelope.event {
            Event::Job(event) => Some(event),
            _ => None,
        };
        self.events().await.into_iter().filter_map(of_job).collect()
    }

    /// Waits until the log has so many events of jobs that fit.
    async fn until(&self, count: usize, fits: impl Fn(&JobEvent) -> bool) {
        let mut head = self.log.head();
        let waiting = async {
            while self.of_jobs().await.iter().filter(|event| fits(event)).count() < count {
                head.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), waiting).await.is_err() {
            panic!("it did not happen: {:#?}", self.of_jobs().await);
        }
    }

    async fn run_ready_tasks(&self) {
        for _ in 0..300 {
            tokio::task::yield_now().await;
        }
    }

    async fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        self.run_ready_tasks().await;
    }
}

fn world() -> (Clock, Log) {
    let clock = Clock::manual(Timestamp::EPOCH);
    (clock.clone(), Log::new(MemoryLog::new(clock)))
}

fn is_completed(event: &JobEvent) -> bool {
    matches!(event, JobEvent::JobCompleted(_))
}

fn is_claimed(event: &JobEvent) -> bool {
    matches!(event, JobEvent::JobClaimed(_))
}

#[tokio::test]
async fn job_of_the_server_is_claimed_and_completed() {
    let (clock, log) = world();
    let perform = |job: ServerJob| async move {
        job.report(WorkProgress { items_done: 3, items_total: Some(4), checkpoint: None }).await?;
        Ok(json!({"options": job.options(), "attempt": job.attempt()}))
    };
    let server = Server::start((&clock, &log), perform).await;
    let job_id = server.create("default").await;
    server.until(1, is_completed).await;
    let events = server.events().await;
    let [created, claimed, changed, reported, completed] = events.as_slice() else { panic!("{events:#?}") };
    for event in [claimed, changed, reported, completed] {
        assert_eq!(event.metadata.correlation_id, created.metadata.correlation_id);
        assert_eq!(event.stream, StreamId::job(job_id));
    }
    let Event::Job(JobEvent::JobClaimed(claim)) = &claimed.event else { panic!("{claimed:?}") };
    assert_eq!(claim.worker_id.as_str(), "server");
    let Event::Job(JobEvent::JobProgressReported(report)) = &reported.event else { panic!("{reported:?}") };
    assert_eq!((report.fraction, report.items_done, report.items_total), (0.75, Some(3), Some(4)));
    let Event::Job(JobEvent::JobCompleted(completed)) = &completed.event else { panic!("{completed:?}") };
    let result = completed.result.as_ref().unwrap().to_value();
    assert_eq!(result, json!({"options": {"first": 7}, "attempt": 1}));
}

#[tokio::test]
async fn tenant_has_one_job_of_a_kind_at_a_time() {
    let (clock, log) = world();
    let running: Arc<Mutex<Vec<String>>> = Arc::default();
    let (started, finish) = (running.clone(), Arc::new(tokio::sync::Semaphore::new(0)));
    let permits = finish.clone();
    let perform = move |job: ServerJob| {
        let (started, permits) = (started.clone(), permits.clone());
        async move {
            started.lock().unwrap().push(job.tenant().to_string());
            permits.acquire().await.unwrap().forget();
            Ok(Value::Null)
        }
    };
    let server = Server::start((&clock, &log), perform).await;
    for tenant in ["a", "a", "b", "c", "d", "e"] {
        server.create(tenant).await;
    }
    server.run_ready_tasks().await;
    assert_eq!(*running.lock().unwrap(), ["a", "b", "c", "d"]);
    finish.add_permits(6);
    server.until(6, is_completed).await;
    running.lock().unwrap().sort();
    assert_eq!(*running.lock().unwrap(), ["a", "a", "b", "c", "d", "e"]);
}

#[tokio::test]
async fn next_attempt_continues_at_the_checkpoint_after_a_kill() {
    let (clock, log) = world();
    let first = Server::start((&clock, &log), |job: ServerJob| async move {
        for page in 1..=3 {
            // Reports with the same numbers differ by their checkpoints.
            let checkpoint = Some(json!({"page": page}));
            job.report(WorkProgress { items_done: 1, items_total: None, checkpoint }).await?;
        }
        std::future::pending().await
    })
    .await;
    first.create("default").await;
    first.until(3, |event| matches!(event, JobEvent::JobProgressReported(_))).await;
    first.kill();
    let perform = |job: ServerJob| async move { Ok(job.checkpoint().unwrap()) };
    let second = Server::start((&clock, &log), perform).await;
    second.advance(44).await;
    assert_eq!(second.of_jobs().await.iter().filter(|event| is_claimed(event)).count(), 1);
    second.advance(1).await;
    second.until(1, is_completed).await;
    let Some(JobEvent::JobCompleted(completed)) = second.of_jobs().await.pop() else { panic!() };
    assert_eq!(completed.result.unwrap().to_value(), json!({"page": 3}));
}

#[tokio::test]
async fn server_that_stops_gives_back_its_work_at_once() {
    let (clock, log) = world();
    let first = Server::start((&clock, &log), |_| std::future::pending()).await;
    first.create("default").await;
    first.until(1, is_claimed).await;
    first.jobs.board.close();
    first.until(1, |event| matches!(event, JobEvent::JobLeaseExpired(_))).await;
    first.kill();
    let second = Server::start((&clock, &log), |_| async { Ok(Value::Null) }).await;
    second.until(1, is_completed).await;
    let lease_end = second.of_jobs().await.into_iter().find_map(|event| match event {
        JobEvent::JobLeaseExpired(expired) => expired.end,
        _ => None,
    });
    assert_eq!(lease_end, Some(WorkerEnd::Stopped));
}

#[tokio::test]
async fn long_work_keeps_its_lease_by_heartbeats() {
    let (clock, log) = world();
    let waiting = clock.clone();
    let perform = move |_| {
        let clock = waiting.clone();
        async move {
            clock.sleep(Duration::from_secs(600)).await;
            Ok(Value::Null)
        }
    };
    let server = Server::start((&clock, &log), perform).await;
    server.create("default").await;
    server.until(1, is_claimed).await;
    server.run_ready_tasks().await;
    for _ in 0..60 {
        server.advance(10).await;
    }
    server.until(1, is_completed).await;
    let events = server.of_jobs().await;
    assert_eq!(events.len(), 3, "{events:#?}");
}

/// Counts the works that are dropped or have ended.
struct Ended(Arc<AtomicUsize>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn cancelled_job_drops_its_work() {
    let (clock, log) = world();
    let ended = Arc::new(AtomicUsize::new(0));
    let counted = ended.clone();
    let perform = move |job: ServerJob| {
        let ended = Ended(counted.clone());
        async move {
            let _ended = ended;
            assert!(!job.is_over());
            std::future::pending().await
        }
    };
    let server = Server::start((&clock, &log), perform).await;
    let job_id = server.create("default").await;
    server.until(1, is_claimed).await;
    server.run_ready_tasks().await;
    assert_eq!(ended.load(Ordering::SeqCst), 0);
    let mut cause =
        server.events().await.pop().map(|event| cause(&server.jobs, &event.metadata, event.id)).unwrap();
    cause.command_id = CommandId(Uuid::now_v7());
    server.jobs.execute_job(job_id, &cause, Action::Cancel { reason: None }).await.unwrap();
    while ended.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // The tenant's next job is not held up.
    server.create("default").await;
    server.until(2, is_claimed).await;
}

#[tokio::test]
async fn failure_and_panic_are_classified_and_retried() {
    let (clock, log) = world();
    let perform = |job: ServerJob| async move {
        match job.attempt() {
            1 => Err(WorkFailure::new("connection refused")),
            2 => Err(WorkFailure {
                message: "429 Too Many Requests".to_owned(),
                retry_after_seconds: Some(90),
                circuit_open_until: None,
            }),
            3 => panic!("a mistake in the work"),
            _ => Ok(Value::Null),
        }
    };
    let server = Server::start((&clock, &log), perform).await;
    server.create("default").await;
    let is_failed = |event: &JobEvent| matches!(event, JobEvent::JobFailed(_));
    server.until(1, is_failed).await;
    server.advance(2).await;
    server.until(2, is_failed).await;
    server.advance(89).await;
    assert_eq!(server.of_jobs().await.iter().filter(|event| is_claimed(event)).count(), 2);
    server.advance(1).await;
    server.until(3, is_failed).await;
    server.advance(5).await;
    server.until(1, is_completed).await;
    let failures = server.of_jobs().await.into_iter().filter_map(|event| match event {
        JobEvent::JobFailed(failed) => Some((failed.error.message, failed.retry_state)),
        _ => None,
    });
    let again = Some(RetryState::InProgress);
    let expected = [
        "connection refused",
        "429 Too Many Requests",
        "the server's work ended unexpectedly; its log has the cause",
    ];
    assert!(failures.eq(expected.map(|message| (message.to_owned(), again))));
}
