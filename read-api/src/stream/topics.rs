//! The objects that can be followed live.

pub(super) mod analysis;
pub(super) mod entry;
pub(super) mod matching;
pub(super) mod queues;
pub(super) mod recommendations;
mod stream_reader;
pub(super) mod summary_cache;
