//! What players tend to do, drawn from the seed.

use std::time::Duration;

use crate::entry::Follows;
use crate::strength::Strengths;

/// What a player tends to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Habits {
    pub pools: Vec<String>,
    pub max_rating_gap: Option<u16>,
    pub follows: Follows,
    /// Of the times they want to play, they challenge somebody in this share.
    pub challenges: f64,
    /// Of the challenges, they accept this share.
    pub accepts: f64,
    /// How long they wait on average before they give up.
    pub patience: Duration,
}

impl Habits {
    /// Of a player under a seed.
    pub fn of(strengths: Strengths, user: &str, pools: &[String]) -> Self {
        let mut chance = strengths.chance("habits", user);
        let mut picked = pools.to_vec();
        chance.shuffle(&mut picked);
        // Two in three wait in one pool, the others in several.
        let several = chance.f64() < 0.33;
        picked.truncate(if several { picked.len().max(1) } else { 1 });
        Self {
            pools: picked,
            max_rating_gap: (chance.f64() < 0.25).then(|| 50 * chance.u16(2..=8)),
            follows: if chance.f64() < 0.7 { Follows::Stream } else { Follows::Poll },
            challenges: 0.02 + 0.16 * chance.f64(),
            accepts: 0.5 + 0.4 * chance.f64(),
            patience: Duration::from_secs(chance.u64(60..=240)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn habits_follow_from_the_seed_and_differ_between_players() {
        let pools = ["blitz".to_owned(), "rapid".to_owned()];
        let of = |user: &str| Habits::of(Strengths::new(1), user, &pools);
        assert_eq!(of("ada"), of("ada"));
        let all: Vec<Habits> = (0..200).map(|number| of(&number.to_string())).collect();
        let several = all.iter().filter(|habits| habits.pools.len() == 2).count();
        assert!((40..100).contains(&several), "{several}");
        assert!(all.iter().any(|habits| habits.pools == ["rapid"]));
        assert!(all.iter().any(|habits| habits.max_rating_gap.is_some()));
        assert!(all.iter().any(|habits| habits.follows == Follows::Poll));
    }
}
