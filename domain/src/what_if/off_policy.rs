//! Off-policy evaluation: the mean reward of a slot under another ranking, estimated from the slots of the lists that were served.
//!
//! Each slot has the probability with which its product was to get it (the propensity), and the one with which the other
//! ranking would have put the same product there. Their quotient is the weight of the slot. With it, the rewards of the other
//! ranking are estimated without having served it:
//!
//! - inverse propensity scoring (IPS): the mean of the weighted rewards;
//! - self-normalised IPS (SNIPS): the same, divided by the mean weight;
//! - doubly robust (DR): what a model of the rewards expects of the other ranking, corrected by the weighted error that the model
//!   has on the products that were shown (Dudík et al. 2014).
//!
//! The definitions are those of the Python package `obp`, whose numbers `tests/what_if.sh` compares. The slots of one
//! user are one unit of the confidence intervals, because they are not independent of each other.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::interval::{Estimate, of_ratio, wilson};

/// The least share of the other ranking's choices that the served lists could have shown.
pub const COVERAGE_MIN: f64 = 0.95;
/// The least effective sample size, in slots.
pub const EFFECTIVE_SAMPLE_SIZE_MIN: f64 = 100.0;
/// The largest share of one slot in the sum of the squared weights. If it is larger, weights that are rarer still are likely to
/// be missing, and the intervals would be too narrow.
pub const LARGEST_SHARE_MAX: f64 = 0.1;
/// The least number of users.
pub const USERS_MIN: usize = 30;
/// The least number of rewarded slots that have a weight.
pub const REWARDED_MIN: usize = 5;

/// A slot of a served list.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct LoggedSlot {
    /// The number of the user.
    pub user: u32,
    /// 1 if the user clicked or bought the product, or else 0.
    pub reward: f64,
    /// The probability with which the product was to get the slot; more than 0.
    pub propensity: f64,
    /// The probability with which the other ranking would have put the product there.
    pub probability: f64,
    /// The reward that the model expects of the product that was shown.
    pub expected: f64,
    /// The reward that the model expects of the other ranking's products for the slot.
    pub expected_of_other: f64,
}

impl LoggedSlot {
    fn weight(&self) -> f64 {
        self.probability / self.propensity
    }
}

/// The mean reward of a slot under the other ranking, by three estimators.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WhatIfEstimates")]
pub struct Estimates {
    /// Inverse propensity scoring.
    pub ips: Estimate,
    /// Self-normalised inverse propensity scoring.
    pub snips: Estimate,
    /// The doubly robust estimator.
    pub doubly_robust: Estimate,
}

/// The reason why the served lists do not say what another ranking would have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CannotTell {
    /// The served lists could not have shown enough of the other ranking's choices.
    Coverage,
    /// Too few slots count, or too few users.
    SampleSize,
    /// One slot counts too much: the served lists showed some of the other ranking's choices too rarely.
    Weights,
    /// Too few rewards were observed.
    Rewards,
}

/// What the served lists say about another ranking.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WhatIfEvaluation")]
pub struct Evaluation {
    pub slots: usize,
    pub users: usize,
    /// The mean reward of a slot as it was served; null without users.
    pub served: Option<Estimate>,
    /// The share of the other ranking's choices that the served lists could have shown: the mean weight of a slot. If it is
    /// less than 0.95, and not by chance, the effect of the others is unknown.
    pub coverage: f64,
    /// The number of slots with equal weights that would say as much.
    pub effective_sample_size: f64,
    /// Null if the served lists do not say enough.
    pub estimates: Option<Estimates>,
    /// Why there are no estimates; null if there are.
    pub cannot_tell: Option<CannotTell>,
}

/// The sums over the slots of one user.
#[derive(Clone, Copy, Debug, Default)]
struct OfUser {
    slots: f64,
    rewards: f64,
    weights: f64,
    weighted_rewards: f64,
    doubly_robust: f64,
}

