//! One binary for all integration tests: it links once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod analysis;
mod architecture;
mod arena;
mod audit;
mod challenges;
mod cluster;
mod faults;
mod foreign_events;
mod hostile;
mod matchmaking;
mod moving;
mod operations;
mod queues;
mod support;
mod survival;
mod time_travel;
mod wire;
