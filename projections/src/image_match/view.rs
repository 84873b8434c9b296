//! An image match, as the API returns it.

use event_schemas::ids::{FrameId, ImageId, ImageMatchId, Position, ProductId, Score, VideoId};
use event_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

/// A product image found in a frame.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "ImageMatch")]
pub struct ImageMatchView {
    pub id: ImageMatchId,
    pub match_id: ImageMatchId,
    pub product_id: ProductId,
    pub video_id: VideoId,
    pub img_id: ImageId,
    pub frame_id: FrameId,
    pub score: Score,
    /// The path of the evidence that the worker stored.
    pub evidence_path: Option<String>,
    pub occurred_at: Timestamp,
    /// The log position of the event that reported it.
    pub position: Position,
}
