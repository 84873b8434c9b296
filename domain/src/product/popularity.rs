//! The popularity of a product: the weights of all users' interactions with it, which halve with time.
//!
//! The sums are whole numbers, one for each day, so that the share of a user can be subtracted exactly, in any order.

use std::collections::BTreeMap;
use std::time::Duration;

use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::user::profile::decayed;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The time in which the share of an interaction halves.
pub const HALF_LIFE: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The number of days that are kept before the newest: the shares of earlier ones are below a thousandth.
const DAYS_KEPT: i64 = 140;

/// The weights of the interactions with a product, by their days.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Popularity {
    #[serde(with = "crate::map_as_list")]
    days: BTreeMap<i64, i64>,
}

pub fn day_of(at: Timestamp) -> i64 {
    at.micros().div_euclid(DAY.as_micros() as i64)
}

impl Popularity {
    /// Adds the weight of an interaction, or subtracts it if the weight is negative.
    pub fn add(&mut self, weight: i64, at: Timestamp) {
        self.change(weight, at);
        if let Some(newest) = self.newest_day() {
            self.days.retain(|day, _| *day > newest - DAYS_KEPT);
        }
    }

    /// The same, but the weights of early days are kept, so that everything can be subtracted again. They do not count.
    pub fn change(&mut self, weight: i64, at: Timestamp) {
        let day = day_of(at);
        let sum = self.days.entry(day).or_default();
        *sum = sum.saturating_add(weight);
        if *sum == 0 {
            self.days.remove(&day);
        }
    }

    pub fn newest_day(&self) -> Option<i64> {
        self.days.last_key_value().map(|(newest, _)| *newest)
    }

    /// The newest day, and the popularity on it.
    pub fn on_newest_day(&self) -> Option<(i64, i64)> {
        let newest = self.newest_day()?;
        Some((newest, self.on(newest)))
    }

    /// The sum of all weights on a day.
    fn on(&self, day: i64) -> i64 {
        let share = |(since, weight): (&i64, &i64)| {
            let passed = DAY * u32::try_from((day - since).max(0)).unwrap_or(u32::MAX);
            decayed(*weight, passed, HALF_LIFE)
        };
        let first = self.newest_day().map_or(day, |newest| newest - DAYS_KEPT + 1);
        self.days.range(first..).map(share).fold(0, i64::saturating_add)
    }

    /// The popularity on the day of an instant.
    pub fn at(&self, now: Timestamp) -> i64 {
        self.on(day_of(now))
    }

    /// A number by which products have the order of their popularity on any day. Unpopular ones come last.
    pub fn rank(&self) -> f64 {
        self.on_newest_day().map_or(f64::MIN, |(day, sum)| Self::rank_of(day, sum))
    }

    /// The same for a popularity on a day.
    pub fn rank_of(day: i64, sum: i64) -> f64 {
        if sum <= 0 {
            return f64::MIN;
        }
        let half_lives = day as f64 * DAY.as_secs_f64() / HALF_LIFE.as_secs_f64();
        (sum as f64).log2() + half_lives
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scenario::at;
    use crate::user::profile::UNIT;

    fn days(days: i64) -> Timestamp {
        at(days as f64 * DAY.as_secs_f64())
    }

    fn sum(weights: &[(i64, i64)]) -> Popularity {
        let mut sum = Popularity::default();
        for (weight, day) in weights {
            sum.add(*weight, days(*day));
        }
        sum
    }

    #[test]
    fn popularity_halves_in_two_weeks() {
        let popularity = sum(&[(UNIT, 10)]);
        assert_eq!(popularity.at(days(10)), UNIT);
        assert_eq!(popularity.at(days(24)), UNIT / 2);
        assert_eq!(popularity.at(days(9)), UNIT, "it does not grow for an earlier day");
        assert_eq!(Popularity::default().at(days(0)), 0);
    }

    #[test]
    fn product_that_pushes_away_comes_last() {
        assert_eq!(sum(&[(-UNIT, 0)]).rank(), f64::MIN);
        assert!(sum(&[(UNIT, 14)]).rank() > sum(&[(UNIT, 13)]).rank());
        assert!(sum(&[(2 * UNIT, 0)]).rank() >= sum(&[(UNIT, 14)]).rank());
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_a_share_can_be_subtracted(
            weights in proptest::collection::vec((-UNIT..UNIT, 0..130_i64), 1..30), of in 0_usize..30,
        ) {
            let all = sum(&weights);
            let reversed: Vec<_> = weights.iter().rev().copied().collect();
            prop_assert_eq!(&sum(&reversed), &all);
            let mut less = all.clone();
            let (weight, day) = weights[of % weights.len()];
            less.add(-weight, days(day));
            let others = weights.iter().enumerate().filter(|(index, _)| *index != of % weights.len());
            let others: Vec<_> = others.map(|(_, weight)| *weight).collect();
            prop_assert_eq!(less.at(days(130)), sum(&others).at(days(130)));
        }

        #[test]
        fn rank_orders_as_on_any_day(
            a in proptest::collection::vec((1..UNIT, 0..100_i64), 1..5),
            b in proptest::collection::vec((1..UNIT, 0..100_i64), 1..5), later in 100..200_i64,
        ) {
            let (first, second) = (sum(&a), sum(&b));
            let (one, two) = (first.at(days(later)), second.at(days(later)));
            // Equal but for what the rounding of the decay may change.
            if (one - two).abs() as f64 > one.max(two) as f64 * 1e-4 + 8.0 {
                prop_assert_eq!(one > two, first.rank() > second.rank());
            }
        }
    }
}
