//! The rules: one file per consistency boundary, with its commands, state, refusals, `decide` and `evolve`,
//! and the pure folds that read models share with time travel.
//!
//! Start reading at [`decider`], then at [`job`]. This crate contains no clock, randomness, storage, SQL,
//! HTTP, threads or logging: every input of a decision is part of its command.

pub mod breaker;
pub mod challenge;
pub mod cutout;
pub mod decider;
pub mod game_match;
pub mod image_matching;
pub mod job;
pub mod lease;
pub mod map_as_list;
pub mod matchmaking;
pub mod merchandising;
pub mod model;
pub mod player;
pub mod pool;
pub mod product;
pub mod rating;
pub mod recommend;
pub mod search;
pub mod user;
pub mod what_if;
pub mod worker;

#[cfg(test)]
mod scenario;
