//! Co-visits: which products the same users visit, close to each other.
//!
//! The steps of a user are the products that the user interacted with, in the order of the log. Two steps of a user within
//! [`Settings::window`] are a co-visit of their products. It counts the less, the more steps are between them, and less
//! for the product that came first ([`Settings::backward`]). The strength of a partner is the sum of its co-visits divided
//! by roots of both products' numbers of steps, so that a product is not a partner of all others only because
//! it is popular.
//!
//! No sum is stored. A product has the list of its steps, and a strength is computed from the last
//! [`Settings::steps_max`] of them when it is needed. So an interaction costs the same however many co-visits it makes,
//! and the share of a user is subtracted by removing the user's steps.

use std::time::Duration;

use crate::user::profile::decayed;

/// How co-visits count. The defaults were chosen on real data: `tests/recommend.sh`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The most steps between two products of a co-visit.
    pub window: usize,
    /// The number of steps in which the weight of a co-visit halves.
    pub half_life: u32,
    /// The weight of a co-visit for the product that came first, from 0 to 1.
    pub backward: f64,
    /// The most steps of a product, the last ones, that are looked at.
    pub steps_max: usize,
    /// The most products that a user visited last whose partners are looked at.
    pub visited_max: usize,
    /// The number of such products in which their weight halves.
    pub visited_half_life: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window: 50,
            half_life: 20,
            backward: 0.4,
            steps_max: 200,
            visited_max: 20,
            visited_half_life: 4,
        }
    }
}

/// The weight of a co-visit of neighbours, in the unit of the sums.
const UNIT: i64 = 1 << 16;

/// A number that halves every so many steps, after some steps.
fn halved(amount: i64, steps: usize, half_life: u32) -> i64 {
    let micros = |steps: u64| Duration::from_micros(steps);
    decayed(amount, micros(steps as u64), micros(u64::from(half_life)))
}

impl Settings {
    /// The weights of co-visits by the number of steps from one to the other, less one.
    fn weights(&self, neighbours: i64) -> Vec<u32> {
        let weight = |steps| u32::try_from(halved(neighbours, steps, self.half_life)).unwrap_or(0);
        (0..self.window).map(weight).collect()
    }

    /// The weight of the product that a user visited last but so many.
    pub(super) fn visited_weight(&self, products: usize) -> f64 {
        halved(UNIT, products, self.visited_half_life) as f64 / UNIT as f64
    }
}

/// A step of a user: the product that was visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) user: u32,
    /// The place among the user's steps.
    pub(super) index: u32,
}

/// A product whose partners are looked for, and how much they count; less than zero to push them away.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Visited {
    pub number: u32,
    pub weight: f64,
}

/// A product that was visited together with others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Partner {
    pub number: u32,
    pub strength: f64,
    /// The visited product that contributed most.
    pub with: u32,
    contribution: f64,
}

/// What the co-visits of a partner with so many steps count: less than a square root takes away, so that popular ones stay
/// ahead of equal ones. By square roots only, which have the same bits on every machine.
pub(super) fn damping(steps: usize) -> f32 {
    let fourth = (steps.max(1) as f64).sqrt().sqrt();
    (1.0 / (fourth * fourth.sqrt())) as f32
}

/// The steps of all users and products.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps<'a> {
    pub(super) of_users: &'a [Vec<u32>],
    pub(super) of_products: &'a [Vec<Step>],
    /// The [`damping`] of each product.
    pub(super) damping: &'a [f32],
}

impl Steps<'_> {
    /// The partners of the visited products, in no order. The sums are made in the order of the visited products, so they
    /// have the same bits at every replay.
    pub(super) fn partners(&self, visited: &[Visited], settings: &Settings) -> Vec<Partner> {
        let forward = settings.weights(UNIT);
        let backward = settings.weights((UNIT as f64 * settings.backward) as i64);
        let mut sums = vec![0_u32; self.of_products.len()];
        let mut summed: Vec<u32> = Vec::new();
        // The place of each product among the partners, from 1.
        let mut places = vec![0_u32; self.of_products.len()];
        let mut partners: Vec<Partner> = Vec::new();
        for one in visited {
            let steps = &self.of_products[one.number as usize];
            let last = &steps[steps.len().saturating_sub(settings.steps_max)..];
            for step in last {
                let (before, after) = self.around(*step);
                add(&mut sums, &mut summed, after.iter(), &forward);
                add(&mut sums, &mut summed, before.iter().rev(), &backward);
            }
            let share = one.weight / (last.len() as f64).sqrt() / UNIT as f64;
            for number in summed.drain(..) {
                let sum = std::mem::take(&mut sums[number as usize]);
                if number == one.number {
                    continue;
                }
                let contribution = share * f64::from(sum) * f64::from(self.damping[number as usize]);
                let place = &mut places[number as usize];
                if *place == 0 {
                    partners.push(Partner { number, strength: 0.0, with: one.number, contribution });
                    *place = u32::try_from(partners.len()).unwrap_or(u32::MAX);
                }
                let partner = &mut partners[*place as usize - 1];
                partner.strength += contribution;
                if contribution > partner.contribution {
                    (partner.with, partner.contribution) = (one.number, contribution);
                }
            }
        }
        partners
    }

    /// The user's products before and after a step.
    fn around(&self, step: Step) -> (&[u32], &[u32]) {
        let products = &self.of_users[step.user as usize];
        let (before, from) = products.split_at(step.index as usize);
        (before, &from[1..])
    }
}

/// Adds the weights of products in the order of their distance.
fn add<'a>(
    sums: &mut [u32],
    summed: &mut Vec<u32>,
    products: impl Iterator<Item = &'a u32>,
    weights: &[u32],
) {
    for (number, weight) in products.zip(weights) {
        let sum = &mut sums[*number as usize];
        if *sum == 0 {
            summed.push(*number);
        }
        *sum = sum.saturating_add(*weight);
    }
}

#[cfg(test)]
mod tests;
