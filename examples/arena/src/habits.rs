//! The behaviour of simulated players, derived from the seed.

use std::time::Duration;

use crate::entry::FollowMode;
use crate::strength::Strengths;

/// The behaviour of a player.
#[derive(Clone, Debug, PartialEq)]
pub struct Habits {
    pub pools: Vec<String>,
    pub max_rating_gap: Option<u16>,
    pub follow_mode: FollowMode,
    /// The share of arrivals at which the player challenges another one instead of joining a queue.
    pub challenges: f64,
    /// The share of challenges that the player accepts.
    pub accepts: f64,
    /// The average time after which the player cancels its entry.
    pub patience: Duration,
}

impl Habits {
    /// The behaviour of a player under a seed.
    pub fn of(strengths: Strengths, user: &str, pools: &[String]) -> Self {
        let mut rng = strengths.rng("habits", user);
        let mut picked = pools.to_vec();
        rng.shuffle(&mut picked);
        // Two of three players join one pool, the others several.
        let several = rng.f64() < 0.33;
        picked.truncate(if several { picked.len().max(1) } else { 1 });
        Self {
            pools: picked,
            max_rating_gap: (rng.f64() < 0.25).then(|| 50 * rng.u16(2..=8)),
            follow_mode: if rng.f64() < 0.7 { FollowMode::Stream } else { FollowMode::Poll },
            challenges: 0.02 + 0.16 * rng.f64(),
            accepts: 0.5 + 0.4 * rng.f64(),
            patience: Duration::from_secs(rng.u64(60..=240)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn habits_are_deterministic_and_differ_between_players() {
        let pools = ["blitz".to_owned(), "rapid".to_owned()];
        let of = |user: &str| Habits::of(Strengths::new(1), user, &pools);
        assert_eq!(of("ada"), of("ada"));
        let all: Vec<Habits> = (0..200).map(|number| of(&number.to_string())).collect();
        let several = all.iter().filter(|habits| habits.pools.len() == 2).count();
        assert!((40..100).contains(&several), "{several}");
        assert!(all.iter().any(|habits| habits.pools == ["rapid"]));
        assert!(all.iter().any(|habits| habits.max_rating_gap.is_some()));
        assert!(all.iter().any(|habits| habits.follow_mode == FollowMode::Poll));
    }
}
