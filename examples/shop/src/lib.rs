//! A simulated shop, for demonstrations of search and recommendations: a catalogue of believable products, what customers
//! did with them, and customers that visit the shop now.
//!
//! Start reading at [`catalogue`] for the products and at [`customer`] for what customers like. [`funnel`] makes visits of the
//! past, [`visit`] those of now, which start with a served list. Everything follows from a seed. [`gallery`] serves pictures of a
//! matching job, and [`cutouts`] sends them to the server as products and cutouts. This crate does not depend on
//! Matchbook's crates: it uses the HTTP API, like a shop in any language.

pub mod api;
pub mod catalogue;
pub mod customer;
pub mod cutouts;
pub mod fill;
pub mod funnel;
pub mod gallery;
pub mod kind;
pub mod visit;
