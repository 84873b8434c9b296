//! The rules: one file for each consistency boundary, with its commands, state, refusals, `decide` and `evolve`, and the
//! pure folds that read models share with time travel.
//!
//! Start reading at [`decider`], then at [`job`]. This crate refuses to know about time passing, randomness, storage,
//! SQL, HTTP, threads and logging: whatever a decision needs comes in with the command.

pub mod breaker;
pub mod challenge;
pub mod decider;
pub mod job;
pub mod lease;
pub mod match_record;
pub mod matching;
pub mod matchmaking;
pub mod player;
pub mod pool;
pub mod rating;
pub mod worker;

#[cfg(test)]
mod scenario;
