//! One binary for all integration tests: it links once.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

mod analysis;
mod architecture;
mod arena;
mod audit;
mod authorization;
mod backup_and_migration;
mod catalogue;
mod challenges;
mod cluster;
mod crash_recovery;
mod cutout_sync;
mod cutouts;
mod erasure;
mod experiments;
mod exports;
mod extractions;
mod faults;
mod foreign_events;
mod identity_provider;
mod malformed_requests;
mod matchmaking;
mod mixed_searches;
mod operations;
mod private_files;
mod queues;
mod read_only;
mod read_store;
mod recommendations;
mod support;
mod time_travel;
mod what_if;
mod wire;
