//! A worker that analyses videos for a Matchbook server: it reads a video, decodes every frame of it, and finds where
//! scenes change and where most is moving.
//!
//! What it has no service for it says plainly: it downloads from nowhere but a folder, and knows neither chat nor speech.
//! Start reading at [`analysis`], which is one job from its claim to its end. This crate refuses to know Matchbook's
//! types: it speaks its HTTP API, as a worker in any language would.

pub mod analysis;
pub mod api;
pub mod fault;
pub mod motion;
pub mod video;
pub mod worker;
