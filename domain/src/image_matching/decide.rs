//! The decisions of commands to the matching of a job that has not ended.

use std::collections::BTreeSet;

use event_schemas::failure::{ClassifiedError, FailureCode};
use event_schemas::ids::{LeaseId, ProductId, RequestId, VideoId, WorkerId};
use event_schemas::image_match::{
    Frames, ImageMatchEvent, JobWorkerLost, MatchProgressReported, MatchRequestClaimed,
    MatchRequestCompleted, MatchRequestFailed, MatchRequestLeaseExpired, MatchRequestRetried, MatchRequested,
    ProductImage, ProductImagesRegistered, Totals, VideoFrame, VideoFramesRegistered,
};
use event_schemas::worker::WorkerEnd;
use serde::Serialize;

use super::state::{KnownFrames, Request, State, Work, greatest};
use super::{
    ATTEMPTS_MAX, Action, CANDIDATES_MAX, LIST_BYTES_MAX, Refusal, TotalsField, UNKNOWN_ATTEMPTS_MAX,
};
use crate::lease::Lease;

/// The maximum number of leases in one event: 40 bytes each, so that the event fits an append.
const LEASES_MAX: usize = 10_000;

/// The events that carry out `action` while the job has not ended.
pub(super) fn decide(action: &Action, state: &State) -> Result<Vec<ImageMatchEvent>, Refusal> {
    match action {
        Action::RegisterImages { product_id, images } => register_images(product_id, images, state),
        Action::RegisterFrames { video_id, frames } => register_frames(video_id, frames, state),
        Action::Request(request) => match state.requests.get(&request.request_id) {
            None => match state.sums.candidates.checked_add(request.candidates) {
                Some(sum) if sum <= CANDIDATES_MAX => Ok(vec![request.clone().into()]),
                _ => Err(Refusal::TooManyCandidates { field: "candidates" }),
            },
            Some(known) if has_same_content(known, request) => Ok(Vec::new()),
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
            parked.sort_by_key(|(_, request)| request.queue_position);
            Ok(parked
                .into_iter()
                .map(|(id, _)| MatchRequestRetried { request_id: id.clone() }.into())
                .collect())
        }
        Action::ExpireLease { lease_id } => Ok(expire_lease(*lease_id, state)),
        Action::EndWorker { worker_id, end } => Ok(end_worker(worker_id, *end, state)),
    }
}

fn register_images(
    product_id: &ProductId,
    images: &[ProductImage],
    state: &State,
) -> Result<Vec<ImageMatchEvent>, Refusal> {
    let known = state.products.get(product_id);
    let mut seen = BTreeSet::new();
    let new = images
        .iter()
        .filter(|image| {
            known.is_none_or(|known| !known.ids.contains(&image.img_id)) && seen.insert(&image.img_id)
        })
        .cloned();
    let parts = in_parts(new);
    let added = parts.iter().map(Vec::len).sum::<usize>() as u64;
    check_candidates("images", state.sums.images.saturating_add(added), state.sums.frames)?;
    Ok(parts
        .into_iter()
        .map(|images| ProductImagesRegistered { product_id: product_id.clone(), images }.into())
        .collect())
}

fn check_candidates(field: &'static str, images: u64, frames: u64) -> Result<(), Refusal> {
    match images.checked_mul(frames) {
        Some(candidates) if candidates <= CANDIDATES_MAX && frames <= CANDIDATES_MAX => Ok(()),
        _ => Err(Refusal::TooManyCandidates { field }),
    }
}

fn register_frames(
    video_id: &VideoId,
    frames: &Frames,
    state: &State,
) -> Result<Vec<ImageMatchEvent>, Refusal> {
    let registered = |frames| VideoFramesRegistered { video_id: video_id.clone(), frames }.into();
    match (frames, state.videos.get(video_id)) {
        (Frames::Listed(_), Some(KnownFrames::Counted(_))) => Err(Refusal::FramesCounted(video_id.clone())),
        (Frames::Counted(_), Some(KnownFrames::Listed { .. })) => {
            Err(Refusal::FramesListed(video_id.clone()))
        }
        (Frames::Counted(count), known) => {
            let before = if let Some(KnownFrames::Counted(before)) = known { *before } else { 0 };
            if *count <= before {
                return Ok(Vec::new());
            }
            let frames = state.sums.frames.saturating_add(count - before);
            check_candidates("frame_count", state.sums.images, frames)?;
            Ok(vec![registered(Frames::Counted(*count))])
        }
        (Frames::Listed(frames), known) => {
            let mut seen = BTreeSet::new();
            let is_known = |frame: &VideoFrame| match known {
                Some(KnownFrames::Listed { ids, .. }) => ids.contains(&frame.frame_id),
                Some(KnownFrames::Counted(_)) | None => false,
            };
            let new = frames.iter().filter(|frame| !is_known(frame) && seen.insert(&frame.frame_id)).cloned();
            let parts = in_parts(new);
            let added = parts.iter().map(Vec::len).sum::<usize>() as u64;
            check_candidates("frames", state.sums.images, state.sums.frames.saturating_add(added))?;
            Ok(parts.into_iter().map(|frames| registered(Frames::Listed(frames))).collect())
        }
    }
}

/// Splits the items into lists of at most [`LIST_BYTES_MAX`], each with at least one item.
fn in_parts<T: Serialize>(items: impl Iterator<Item = T>) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        // The comma counts, too. An item that cannot be serialized counts as 0 bytes, and fails when it is
        // stored.
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

fn has_same_content(known: &Request, request: &MatchRequested) -> bool {
    known.product_id == request.product_id
        && known.video_id == request.video_id
        && known.candidates == request.candidates
}

fn claim(request_id: &RequestId, lease: &Lease, state: &State) -> Result<Vec<ImageMatchEvent>, Refusal> {
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

pub(super) fn expire_lease(lease_id: LeaseId, state: &State) -> Vec<ImageMatchEvent> {
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

pub(super) fn end_worker(worker_id: &WorkerId, end: WorkerEnd, state: &State) -> Vec<ImageMatchEvent> {
    let held: Vec<LeaseId> = state
        .leases()
        .filter(|(lease, _)| lease.worker_id == *worker_id)
        .map(|(lease, _)| lease.id)
        .collect();
    let lost = |held: &[LeaseId]| {
        JobWorkerLost { worker_id: worker_id.clone(), end, lease_ids: held.to_vec() }.into()
    };
    held.chunks(LEASES_MAX).map(lost).collect()
}

fn report(
    request_id: &RequestId,
    lease_id: Option<LeaseId>,
    totals: Totals,
    completed: bool,
    state: &State,
) -> Result<Vec<ImageMatchEvent>, Refusal> {
    let request = state.requests.get(request_id).ok_or_else(|| Refusal::NoRequest(request_id.clone()))?;
    within_candidates(totals, request.candidates)?;
    match (&request.work, lease_id) {
        (Work::Claimed(lease), lease_id) if lease_id == Some(lease.id) => {}
        // While a worker holds the request, only that worker may report.
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

fn fail(lease_id: LeaseId, error: &ClassifiedError, state: &State) -> Result<Vec<ImageMatchEvent>, Refusal> {
    let Some((request_id, request)) = state.under_lease(lease_id) else {
        // A repeated report of the same failure; but a completed request has not failed.
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
