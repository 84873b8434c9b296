//! What workers of a Matchbook server have in common, without what they do.
//!
//! [`client`] calls the server, and repeats a call until it is answered. [`worker`] claims jobs, keeps their leases by heartbeats
//! while a function does the work, reports how it ended, and stops gracefully. Neither knows the kinds of work, nor any of
//! Matchbook's crates: they follow the HTTP API.

pub mod client;
pub mod worker;
