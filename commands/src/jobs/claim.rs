//! Claiming work: the board proposes, the work's own stream decides.

use std::time::Duration;

use domain::job::extraction::ItemsProgress;
use domain::{image_matching, job, worker};
use event_schemas::envelope::{Cause, Idempotency};
use event_schemas::ids::{CommandId, JobId, LeaseId, Position, ProductId, RequestId, VideoId, WorkerId};
use event_schemas::image_match::{ProductImage, Totals, VideoFrame};
use event_schemas::job::JobCreated;
use event_schemas::json_text::JsonText;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkKind;
use uuid::Uuid;
use web::problem::Problem;
use web::server::ClientSide;

use super::scheduler::{LeaseLookup, Reservation, ReserveOutcome, WaitTicket, Work};
use super::{Jobs, problem};
use crate::engine::execute::{CachedStream, ExecuteError, Executed};
use crate::engine::problem::{Step, after_step, from_execute_error, from_load_error};

/// The number of races that one claim may lose to other claims before it returns empty.
const LOST_RACES_MAX: usize = 64;

/// The number of images and frames in one claim's response after which no more work is claimed for it. Every request
/// lists those of its product and its video, so that a hundred requests of a long video would fill the memory.
const LISTED_MAX: usize = 100_000;

/// The shortest interval between two heartbeats of a waiting worker, however short a lease is.
const HEARTBEAT_MIN: Duration = Duration::from_secs(1);

/// A worker's request for work.
#[derive(Clone, Debug)]
pub(crate) struct ClaimRequest {
    pub(crate) worker_id: WorkerId,
    pub(crate) kinds: Vec<WorkKind>,
    /// The most work items to claim.
    pub(crate) max: usize,
    /// The time to wait while there is no work.
    pub(crate) wait: Duration,
    /// The side of the worker's connection that it may close, which ends the wait.
    pub(crate) client: ClientSide,
}

/// The work that a claim returned.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Claimed {
    pub(crate) items: Vec<ClaimedItem>,
    /// The position of the last claim event; none if nothing was claimed.
    pub(crate) position: Option<Position>,
}

/// A work item under a lease.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClaimedItem {
    pub(crate) lease_id: LeaseId,
    pub(crate) lease_until: Timestamp,
    /// The longest pause between two heartbeats that keeps the lease even if two of them are lost.
    pub(crate) heartbeat: Duration,
    pub(crate) kind: WorkKind,
    pub(crate) job_id: JobId,
    pub(crate) attempt: u32,
    pub(crate) payload: Payload,
}

impl ClaimedItem {
    /// The number of images and frames that it lists.
    fn listed_count(&self) -> usize {
        match &self.payload {
            Payload::Job(_) => 0,
            Payload::MatchRequest(request) => request.images.len() + request.frames.len(),
        }
    }
}

/// The work to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Payload {
    Job(Box<JobPayload>),
    MatchRequest(Box<MatchRequestPayload>),
}

/// A job as a whole.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JobPayload {
    pub(crate) created: JobCreated,
    /// What earlier workers reported of its items.
    pub(crate) items: ItemsProgress,
    /// Where they continue.
    pub(crate) checkpoint: Option<JsonText>,
}

/// A match request with everything that is needed to work on it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MatchRequestPayload {
    pub(crate) request_id: RequestId,
    pub(crate) product_id: ProductId,
    pub(crate) video_id: VideoId,
    pub(crate) candidates: u64,
    pub(crate) images: Vec<ProductImage>,
    /// Empty if the frames were only counted.
    pub(crate) frames: Vec<VideoFrame>,
    pub(crate) frame_count: u64,
    /// The totals that earlier lease holders reported.
    pub(crate) totals: Totals,
}

/// Claims work of the worker's tenant, oldest first, and waits for work if there is none.
///
/// # Errors
/// 503 until the board has caught up; 422 for an idempotency key that was used for another claim.
pub(crate) async fn claim(jobs: &Jobs, cause: &Cause, request: &ClaimRequest) -> Result<Claimed, Problem> {
    Claim { jobs, cause, request }.run().await
}

