//! The groups of operations in the OpenAPI document.

use poem_openapi::Tags;

/// The groups of operations in the OpenAPI document.
#[derive(Clone, Copy, Debug, Tags)]
pub enum Tag {
    /// Jobs: create, list and control jobs of any kind
    Jobs,
    /// Analysis: analyse videos, with progress, live streams and highlights
    Analysis,
    /// Matching: find product images in video frames, with summaries and live streams
    Matching,
    /// Matchmaking: queues, challenges, matches and ratings of players
    Matchmaking,
    /// Catalogue: products, feedback of users, and merchandising rules
    Catalogue,
    /// Workers: register workers, and claim and complete work
    Workers,
    /// Audit: read and export the event log
    Audit,
    /// Operations: server health, and management of read models
    Operations,
}
