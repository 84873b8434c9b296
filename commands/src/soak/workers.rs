//! Those who ask for analyses, and those who do them, well or badly.

use std::time::Duration;

use domain::job::analysis::url;
use domain::job::failure::classify;
use domain::job::{self, Action};
use event_schemas::envelope::{Actor, BodyHash, Cause, Idempotency};
use event_schemas::ids::{CommandId, CorrelationId, JobId, LeaseId, WorkerId};
use event_schemas::job::{JobProgressReported, JobSource, Phase};
use event_schemas::stream::StreamId;
use event_schemas::worker::WorkKind;
use uuid::Uuid;
use web::problem::Problem;

use super::people::{chance_of, id, insist};
use super::record::Acknowledged;
use super::stage::{Process, Task, Town};
use crate::claim::{Asked, Claimed, Item};
use crate::execute::ExecuteError;
use crate::matchmaking::simulation::players::{Answer, tenant};
use crate::matchmaking::simulation::world::Chance;

const WORKERS: u64 = 5;
const VIDEOS: u64 = 40;

const STAGES: [Phase; 5] = [
    Phase::Downloading,
    Phase::FetchingChat,
    Phase::Transcribing,
    Phase::Analyzing,
    Phase::FindingHighlights,
];

/// One of each kind that is treated in a way of its own.
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

