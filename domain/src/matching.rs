//! What a matching job has to compare, who works on it, and how far that is.
//!
//! Invariants: an image of a product and a frame of a video are registered once; a request says one thing for ever, has
//! at most one lease in force, and is completed once; its totals never fall, so that a report that is repeated, late or
//! redone never counts twice; nothing is taken once the job has ended.

pub mod blockers;
pub mod eta;
pub mod found;
pub mod percentile;
pub mod summary;
pub mod tally;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use event_schemas::failure::{ClassifiedError, FailureCode};
use event_schemas::ids::{FrameId, ImageId, LeaseId, ProductId, RequestId, VideoId, WorkerId};
use event_schemas::job::Phase;
use event_schemas::matching::{
    Frames, JobWorkerLost, MatchProgressReported, MatchRequestClaimed, MatchRequestCompleted,
    MatchRequestFailed, MatchRequestLeaseExpired, MatchRequestRetried, MatchRequested, MatchingEvent,
    ProductImage, ProductImagesRegistered, Totals, VideoFrame, VideoFramesRegistered,
};
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkerEnd;
use serde::Serialize;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};
use crate::job::Standing;
use crate::lease::Lease;

/// How often a request may fail before it waits for its job to be retried. A lost worker is no failure of the request.
pub const ATTEMPTS_MAX: u32 = 3;

/// How many times a request may fail with an error that nobody knows: once more is worth a try.
const UNKNOWN_ATTEMPTS_MAX: u32 = 2;

/// The largest list in one event, in bytes of JSON. A longer registration becomes several events, so that an append can
/// be split between them.
pub const LIST_BYTES_MAX: usize = 256 * 1024;

/// What someone wants of a job's matching, and when they say that it happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// How the job stands, looked up in its own stream.
    pub job: Standing,
    pub at: Timestamp,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Images on top of those that the product has; those that it has already are passed over.
    RegisterImages {
        product_id: ProductId,
        images: Vec<ProductImage>,
    },
    /// Listed frames come on top of those before; a count replaces a smaller one.
    RegisterFrames {
        video_id: VideoId,
        frames: Frames,
    },
    Request(MatchRequested),
    Claim {
        request_id: RequestId,
        lease_id: LeaseId,
        worker_id: WorkerId,
        lease_until: Timestamp,
    },
    ExpireLease {
        lease_id: LeaseId,
    },
    /// Totals so far, and whether that is all.
    Report {
        request_id: RequestId,
        lease_id: Option<LeaseId>,
        totals: Totals,
        completed: bool,
    },
    Fail {
        lease_id: LeaseId,
        error: ClassifiedError,
    },
    /// A worker is gone; the leases that it holds here end.
    EndWorker {
        worker_id: WorkerId,
        end: WorkerEnd,
    },
    /// The job is tried again, so what had failed for good is, too.
    RetryParked,
}

/// A job's matching as its decisions need it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    products: BTreeMap<ProductId, Images>,
    videos: BTreeMap<VideoId, KnownFrames>,
    requests: HashMap<RequestId, Request>,
    /// Requests that a worker may claim, by their place in the line.
    waiting: BTreeMap<u64, RequestId>,
    /// Leases in force.
    leases: BTreeMap<LeaseId, RequestId>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Images {
    ids: BTreeSet<ImageId>,
    /// In the order of their registration.
    images: Vec<ProductImage>,
}

/// The frames of a video, as far as they are known.
#[derive(Clone, Debug, PartialEq)]
enum KnownFrames {
    Listed { ids: BTreeSet<FrameId>, frames: Vec<VideoFrame> },
    Counted(u64),
}

/// A match request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub product_id: ProductId,
    pub video_id: VideoId,
    /// How many pairs of image and frame there are to compare.
    pub candidates: u64,
    pub totals: Totals,
    pub work: Work,
    /// The place in the line, kept when a lease is lost: whoever waited longest goes first.
    place: u64,
    /// How often it has failed since it was requested, or retried.
    failures: u32,
    /// The lease under which it last failed or was completed, so that the same report sent again is recognised.
    reported_under: Option<LeaseId>,
}

