//! Confidence intervals of 95 %, without resampling, so that the same numbers always give the same interval.
//!
//! - [`wilson`]: of a share, by the score method (Wilson 1927, recommended by Brown, Cai and DasGupta 2001).
//! - [`of_mean`]: of a mean, by Student's distribution.
//! - [`of_ratio`]: of the ratio of two sums over independent units, such as users. The ratio is linearised (the delta method), and
//!   the mean of what remains has Student's distribution after Hall's transformation (Hall 1992), which corrects the skewness
//!   that rare rewards and large weights have.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The quantile of the normal distribution for 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// A number, and the interval that contains the true one with a probability of 95 %.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// The share of successes among attempts; none without attempts.
pub fn wilson(successes: u64, attempts: u64) -> Option<Estimate> {
    if attempts == 0 {
        return None;
    }
    let (n, successes) = (attempts as f64, successes.min(attempts) as f64);
    let value = successes / n;
    let centre = (value + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (value * (1.0 - value) / n + Z * Z / (4.0 * n * n)).sqrt();
    // At the ends, rounding must not exclude the value.
    Some(Estimate { value, low: (centre - half).clamp(0.0, value), high: (centre + half).clamp(value, 1.0) })
}

/// The ratio of the sums of both parts of all units; none for less than two units, or if the second sum is not positive.
pub fn of_ratio(units: &[(f64, f64)]) -> Option<Estimate> {
    let count = units.len() as f64;
    let (upper, lower) = units.iter().fold((0.0, 0.0), |(upper, lower), (a, b)| (upper + a, lower + b));
    if units.len() < 2 || lower <= 0.0 {
        return None;
    }
    let value = upper / lower;
    let residuals = units.iter().map(|(a, b)| (a - value * b) * count / lower);
    let (squares, cubes) = residuals.fold((0.0, 0.0), |(squares, cubes), residual| {
        (squares + residual * residual, cubes + residual * residual * residual)
    });
    let deviation = (squares / (count - 1.0)).sqrt();
    if deviation == 0.0 {
        return Some(Estimate { value, low: value, high: value });
    }
    let skewness = cubes / count / deviation.powi(3);
    let t = student(count - 1.0) / count.sqrt();
    let bound = |t: f64| value - deviation * untransformed(t, skewness, count);
    Some(Estimate { value, low: bound(t).min(value), high: bound(-t).max(value) })
}

/// The mean of numbers, given their sum and the sum of their squares, by Student's distribution; none for less than two, and if
/// they are all the same, which says nothing about how they vary.
pub fn of_mean(count: u64, sum: f64, squares: f64) -> Option<Estimate> {
    if count < 2 {
        return None;
    }
    let n = count as f64;
    let value = sum / n;
    let variance = (squares - n * value * value).max(0.0) / (n - 1.0);
    if variance == 0.0 {
        return None;
    }
    let half = student(n - 1.0) * (variance / n).sqrt();
    Some(Estimate { value, low: value - half, high: value + half })
}

/// The inverse of Hall's transformation: the standardised deviation of a mean, for that of a symmetric distribution.
fn untransformed(symmetric: f64, skewness: f64, count: f64) -> f64 {
    if skewness.abs() < 1e-6 {
        return symmetric;
    }
    let third = skewness / 3.0;
    ((1.0 + skewness * (symmetric - skewness / (6.0 * count))).cbrt() - 1.0) / third
}

/// The quantile of Student's distribution for 95 %, by the expansion 26.7.5 of Abramowitz and Stegun: exact to 0.01 from four
/// degrees of freedom on.
fn student(freedom: f64) -> f64 {
    let powers = [Z, Z.powi(3), Z.powi(5), Z.powi(7)];
    let terms = [
        (powers[1] + powers[0]) / 4.0,
        (5.0 * powers[2] + 16.0 * powers[1] + 3.0 * powers[0]) / 96.0,
        (3.0 * powers[3] + 19.0 * powers[2] + 17.0 * powers[1] - 15.0 * powers[0]) / 384.0,
    ];
    terms.iter().rev().fold(0.0, |sum, term| (sum + term) / freedom) + Z
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_near(one: f64, other: f64, by: f64) -> bool {
        (one - other).abs() <= by
    }

    #[test]
    fn wilson_intervals_are_the_published_ones() {
        // Newcombe 1998, table I, method 3.
        for (successes, attempts, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let found = wilson(successes, attempts).unwrap();
            assert!(is_near(found.low, low, 5e-5) && is_near(found.high, high, 5e-5), "{found:?}");
            assert!(found.low <= found.value && found.value <= found.high);
        }
        assert_eq!(wilson(0, 0), None);
        assert_eq!(wilson(7, 7).unwrap().high, 1.0);
    }

    #[test]
    fn quantiles_of_student_are_the_tabulated_ones() {
        for (freedom, quantile) in [(4.0, 2.776), (9.0, 2.262), (30.0, 2.042), (100.0, 1.984), (1e9, 1.960)] {
            assert!(is_near(student(freedom), quantile, 0.01), "{freedom}: {}", student(freedom));
        }
    }

    #[test]
    fn interval_of_symmetric_numbers_is_that_of_student() {
        let units: Vec<_> = (0..31).map(|number| (f64::from(number), 1.0)).collect();
        let found = of_ratio(&units).unwrap();
        // 15 ± 2.0423 · 9.0921 / √31
        assert!(is_near(found.value, 15.0, 1e-12) && is_near(found.low, 11.665, 1e-3), "{found:?}");
        assert!(is_near(found.high, 18.335, 1e-3), "{found:?}");
        let of_sums = of_mean(31, 465.0, 9455.0).unwrap();
        assert!(
            is_near(of_sums.low, found.low, 1e-9) && is_near(of_sums.high, found.high, 1e-9),
            "{of_sums:?}"
        );
        assert_eq!((of_mean(1, 1.0, 1.0), of_mean(7, 0.0, 0.0)), (None, None));
    }

    #[test]
    fn interval_of_rare_rewards_reaches_farther_up_than_down() {
        let units: Vec<_> = (0..1000).map(|number| (f64::from(u8::from(number % 100 == 7)), 1.0)).collect();
        let found = of_ratio(&units).unwrap();
        assert!(found.high - found.value > 1.3 * (found.value - found.low), "{found:?}");
        assert!(found.low > 0.0, "{found:?}");
        assert_eq!(of_ratio(&units[..1]), None);
        let without_rewards = Estimate::default();
        assert_eq!(of_ratio(&[(0.0, 1.0), (0.0, 1.0)]), Some(without_rewards));
    }
}
