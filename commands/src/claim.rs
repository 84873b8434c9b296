//! Claiming work: the board proposes, the work's own stream decides.

use std::time::Duration;

use domain::{job, matching, worker};
use event_schemas::envelope::{Cause, Idempotency};
use event_schemas::ids::{CommandId, JobId, LeaseId, Position, ProductId, RequestId, VideoId, WorkerId};
use event_schemas::job::JobCreated;
use event_schemas::matching::{ProductImage, Totals, VideoFrame};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkKind;
use uuid::Uuid;
use web::problem::Problem;

use crate::Commands;
use crate::execute::{ExecuteError, Executed, Folded};
use crate::refusal;
use crate::work::{Found, Pick, Picked, Waiting, Work};

/// How many pieces of work one claim may lose to others before it comes back empty.
const LOST_RACES_MAX: usize = 64;

/// How many images and frames the answer to one claim may list before nothing more is claimed for it. Every request lists
/// those of its product and its video, so that a hundred requests of a long video would fill the memory.
const LISTED_MAX: usize = 100_000;

/// However short a lease is: no more often than this a waiting worker is noted as alive.
const HEARTBEAT_MIN: Duration = Duration::from_secs(1);

/// What a worker asks for.
#[derive(Clone, Debug)]
pub struct Asked {
    pub worker_id: WorkerId,
    pub kinds: Vec<WorkKind>,
    /// At most this many pieces of work.
    pub max: usize,
    /// How long to wait while there is none.
    pub wait: Duration,
}

/// What a worker got.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claimed {
    pub items: Vec<Item>,
    /// Of the last claim; none if nothing was claimed.
    pub position: Option<Position>,
}

/// A piece of work under a lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub lease_id: LeaseId,
    pub lease_until: Timestamp,
    /// The longest pause between two heartbeats that keeps the lease even if two of them are lost.
    pub heartbeat: Duration,
    pub kind: WorkKind,
    pub job_id: JobId,
    pub attempt: u32,
    pub task: Task,
}

impl Item {
    /// How many images and frames it lists.
    fn listed(&self) -> usize {
        match &self.task {
            Task::Job(_) => 0,
            Task::Request(request) => request.images.len() + request.frames.len(),
        }
    }
}

/// What there is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    Job(Box<JobCreated>),
    Request(Box<Request>),
}

/// A match request, with all that is needed to work on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub request_id: RequestId,
    pub product_id: ProductId,
    pub video_id: VideoId,
    pub candidates: u64,
    pub images: Vec<ProductImage>,
    /// Empty if the frames were only counted.
    pub frames: Vec<VideoFrame>,
    pub frame_count: u64,
    /// What earlier holders reported.
    pub totals: Totals,
}

impl Commands {
    /// Gives a worker work of its tenant's, the longest waiting first; waits for some if there is none.
    ///
    /// # Errors
    /// 503 before the board has caught up; 422 for a key that was used for another claim.
    pub(crate) async fn claim(&self, cause: &Cause, asked: &Asked) -> Result<Claimed, Problem> {
        if !self.is_ready() {
            return Err(refusal::no_board(&self.0.board.readiness()));
        }
        let _turn = match cause.idempotency {
            Some(idempotency) => Some(self.0.keys.hold(idempotency.key).await),
            None => None,
        };
        if let Some(before) = self.claimed_before(cause, asked).await? {
            return Ok(before);
        }
        self.sign_in(cause, asked).await?;
        let until = self.0.clock.now().after(asked.wait);
        let head = self.head();
        let mut is_current = false;
        let mut claimed = Claimed::default();
        let mut place = None;
        let mut lost_races = 0;
        while claimed.items.is_empty() && lost_races < LOST_RACES_MAX {
            match self.0.board.pick(&cause.tenant, &asked.kinds, asked.max, place) {
                Pick::Work(picked) => {
                    for picked in picked {
                        if claimed.items.iter().map(Item::listed).sum::<usize>() >= LISTED_MAX {
                            break;
                        }
                        match self.take(cause, asked, picked, claimed.items.len()).await {
                            Ok(Some((item, position))) => {
                                claimed.items.push(item);
                                claimed.position = claimed.position.max(Some(position));
                            }
                            Ok(None) => lost_races += 1,
                            // What was claimed already must reach its worker.
                            Err(_) if !claimed.items.is_empty() => break,
                            Err(problem) => return Err(problem),
                        }
                    }
                }
                // What was in the log when the claim came in is to be had, so that nobody misses their own requests.
                Pick::Nothing(_) if !is_current => {
                    is_current = true;
                    self.0.board.reached(head).await;
                }
                Pick::Nothing(_) if self.0.clock.now() >= until => break,
                Pick::Nothing(waiting) => match self.wait(waiting, cause, asked, until).await {
                    Some(woken) => place = Some(woken),
                    None => break,
                },
            }
        }
        self.0.board.seen(&cause.tenant, &asked.worker_id);
        Ok(claimed)
    }