/// A claim while it is being decided.
#[derive(Clone, Copy)]
struct Claim<'a> {
    jobs: &'a Jobs,
    cause: &'a Cause,
    request: &'a ClaimRequest,
}

impl Claim<'_> {
    async fn run(self) -> Result<Claimed, Problem> {
        let Self { jobs, cause, .. } = self;
        if !jobs.board.is_ready() {
            return Err(problem::board_not_ready(&jobs.board.readiness()));
        }
        let _guard = match cause.idempotency {
            Some(idempotency) => Some(jobs.engine.key_locks.acquire(idempotency.key).await),
            None => None,
        };
        if let Some(earlier) = self.repeated().await? {
            return Ok(earlier);
        }
        match self.register_worker().await? {
            None => self.claim_work().await,
            Some(position) => {
                let registered = Step { name: "registration", position };
                self.claim_work().await.map_err(|problem| after_step(registered, "claim", problem))
            }
        }
    }

    async fn claim_work(self) -> Result<Claimed, Problem> {
        let Self { jobs, cause, request } = self;
        let until = jobs.engine.now().after(request.wait);
        let head = jobs.engine.head();
        let mut is_current = false;
        let mut claimed = Claimed::default();
        let mut ticket = None;
        let mut lost_races = 0;
        while claimed.items.is_empty() && lost_races < LOST_RACES_MAX {
            match jobs.board.reserve(&cause.tenant, &request.kinds, request.max, ticket) {
                ReserveOutcome::Reserved(reservations) => {
                    for reservation in reservations {
                        if claimed.items.iter().map(ClaimedItem::listed_count).sum::<usize>() >= LISTED_MAX {
                            break;
                        }
                        match self.claim_item(reservation, claimed.items.len()).await {
                            Ok(Some((item, position))) => {
                                claimed.items.push(item);
                                claimed.position = claimed.position.max(Some(position));
                            }
                            Ok(None) => lost_races += 1,
                            // Work that is already claimed must reach its worker.
                            Err(_) if !claimed.items.is_empty() => break,
                            Err(problem) => return Err(problem),
                        }
                    }
                }
                // Work that was in the log when the claim arrived must be claimable, so that callers find their own
                // requests.
                ReserveOutcome::Empty(_) if !is_current => {
                    is_current = true;
                    jobs.board.wait_for_position(head).await;
                }
                ReserveOutcome::Empty(_) if jobs.engine.now() >= until => break,
                ReserveOutcome::Empty(waiter) => match self.wait_for_work(waiter, until).await {
                    Some(woken) => ticket = Some(woken),
                    None => break,
                },
            }
        }
        jobs.board.worker_heartbeat(&cause.tenant, &request.worker_id);
        if claimed.items.is_empty() {
            jobs.engine.record_answer(cause, None).await?;
        }
        Ok(claimed)
    }

    /// Waits for work until `until`, and returns the ticket if there may be some. A waiting worker counts as alive.
    async fn wait_for_work(self, waiter: WaitTicket, until: Timestamp) -> Option<u64> {
        let jobs = self.jobs;
        let heartbeat = jobs.leases.heartbeat.max(HEARTBEAT_MIN);
        let woken = waiter.woken();
        tokio::pin!(woken);
        loop {
            let now = jobs.engine.now();
            if now >= until {
                return None;
            }
            jobs.board.worker_heartbeat(&self.cause.tenant, &self.request.worker_id);
            tokio::select! {
                biased;
                ticket = &mut woken => return Some(ticket),
                () = jobs.engine.clock.sleep_until(until.min(now.after(heartbeat))) => {}
                () = jobs.board.closing() => return None,
                () = self.request.client.closed() => return None,
            }
        }
    }

    /// The result of an earlier claim with the same key, if there was one.
    async fn repeated(self) -> Result<Option<Claimed>, Problem> {
        let Self { jobs, cause, request } = self;
        let Some(idempotency) = cause.idempotency else { return Ok(None) };
        if jobs.engine.earlier_answer(cause).await?.is_some() {
            return Ok(Some(Claimed::default()));
        }
        jobs.wait_for_board().await?;
        let mut earlier = Claimed::default();
        for index in 0..request.max.max(1) {
            let lease_id = lease_id(idempotency, index);
            let lease = match jobs.board.lease(&cause.tenant, lease_id) {
                LeaseLookup::Open(lease) | LeaseLookup::Ended(lease) => lease,
                LeaseLookup::Unknown => break,
            };
            if lease.idempotency.is_some_and(|carried| carried.body != idempotency.body) {
                return Err(Problem::idempotency_key_reused());
            }
            let (payload, _) = self.payload(&lease.work, Some(lease.position)).await?;
            earlier.position = earlier.position.max(Some(lease.position));
            earlier.items.push(ClaimedItem {
                lease_id,
                lease_until: lease.claimed_until,
                heartbeat: jobs.leases.heartbeat,
                kind: lease.kind,
                job_id: lease.work.job_id(),
                attempt: lease.attempt,
                payload,
            });
        }
        Ok((!earlier.items.is_empty()).then_some(earlier))
    }

    /// Registers the claim's worker if it is new or has new kinds, and returns the position of that. A claim counts as a
    /// heartbeat.
    async fn register_worker(self) -> Result<Option<Position>, Problem> {
        let Self { jobs, cause, request } = self;
        let is_present = jobs.board.worker_heartbeat(&cause.tenant, &request.worker_id);
        let stream = StreamId::worker(&cause.tenant, &request.worker_id);
        let known = jobs.workers.query(&stream, |folded| folded.state.registered().cloned());
        let known = known.await.map_err(from_load_error)?;
        let kinds_known =
            known.as_ref().is_some_and(|known| request.kinds.iter().all(|kind| known.kinds.contains(kind)));
        if is_present && kinds_known {
            return Ok(None);
        }
        let known_kinds = known.iter().flat_map(|known| &known.kinds);
        let action = worker::Action::Register {
            kinds: request.kinds.iter().chain(known_kinds).copied().collect(),
            version: known.as_ref().and_then(|known| known.version.clone()),
        };
        let cause =
            Cause { command_id: CommandId(jobs.engine.ids.next()), idempotency: None, ..cause.clone() };
        let registered = jobs.execute_worker(&request.worker_id, &cause, action).await;
        Ok(Some(registered.map_err(from_execute_error)?.position))
    }

    /// Claims one work item. None if another claim was faster, or if its job has ended.
    async fn claim_item(
        self,
        reservation: Reservation,
        index: usize,
    ) -> Result<Option<(ClaimedItem, Position)>, Problem> {
        let Self { jobs, cause, .. } = self;
        let now = jobs.engine.now();
        let id = match cause.idempotency {
            Some(idempotency) => lease_id(idempotency, index),
            None => LeaseId(jobs.engine.ids.next()),
        };
        // Each work item is a command of its own, so that several items of one job do not pass for repetitions of one
        // another.
        let idempotency = cause.idempotency.map(|idempotency| Idempotency { key: id.0, ..idempotency });
        let cause = Cause { command_id: CommandId(id.0), idempotency, ..cause.clone() };
        let lease_until = jobs.leases.until(now);
        match self.execute(&cause, &reservation.work, id, now).await? {
            Some(position) => {
                let claimed = Step { name: "claim", position };
                let payload = self.payload(&reservation.work, None).await;
                let (payload, attempt) = payload.map_err(|problem| after_step(claimed, "answer", problem))?;
                let item = ClaimedItem {
                    lease_id: id,
                    lease_until,
                    heartbeat: jobs.leases.heartbeat,
                    kind: reservation.kind,
                    job_id: reservation.work.job_id(),
                    attempt,
                    payload,
                };
                reservation.confirm(position);
                metrics::counter!("matchbook_claims_total", "outcome" => "claimed").increment(1);
                Ok(Some((item, position)))
            }
            None => {
                reservation.confirm(jobs.engine.head());
                metrics::counter!("matchbook_claims_total", "outcome" => "lost").increment(1);
                Ok(None)
            }
        }
    }

    async fn execute(
        self,
        cause: &Cause,
        work: &Work,
        lease_id: LeaseId,
        now: Timestamp,
    ) -> Result<Option<Position>, Problem> {
        let jobs = self.jobs;
        let (worker_id, lease_until) = (self.request.worker_id.clone(), jobs.leases.until(now));
        let executed = match work {
            Work::Job(id) => {
                let action = job::Action::Claim { lease_id, worker_id, lease_until };
                let command = job::Command { at: now, action };
                claimed_or_lost(jobs.jobs.execute_part(&StreamId::job(*id), cause, &command).await)?
            }
            Work::Request(id, request_id) => {
                let availability = jobs.job(&cause.tenant, *id).await?.availability;
                let request_id = request_id.clone();
                let action = image_matching::Action::Claim { request_id, lease_id, worker_id, lease_until };
                let command = image_matching::Command { job: availability, at: now, action };
                claimed_or_lost(
                    jobs.image_matchings.execute_part(&StreamId::image_matching(*id), cause, &command).await,
                )?
            }
        };
        Ok(executed.map(|executed| executed.position))
    }

    /// The payload of a work item and its attempt number: as of a position, or as they are now.
    async fn payload(self, work: &Work, as_of: Option<Position>) -> Result<(Payload, u32), Problem> {
        let jobs = self.jobs;
        let payload = match work {
            Work::Job(id) => {
                let payload = |folded: &CachedStream<job::JobDecider>| {
                    let details = folded.state.details()?;
                    let (created, items) = (details.created.clone(), details.items.clone());
                    let checkpoint = details.checkpoint.clone();
                    Some((Payload::Job(Box::new(JobPayload { created, items, checkpoint })), details.attempt))
                };
                let stream = StreamId::job(*id);
                match as_of {
                    Some(position) => jobs.jobs.query_as_of(&stream, position, payload).await,
                    None => jobs.jobs.query(&stream, payload).await,
                }
            }
            Work::Request(id, request_id) => {
                let payload = |folded: &CachedStream<image_matching::ImageMatchingDecider>| {
                    let request = folded.state.request(request_id)?;
                    Some((
                        Payload::MatchRequest(Box::new(match_request_payload(
                            request_id,
                            request,
                            &folded.state,
                        ))),
                        request.attempt(),
                    ))
                };
                let stream = StreamId::image_matching(*id);
                match as_of {
                    Some(position) => jobs.image_matchings.query_as_of(&stream, position, payload).await,
                    None => jobs.image_matchings.query(&stream, payload).await,
                }
            }
        };
        payload
            .map_err(from_load_error)?
            .ok_or_else(|| Problem::internal(&"claimed work is not in its stream"))
    }
}

fn match_request_payload(
    id: &RequestId,
    request: &image_matching::Request,
    state: &image_matching::State,
) -> MatchRequestPayload {
    MatchRequestPayload {
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

/// The lease id of the `index`th work item of a claim with a key.
fn lease_id(idempotency: Idempotency, index: usize) -> LeaseId {
    LeaseId(Uuid::new_v5(&idempotency.key, format!("lease {index}").as_bytes()))
}

/// A refusal means that another claim was faster.
fn claimed_or_lost<R: domain::decider::Refused>(
    executed: Result<Executed, ExecuteError<R>>,
) -> Result<Option<Executed>, Problem> {
    match executed {
        Ok(executed) => Ok(Some(executed)),
        Err(ExecuteError::Refused(_)) => Ok(None),
        Err(error) => Err(from_execute_error(error)),
    }
}
