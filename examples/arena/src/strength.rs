//! The true strengths of players and the results of their games, as functions of the seed, so that a run can be repeated and
//! the game server needs no configuration of players.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::game::Outcome;

/// The mean and deviation of strengths, in rating points.
const MEAN: f64 = 1500.0;
const DEVIATION: f64 = 300.0;
const LOWEST: f64 = 600.0;
const HIGHEST: f64 = 2600.0;
/// The share of draws between equal players; between others it is smaller.
const DRAWS_OF_EQUALS: f64 = 0.16;
/// The standard deviation of the error in a new player's own estimate.
const GUESS_DEVIATION: f64 = 90.0;

/// The strengths of all players under one seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strengths {
    seed: u64,
}

impl Strengths {
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The true strength of a player, in rating points.
    pub fn of(self, user: &str) -> f64 {
        let mut rng = self.rng("strength", user);
        (MEAN + DEVIATION * normal(&mut rng)).clamp(LOWEST, HIGHEST)
    }

    /// A new player's own estimate of its strength, in whole points.
    pub fn guess(self, user: &str) -> u16 {
        let mut rng = self.rng("guess", user);
        (self.of(user) + GUESS_DEVIATION * normal(&mut rng)).clamp(LOWEST, HIGHEST).round() as u16
    }

    /// The result of the game of a match. Deterministic.
    pub fn outcome(self, match_id: &str, first: &str, second: &str, aborted_share: f64) -> Outcome {
        let mut rng = self.rng("game", match_id);
        if rng.f64() < aborted_share {
            return Outcome::Aborted;
        }
        let expected = expectation(self.of(first), self.of(second));
        let drawn = 2.0 * DRAWS_OF_EQUALS * expected.min(1.0 - expected);
        match rng.f64() {
            // A draw is half a point for each, so half of the draws is subtracted from each side's wins.
            roll if roll < expected - drawn / 2.0 => Outcome::First,
            roll if roll < expected + drawn / 2.0 => Outcome::Draw,
            _ => Outcome::Second,
        }
    }

    /// A random number generator that depends on the seed, a purpose, and a name.
    pub fn rng(self, purpose: &str, name: &str) -> fastrand::Rng {
        let mut hasher = DefaultHasher::new();
        (self.seed, purpose, name).hash(&mut hasher);
        fastrand::Rng::with_seed(hasher.finish())
    }
}

/// The share of points that the first player is expected to win, by Elo's formula.
pub fn expectation(first: f64, second: f64) -> f64 {
    1.0 / (1.0 + 10_f64.powf((second - first) / 400.0))
}

/// Standard normal, by Box and Muller.
fn normal(rng: &mut fastrand::Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.f64()).cos()
}

/// Exponentially distributed with this mean, like the pauses of independent arrivals.
pub fn exponential(rng: &mut fastrand::Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.f64()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(strengths: Strengths, first: &str, second: &str) -> f64 {
        let games = 20_000_u32;
        let total: f64 = (0..games)
            .map(|game| match strengths.outcome(&game.to_string(), first, second, 0.0) {
                Outcome::First => 1.0,
                Outcome::Draw => 0.5,
                Outcome::Second | Outcome::Aborted => 0.0,
            })
            .sum();
        total / f64::from(games)
    }

    #[test]
    fn results_follow_the_true_strengths() {
        let strengths = Strengths::new(7);
        for (first, second) in [("ada", "ben"), ("ben", "ada"), ("cleo", "dan"), ("eve", "eve")] {
            let expected = expectation(strengths.of(first), strengths.of(second));
            let actual = points(strengths, first, second);
            assert!(
                (actual - expected).abs() < 0.015,
                "{first} against {second}: {actual}, expected {expected}"
            );
        }
    }

    #[test]
    fn same_seed_gives_the_same_players_and_games() {
        let (one, same, other) = (Strengths::new(1), Strengths::new(1), Strengths::new(2));
        assert_eq!(one.of("ada").to_bits(), same.of("ada").to_bits());
        assert_ne!(one.of("ada").to_bits(), other.of("ada").to_bits());
        assert_ne!(one.of("ada").to_bits(), one.of("ben").to_bits());
        assert_eq!(one.outcome("m", "ada", "ben", 0.1), same.outcome("m", "ada", "ben", 0.1));
    }

    #[test]
    fn share_of_games_is_aborted() {
        let strengths = Strengths::new(3);
        let aborted = (0..10_000)
            .filter(|game| strengths.outcome(&game.to_string(), "ada", "ben", 0.05) == Outcome::Aborted)
            .count();
        assert!((400..600).contains(&aborted), "{aborted}");
    }

    #[test]
    fn pauses_have_the_given_mean() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mean = (0..20_000).map(|_| exponential(&mut rng, 3.0)).sum::<f64>() / 20_000.0;
        assert!((2.9..3.1).contains(&mean), "{mean}");
    }
}
