//! The request and response bodies of Matchbook's HTTP API.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub String);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub String);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub String);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProductId(pub String);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VideoId(pub String);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub String);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FrameId(pub String);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MatchId(pub String);

impl MatchId {
    /// Deterministic, so that repeated work reports the same match.
    pub fn of(image: &ImageId, video: &VideoId, frame: &FrameId) -> Self {
        Self(format!("{}:{}:{}", image.0, video.0, frame.0))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkKind {
    MatchRequest,
}

#[derive(Debug, Serialize)]
pub struct Registration<'a> {
    pub kinds: [WorkKind; 1],
    pub version: &'a str,
}

#[derive(Debug, Serialize)]
pub struct Claim<'a> {
    pub kinds: [WorkKind; 1],
    pub worker_id: &'a WorkerId,
    pub max: u32,
    pub wait_ms: u64,
}

#[derive(Debug, Deserialize)]
pub struct Claimed {
    pub items: Vec<Item>,
}

/// One leased match request: compare every image of a product with every frame of a video.
#[derive(Debug, Clone, Deserialize)]
pub struct Item {
    pub lease_id: LeaseId,
    /// The longest pause between two heartbeats that keeps the lease.
    pub heartbeat_seconds: f64,
    pub kind: WorkKind,
    pub job_id: Uuid,
    pub request_id: RequestId,
    pub product_id: ProductId,
    pub video_id: VideoId,
    pub candidates: u64,
    pub images: Vec<Image>,
    pub frames: Vec<Frame>,
    /// The totals that earlier attempts have reported.
    #[serde(default)]
    pub totals: Totals,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Image {
    pub img_id: ImageId,
    pub url: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Frame {
    pub frame_id: FrameId,
}

/// The candidate counts of one request over all attempts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub candidates_processed: u64,
    pub vector_pass_done: u64,
    pub ransac_checked: u64,
}

#[derive(Debug, Serialize)]
pub struct Progress<'a> {
    pub request_id: &'a RequestId,
    pub lease_id: &'a LeaseId,
    #[serde(flatten)]
    pub totals: Totals,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub completed: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct Match {
    pub match_id: MatchId,
    pub product_id: ProductId,
    pub video_id: VideoId,
    pub img_id: ImageId,
    pub frame_id: FrameId,
    pub score: crate::verdict::Score,
    pub evidence_path: String,
}

#[derive(Debug, Deserialize)]
pub struct MatchesReported {
    pub accepted: u64,
    pub duplicates: u64,
}

#[derive(Debug, Serialize)]
pub struct Failure<'a> {
    pub error: &'a str,
}

#[derive(Debug, Serialize)]
pub struct Exit {
    pub exit_code: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    pub reason: String,
}

/// The body of an empty command.
#[derive(Debug, Serialize)]
pub struct EmptyBody {}