/// Whose turn it is with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// A worker's, any worker's.
    Waiting,
    Claimed(Lease),
    /// Nobody's, until the job is retried.
    Parked,
    Completed,
}

impl Request {
    /// Which attempt is in course, or comes next; from 1.
    pub fn attempt(&self) -> u32 {
        self.failures + 1
    }
}

/// Why a command to a job's matching is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such job; create it first")]
    NoJob,
    #[error("the job has ended as {0} and takes nothing more; retry a failed job, or create another one")]
    JobEnded(Phase),
    #[error("the job has no match request {0}; issue it first")]
    NoRequest(RequestId),
    #[error("the request {0} exists and says something else; choose another request_id")]
    RequestExists(RequestId),
    #[error(
        "the frames of video {0} were named one by one before, so they cannot be counted; name the further ones"
    )]
    FramesListed(VideoId),
    #[error("the frames of video {0} were only counted before, so they cannot be named; send the new count")]
    FramesCounted(VideoId),
    #[error(
        "the request {0} cannot be claimed: it is claimed, completed, or waits for its job to be retried"
    )]
    NotClaimable(RequestId),
    #[error("the lease is not the one in force on this request; claim work again")]
    LeaseLost,
    #[error("the lease is in force on another request; every claim takes a new lease id")]
    LeaseReused,
    #[error("the request {0} is completed and counts nothing more")]
    Completed(RequestId),
    #[error("{field} is {reported}, but the request has only {candidates} candidates")]
    TooMany { field: TotalsField, reported: u64, candidates: u64 },
}

/// One of the numbers of [`Totals`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TotalsField {
    CandidatesProcessed,
    VectorPassDone,
    RansacChecked,
}

impl std::fmt::Display for TotalsField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::CandidatesProcessed => "candidates_processed",
            Self::VectorPassDone => "vector_pass_done",
            Self::RansacChecked => "ransac_checked",
        })
    }
}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NoJob | Self::NoRequest(_) => RefusalKind::NotFound,
            Self::LeaseLost => RefusalKind::LeaseLost,
            Self::JobEnded(_)
            | Self::RequestExists(_)
            | Self::FramesListed(_)
            | Self::FramesCounted(_)
            | Self::NotClaimable(_)
            | Self::Completed(_) => RefusalKind::Conflict,
            Self::LeaseReused | Self::TooMany { .. } => RefusalKind::Invalid,
        }
    }
}

impl State {
    /// The product's images, in the order of their registration; empty for a product that has none.
    pub fn images(&self, product: &ProductId) -> &[ProductImage] {
        self.products.get(product).map_or(&[], |known| &known.images)
    }

    /// The video's frames that were named, in the order of their registration.
    pub fn frames(&self, video: &VideoId) -> &[VideoFrame] {
        match self.videos.get(video) {
            Some(KnownFrames::Listed { frames, .. }) => frames,
            Some(KnownFrames::Counted(_)) | None => &[],
        }
    }

    /// How many frames the video has, named or counted.
    pub fn frame_count(&self, video: &VideoId) -> u64 {
        match self.videos.get(video) {
            Some(KnownFrames::Listed { frames, .. }) => frames.len() as u64,
            Some(KnownFrames::Counted(count)) => *count,
            None => 0,
        }
    }

    pub fn request(&self, request: &RequestId) -> Option<&Request> {
        self.requests.get(request)
    }

    /// The requests that a worker may claim, longest waiting first.
    pub fn waiting(&self) -> impl Iterator<Item = (&RequestId, &Request)> {
        self.waiting.values().filter_map(|id| self.requests.get_key_value(id))
    }