    /// Waits for work until `until`, and answers the place in the line if there may be some. Whoever waits is alive.
    async fn wait(&self, waiting: Waiting, cause: &Cause, asked: &Asked, until: Timestamp) -> Option<u64> {
        let heartbeat = self.0.settings.leases.heartbeat.max(HEARTBEAT_MIN);
        let woken = waiting.woken();
        tokio::pin!(woken);
        loop {
            let now = self.0.clock.now();
            if now >= until {
                return None;
            }
            self.0.board.seen(&cause.tenant, &asked.worker_id);
            tokio::select! {
                biased;
                place = &mut woken => return Some(place),
                () = self.0.clock.sleep_until(until.min(now.after(heartbeat))) => {}
                () = self.0.board.closing() => return None,
            }
        }
    }

    /// What a claim with the same key got, if there was one.
    async fn claimed_before(&self, cause: &Cause, asked: &Asked) -> Result<Option<Claimed>, Problem> {
        let Some(idempotency) = cause.idempotency else { return Ok(None) };
        if !self.0.board.reached(self.head()).await {
            return Err(refusal::no_board(&self.0.board.readiness()));
        }
        let mut before = Claimed::default();
        for index in 0..asked.max.max(1) {
            let lease_id = lease_id(idempotency, index);
            let lease = match self.0.board.lease(&cause.tenant, lease_id) {
                Found::Open(lease) | Found::Ended(lease) => lease,
                Found::Unknown => break,
            };
            if lease.idempotency.is_some_and(|carried| carried.body != idempotency.body) {
                return Err(Problem::idempotency_key_reused());
            }
            let (task, _) = self.task(&lease.work).await?;
            before.position = before.position.max(Some(lease.position));
            before.items.push(Item {
                lease_id,
                lease_until: lease.claimed_until,
                heartbeat: self.0.settings.leases.heartbeat,
                kind: lease.kind,
                job_id: lease.work.job_id(),
                attempt: lease.attempt,
                task,
            });
        }
        Ok((!before.items.is_empty()).then_some(before))
    }

    /// A claim registers its worker, and counts as a heartbeat.
    async fn sign_in(&self, cause: &Cause, asked: &Asked) -> Result<(), Problem> {
        let present = self.0.board.seen(&cause.tenant, &asked.worker_id);
        let stream = StreamId::worker(&cause.tenant, &asked.worker_id);
        let known = self.0.workers.look(&stream, |folded| folded.state.known().cloned());
        let known = known.await.map_err(refusal::unreadable)?;
        let says_it_all =
            known.as_ref().is_some_and(|known| asked.kinds.iter().all(|kind| known.kinds.contains(kind)));
        if present && says_it_all {
            return Ok(());
        }
        let known_kinds = known.iter().flat_map(|known| &known.kinds);
        let action = worker::Action::Register {
            kinds: asked.kinds.iter().chain(known_kinds).copied().collect(),
            version: known.as_ref().and_then(|known| known.version.clone()),
        };
        let cause = Cause { command_id: CommandId(self.0.ids.next()), idempotency: None, ..cause.clone() };
        let command = worker::Command { worker_id: asked.worker_id.clone(), at: self.0.clock.now(), action };
        self.0.workers.execute(&stream, &cause, command).await.map_err(refusal::single)?;
        Ok(())
    }

