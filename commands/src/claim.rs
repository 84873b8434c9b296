//! Claiming work: the board proposes, the work's own stream decides.

use std::time::Duration;

use domain::{image_matching, job, worker};
use event_schemas::envelope::{Cause, Idempotency};
use event_schemas::ids::{CommandId, JobId, LeaseId, Position, ProductId, RequestId, VideoId, WorkerId};
use event_schemas::image_match::{ProductImage, Totals, VideoFrame};
use event_schemas::job::JobCreated;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkKind;
use uuid::Uuid;
use web::problem::Problem;

use crate::Commands;
use crate::execute::{CachedStream, ExecuteError, Executed};
use crate::problem;
use crate::work::{LeaseLookup, Reservation, ReserveOutcome, WaitTicket, Work};

/// The number of races that one claim may lose to other claims before it returns empty.
const LOST_RACES_MAX: usize = 64;

/// The number of images and frames in one claim's response after which no more work is claimed for it. Every request
/// lists those of its product and its video, so that a hundred requests of a long video would fill the memory.
const LISTED_MAX: usize = 100_000;

/// The shortest interval between two heartbeats of a waiting worker, however short a lease is.
const HEARTBEAT_MIN: Duration = Duration::from_secs(1);

/// A worker's request for work.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    pub worker_id: WorkerId,
    pub kinds: Vec<WorkKind>,
    /// The most work items to claim.
    pub max: usize,
    /// The time to wait while there is no work.
    pub wait: Duration,
}

/// The work that a claim returned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claimed {
    pub items: Vec<ClaimedItem>,
    /// The position of the last claim event; none if nothing was claimed.
    pub position: Option<Position>,
}

/// A work item under a lease.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimedItem {
    pub lease_id: LeaseId,
    pub lease_until: Timestamp,
    /// The longest pause between two heartbeats that keeps the lease even if two of them are lost.
    pub heartbeat: Duration,
    pub kind: WorkKind,
    pub job_id: JobId,
    pub attempt: u32,
    pub payload: Payload,
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
pub enum Payload {
    Job(Box<JobCreated>),
    MatchRequest(Box<MatchRequestPayload>),
}

/// A match request with everything that is needed to work on it.
#[derive(Clone, Debug, PartialEq)]
pub struct MatchRequestPayload {
    pub request_id: RequestId,
    pub product_id: ProductId,
    pub video_id: VideoId,
    pub candidates: u64,
    pub images: Vec<ProductImage>,
    /// Empty if the frames were only counted.
    pub frames: Vec<VideoFrame>,
    pub frame_count: u64,
    /// The totals that earlier lease holders reported.
    pub totals: Totals,
}