    /// The leases in force, with their requests.
    pub fn leases(&self) -> impl Iterator<Item = (&Lease, &RequestId)> {
        self.leases.values().filter_map(|id| self.requests.get_key_value(id)).filter_map(|(id, request)| {
            match &request.work {
                Work::Claimed(lease) => Some((lease, id)),
                Work::Waiting | Work::Parked | Work::Completed => None,
            }
        })
    }

    /// The request on which this lease is in force.
    pub fn under_lease(&self, lease: LeaseId) -> Option<(&RequestId, &Request)> {
        self.requests.get_key_value(self.leases.get(&lease)?)
    }

    /// The request that this lease is, or was at its last report of an end, about. O(requests) for a lease that is no
    /// longer in force.
    pub fn about_lease(&self, lease: LeaseId) -> Option<(&RequestId, &Request)> {
        self.under_lease(lease)
            .or_else(|| self.requests.iter().find(|(_, request)| request.reported_under == Some(lease)))
    }

    /// Whether a retry of the job has something to take up again.
    pub fn has_parked(&self) -> bool {
        self.requests.values().any(|request| request.work == Work::Parked)
    }
}

/// Decides for the streams `matching-<job>`.
#[derive(Debug)]
pub enum Matching {}

impl Decider for Matching {
    type State = State;
    type Command = Command;
    type Event = MatchingEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<MatchingEvent>>, Refusal> {
        let events = match (&command.action, command.job) {
            (_, Standing::Missing) => return Err(Refusal::NoJob),
            // A job that can never go on needs nobody to end its leases; a failed one may be retried, and then does.
            (
                Action::ExpireLease { .. } | Action::EndWorker { .. },
                Standing::Ended(Phase::Completed | Phase::Cancelled),
            ) => Vec::new(),
            (Action::ExpireLease { lease_id }, _) => expire_lease(*lease_id, state),
            (Action::EndWorker { worker_id, end }, _) => end_worker(worker_id, *end, state),
            (_, Standing::Ended(phase)) => return Err(Refusal::JobEnded(phase)),
            (action, Standing::Open) => decide_open(action, state)?,
        };
        Ok(events.into_iter().map(|event| Occurred { at: command.at, event }).collect())
    }

    fn evolve(state: State, event: &MatchingEvent, _occurred_at: Timestamp) -> State {
        evolve(state, event)
    }
}

fn decide_open(action: &Action, state: &State) -> Result<Vec<MatchingEvent>, Refusal> {
    match action {
        Action::RegisterImages { product_id, images } => Ok(register_images(product_id, images, state)),
        Action::RegisterFrames { video_id, frames } => register_frames(video_id, frames, state),
        Action::Request(request) => match state.requests.get(&request.request_id) {
            None => Ok(vec![request.clone().into()]),
            Some(known) if says_the_same(known, request) => Ok(Vec::new()),
            Some(_) => Err(Refusal::RequestExists(request.request_id.clone())),
        },
        Action::Claim { request_id, lease_id, worker_id, lease_until } => claim(
            request_id,
            &Lease { id: *lease_id, worker_id: worker_id.clone(), until: *lease_until },
            state,
        ),
        Action::Report { request_id, lease_id, totals, completed } => {
            report(request_id, *lease_id, *totals, *completed, state)
        }
        Action::Fail { lease_id, error } => fail(*lease_id, error, state),
        Action::RetryParked => {
            let mut parked: Vec<_> =
                state.requests.iter().filter(|(_, request)| request.work == Work::Parked).collect();
            parked.sort_by_key(|(_, request)| request.place);
            Ok(parked
                .into_iter()
                .map(|(id, _)| MatchRequestRetried { request_id: id.clone() }.into())
                .collect())
        }
        Action::ExpireLease { lease_id } => Ok(expire_lease(*lease_id, state)),
        Action::EndWorker { worker_id, end } => Ok(end_worker(worker_id, *end, state)),
    }
}