    /// Claims one piece of work. None if somebody else was faster, or its job has ended.
    async fn take(
        &self,
        cause: &Cause,
        asked: &Asked,
        picked: Picked,
        index: usize,
    ) -> Result<Option<(Item, Position)>, Problem> {
        let now = self.0.clock.now();
        let id = match cause.idempotency {
            Some(idempotency) => lease_id(idempotency, index),
            None => LeaseId(self.0.ids.next()),
        };
        // Each piece of work is a command of its own, so that several of one job do not pass for one another.
        let idempotency = cause.idempotency.map(|idempotency| Idempotency { key: id.0, ..idempotency });
        let cause = Cause { command_id: CommandId(id.0), idempotency, ..cause.clone() };
        let lease_until = self.0.settings.leases.until(now);
        match self.claim_one(&cause, asked, &picked.work, id, now).await? {
            Some(position) => {
                let (task, attempt) = self.task(&picked.work).await?;
                let item = Item {
                    lease_id: id,
                    lease_until,
                    heartbeat: self.0.settings.leases.heartbeat,
                    kind: picked.kind,
                    job_id: picked.work.job_id(),
                    attempt,
                    task,
                };
                picked.settle(position);
                metrics::counter!("matchbook_claims_total", "outcome" => "claimed").increment(1);
                Ok(Some((item, position)))
            }
            None => {
                picked.settle(self.head());
                metrics::counter!("matchbook_claims_total", "outcome" => "lost").increment(1);
                Ok(None)
            }
        }
    }

    async fn claim_one(
        &self,
        cause: &Cause,
        asked: &Asked,
        work: &Work,
        lease_id: LeaseId,
        now: Timestamp,
    ) -> Result<Option<Position>, Problem> {
        let (worker_id, lease_until) = (asked.worker_id.clone(), self.0.settings.leases.until(now));
        let executed = match work {
            Work::Job(id) => {
                let action = job::Action::Claim { lease_id, worker_id, lease_until };
                let command = job::Command { at: now, action };
                lost_or(self.0.jobs.execute(&StreamId::job(*id), cause, command).await)?
            }
            Work::Request(id, request_id) => {
                let standing = self.job(&cause.tenant, *id).await?.standing;
                let request_id = request_id.clone();
                let action = matching::Action::Claim { request_id, lease_id, worker_id, lease_until };
                let command = matching::Command { job: standing, at: now, action };
                lost_or(self.0.matchings.execute(&StreamId::matching(*id), cause, command).await)?
            }
        };
        Ok(executed.map(|executed| executed.position))
    }

    /// What is to be done, as known by now, and which attempt at it this is.
    async fn task(&self, work: &Work) -> Result<(Task, u32), Problem> {
        let task = match work {
            Work::Job(id) => {
                let task = |folded: &Folded<job::Job>| {
                    let life = folded.state.life()?;
                    Some((Task::Job(Box::new(life.created.clone())), life.attempt))
                };
                self.0.jobs.look(&StreamId::job(*id), task).await
            }
            Work::Request(id, request_id) => {
                let task = |folded: &Folded<matching::Matching>| {
                    let request = folded.state.request(request_id)?;
                    Some((
                        Task::Request(Box::new(request_with_all(request_id, request, &folded.state))),
                        request.attempt(),
                    ))
                };
                self.0.matchings.look(&StreamId::matching(*id), task).await
            }
        };
        task.map_err(refusal::unreadable)?
            .ok_or_else(|| Problem::internal(&"claimed work is not in its stream"))
    }
}

fn request_with_all(id: &RequestId, request: &matching::Request, state: &matching::State) -> Request {
    Request {
        request_id: id.clone(),
        product_id: request.product_id.clone(),
        video_id: request.video_id.clone(),
        candidates: request.candidates,
        images: state.images(&request.product_id).to_vec(),
        frames: state.frames(&request.video_id).to_vec(),
        frame_count: state.frame_count(&request.video_id),
        totals: request.totals,
    }
}

/// The lease of the `index`th piece of work that a claim with a key gets.
fn lease_id(idempotency: Idempotency, index: usize) -> LeaseId {
    LeaseId(Uuid::new_v5(&idempotency.key, format!("lease {index}").as_bytes()))
}

/// A refusal says that somebody else was faster.
fn lost_or<R: domain::decider::Refused>(
    executed: Result<Executed, ExecuteError<R>>,
) -> Result<Option<Executed>, Problem> {
    match executed {
        Ok(executed) => Ok(Some(executed)),
        Err(ExecuteError::Refused(_)) => Ok(None),
        Err(error) => Err(refusal::single(error)),
    }
}
