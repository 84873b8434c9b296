//! How interactions count: the weight of each type, and the time in which its share in a session fades.

use std::time::Duration;

use event_schemas::user::{InteractionSettings, InteractionType};

use super::profile::UNIT;

const MINUTE: Duration = Duration::from_secs(60);

/// The stars of a rating that neither attract nor push away.
const NEUTRAL_STARS: f64 = 3.0;

/// All types, in the order of their numbers.
pub const TYPES: [InteractionType; 7] = [
    InteractionType::View,
    InteractionType::Click,
    InteractionType::AddToCart,
    InteractionType::Purchase,
    InteractionType::Like,
    InteractionType::Share,
    InteractionType::Rating,
];

/// How an interaction of a type counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counted {
    /// By default that of a purchase is 1. Of a rating: that of five stars; one star has the same with the other sign.
    pub weight: f64,
    /// The time in which its share in the session profile halves.
    pub half_life: Duration,
}

/// How interactions of each type count. Folds depend on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interactions([Counted; TYPES.len()]);

impl Default for Interactions {
    fn default() -> Self {
        let counted = |(weight, minutes)| Counted { weight, half_life: minutes * MINUTE };
        let types = [(0.1, 5), (0.3, 10), (0.6, 30), (1.0, 60), (0.5, 20), (0.7, 30), (0.8, 30)];
        Self(types.map(counted))
    }
}

impl Interactions {
    pub fn of(&self, kind: InteractionType) -> Counted {
        self.0[kind as usize]
    }

    #[must_use]
    pub fn with(mut self, kind: InteractionType, counted: Counted) -> Self {
        self.0[kind as usize] = counted;
        self
    }

    /// The weight of an interaction in billionths: that of a purchase is 1 by default, and a bad rating has a negative one.
    pub fn weight(&self, kind: InteractionType, value: Option<f64>) -> i64 {
        let Counted { weight, .. } = self.of(kind);
        let share = match kind {
            InteractionType::Rating => (value.unwrap_or(NEUTRAL_STARS).clamp(1.0, 5.0) - NEUTRAL_STARS) / 2.0,
            _ => 1.0,
        };
        (share * weight * UNIT as f64).round() as i64
    }

    /// The time in which an interaction's share in the session profile halves.
    pub fn half_life(&self, kind: InteractionType) -> Duration {
        self.of(kind).half_life
    }

    /// A number that differs for other settings; 0 for the built-in ones. What depends on interactions is rebuilt when it
    /// changes.
    pub fn fingerprint(&self) -> u32 {
        if *self == Self::default() {
            return 0;
        }
        let bytes = self.0.iter().flat_map(|counted| {
            let half_life = u64::try_from(counted.half_life.as_micros()).unwrap_or(u64::MAX);
            [counted.weight.to_bits(), half_life].into_iter().flat_map(u64::to_le_bytes)
        });
        // FNV-1a, which is the same in every build.
        bytes.fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)) | 1
    }

    /// The settings as an event has them.
    pub(crate) fn recorded(&self) -> Vec<InteractionSettings> {
        let of = |interaction_type| {
            let Counted { weight, half_life } = self.of(interaction_type);
            InteractionSettings { interaction_type, weight, half_life_seconds: half_life.as_secs() }
        };
        TYPES.map(of).into()
    }

    /// The settings of an event; the built-in ones of types that it lacks.
    pub(crate) fn of_recorded(recorded: &[InteractionSettings]) -> Self {
        recorded.iter().fold(Self::default(), |settings, one| {
            let half_life = Duration::from_secs(one.half_life_seconds);
            settings.with(one.interaction_type, Counted { weight: one.weight, half_life })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_is_at_the_place_of_its_number() {
        for (number, kind) in TYPES.into_iter().enumerate() {
            assert_eq!(kind as usize, number, "{kind:?}");
        }
    }

    #[test]
    fn other_settings_have_another_fingerprint() {
        let default = Interactions::default();
        assert_eq!(default.fingerprint(), 0);
        let mut known = vec![0];
        for kind in TYPES {
            let counted = default.of(kind);
            for other in [
                Counted { weight: counted.weight + 0.01, ..counted },
                Counted { half_life: counted.half_life + MINUTE, ..counted },
            ] {
                let fingerprint = default.with(kind, other).fingerprint();
                assert!(!known.contains(&fingerprint), "{kind:?} {other:?}");
                known.push(fingerprint);
            }
        }
    }

    #[test]
    fn rating_counts_by_its_stars_and_its_weight() {
        let default = Interactions::default();
        let doubled = Counted { weight: 1.6, ..default.of(InteractionType::Rating) };
        for (stars, weight) in [(1.0, -UNIT * 8 / 10), (3.0, 0), (4.0, UNIT * 4 / 10), (5.0, UNIT * 8 / 10)] {
            assert_eq!(default.weight(InteractionType::Rating, Some(stars)), weight);
            let other = default.with(InteractionType::Rating, doubled);
            assert_eq!(other.weight(InteractionType::Rating, Some(stars)), 2 * weight);
        }
    }
}