fn register_images(product_id: &ProductId, images: &[ProductImage], state: &State) -> Vec<MatchingEvent> {
    let known = state.products.get(product_id);
    let mut seen = BTreeSet::new();
    let new = images
        .iter()
        .filter(|image| {
            known.is_none_or(|known| !known.ids.contains(&image.img_id)) && seen.insert(&image.img_id)
        })
        .cloned();
    in_parts(new)
        .into_iter()
        .map(|images| ProductImagesRegistered { product_id: product_id.clone(), images }.into())
        .collect()
}

fn register_frames(
    video_id: &VideoId,
    frames: &Frames,
    state: &State,
) -> Result<Vec<MatchingEvent>, Refusal> {
    let registered = |frames| VideoFramesRegistered { video_id: video_id.clone(), frames }.into();
    match (frames, state.videos.get(video_id)) {
        (Frames::Listed(_), Some(KnownFrames::Counted(_))) => Err(Refusal::FramesCounted(video_id.clone())),
        (Frames::Counted(_), Some(KnownFrames::Listed { .. })) => {
            Err(Refusal::FramesListed(video_id.clone()))
        }
        (Frames::Counted(count), known) => {
            let before = if let Some(KnownFrames::Counted(before)) = known { *before } else { 0 };
            Ok(if *count > before { vec![registered(Frames::Counted(*count))] } else { Vec::new() })
        }
        (Frames::Listed(frames), known) => {
            let mut seen = BTreeSet::new();
            let is_known = |frame: &VideoFrame| match known {
                Some(KnownFrames::Listed { ids, .. }) => ids.contains(&frame.frame_id),
                Some(KnownFrames::Counted(_)) | None => false,
            };
            let new = frames.iter().filter(|frame| !is_known(frame) && seen.insert(&frame.frame_id)).cloned();
            Ok(in_parts(new).into_iter().map(|frames| registered(Frames::Listed(frames))).collect())
        }
    }
}

/// The items in lists of at most [`LIST_BYTES_MAX`], but of one item at least.
fn in_parts<T: Serialize>(items: impl Iterator<Item = T>) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        // The comma counts, too. What cannot be written has no size to speak of, and fails where it is stored.
        let size = serde_json::to_vec(&item).map_or(0, |json| json.len()) + 1;
        match parts.last_mut() {
            Some(part) if bytes + size <= LIST_BYTES_MAX => {
                part.push(item);
                bytes += size;
            }
            _ => {
                parts.push(vec![item]);
                bytes = size;
            }
        }
    }
    parts
}

fn says_the_same(known: &Request, request: &MatchRequested) -> bool {
    known.product_id == request.product_id
        && known.video_id == request.video_id
        && known.candidates == request.candidates
}

fn claim(request_id: &RequestId, lease: &Lease, state: &State) -> Result<Vec<MatchingEvent>, Refusal> {
    let request = state.requests.get(request_id).ok_or_else(|| Refusal::NoRequest(request_id.clone()))?;
    match &request.work {
        Work::Claimed(held) if held.id == lease.id && held.worker_id == lease.worker_id => Ok(Vec::new()),
        Work::Claimed(_) | Work::Parked | Work::Completed => Err(Refusal::NotClaimable(request_id.clone())),
        Work::Waiting if state.leases.contains_key(&lease.id) => Err(Refusal::LeaseReused),
        Work::Waiting => Ok(vec![
            MatchRequestClaimed {
                request_id: request_id.clone(),
                lease_id: lease.id,
                worker_id: lease.worker_id.clone(),
                attempt: request.attempt(),
                lease_until: lease.until,
            }
            .into(),
        ]),
    }
}

fn expire_lease(lease_id: LeaseId, state: &State) -> Vec<MatchingEvent> {
    match state.under_lease(lease_id) {
        Some((request_id, Request { work: Work::Claimed(lease), .. })) => vec![
            MatchRequestLeaseExpired {
                request_id: request_id.clone(),
                lease_id,
                worker_id: lease.worker_id.clone(),
            }
            .into(),
        ],
        _ => Vec::new(),
    }
}