fn of_users(slots: &[LoggedSlot]) -> Vec<OfUser> {
    let mut users: BTreeMap<u32, OfUser> = BTreeMap::new();
    for slot in slots {
        let (user, weight) = (users.entry(slot.user).or_default(), slot.weight());
        user.slots += 1.0;
        user.rewards += slot.reward;
        user.weights += weight;
        user.weighted_rewards += weight * slot.reward;
        user.doubly_robust += slot.expected_of_other + weight * (slot.reward - slot.expected);
    }
    users.into_values().collect()
}

fn ratio(users: &[OfUser], parts: fn(&OfUser) -> (f64, f64)) -> Option<Estimate> {
    of_ratio(&users.iter().map(parts).collect::<Vec<_>>())
}

/// The estimates, whether or not the slots suffice for them; none for less than two users, or if no slot has a weight.
pub fn estimates(slots: &[LoggedSlot]) -> Option<Estimates> {
    estimates_of(&of_users(slots))
}

fn estimates_of(users: &[OfUser]) -> Option<Estimates> {
    Some(Estimates {
        ips: ratio(users, |user| (user.weighted_rewards, user.slots))?,
        snips: ratio(users, |user| (user.weighted_rewards, user.weights))?,
        doubly_robust: ratio(users, |user| (user.doubly_robust, user.slots))?,
    })
}

/// The number of slots with equal weights whose mean varies as much (Kish 1965), and the largest share of one slot in the sum
/// of the squared weights.
fn effective_sample_size(slots: &[LoggedSlot]) -> (f64, f64) {
    let weights = slots.iter().map(LoggedSlot::weight);
    let largest = weights.clone().fold(0.0, f64::max).powi(2);
    let (sum, squares) =
        weights.fold((0.0, 0.0), |(sum, squares), weight| (sum + weight, squares + weight * weight));
    if squares > 0.0 { (sum * sum / squares, largest / squares) } else { (0.0, 0.0) }
}

/// The mean weight, and twice its standard error. The weight of a slot that only one product could get is exact: it varies
/// with nothing.
fn coverage(slots: &[LoggedSlot]) -> (f64, f64) {
    let count = slots.len().max(1) as f64;
    let mean = slots.iter().map(LoggedSlot::weight).sum::<f64>() / count;
    let drawn = slots.iter().filter(|slot| slot.propensity < 1.0);
    let squares: f64 = drawn.map(|slot| (slot.weight() - 1.0).powi(2)).sum();
    (mean, 2.0 * squares.sqrt() / count)
}

/// The mean reward of a slot as it was served. Without rewards, the interval is that of the share of users with one.
fn served(users: &[OfUser]) -> Option<Estimate> {
    let rewarded = users.iter().any(|user| user.rewards != 0.0);
    if rewarded { ratio(users, |user| (user.rewards, user.slots)) } else { wilson(0, users.len() as u64) }
}

/// Estimates the mean reward of a slot under the other ranking, if the slots suffice.
pub fn evaluate(slots: &[LoggedSlot]) -> Evaluation {
    let users = of_users(slots);
    let (coverage, margin) = coverage(slots);
    let (effective_sample_size, largest_share) = effective_sample_size(slots);
    let rewarded = slots.iter().filter(|slot| slot.reward != 0.0 && slot.probability > 0.0).count();
    let cannot_tell = if slots.is_empty() || users.len() < USERS_MIN {
        Some(CannotTell::SampleSize)
    } else if coverage + margin < COVERAGE_MIN {
        Some(CannotTell::Coverage)
    } else if effective_sample_size < EFFECTIVE_SAMPLE_SIZE_MIN {
        Some(CannotTell::SampleSize)
    } else if largest_share > LARGEST_SHARE_MAX {
        Some(CannotTell::Weights)
    } else if rewarded < REWARDED_MIN {
        Some(CannotTell::Rewards)
    } else {
        None
    };
    Evaluation {
        slots: slots.len(),
        users: users.len(),
        served: served(&users),
        coverage,
        effective_sample_size,
        estimates: cannot_tell.map_or_else(|| estimates_of(&users), |_| None),
        cannot_tell,
    }
}

#[cfg(test)]
mod tests;
