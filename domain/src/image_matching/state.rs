//! The state of a job's matching, for decisions and for the assignment of work.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use event_schemas::ids::{FrameId, ImageId, LeaseId, ProductId, RequestId, VideoId};
use event_schemas::image_match::{
    Frames, ImageMatchEvent, ProductImage, Totals, VideoFrame, VideoFramesRegistered,
};

use crate::lease::Lease;

/// The state of a job's matching.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    pub(super) products: BTreeMap<ProductId, Images>,
    pub(super) videos: BTreeMap<VideoId, KnownFrames>,
    pub(super) requests: HashMap<RequestId, Request>,
    /// Claimable requests, by their position in the queue.
    waiting: BTreeMap<u64, RequestId>,
    /// Leases in force.
    pub(super) leases: BTreeMap<LeaseId, RequestId>,
    pub(super) sums: Sums,
}

/// The numbers of which the job's candidates are computed, as in its counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) images: u64,
    pub(super) frames: u64,
    /// Of all requests.
    pub(super) candidates: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Images {
    pub(super) ids: BTreeSet<ImageId>,
    /// In registration order.
    images: Vec<ProductImage>,
}

/// The known frames of a video.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum KnownFrames {
    Listed { ids: BTreeSet<FrameId>, frames: Vec<VideoFrame> },
    Counted(u64),
}

/// A match request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub product_id: ProductId,
    pub video_id: VideoId,
    /// The number of pairs of image and frame to compare.
    pub candidates: u64,
    pub totals: Totals,
    pub work: Work,
    /// The position in the queue. It is kept when a lease is lost, so that the longest waiting request comes
    /// first.
    pub(super) queue_position: u64,
    /// The number of failures since it was requested or retried.
    failures: u32,
    /// The lease under which it last failed or was completed, so that a repeated report is recognised.
    pub(super) reported_under: Option<LeaseId>,
}

/// The work status of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Waiting for any worker.
    Waiting,
    Claimed(Lease),
    /// Waiting until the job is retried.
    Parked,
    Completed,
}

impl Request {
    /// The number of the current or next attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.failures + 1
    }
}

impl State {
    /// A state without anything but the sums of this one.
    pub(super) fn with_sums(&self) -> Self {
        Self { sums: self.sums, ..Self::default() }
    }

    /// The product's images, in registration order; empty for a product without images.
    pub fn images(&self, product: &ProductId) -> &[ProductImage] {
        self.products.get(product).map_or(&[], |known| &known.images)
    }

    /// The video's listed frames, in registration order.
    pub fn frames(&self, video: &VideoId) -> &[VideoFrame] {
        match self.videos.get(video) {
            Some(KnownFrames::Listed { frames, .. }) => frames,
            Some(KnownFrames::Counted(_)) | None => &[],
        }
    }

    /// The number of frames of the video, listed or counted.
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

    /// The claimable requests, the longest waiting first.
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

    /// The request that this lease is in force on, or under which its end was last reported. O(requests) for
    /// a lease that is no longer in force.
    pub fn about_lease(&self, lease: LeaseId) -> Option<(&RequestId, &Request)> {
        self.under_lease(lease)
            .or_else(|| self.requests.iter().find(|(_, request)| request.reported_under == Some(lease)))
    }

    /// Whether a retry of the job would make any request claimable again.
    pub fn has_parked(&self) -> bool {
        self.requests.values().any(|request| request.work == Work::Parked)
    }
}

/// The element-wise maximum. Commutative and idempotent, so the order and the number of reports do not
/// matter.
pub(crate) fn greatest(a: Totals, b: Totals) -> Totals {
    Totals {
        candidates_processed: a.candidates_processed.max(b.candidates_processed),
        vector_pass_done: a.vector_pass_done.max(b.vector_pass_done),
        ransac_checked: a.ransac_checked.max(b.ransac_checked),
    }
}

