//! The routes as a caller meets them: whole answers, over a log in memory, read models in a folder that goes away, and a
//! clock that stands still until it is moved.

mod analysis;
mod console;
pub(crate) mod entry_stream;
mod history;
mod jobs;
mod meetings;
mod operations;
mod queues;
mod reader;
pub(crate) mod script;
pub(crate) mod stage;
mod streams;
mod summary;
