//! How strong a player is: the number that windows are measured in, and what Glicko-2 knows beside it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The highest rating.
pub const RATING_MAX: u16 = 10_000;

/// A rating in whole points, from 0 to [`RATING_MAX`]: whole, so that distances and windows are exact everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Rating(#[schemars(range(max = 10_000))] u16);

/// The number is no rating.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a rating lies between 0 and {RATING_MAX}")]
pub struct NotARating;

impl Rating {
    /// # Errors
    /// If the number is above [`RATING_MAX`].
    pub fn new(points: u16) -> Result<Self, NotARating> {
        if points <= RATING_MAX { Ok(Self(points)) } else { Err(NotARating) }
    }

    /// The nearest whole rating; halves go up.
    ///
    /// # Errors
    /// If the number is no number, or no rating even after rounding.
    pub fn rounded(points: f64) -> Result<Self, NotARating> {
        let points = points.round();
        if (0.0..=f64::from(RATING_MAX)).contains(&points) {
            Ok(Self(points as u16))
        } else {
            Err(NotARating)
        }
    }

    /// The nearest rating to any number; of what is no number, the lowest.
    pub fn nearest(points: f64) -> Self {
        // A cast of a float saturates, and makes 0 of NaN.
        Self((points.round() as u16).min(RATING_MAX))
    }

    pub fn points(self) -> u16 {
        self.0
    }

    /// How many points lie between the two.
    pub fn distance(self, other: Self) -> u16 {
        self.0.abs_diff(other.0)
    }
}

impl fmt::Display for Rating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Rating {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u16::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// What Glicko-2 knows of a player in one pool.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Skill {
    /// On the scale of ratings.
    pub rating: f64,
    /// The standard deviation of that, in the same points.
    pub deviation: f64,
    /// How much the player's strength is expected to fluctuate.
    pub volatility: f64,
}

/// From where a rating was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RatingSource {
    /// The caller's token claims it.
    Token,
    /// A trusted caller said it with the request.
    Request,
    /// The tenant's rating service answered it.
    RatingService,
    /// The results of the player's own matches in the pool.
    History,
    /// Nothing is known yet.
    Default,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rating_is_a_whole_number_from_0_to_10000() {
        assert_eq!(Rating::new(10_000).map(Rating::points), Ok(10_000));
        assert_eq!(Rating::new(10_001), Err(NotARating));
        assert_eq!(Rating::rounded(1499.5).map(Rating::points), Ok(1500));
        for points in [-1.0, 10_000.5, f64::NAN, f64::INFINITY] {
            assert_eq!(Rating::rounded(points), Err(NotARating), "{points}");
        }
        assert!(serde_json::from_str::<Rating>("10001").is_err());
    }

    #[test]
    fn whatever_a_calculation_gives_has_a_nearest_rating() {
        let nearest = [-5.0, 1500.4, 99_999.0, f64::NAN].map(|points| Rating::nearest(points).points());
        assert_eq!(nearest, [0, 1500, 10_000, 0]);
    }
}
