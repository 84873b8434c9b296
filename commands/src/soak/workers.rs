//! Tasks that request analyses, and workers that do them, with or without errors.

use std::time::Duration;

use domain::job::Action;
use domain::job::analysis::url;
use domain::job::failure::classify;
use event_schemas::envelope::{Actor, BodyHash, Cause, Idempotency};
use event_schemas::ids::{CommandId, CorrelationId, JobId, LeaseId, WorkerId};
use event_schemas::job::{JobProgressReported, JobSource, Phase};
use event_schemas::worker::WorkKind;
use uuid::Uuid;
use web::problem::Problem;

use super::players::{id, retry_until_known, rng_of};
use super::record::Acknowledged;
use super::world::{Process, Task, World};
use crate::engine::execute::ExecuteError;
use crate::jobs::claim::{self, ClaimRequest, Claimed, ClaimedItem};
use crate::jobs::scheduler::HeartbeatResult;
use crate::jobs::{analyses, series};
use crate::matchmaking::simulation::players::{CommandOutcome, tenant};
use crate::matchmaking::simulation::world::Rng;

const WORKERS: u64 = 5;
const VIDEOS: u64 = 40;

const STAGES: [Phase; 5] = [
    Phase::Downloading,
    Phase::FetchingChat,
    Phase::Transcribing,
    Phase::Analyzing,
    Phase::FindingHighlights,
];

/// One error of each class that is handled in a way of its own.
const ERRORS: [&str; 12] = [
    "read timed out",
    "connection refused",
    "could not resolve host",
    "video not found",
    "out of memory",
    "no space left on device",
    "whisper: internal error",
    "minio: internal error",
    "429 too many requests, retry after 20 s",
    "No such file or directory",
    "worker is shutting down",
    "index out of range",
];

pub(super) fn all(world: &World) -> Vec<Task> {
    let of_worker = |n| -> Task { Box::pin(worker(world.clone(), n)) };
    let requesters: [Task; 2] =
        [Box::pin(requester(world.clone(), 0)), Box::pin(requester(world.clone(), 1))];
    let retrier: Task = Box::pin(job_retrier(world.clone()));
    (0..WORKERS).map(of_worker).chain(requesters).chain([retrier]).collect()
}

fn cause(key: Uuid, actor: Actor) -> Cause {
    Cause {
        command_id: CommandId(key),
        correlation_id: CorrelationId(key),
        event_id: None,
        tenant: tenant(),
        actor,
        subject: None,
        idempotency: Some(Idempotency { key, body: BodyHash(*key.as_bytes()) }),
        traceparent: None,
    }
}

fn caller() -> Actor {
    Actor::Service("callers".parse().unwrap())
}

fn outcome_of<T>(result: Result<T, Problem>) -> CommandOutcome {
    match result {
        Ok(_) => CommandOutcome::Done,
        Err(problem) if problem.status().is_client_error() => CommandOutcome::Refused,
        Err(_) => CommandOutcome::Unknown,
    }
}

/// Requests analyses, and cancels some.
async fn requester(world: World, n: u64) {
    let mut rng = rng_of(&world, 5, n);
    while world.is_open() {
        world.sleep(&mut rng, 5, 60).await;
        let url = format!("https://www.twitch.tv/videos/{}", 2_000 + rng.below(VIDEOS));
        let video_id = url::video_id(&url).unwrap();
        let source = JobSource::Video { video_id: video_id.clone(), url, options: Default::default() };
        let cause_of_start = cause(id(&mut rng), caller());
        let started = loop {
            let (cause, video_id, source) = (cause_of_start.clone(), video_id.clone(), source.clone());
            let start = async move |process: Process| {
                let started = analyses::start(&process.jobs, &cause, &video_id, source).await;
                started.map(|(_, started)| started.job_id)
            };
            match world.ask(start).await {
                Some(Ok(job)) => break Some(job),
                Some(Err(problem)) if problem.status().is_client_error() => break None,
                _ => world.clock.sleep(Duration::from_secs(1)).await,
            }
        };
        let Some(job) = started else { continue };
        world.acknowledge(Acknowledged::AnalysisRequested(job));
        if rng.percent(10) {
            world.sleep(&mut rng, 0, 90).await;
            let cause = cause(id(&mut rng), caller());
            if retry_until_known(&world, |process| {
                act(process, job, cause.clone(), Action::Cancel { reason: None })
            })
            .await
                == CommandOutcome::Done
            {
                world.acknowledge(Acknowledged::AnalysisCancelled(job));
            }
        }
    }
}

/// Retries failed analyses.
async fn job_retrier(world: World) {
    let mut rng = rng_of(&world, 6, 0);
    while world.is_open() {
        world.sleep(&mut rng, 30, 240).await;
        let failed: Vec<JobId> = world.record.lock().unwrap().failed.iter().copied().collect();
        let Some(job) = failed.get(rng.below(failed.len().max(1) as u64) as usize).copied() else {
            continue;
        };
        let cause = cause(id(&mut rng), caller());
        let retry = |process: Process| {
            let cause = cause.clone();
            async move {
                match outcome_of(series::check_is_latest(&process.jobs, &tenant(), job).await) {
                    CommandOutcome::Done => {
                        act(process, job, cause, Action::Retry { eta_priors: Vec::new() }).await
                    }
                    outcome => outcome,
                }
            }
        };
        retry_until_known(&world, retry).await;
    }
}

async fn act(process: Process, job: JobId, cause: Cause, action: Action) -> CommandOutcome {
    match process.jobs.execute_job(job, &cause, action).await {
        Ok(_) => CommandOutcome::Done,
        Err(ExecuteError::Refused(_)) => CommandOutcome::Refused,
        Err(_) => CommandOutcome::Unknown,
    }
}