impl Commands {
    /// Claims work of the worker's tenant, oldest first, and waits for work if there is none.
    ///
    /// # Errors
    /// 503 until the board has caught up; 422 for an idempotency key that was used for another claim.
    pub(crate) async fn claim(&self, cause: &Cause, request: &ClaimRequest) -> Result<Claimed, Problem> {
        if !self.is_ready() {
            return Err(problem::board_not_ready(&self.0.board.readiness()));
        }
        let _guard = match cause.idempotency {
            Some(idempotency) => Some(self.0.key_locks.acquire(idempotency.key).await),
            None => None,
        };
        if let Some(earlier) = self.repeated_claim(cause, request).await? {
            return Ok(earlier);
        }
        self.register_worker(cause, request).await?;
        let until = self.0.clock.now().after(request.wait);
        let head = self.head();
        let mut is_current = false;
        let mut claimed = Claimed::default();
        let mut ticket = None;
        let mut lost_races = 0;
        while claimed.items.is_empty() && lost_races < LOST_RACES_MAX {
            match self.0.board.reserve(&cause.tenant, &request.kinds, request.max, ticket) {
                ReserveOutcome::Reserved(reservations) => {
                    for reservation in reservations {
                        if claimed.items.iter().map(ClaimedItem::listed_count).sum::<usize>() >= LISTED_MAX {
                            break;
                        }
                        match self.claim_item(cause, request, reservation, claimed.items.len()).await {
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
                    self.0.board.wait_for_position(head).await;
                }
                ReserveOutcome::Empty(_) if self.0.clock.now() >= until => break,
                ReserveOutcome::Empty(waiter) => {
                    match self.wait_for_work(waiter, cause, request, until).await {
                        Some(woken) => ticket = Some(woken),
                        None => break,
                    }
                }
            }
        }
        self.0.board.worker_heartbeat(&cause.tenant, &request.worker_id);
        Ok(claimed)
    }

    /// Waits for work until `until`, and returns the ticket if there may be some. A waiting worker counts as alive.
    async fn wait_for_work(
        &self,
        waiter: WaitTicket,
        cause: &Cause,
        request: &ClaimRequest,
        until: Timestamp,
    ) -> Option<u64> {
        let heartbeat = self.0.settings.leases.heartbeat.max(HEARTBEAT_MIN);
        let woken = waiter.woken();
        tokio::pin!(woken);
        loop {
            let now = self.0.clock.now();
            if now >= until {
                return None;
            }
            self.0.board.worker_heartbeat(&cause.tenant, &request.worker_id);
            tokio::select! {
                biased;
                ticket = &mut woken => return Some(ticket),
                () = self.0.clock.sleep_until(until.min(now.after(heartbeat))) => {}
                () = self.0.board.closing() => return None,
            }
        }
    }

    /// The result of an earlier claim with the same key, if there was one.
    async fn repeated_claim(
        &self,
        cause: &Cause,
        request: &ClaimRequest,
    ) -> Result<Option<Claimed>, Problem> {
        let Some(idempotency) = cause.idempotency else { return Ok(None) };
        if !self.0.board.wait_for_position(self.head()).await {
            return Err(problem::board_not_ready(&self.0.board.readiness()));
        }
        let mut earlier = Claimed::default();
        for index in 0..request.max.max(1) {
            let lease_id = lease_id(idempotency, index);
            let lease = match self.0.board.lease(&cause.tenant, lease_id) {
                LeaseLookup::Open(lease) | LeaseLookup::Ended(lease) => lease,
                LeaseLookup::Unknown => break,
            };
            if lease.idempotency.is_some_and(|carried| carried.body != idempotency.body) {
                return Err(Problem::idempotency_key_reused());
            }
            let (payload, _) = self.payload(&lease.work).await?;
            earlier.position = earlier.position.max(Some(lease.position));
            earlier.items.push(ClaimedItem {
                lease_id,
                lease_until: lease.claimed_until,
                heartbeat: self.0.settings.leases.heartbeat,
                kind: lease.kind,
                job_id: lease.work.job_id(),
                attempt: lease.attempt,
                payload,
            });
        }
        Ok((!earlier.items.is_empty()).then_some(earlier))
    }

    /// Registers the claim's worker if it is new or has new kinds. A claim counts as a heartbeat.
    async fn register_worker(&self, cause: &Cause, request: &ClaimRequest) -> Result<(), Problem> {
        let is_present = self.0.board.worker_heartbeat(&cause.tenant, &request.worker_id);
        let stream = StreamId::worker(&cause.tenant, &request.worker_id);
        let known = self.0.workers.query(&stream, |folded| folded.state.registered().cloned());
        let known = known.await.map_err(problem::from_load_error)?;
        let kinds_known =
            known.as_ref().is_some_and(|known| request.kinds.iter().all(|kind| known.kinds.contains(kind)));
        if is_present && kinds_known {
            return Ok(());
        }
        let known_kinds = known.iter().flat_map(|known| &known.kinds);
        let action = worker::Action::Register {
            kinds: request.kinds.iter().chain(known_kinds).copied().collect(),
            version: known.as_ref().and_then(|known| known.version.clone()),
        };
        let cause = Cause { command_id: CommandId(self.0.ids.next()), idempotency: None, ..cause.clone() };
        let command =
            worker::Command { worker_id: request.worker_id.clone(), at: self.0.clock.now(), action };
        self.0.workers.execute(&stream, &cause, command).await.map_err(problem::from_execute_error)?;
        Ok(())
    }

    /// Claims one work item. None if another claim was faster, or if its job has ended.
    async fn claim_item(
        &self,
        cause: &Cause,
        request: &ClaimRequest,
        reservation: Reservation,
        index: usize,
    ) -> Result<Option<(ClaimedItem, Position)>, Problem> {
        let now = self.0.clock.now();
        let id = match cause.idempotency {
            Some(idempotency) => lease_id(idempotency, index),
            None => LeaseId(self.0.ids.next()),
        };
        // Each work item is a command of its own, so that several items of one job do not pass for repetitions of one
        // another.
        let idempotency = cause.idempotency.map(|idempotency| Idempotency { key: id.0, ..idempotency });
        let cause = Cause { command_id: CommandId(id.0), idempotency, ..cause.clone() };
        let lease_until = self.0.settings.leases.until(now);
        match self.execute_claim(&cause, request, &reservation.work, id, now).await? {
            Some(position) => {
                let (payload, attempt) = self.payload(&reservation.work).await?;
                let item = ClaimedItem {
                    lease_id: id,
                    lease_until,
                    heartbeat: self.0.settings.leases.heartbeat,
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
                reservation.confirm(self.head());
                metrics::counter!("matchbook_claims_total", "outcome" => "lost").increment(1);
                Ok(None)
            }
        }
    }

    async fn execute_claim(
        &self,
        cause: &Cause,
        request: &ClaimRequest,
        work: &Work,
        lease_id: LeaseId,
        now: Timestamp,
    ) -> Result<Option<Position>, Problem> {
        let (worker_id, lease_until) = (request.worker_id.clone(), self.0.settings.leases.until(now));
        let executed = match work {
            Work::Job(id) => {
                let action = job::Action::Claim { lease_id, worker_id, lease_until };
                let command = job::Command { at: now, action };
                claimed_or_lost(self.0.jobs.execute(&StreamId::job(*id), cause, command).await)?
            }
            Work::Request(id, request_id) => {
                let availability = self.job(&cause.tenant, *id).await?.availability;
                let request_id = request_id.clone();
                let action = image_matching::Action::Claim { request_id, lease_id, worker_id, lease_until };
                let command = image_matching::Command { job: availability, at: now, action };
                claimed_or_lost(
                    self.0.image_matchings.execute(&StreamId::image_matching(*id), cause, command).await,
                )?
            }
        };
        Ok(executed.map(|executed| executed.position))
    }

    /// The current payload of a work item, and its attempt number.
    async fn payload(&self, work: &Work) -> Result<(Payload, u32), Problem> {
        let payload = match work {
            Work::Job(id) => {
                let payload = |folded: &CachedStream<job::JobDecider>| {
                    let details = folded.state.details()?;
                    Some((Payload::Job(Box::new(details.created.clone())), details.attempt))
                };
                self.0.jobs.query(&StreamId::job(*id), payload).await
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
                self.0.image_matchings.query(&StreamId::image_matching(*id), payload).await
            }
        };
        payload
            .map_err(problem::from_load_error)?
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
        Err(error) => Err(problem::from_execute_error(error)),
    }
}
