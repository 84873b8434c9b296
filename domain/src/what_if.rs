//! What another configuration would have done, computed from what was recorded.
//!
//! [`off_policy`] estimates the rate of clicks or purchases of another ranking from the lists that were served, and
//! [`interval`] computes the confidence intervals. [`pool`] pairs the recorded players of a pool again with other settings, and
//! [`ranking`] makes the
//! served lists again with other weights, and [`retry`] decides about the recorded failures again with other policies.

pub mod interval;
pub mod off_policy;
pub mod pool;
pub mod ranking;
#[cfg(test)]
mod recording;
pub mod retry;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::matchmaking::statistics::percentiles;

/// The most entries, or slots of lists, of a replay: they are all in memory.
pub const REPLAYED_MAX: usize = 500_000;

/// The range contains more than [`REPLAYED_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the range contains more than {REPLAYED_MAX} {0}; give a smaller one with `from` and `to`")]
pub struct TooLong(pub &'static str);

/// How a set of numbers is spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WhatIfSpread")]
pub struct Spread {
    pub count: usize,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub max: f64,
}

impl Spread {
    /// None for an empty set.
    pub fn of(values: Vec<f64>) -> Option<Self> {
        let sum: f64 = values.iter().sum();
        let max = values.iter().copied().fold(f64::MIN, f64::max);
        let of = percentiles(values)?;
        Some(Self {
            count: of.count,
            mean: sum / of.count as f64,
            p50: of.p50,
            p90: of.p90,
            p95: of.p95,
            max,
        })
    }
}
