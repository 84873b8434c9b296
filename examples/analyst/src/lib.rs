//! A worker that analyses videos for a Matchbook server: it reads a video, decodes all frames, and finds scene cuts and the
//! parts with the most motion.
//!
//! Parts without a service are reported as unsupported: it reads videos from a folder only, and supports neither chat nor
//! speech. Start reading at [`analysis`], which processes one job. This crate does not depend on Matchbook's crates: it uses
//! the HTTP API, like a worker in any language.

pub mod analysis;
pub mod api;
pub mod fault;
pub mod motion;
pub mod video;
pub mod worker;
