//! A worker that makes vectors of images, so that cutouts are found that show the same thing as a product's image.
//!
//! It claims extractions from a Matchbook server, lists the images that are still to do, and records their vectors and its
//! progress; [`extraction`] does one job. [`fetch`] downloads an image, [`picture`] decodes it within limits, and [`descriptor`]
//! makes its vector: a histogram of oriented gradients with a little colour. [`compare`] measures how well that finds pairs.
//!
//! It does not depend on Matchbook's crates: the messages in [`wire`] follow the HTTP API.

pub mod compare;
pub mod descriptor;
pub mod extraction;
pub mod fetch;
pub mod picture;
pub mod wire;