/// The state after the event.
pub(super) fn evolve(mut state: State, event: &ImageMatchEvent) -> State {
    match event {
        ImageMatchEvent::ProductImagesRegistered(registered) => {
            let known = state.products.entry(registered.product_id.clone()).or_default();
            known.ids.extend(registered.images.iter().map(|image| image.img_id.clone()));
            known.images.extend_from_slice(&registered.images);
            add(&mut state.sums.images, registered.images.len() as u64);
        }
        ImageMatchEvent::VideoFramesRegistered(registered) => register_frames(&mut state, registered),
        ImageMatchEvent::MatchRequested(requested) => {
            let queue_position = state.requests.len() as u64;
            add(&mut state.sums.candidates, requested.candidates);
            state.waiting.insert(queue_position, requested.request_id.clone());
            state.requests.insert(
                requested.request_id.clone(),
                Request {
                    product_id: requested.product_id.clone(),
                    video_id: requested.video_id.clone(),
                    candidates: requested.candidates,
                    totals: Totals::default(),
                    work: Work::Waiting,
                    queue_position,
                    failures: 0,
                    reported_under: None,
                },
            );
        }
        ImageMatchEvent::MatchRequestClaimed(claimed) => {
            let lease = Lease {
                id: claimed.lease_id,
                worker_id: claimed.worker_id.clone(),
                until: claimed.lease_until,
            };
            state.leases.insert(lease.id, claimed.request_id.clone());
            state.set_work(&claimed.request_id, Work::Claimed(lease));
        }
        ImageMatchEvent::MatchRequestLeaseExpired(expired) => state.end_lease(expired.lease_id),
        ImageMatchEvent::JobWorkerLost(lost) => lost.lease_ids.iter().for_each(|id| state.end_lease(*id)),
        ImageMatchEvent::MatchRequestFailed(failed) => {
            if let Some(request) = state.requests.get_mut(&failed.request_id) {
                request.failures = failed.attempt;
                request.reported_under = Some(failed.lease_id);
            }
            state.set_work(&failed.request_id, if failed.claimable { Work::Waiting } else { Work::Parked });
        }
        ImageMatchEvent::MatchProgressReported(reported) => {
            if let Some(request) = state.requests.get_mut(&reported.request_id) {
                request.totals = greatest(request.totals, reported.totals);
            }
        }
        ImageMatchEvent::MatchRequestCompleted(completed) => {
            if let Some(request) = state.requests.get_mut(&completed.request_id) {
                request.totals = greatest(request.totals, completed.totals);
                request.reported_under = completed.lease_id;
            }
            state.set_work(&completed.request_id, Work::Completed);
        }
        ImageMatchEvent::MatchRequestRetried(retried) => {
            if let Some(request) = state.requests.get_mut(&retried.request_id) {
                request.failures = 0;
            }
            state.set_work(&retried.request_id, Work::Waiting);
        }
        // These events belong to the streams of the shards.
        ImageMatchEvent::MatchFound(_) | ImageMatchEvent::MatchEvidenceAttached(_) => {}
    }
    state
}

fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
}

fn register_frames(state: &mut State, registered: &VideoFramesRegistered) {
    match &registered.frames {
        Frames::Counted(count) => {
            let before = state.videos.insert(registered.video_id.clone(), KnownFrames::Counted(*count));
            if let Some(KnownFrames::Counted(before)) = before {
                state.sums.frames = state.sums.frames.saturating_sub(before);
            }
            add(&mut state.sums.frames, *count);
        }
        Frames::Listed(new) => {
            add(&mut state.sums.frames, new.len() as u64);
            let known = state
                .videos
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
    /// Updates the work status, and with it the queue and the open leases.
    fn set_work(&mut self, request_id: &RequestId, work: Work) {
        let Some(request) = self.requests.get_mut(request_id) else { return };
        if let Work::Claimed(lease) = &request.work {
            self.leases.remove(&lease.id);
        }
        if work == Work::Waiting {
            self.waiting.insert(request.queue_position, request_id.clone());
        } else {
            self.waiting.remove(&request.queue_position);
        }
        request.work = work;
    }

    fn end_lease(&mut self, lease_id: LeaseId) {
        if let Some(request_id) = self.leases.get(&lease_id).cloned() {
            self.set_work(&request_id, Work::Waiting);
        }
    }
}