fn end_worker(worker_id: &WorkerId, end: WorkerEnd, state: &State) -> Vec<MatchingEvent> {
    let held: Vec<LeaseId> = state
        .leases()
        .filter(|(lease, _)| lease.worker_id == *worker_id)
        .map(|(lease, _)| lease.id)
        .collect();
    if held.is_empty() {
        return Vec::new();
    }
    vec![JobWorkerLost { worker_id: worker_id.clone(), end, lease_ids: held }.into()]
}

fn report(
    request_id: &RequestId,
    lease_id: Option<LeaseId>,
    totals: Totals,
    completed: bool,
    state: &State,
) -> Result<Vec<MatchingEvent>, Refusal> {
    let request = state.requests.get(request_id).ok_or_else(|| Refusal::NoRequest(request_id.clone()))?;
    within_candidates(totals, request.candidates)?;
    match (&request.work, lease_id) {
        (Work::Claimed(lease), lease_id) if lease_id == Some(lease.id) => {}
        // Nobody else may report while somebody holds the request.
        (Work::Claimed(_), _) => return Err(Refusal::LeaseLost),
        (_, None) => {}
        (Work::Completed, lease_id) if lease_id == request.reported_under => {}
        (_, Some(_)) => return Err(Refusal::LeaseLost),
    }
    let risen = greatest(totals, request.totals);
    if request.work == Work::Completed {
        return if risen == request.totals {
            Ok(Vec::new())
        } else {
            Err(Refusal::Completed(request_id.clone()))
        };
    }
    let request_id = request_id.clone();
    Ok(if completed {
        vec![MatchRequestCompleted { request_id, lease_id, totals: risen }.into()]
    } else if risen == request.totals {
        Vec::new()
    } else {
        vec![MatchProgressReported { request_id, lease_id, totals: risen }.into()]
    })
}

fn within_candidates(totals: Totals, candidates: u64) -> Result<(), Refusal> {
    let fields = [
        (TotalsField::CandidatesProcessed, totals.candidates_processed),
        (TotalsField::VectorPassDone, totals.vector_pass_done),
        (TotalsField::RansacChecked, totals.ransac_checked),
    ];
    match fields.into_iter().find(|(_, reported)| *reported > candidates) {
        Some((field, reported)) => Err(Refusal::TooMany { field, reported, candidates }),
        None => Ok(()),
    }
}

/// The greater of the two, number by number. Commutative and idempotent, so the order and the number of reports do not
/// matter.
pub(crate) fn greatest(a: Totals, b: Totals) -> Totals {
    Totals {
        candidates_processed: a.candidates_processed.max(b.candidates_processed),
        vector_pass_done: a.vector_pass_done.max(b.vector_pass_done),
        ransac_checked: a.ransac_checked.max(b.ransac_checked),
    }
}

fn fail(lease_id: LeaseId, error: &ClassifiedError, state: &State) -> Result<Vec<MatchingEvent>, Refusal> {
    let Some((request_id, request)) = state.under_lease(lease_id) else {
        // The same failure, reported again; but a completed request has not failed.
        return match state.about_lease(lease_id) {
            Some((_, request)) if request.work != Work::Completed => Ok(Vec::new()),
            _ => Err(Refusal::LeaseLost),
        };
    };
    let attempts_max = match error.code {
        FailureCode::Unknown => UNKNOWN_ATTEMPTS_MAX,
        _ => ATTEMPTS_MAX,
    };
    let attempt = request.attempt();
    let claimable = error.retryable && attempt < attempts_max;
    Ok(vec![
        MatchRequestFailed {
            request_id: request_id.clone(),
            lease_id,
            attempt,
            error: error.clone(),
            claimable,
        }
        .into(),
    ])
}

