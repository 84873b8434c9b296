//! A worker that finds product images in video frames.
//!
//! It claims match requests from a Matchbook server, searches the product's images in the video's frames, and reports
//! progress, matches and evidence images. [`worker`] is the main loop, [`request`] processes one match request, and
//! [`verdict`] one candidate. The vision code is pure: `pyramid` → `keypoint` → `descriptor` → [`features`], then
//! [`matching`] (the vector pass) and [`ransac`] with a [`homography`].
//!
//! It does not depend on Matchbook's crates: the messages in [`wire`] follow the HTTP API. The vision code uses neither the
//! network nor files.

pub mod api;
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
