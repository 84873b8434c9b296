//! Glicko-2: the change of two players' skills by a result.
//!
//! The algorithm of Mark Glickman's paper "Example of the Glicko-2 system", step by step, with its worked
//! example as a test. A rating period is a day, and a player is rated after every game: the uncertainty that
//! grows with time is counted by the fraction of periods that has passed since the last rating. Results are
//! stored in events, so a replay calculates nothing.

use std::f64::consts::PI;
use std::time::Duration;

use event_schemas::rating::{RATING_MAX, Rating, Skill};
use event_schemas::time::Timestamp;

/// The number of rating points per unit of the paper's own scale.
const SCALE: f64 = 173.7178;
/// The rating at 0 of the paper's scale.
const CENTRE: f64 = 1500.0;
/// The limit of the change of volatility: the paper's τ, whose sensible values lie between 0.3 and 1.2.
const TAU: f64 = 0.5;
/// The precision of the volatility: the paper's ε.
const EPSILON: f64 = 0.000_001;
/// The iteration halves its interval, so it ends long before this.
const STEPS_MAX: u32 = 200;

/// The deviation of an unknown player; it never grows beyond this.
pub const DEVIATION_MAX: f64 = 350.0;
/// Below this deviation a rating would hardly change any more.
pub const DEVIATION_MIN: f64 = 30.0;
/// The volatility of an unknown player.
pub const VOLATILITY: f64 = 0.06;
/// The length of a rating period.
pub const PERIOD: Duration = Duration::from_secs(24 * 60 * 60);

/// The rating of an unknown player.
pub fn unknown() -> Rating {
    Rating::nearest(CENTRE)
}

/// The skill of a player without results and with this rating.
pub fn unproven(rating: Rating) -> Skill {
    Skill { rating: f64::from(rating.points()), deviation: DEVIATION_MAX, volatility: VOLATILITY }
}

/// A game from the point of view of one of its players.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Game {
    pub opponent: Skill,
    pub score: Score,
}

/// The score of a player in a game.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    Won,
    Drawn,
    Lost,
}

impl Score {
    fn points(self) -> f64 {
        match self {
            Self::Won => 1.0,
            Self::Drawn => 0.5,
            Self::Lost => 0.0,
        }
    }
}

/// The number of rating periods between the two instants; 0 before a first rating, when nothing can have
/// changed.
pub fn periods(rated_at: Option<Timestamp>, now: Timestamp) -> f64 {
    rated_at.map_or(0.0, |rated_at| now.since(rated_at).as_secs_f64() / PERIOD.as_secs_f64())
}

/// The skill after games, the last of which ended `periods` rating periods after the player's last rating. In
/// the paper it is one period. O(games).
pub fn rate(skill: Skill, games: &[Game], periods: f64) -> Skill {
    let mu = (skill.rating - CENTRE) / SCALE;
    let phi = skill.deviation / SCALE;
    if games.is_empty() {
        let after = (phi.powi(2) + skill.volatility.powi(2) * periods).sqrt();
        return moved(skill, 0.0, after, skill.volatility);
    }
    let mut precision = 0.0;
    let mut surprise = 0.0;
    for game in games {
        let mu_j = (game.opponent.rating - CENTRE) / SCALE;
        let g = 1.0 / (1.0 + 3.0 * (game.opponent.deviation / SCALE).powi(2) / PI.powi(2)).sqrt();
        let expected = 1.0 / (1.0 + (-g * (mu - mu_j)).exp());
        precision += g * g * expected * (1.0 - expected);
        surprise += g * (game.score.points() - expected);
    }
    // A game between players very far apart carries no information: the expectation is 0 or 1 to the last
    // digit.
    if precision <= f64::EPSILON {
        return skill;
    }
    let variance = 1.0 / precision;
    let volatility = volatility(phi, skill.volatility, variance, variance * surprise);
    let before = (phi.powi(2) + volatility.powi(2) * periods).sqrt();
    let after = 1.0 / (1.0 / before.powi(2) + 1.0 / variance).sqrt();
    moved(skill, after.powi(2) * surprise, after, volatility)
}

/// Step 5 of the paper: the volatility, by the Illinois variant of regula falsi.
fn volatility(phi: f64, sigma: f64, variance: f64, delta: f64) -> f64 {
    let start = (sigma * sigma).ln();
    let f = |x: f64| {
        let e = x.exp();
        let spread = phi * phi + variance + e;
        e * (delta * delta - spread) / (2.0 * spread * spread) - (x - start) / (TAU * TAU)
    };
    let mut a = start;
    let mut b = if delta * delta > phi * phi + variance {
        (delta * delta - phi * phi - variance).ln()
    } else {
        let below = (1..STEPS_MAX).map(|k| start - f64::from(k) * TAU).find(|x| f(*x) >= 0.0);
        // −(x − start)/τ² grows without bound as x falls, so one of these is above zero.
        below.unwrap_or(start)
    };
    let (mut f_a, mut f_b) = (f(a), f(b));
    for _ in 0..STEPS_MAX {
        if (b - a).abs() <= EPSILON {
            break;
        }
        let c = a + (a - b) * f_a / (f_b - f_a);
        let f_c = f(c);
        if f_c * f_b <= 0.0 {
            (a, f_a) = (b, f_b);
        } else {
            f_a /= 2.0;
        }
        (b, f_b) = (c, f_c);
    }
    (a / 2.0).exp()
}