fn evolve(mut state: State, event: &MatchingEvent) -> State {
    match event {
        MatchingEvent::ProductImagesRegistered(registered) => {
            let known = state.products.entry(registered.product_id.clone()).or_default();
            known.ids.extend(registered.images.iter().map(|image| image.img_id.clone()));
            known.images.extend_from_slice(&registered.images);
        }
        MatchingEvent::VideoFramesRegistered(registered) => register(&mut state.videos, registered),
        MatchingEvent::MatchRequested(requested) => {
            let place = state.requests.len() as u64;
            state.waiting.insert(place, requested.request_id.clone());
            state.requests.insert(
                requested.request_id.clone(),
                Request {
                    product_id: requested.product_id.clone(),
                    video_id: requested.video_id.clone(),
                    candidates: requested.candidates,
                    totals: Totals::default(),
                    work: Work::Waiting,
                    place,
                    failures: 0,
                    reported_under: None,
                },
            );
        }
        MatchingEvent::MatchRequestClaimed(claimed) => {
            let lease = Lease {
                id: claimed.lease_id,
                worker_id: claimed.worker_id.clone(),
                until: claimed.lease_until,
            };
            state.leases.insert(lease.id, claimed.request_id.clone());
            state.set_work(&claimed.request_id, Work::Claimed(lease));
        }
        MatchingEvent::MatchRequestLeaseExpired(expired) => state.end_lease(expired.lease_id),
        MatchingEvent::JobWorkerLost(lost) => lost.lease_ids.iter().for_each(|id| state.end_lease(*id)),
        MatchingEvent::MatchRequestFailed(failed) => {
            if let Some(request) = state.requests.get_mut(&failed.request_id) {
                request.failures = failed.attempt;
                request.reported_under = Some(failed.lease_id);
            }
            state.set_work(&failed.request_id, if failed.claimable { Work::Waiting } else { Work::Parked });
        }
        MatchingEvent::MatchProgressReported(reported) => {
            if let Some(request) = state.requests.get_mut(&reported.request_id) {
                request.totals = greatest(request.totals, reported.totals);
            }
        }
        MatchingEvent::MatchRequestCompleted(completed) => {
            if let Some(request) = state.requests.get_mut(&completed.request_id) {
                request.totals = greatest(request.totals, completed.totals);
                request.reported_under = completed.lease_id;
            }
            state.set_work(&completed.request_id, Work::Completed);
        }
        MatchingEvent::MatchRequestRetried(retried) => {
            if let Some(request) = state.requests.get_mut(&retried.request_id) {
                request.failures = 0;
            }
            state.set_work(&retried.request_id, Work::Waiting);
        }
        // These are in the streams of the shards.
        MatchingEvent::MatchFound(_) | MatchingEvent::MatchEvidenceAttached(_) => {}
    }
    state
}

fn register(videos: &mut BTreeMap<VideoId, KnownFrames>, registered: &VideoFramesRegistered) {
    match &registered.frames {
        Frames::Counted(count) => {
            videos.insert(registered.video_id.clone(), KnownFrames::Counted(*count));
        }
        Frames::Listed(new) => {
            let known = videos
                .entry(registered.video_id.clone())
                .or_insert_with(|| KnownFrames::Listed { ids: BTreeSet::new(), frames: Vec::new() });
            if let KnownFrames::Listed { ids, frames } = known {
                ids.extend(new.iter().map(|frame| frame.frame_id.clone()));
                frames.extend_from_slice(new);
            }
        }
    }
}

impl State {
    /// Keeps the line and the open leases in step with the request.
    fn set_work(&mut self, request_id: &RequestId, work: Work) {
        let Some(request) = self.requests.get_mut(request_id) else { return };
        if let Work::Claimed(lease) = &request.work {
            self.leases.remove(&lease.id);
        }
        if work == Work::Waiting {
            self.waiting.insert(request.place, request_id.clone());
        } else {
            self.waiting.remove(&request.place);
        }
        request.work = work;
    }

    fn end_lease(&mut self, lease_id: LeaseId) {
        if let Some(request_id) = self.leases.get(&lease_id).cloned() {
            self.set_work(&request_id, Work::Waiting);
        }
    }
}
