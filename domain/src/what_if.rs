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

use crate::matchmaking::statistics::quantile;

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
    /// The least value, the values below which one, two and up to nine tenths of all are, and the largest one.
    pub deciles: [f64; 11],
}

impl Spread {
    /// None for an empty set.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let max = *values.last()?;
        Some(Self {
            count: values.len(),
            mean: values.iter().sum::<f64>() / values.len() as f64,
            p50: quantile(&values, 0.5),
            p90: quantile(&values, 0.9),
            p95: quantile(&values, 0.95),
            max,
            deciles: std::array::from_fn(|tenths| quantile(&values, tenths as f64 / 10.0)),
        })
    }
}