/// A skill whose rating changes by `by`, both on the paper's scale, clamped to valid ratings. The change is
/// added to the points, not recomputed from the paper's scale, so that rounding never turns a small gain into
/// a loss.
fn moved(skill: Skill, by: f64, phi: f64, volatility: f64) -> Skill {
    Skill {
        rating: (skill.rating + by * SCALE).clamp(0.0, f64::from(RATING_MAX)),
        deviation: (phi * SCALE).clamp(DEVIATION_MIN, DEVIATION_MAX),
        volatility,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scenario::at;

    fn skill(rating: f64, deviation: f64) -> Skill {
        Skill { rating, deviation, volatility: VOLATILITY }
    }

    fn game(rating: f64, deviation: f64, score: Score) -> Game {
        Game { opponent: skill(rating, deviation), score }
    }

    #[test]
    fn worked_example_of_the_paper_is_reproduced() {
        let games = [
            game(1400.0, 30.0, Score::Won),
            game(1550.0, 100.0, Score::Lost),
            game(1700.0, 300.0, Score::Lost),
        ];
        let after = rate(skill(1500.0, 200.0), &games, 1.0);
        assert!((after.rating - 1464.06).abs() < 0.01, "{after:?}");
        assert!((after.deviation - 151.52).abs() < 0.01, "{after:?}");
        assert!((after.volatility - 0.05999).abs() < 0.000_01, "{after:?}");
    }

    #[test]
    fn deviation_of_idle_player_grows_up_to_the_maximum() {
        let before = skill(1600.0, 60.0);
        let after = rate(before, &[], 30.0);
        assert!(after.deviation > before.deviation && (after.rating - before.rating).abs() < 1e-9);
        assert!((rate(before, &[], 1e9).deviation - DEVIATION_MAX).abs() < 1e-9);
        // Step 6 of the paper: √(φ² + σ²·t), on its scale.
        let grown = |periods| rate(skill(1500.0, 200.0), &[], periods).deviation;
        assert!((grown(1.0) - 200.2714).abs() < 1e-4, "{}", grown(1.0));
        assert!((grown(10.0) - 202.6978).abs() < 1e-4, "{}", grown(10.0));
    }

    #[test]
    fn periods_are_fractions_since_the_last_rating() {
        assert!((periods(Some(at(0.0)), at(12.0 * 3600.0)) - 0.5).abs() < 1e-12);
        assert_eq!(periods(None, at(1e9)).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn draw_between_equal_players_changes_no_rating() {
        let after = rate(skill(1600.0, 80.0), &[game(1600.0, 80.0, Score::Drawn)], 0.0);
        assert!((after.rating - 1600.0).abs() < 1e-9, "{after:?}");
    }

    #[test]
    fn win_against_a_far_weaker_player_never_lowers_the_rating() {
        let before = Skill { rating: 8680.160476276955, deviation: 30.0, volatility: 0.01 };
        let opponent = skill(501.99141273045257, 291.0459534987243);
        assert!(rate(before, &[Game { opponent, score: Score::Won }], 0.0).rating >= before.rating);
    }

    proptest! {
        #[test]
        fn rating_changes_follow_the_score_and_stay_in_bounds(
            mine in 0.0..10_000.0, my_deviation in 30.0..350.0, theirs in 0.0..10_000.0, their_deviation in 30.0..350.0,
            volatility in 0.01..0.2, elapsed in 0.0..400.0,
        ) {
            let before = Skill { rating: mine, deviation: my_deviation, volatility };
            let by = |score| rate(before, &[game(theirs, their_deviation, score)], elapsed);
            let (won, drawn, lost) = (by(Score::Won), by(Score::Drawn), by(Score::Lost));
            prop_assert!(won.rating >= mine && lost.rating <= mine);
            prop_assert!(won.rating >= drawn.rating && drawn.rating >= lost.rating);
            for after in [won, drawn, lost] {
                prop_assert!((0.0..=10_000.0).contains(&after.rating), "{:?}", after);
                prop_assert!((DEVIATION_MIN..=DEVIATION_MAX).contains(&after.deviation), "{:?}", after);
                prop_assert!(after.volatility > 0.0 && after.volatility < 1.0, "{:?}", after);
            }
        }

        #[test]
        fn equal_players_gain_and_lose_the_same(rating in 1000.0..2000.0, deviation in 30.0..350.0) {
            let won = rate(skill(rating, deviation), &[game(rating, deviation, Score::Won)], 0.0);
            let lost = rate(skill(rating, deviation), &[game(rating, deviation, Score::Lost)], 0.0);
            prop_assert!(((won.rating - rating) + (lost.rating - rating)).abs() < 1e-9);
        }
    }
}
