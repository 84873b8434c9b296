//! The read routes, one file for each thing that is read.

pub mod analysis;
pub mod audit;
pub mod history;
pub mod job;
pub mod matching;
pub mod operations;
pub mod projection;
pub mod queue;
pub mod retry;
pub mod stream;
pub mod worker;

pub(crate) use web::vocabulary::Tag;