/// The outcome of a worker's job.
enum WorkOutcome {
    Reported,
    /// The lease was lost, or the job has ended.
    Lost,
    /// The worker vanished without a report.
    Vanished,
}

async fn worker(world: World, n: u64) {
    let mut rng = rng_of(&world, 7, n);
    let name: WorkerId = format!("worker-{n}").parse().unwrap();
    loop {
        let claimed = claim(&world, &name, id(&mut rng)).await;
        for item in claimed.items {
            if matches!(work(&world, &name, &item, &mut rng).await, WorkOutcome::Vanished) {
                world.sleep(&mut rng, 20, 200).await;
                // The worker is back, and reports under its old lease.
                complete(&world, &name, &item, &mut rng).await;
            }
        }
    }
}

async fn claim(world: &World, name: &WorkerId, key: Uuid) -> Claimed {
    loop {
        let (cause, request) = (
            cause(key, Actor::Worker(name.clone())),
            ClaimRequest {
                worker_id: name.clone(),
                kinds: vec![WorkKind::VideoAnalysis],
                max: 1,
                wait: Duration::from_secs(30),
                client: Default::default(),
            },
        );
        world.record.lock().unwrap().claiming += 1;
        let claimed =
            world.ask(async move |process| claim::claim(&process.jobs, &cause, &request).await).await;
        world.record.lock().unwrap().claiming -= 1;
        match claimed {
            Some(Ok(claimed)) => return claimed,
            _ => world.clock.sleep(Duration::from_secs(1)).await,
        }
    }
}

async fn work(world: &World, name: &WorkerId, item: &ClaimedItem, rng: &mut Rng) -> WorkOutcome {
    for stage in STAGES {
        let steps = 1 + rng.below(3);
        for step in 1..=steps {
            world.sleep(rng, 1, 14).await;
            // After the load no worker fails.
            let luck = if world.is_open() { rng.below(100) } else { 99 };
            match luck {
                0..2 => return WorkOutcome::Vanished,
                2..4 => stall(world, name, item, rng).await,
                4..8 => {
                    let error = ERRORS[rng.below(ERRORS.len() as u64) as usize];
                    return fail(world, name, item, error, rng).await;
                }
                _ => {}
            }
            let report = JobProgressReported {
                lease_id: item.lease_id,
                stage,
                fraction: step as f64 / steps as f64,
                items_done: None,
                items_total: None,
                checkpoint: None,
                items: None,
            };
            let action = Action::ReportProgress { report, eta_priors: Vec::new() };
            if report_under(world, name, item, action, rng).await != CommandOutcome::Done {
                return WorkOutcome::Lost;
            }
        }
    }
    complete(world, name, item, rng).await
}

async fn complete(world: &World, name: &WorkerId, item: &ClaimedItem, rng: &mut Rng) -> WorkOutcome {
    let action = Action::Complete { lease_id: Some(item.lease_id), result: None };
    if report_under(world, name, item, action, rng).await != CommandOutcome::Done {
        return WorkOutcome::Lost;
    }
    world.acknowledge(Acknowledged::Completed(item.job_id, item.lease_id));
    WorkOutcome::Reported
}

async fn fail(world: &World, name: &WorkerId, item: &ClaimedItem, error: &str, rng: &mut Rng) -> WorkOutcome {
    let error = classify(error, None, None, item.job_id, item.attempt);
    let cause = cause(id(rng), Actor::Worker(name.clone()));
    let (job, lease_id) = (item.job_id, item.lease_id);
    let failed = |process: Process| {
        let (cause, error) = (cause.clone(), error.clone());
        async move {
            let circuit_open_until = process.jobs.board.circuit_open_until(job, &error);
            let action = Action::Fail { lease_id: Some(lease_id), error, circuit_open_until };
            outcome_of(process.jobs.report(job, lease_id, &cause, action).await)
        }
    };
    if retry_until_known(world, failed).await != CommandOutcome::Done {
        return WorkOutcome::Lost;
    }
    world.acknowledge(Acknowledged::Failed(job, lease_id));
    WorkOutcome::Reported
}

/// Reports, which counts as a heartbeat.
async fn report_under(
    world: &World,
    name: &WorkerId,
    item: &ClaimedItem,
    action: Action,
    rng: &mut Rng,
) -> CommandOutcome {
    let cause = cause(id(rng), Actor::Worker(name.clone()));
    let (job, lease_id) = (item.job_id, item.lease_id);
    let report = |process: Process| {
        let (cause, action) = (cause.clone(), action.clone());
        async move { outcome_of(process.jobs.report(job, lease_id, &cause, action).await) }
    };
    let outcome = retry_until_known(world, report).await;
    if outcome == CommandOutcome::Done {
        record_heartbeat(world, lease_id);
    }
    outcome
}

/// Stalls, and sends heartbeats.
async fn stall(world: &World, name: &WorkerId, item: &ClaimedItem, rng: &mut Rng) {
    for _ in 0..1 + rng.below(8) {
        world.clock.sleep(Duration::from_secs(15)).await;
        let (lease, name) = (item.lease_id, name.clone());
        let heartbeat = async move |process: Process| {
            let board = &process.jobs.board;
            if !board.is_ready() {
                return false;
            }
            board.worker_heartbeat(&tenant(), &name);
            matches!(board.heartbeat(&tenant(), lease), HeartbeatResult::Until(_))
        };
        if world.ask(heartbeat).await == Some(true) {
            record_heartbeat(world, lease);
        }
    }
}

fn record_heartbeat(world: &World, lease: LeaseId) {
    let now = world.clock.now();
    let mut record = world.record.lock().unwrap();
    let last = record.heartbeats.entry(lease).or_insert(now);
    *last = now.max(*last);
}