pub(super) fn all(town: &Town) -> Vec<Task> {
    let of_worker = |n| -> Task { Box::pin(worker(town.clone(), n)) };
    let asking: [Task; 2] = [Box::pin(requester(town.clone(), 0)), Box::pin(requester(town.clone(), 1))];
    let leading: Task = Box::pin(leader(town.clone()));
    (0..WORKERS).map(of_worker).chain(asking).chain([leading]).collect()
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

fn answered<T>(answer: Result<T, Problem>) -> Answer {
    match answer {
        Ok(_) => Answer::Done,
        Err(problem) if problem.status().is_client_error() => Answer::Refused,
        Err(_) => Answer::Unknown,
    }
}

/// Asks for analyses, and takes some back.
async fn requester(town: Town, n: u64) {
    let mut chance = chance_of(&town, 5, n);
    while town.is_open() {
        town.sleep(&mut chance, 5, 60).await;
        let url = format!("https://www.twitch.tv/videos/{}", 2_000 + chance.below(VIDEOS));
        let video_id = url::video_id(&url).unwrap();
        let source = JobSource::Video { video_id: video_id.clone(), url, options: serde_json::Map::new() };
        let cause_of_start = cause(id(&mut chance), caller());
        let started = loop {
            let (cause, video_id, source) = (cause_of_start.clone(), video_id.clone(), source.clone());
            let start = async move |process: Process| {
                let started = process.commands.start_analysis(&cause, &video_id, source).await;
                started.map(|(_, started)| *started.job_id)
            };
            match town.ask(start).await {
                Some(Ok(job)) => break Some(job),
                Some(Err(problem)) if problem.status().is_client_error() => break None,
                _ => town.clock.sleep(Duration::from_secs(1)).await,
            }
        };
        let Some(job) = started else { continue };
        town.acknowledge(Acknowledged::Asked(job));
        if chance.percent(10) {
            town.sleep(&mut chance, 0, 90).await;
            let cause = cause(id(&mut chance), caller());
            if insist(&town, |process| act(process, job, cause.clone(), Action::Cancel { reason: None }))
                .await
                == Answer::Done
            {
                town.acknowledge(Acknowledged::Taken(job));
            }
        }
    }
}

/// Takes analyses up again that stand still.
async fn leader(town: Town) {
    let mut chance = chance_of(&town, 6, 0);
    while town.is_open() {
        town.sleep(&mut chance, 30, 240).await;
        let failed: Vec<JobId> = town.record.lock().unwrap().failed.iter().copied().collect();
        let Some(job) = failed.get(chance.below(failed.len().max(1) as u64) as usize).copied() else {
            continue;
        };
        let cause = cause(id(&mut chance), caller());
        let retry = |process: Process| {
            let cause = cause.clone();
            async move {
                match answered(process.commands.is_latest_analysis(&tenant(), job).await) {
                    Answer::Done => act(process, job, cause, Action::Retry { eta_priors: Vec::new() }).await,
                    answer => answer,
                }
            }
        };
        insist(&town, retry).await;
    }
}

async fn act(process: Process, job: JobId, cause: Cause, action: Action) -> Answer {
    let command = job::Command { at: process.commands.0.clock.now(), action };
    match process.commands.0.jobs.execute(&StreamId::job(job), &cause, command).await {
        Ok(_) => Answer::Done,
        Err(ExecuteError::Refused(_)) => Answer::Refused,
        Err(_) => Answer::Unknown,
    }
}

/// What became of a worker's job.
enum Left {
    HandedIn,
    /// Somebody else has it, or nobody wants it any more.
    Lost,
    /// It went away without a word.
    Vanished,
}

async fn worker(town: Town, n: u64) {
    let mut chance = chance_of(&town, 7, n);
    let name: WorkerId = format!("worker-{n}").parse().unwrap();
    loop {
        let claimed = claim(&town, &name, id(&mut chance)).await;
        for item in claimed.items {
            if matches!(work(&town, &name, &item, &mut chance).await, Left::Vanished) {
                town.sleep(&mut chance, 20, 200).await;
                // It is back, and does not know that it was away.
                complete(&town, &name, &item, &mut chance).await;
            }
        }
    }
}

async fn claim(town: &Town, name: &WorkerId, key: Uuid) -> Claimed {
    loop {
        let (cause, asked) = (
            cause(key, Actor::Worker(name.clone())),
            Asked {
                worker_id: name.clone(),
                kinds: vec![WorkKind::VideoAnalysis],
                max: 1,
                wait: Duration::from_secs(30),
            },
        );
        town.record.lock().unwrap().claiming += 1;
        let claimed = town.ask(async move |process| process.commands.claim(&cause, &asked).await).await;
        town.record.lock().unwrap().claiming -= 1;
        match claimed {
            Some(Ok(claimed)) => return claimed,
            _ => town.clock.sleep(Duration::from_secs(1)).await,
        }
    }
}

async fn work(town: &Town, name: &WorkerId, item: &Item, chance: &mut Chance) -> Left {
    for stage in STAGES {
        let steps = 1 + chance.below(3);
        for step in 1..=steps {
            town.sleep(chance, 1, 14).await;
            // Those who are left when nobody comes any more do their work well.
            let luck = if town.is_open() { chance.below(100) } else { 99 };
            match luck {
                0..2 => return Left::Vanished,
                2..4 => stall(town, name, item, chance).await,
                4..8 => {
                    let error = ERRORS[chance.below(ERRORS.len() as u64) as usize];
                    return fail(town, name, item, error, chance).await;
                }
                _ => {}
            }
            let report = JobProgressReported {
                lease_id: item.lease_id,
                stage,
                fraction: step as f64 / steps as f64,
                items_done: None,
                items_total: None,
            };
            let action = Action::ReportProgress { report, eta_priors: Vec::new() };
            if report_under(town, name, item, action, chance).await != Answer::Done {
                return Left::Lost;
            }
        }
    }
    complete(town, name, item, chance).await
}

async fn complete(town: &Town, name: &WorkerId, item: &Item, chance: &mut Chance) -> Left {
    let action = Action::Complete { lease_id: Some(item.lease_id), result: None };
    if report_under(town, name, item, action, chance).await != Answer::Done {
        return Left::Lost;
    }
    town.acknowledge(Acknowledged::Completed(item.job_id, item.lease_id));
    Left::HandedIn
}

async fn fail(town: &Town, name: &WorkerId, item: &Item, error: &str, chance: &mut Chance) -> Left {
    let error = classify(error, None, None, item.job_id, item.attempt);
    let cause = cause(id(chance), Actor::Worker(name.clone()));
    let (job, lease_id) = (item.job_id, item.lease_id);
    let failed = |process: Process| {
        let (cause, error) = (cause.clone(), error.clone());
        async move {
            let left_alone_until = process.commands.0.board.left_alone_until(job, &error);
            let action = Action::Fail { lease_id: Some(lease_id), error, left_alone_until };
            answered(process.commands.report(&cause, lease_id, job, action).await)
        }
    };
    if insist(town, failed).await != Answer::Done {
        return Left::Lost;
    }
    town.acknowledge(Acknowledged::Failed(job, lease_id));
    Left::HandedIn
}

/// Reports, and so is heard of.
async fn report_under(
    town: &Town,
    name: &WorkerId,
    item: &Item,
    action: Action,
    chance: &mut Chance,
) -> Answer {
    let cause = cause(id(chance), Actor::Worker(name.clone()));
    let (job, lease_id) = (item.job_id, item.lease_id);
    let report = |process: Process| {
        let (cause, action) = (cause.clone(), action.clone());
        async move { answered(process.commands.report(&cause, lease_id, job, action).await) }
    };
    let answer = insist(town, report).await;
    if answer == Answer::Done {
        heard(town, lease_id);
    }
    answer
}

/// It takes its time, and says that it is alive.
async fn stall(town: &Town, name: &WorkerId, item: &Item, chance: &mut Chance) {
    for _ in 0..1 + chance.below(8) {
        town.clock.sleep(Duration::from_secs(15)).await;
        let (lease, name) = (item.lease_id, name.clone());
        let beat = async move |process: Process| {
            let board = &process.commands.0.board;
            if !board.is_ready() {
                return false;
            }
            board.seen(&tenant(), &name);
            matches!(board.heartbeat(&tenant(), lease), crate::work::Beat::Until(_))
        };
        if town.ask(beat).await == Some(true) {
            heard(town, lease);
        }
    }
}

fn heard(town: &Town, lease: LeaseId) {
    let now = town.clock.now();
    let mut record = town.record.lock().unwrap();
    let last = record.heard.entry(lease).or_insert(now);
    *last = now.max(*last);
}
