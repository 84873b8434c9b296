//! Work items in the response of a claim.

use domain::job::extraction;
use event_schemas::ids::{FrameId, ImageId, JobId, LeaseId, ModelId, ProductId, RequestId, VideoId};
use event_schemas::image_match::{ProductImage, Totals, VideoFrame};
use event_schemas::job::JobSource;
use event_schemas::json_text::JsonText;
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkKind;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::jobs::claim::{ClaimedItem, JobPayload, MatchRequestPayload, Payload};

/// A work item: the request of a match request, the job of any other kind.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct WorkItem {
    /// Required in all reports.
    lease_id: LeaseId,
    /// The time at which the lease expires without a heartbeat.
    lease_until: Timestamp,
    /// The longest pause between two heartbeats that keeps the lease even if two of them are lost.
    heartbeat_seconds: f64,
    kind: WorkKind,
    job_id: JobId,
    /// The number of the attempt, from 1.
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<RequestId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    product_id: Option<ProductId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    video_id: Option<VideoId>,
    /// The number of pairs of image and frame to compare.
    #[serde(skip_serializing_if = "Option::is_none")]
    candidates: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    images: Option<Vec<WorkImage>>,
    /// Empty if the frames were only counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    frames: Option<Vec<WorkFrame>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frame_count: Option<u64>,
    /// The totals that earlier attempts have reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    totals: Option<WorkTotals>,
    /// The job's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// The metadata of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Value>,
    /// The source of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<WorkSource>,
    /// Of an extraction, what earlier workers have reported: continue there.
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<WorkProgress>,
}

/// The source of a job, as one object: the members of the other types are missing.
#[derive(Debug, Serialize, JsonSchema)]
struct WorkSource {
    #[serde(rename = "type")]
    source_type: WorkSourceType,
    /// The video to analyse.
    #[serde(skip_serializing_if = "Option::is_none")]
    video_id: Option<VideoId>,
    /// Where the video is.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// The caller's options of an analysis; missing if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    options: Option<JsonText>,
    /// The model whose vectors an extraction makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    model_id: Option<ModelId>,
    /// The only products of an extraction; missing if all are meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    product_ids: Option<Vec<ProductId>>,
    /// Whether an extraction leaves out images that have a vector of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    only_missing: Option<bool>,
    /// The caller's settings of an extraction; missing if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    config: Option<JsonText>,
}

#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum WorkSourceType {
    Video,
    Extraction,
    /// Never claimed by a worker: the server itself does this work.
    ServerWork,
}

impl From<JobSource> for WorkSource {
    fn from(source: JobSource) -> Self {
        let given = |text: JsonText| (!text.is_empty_object()).then_some(text);
        let empty = Self {
            source_type: WorkSourceType::ServerWork,
            video_id: None,
            url: None,
            options: None,
            model_id: None,
            product_ids: None,
            only_missing: None,
            config: None,
        };
        match source {
            JobSource::Video { video_id, url, options } => Self {
                source_type: WorkSourceType::Video,
                video_id: Some(video_id),
                url: Some(url),
                options: given(options),
                ..empty
            },
            JobSource::ServerWork { options } => Self { options: given(options), ..empty },
            JobSource::Extraction { model_id, product_ids, only_missing, config } => Self {
                source_type: WorkSourceType::Extraction,
                model_id: Some(model_id),
                product_ids: Some(product_ids).filter(|ids| !ids.is_empty()),
                only_missing: Some(only_missing),
                config: given(config),
                ..empty
            },
        }
    }
}

/// The progress of an extraction over its items.
#[derive(Debug, Serialize, JsonSchema)]
struct WorkProgress {
    items_done: u64,
    items_failed: u64,
    /// Null before the first report.
    items_total: Option<u64>,
    /// The last one that was reported; null before the first.
    checkpoint: Option<String>,
}

/// An image of the product.
#[derive(Debug, Serialize, JsonSchema)]
struct WorkImage {
    img_id: ImageId,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

/// A frame of the video.
#[derive(Debug, Serialize, JsonSchema)]
struct WorkFrame {
    frame_id: FrameId,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp_ms: Option<u64>,
}

/// Candidates of the request so far, over all attempts.
#[derive(Debug, Serialize, JsonSchema)]
struct WorkTotals {
    candidates_processed: u64,
    vector_pass_done: u64,
    ransac_checked: u64,
}

impl From<ClaimedItem> for WorkItem {
    fn from(item: ClaimedItem) -> Self {
        let base = Self {
            lease_id: item.lease_id,
            lease_until: item.lease_until,
            heartbeat_seconds: item.heartbeat.as_secs_f64(),
            kind: item.kind,
            job_id: item.job_id,
            attempt: item.attempt,
            request_id: None,
            product_id: None,
            video_id: None,
            candidates: None,
            images: None,
            frames: None,
            frame_count: None,
            totals: None,
            name: None,
            metadata: None,
            source: None,
            progress: None,
        };
        match item.payload {
            Payload::Job(job) => {
                let JobPayload { created, items, checkpoint } = *job;
                let progress = WorkProgress {
                    items_done: items.done,
                    items_failed: items.failed,
                    items_total: items.total,
                    checkpoint: checkpoint.and_then(|text| text.to_value().as_str().map(str::to_owned)),
                };
                let metadata = created.metadata.to_value();
                Self {
                    name: created.name,
                    metadata: Some(metadata).filter(|_| !created.metadata.is_empty_object()),
                    source: created.source.map(Into::into),
                    progress: extraction::TargetType::of(created.kind).map(|_| progress),
                    ..base
                }
            }
            Payload::MatchRequest(request) => base.with_request(*request),
        }
    }
}

impl WorkItem {
    fn with_request(self, request: MatchRequestPayload) -> Self {
        Self {
            request_id: Some(request.request_id),
            product_id: Some(request.product_id),
            video_id: Some(request.video_id),
            candidates: Some(request.candidates),
            images: Some(request.images.into_iter().map(Into::into).collect()),
            frames: Some(request.frames.into_iter().map(Into::into).collect()),
            frame_count: Some(request.frame_count),
            totals: Some(request.totals.into()),
            ..self
        }
    }
}

impl From<ProductImage> for WorkImage {
    fn from(image: ProductImage) -> Self {
        Self { img_id: image.img_id, url: image.url }
    }
}

impl From<VideoFrame> for WorkFrame {
    fn from(frame: VideoFrame) -> Self {
        Self { frame_id: frame.frame_id, timestamp_ms: frame.timestamp_ms }
    }
}

impl From<Totals> for WorkTotals {
    fn from(totals: Totals) -> Self {
        Self {
            candidates_processed: totals.candidates_processed,
            vector_pass_done: totals.vector_pass_done,
            ransac_checked: totals.ransac_checked,
        }
    }
}
