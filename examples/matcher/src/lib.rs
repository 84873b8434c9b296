//! A worker that finds product images in video frames.
//!
//! It claims match requests from a Matchbook server, looks for the product's pictures in the video's frames, and
//! reports progress, matches and evidence pictures. [`worker`] is its life, [`request`] one request's, [`verdict`]
//! one candidate's; the vision below is pure: `pyramid` → `keypoint` → `descriptor` → [`features`], then
//! [`matching`] (the vector pass) and [`ransac`] over a [`homography`].
//!
//! It refuses to know how the server works: nothing of Matchbook's own crates is imported, and what passes between
//! the two is in [`wire`], in the words of the HTTP API. The vision knows neither network nor files.

pub mod api;
pub mod backoff;
pub mod check;
pub mod descriptor;
pub mod evidence;
pub mod features;
pub mod homography;
pub mod keypoint;
pub mod matching;
pub mod media;
pub mod pyramid;
pub mod ransac;
pub mod request;
pub mod splitmix;
pub mod verdict;
pub mod wire;
pub mod worker;
