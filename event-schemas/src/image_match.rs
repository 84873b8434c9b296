//! `matching-<job>`: the images, frames and match requests of a matching job, and their progress;
//! `matching-<job>.<shard>`: its image matches.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::failure::ClassifiedError;
use crate::ids::{
    FrameId, ImageId, ImageMatchId, JobId, LeaseId, ProductId, RequestId, Score, VideoId, WorkerId,
};
use crate::registry::events;
use crate::stream::{Category, StreamId};
use crate::time::Timestamp;
use crate::worker::WorkerEnd;

/// The number of streams over which a job's matches are spread, so that reporters do not wait for each other.
pub const IMAGE_MATCH_SHARDS: u8 = 16;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProductImage {
    pub img_id: ImageId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VideoFrame {
    pub frame_id: FrameId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_ms: Option<u64>,
}

/// The frames of a video: listed one by one, or only counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Frames {
    /// These frames, in addition to those listed before.
    Listed(Vec<VideoFrame>),
    /// The total number of frames; it replaces the previous count.
    Counted(u64),
}

/// The progress of a match request, in candidates (pairs of a product image and a frame): totals since it was
/// issued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Totals {
    pub candidates_processed: u64,
    pub vector_pass_done: u64,
    pub ransac_checked: u64,
}

/// Product images that were not registered before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProductImagesRegistered {
    pub product_id: ProductId,
    pub images: Vec<ProductImage>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VideoFramesRegistered {
    pub video_id: VideoId,
    pub frames: Frames,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MatchRequested {
    pub request_id: RequestId,
    pub product_id: ProductId,
    pub video_id: VideoId,
    /// The number of pairs of image and frame to compare.
    pub candidates: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MatchRequestClaimed {
    pub request_id: RequestId,
    pub lease_id: LeaseId,
    pub worker_id: WorkerId,
    pub attempt: u32,
    /// The time at which the lease expires unless a heartbeat extends it.
    pub lease_until: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MatchRequestLeaseExpired {
    pub request_id: RequestId,
    pub lease_id: LeaseId,
    pub worker_id: WorkerId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MatchRequestFailed {
    pub request_id: RequestId,
    pub lease_id: LeaseId,
    pub attempt: u32,
    pub error: ClassifiedError,
    /// Whether the request can be claimed again; if not, it waits until the job is retried.
    pub claimable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MatchProgressReported {
    pub request_id: RequestId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<LeaseId>,
    #[serde(flatten)]
    pub totals: Totals,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MatchRequestCompleted {
    pub request_id: RequestId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<LeaseId>,
    #[serde(flatten)]
    pub totals: Totals,
}

/// A request that had failed permanently can be claimed again, because its job is retried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MatchRequestRetried {
    pub request_id: RequestId,
}

/// A worker ended while it held leases of this job. A copy of the worker's end, so that the job's history is
/// complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobWorkerLost {
    pub worker_id: WorkerId,
    pub end: WorkerEnd,
    /// The leases that the worker held; they end with it.
    pub lease_ids: Vec<LeaseId>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MatchFound {
    pub match_id: ImageMatchId,
    pub product_id: ProductId,
    pub video_id: VideoId,
    pub img_id: ImageId,
    pub frame_id: FrameId,
    pub score: Score,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence_path: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MatchEvidenceAttached {
    pub match_id: ImageMatchId,
    pub evidence_path: String,
    /// Whether the match had other evidence before. With it, matches with evidence are counted without a
    /// lookup.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replaces: bool,
}

impl StreamId {
    /// The stream of a job's registrations, match requests and progress.
    pub fn image_matching(job: JobId) -> Self {
        Self::of_uuid(Category::ImageMatch, job.0)
    }

    /// The stream that contains a job's image match with this id: one of [`IMAGE_MATCH_SHARDS`].
    pub fn image_match(job: JobId, id: &ImageMatchId) -> Self {
        Self::image_match_shard(job, id.shard())
    }

    /// One of the [`IMAGE_MATCH_SHARDS`] streams of a job's image matches.
    pub fn image_match_shard(job: JobId, shard: u8) -> Self {
        Self(format!("{}{job}.{shard}", Category::ImageMatch.stream_prefix()).into())
    }

    /// The shard, if this is a stream of a job's image matches.
    pub fn shard(&self) -> Option<u8> {
        if self.category()? != Category::ImageMatch {
            return None;
        }
        self.0.split_once('.')?.1.parse().ok()
    }
}

impl ImageMatchId {
    /// The shard that contains the match. FNV-1a: fixed for ever, because it decides which stream this is.
    pub fn shard(&self) -> u8 {
        let mut hash: u32 = 0x811c_9dc5;
        for byte in self.as_str().bytes() {
            hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
        // The low bits of FNV alone are weak, so the high half is mixed in.
        ((hash ^ (hash >> 16)) % u32::from(IMAGE_MATCH_SHARDS)) as u8
    }
}

events! {
    /// The events of a matching job.
    ImageMatchEvent {
        ProductImagesRegistered = 1,
        VideoFramesRegistered = 1,
        MatchRequested = 1,
        MatchRequestClaimed = 1,
        MatchRequestLeaseExpired = 1,
        MatchRequestFailed = 1,
        MatchProgressReported = 1,
        MatchRequestCompleted = 1,
        MatchRequestRetried = 1,
        JobWorkerLost = 1,
        MatchFound = 1,
        MatchEvidenceAttached = 1,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn streams_of_a_job_contain_its_id() {
        let job = JobId(Uuid::from_u128(1));
        let id: ImageMatchId = "hedge-1:f000".parse().unwrap();
        for stream in [StreamId::job(job), StreamId::image_matching(job), StreamId::image_match(job, &id)] {
            assert_eq!(stream.job_id(), Some(job), "{stream}");
        }
        assert_eq!(StreamId::image_matching(job).shard(), None);
        assert!(StreamId::image_match(job, &id).shard().is_some());
    }

    #[test]
    fn shard_of_a_match_never_changes() {
        let shards: Vec<u8> = ["a", "hedge-1:f000", "hedge-1:f004", "ä"]
            .map(|id| id.parse::<ImageMatchId>().unwrap().shard())
            .into();
        assert_eq!(shards, GOLDEN_SHARDS);
    }

    const GOLDEN_SHARDS: [u8; 4] = [0, 0, 12, 15];

    #[test]
    fn matches_spread_evenly_over_the_shards() {
        let mut counts = [0_u32; IMAGE_MATCH_SHARDS as usize];
        for n in 0..16_000 {
            let id: ImageMatchId = format!("p{}:f{}", n % 40, n / 40).parse().unwrap();
            counts[usize::from(id.shard())] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
