//! The routes as a caller sees them: whole responses, over a log in memory, read models in a temporary folder, and a
//! clock that moves only when a test advances it.

mod analysis;
mod audit;
mod by_id;
mod catalogue;
mod console;
mod encoder;
pub(crate) mod entry_stream;
pub(crate) mod events;
mod evidence;
mod exports;
pub(crate) mod fixture;
mod game_matches;
mod history;
mod jobs;
mod lag;
mod operations;
mod queues;
mod search;
mod sse_reader;
mod streams;
mod subjects;
mod summary;
mod topics;
