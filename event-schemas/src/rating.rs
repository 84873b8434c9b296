//! Ratings: the number that windows are measured in, and the state that Glicko-2 keeps beside it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The highest rating.
pub const RATING_MAX: u16 = 10_000;

/// A rating in whole points, from 0 to [`RATING_MAX`]. It is whole, so that distances and windows are exact
/// everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Rating(#[schemars(range(max = 10_000))] u16);

/// The number is not a valid rating.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a rating must be between 0 and {RATING_MAX}")]
pub struct InvalidRating;

impl Rating {
    /// # Errors
    /// If the number is above [`RATING_MAX`].
    pub fn new(points: u16) -> Result<Self, InvalidRating> {
        if points <= RATING_MAX { Ok(Self(points)) } else { Err(InvalidRating) }
    }

    /// The nearest whole rating; halves round up.
    ///
    /// # Errors
    /// If the number is not a number, or not a valid rating even after rounding.
    pub fn rounded(points: f64) -> Result<Self, InvalidRating> {
        let points = points.round();
        if (0.0..=f64::from(RATING_MAX)).contains(&points) {
            Ok(Self(points as u16))
        } else {
            Err(InvalidRating)
        }
    }

    /// The valid rating nearest to any number; for NaN, the lowest.
    pub fn nearest(points: f64) -> Self {
        // A cast of a float saturates, and turns NaN into 0.
        Self((points.round() as u16).min(RATING_MAX))
    }

    pub fn points(self) -> u16 {
        self.0
    }

    /// The distance between two ratings, in points.
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

/// The Glicko-2 state of a player in one pool.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Skill {
    /// The rating estimate, in rating points.
    pub rating: f64,
    /// The standard deviation of the estimate, in rating points.
    pub deviation: f64,
    /// The expected fluctuation of the player's strength.
    pub volatility: f64,
}

/// The source of a rating.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RatingSource {
    /// The caller's token.
    Token,
    /// The request of a trusted caller.
    Request,
    /// The tenant's rating service.
    RatingService,
    /// The results of the player's own matches in the pool.
    History,
    /// The default, because nothing is known yet.
    Default,
}

/// The outcome of a call of the tenant's rating service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RatingCall {
    /// It answered, with a rating or that it does not know the player.
    Succeeded,
    /// It works, and refused the call.
    Refused,
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rating_is_a_whole_number_from_0_to_10000() {
        assert_eq!(Rating::new(10_000).map(Rating::points), Ok(10_000));
        assert_eq!(Rating::new(10_001), Err(InvalidRating));
        assert_eq!(Rating::rounded(1499.5).map(Rating::points), Ok(1500));
        for points in [-1.0, 10_000.5, f64::NAN, f64::INFINITY] {
            assert_eq!(Rating::rounded(points), Err(InvalidRating), "{points}");
        }
        assert!(serde_json::from_str::<Rating>("10001").is_err());
    }

    #[test]
    fn every_float_has_a_nearest_rating() {
        let nearest = [-5.0, 1500.4, 99_999.0, f64::NAN].map(|points| Rating::nearest(points).points());
        assert_eq!(nearest, [0, 1500, 10_000, 0]);
    }
}
