//! The read routes, one file for each thing that is read.

pub mod audit;
pub mod history;
pub mod job;
pub mod matching;
pub mod operations;
pub mod projection;
pub mod stream;
pub mod worker;

use poem_openapi::Tags;

/// How the OpenAPI document groups the operations.
#[derive(Clone, Copy, Debug, Tags)]
pub(crate) enum Tag {
    /// Jobs of any kind, and what happened to them.
    Jobs,
    /// Product images against video frames: summaries, live streams, matches.
    Matching,
    /// Those who take work.
    Workers,
    /// The whole log, for those who check it.
    Audit,
    /// How the server is, and steering its read models.
    Operations,
}
