//! The interests of a user: how much each product counts in the current session, and over all interactions.
//!
//! All sums are whole numbers, and all decays use whole numbers only, so that a replay gives the same bits on every
//! machine, whatever the order in which catch-up batches are cut.

use std::collections::BTreeMap;
use std::time::Duration;

use event_schemas::ids::ProductId;
use event_schemas::time::Timestamp;
use event_schemas::user::{InteractionRecorded, InteractionType};
use serde::{Deserialize, Serialize};

use super::interactions::Interactions;

/// A session ends after this time without an interaction.
pub const SESSION_IDLE: Duration = Duration::from_secs(60 * 60);

/// The half-life of an interaction's share in the long-term profile.
pub const LONG_TERM_HALF_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The weight 1 of a purchase, in the unit of all weights.
pub const UNIT: i64 = 1_000_000_000;

/// 2 to the power of −1/2, −1/4, −1/8 and so on, in 2³²ths.
const ROOTS_OF_HALF: [i128; 16] = [
    3_037_000_500,
    3_611_622_603,
    3_938_502_376,
    4_112_874_773,
    4_202_935_003,
    4_248_701_965,
    4_271_771_996,
    4_283_353_945,
    4_289_156_690,
    4_292_061_010,
    4_293_513_907,
    4_294_240_540,
    4_294_603_903,
    4_294_785_595,
    4_294_876_445,
    4_294_921_870,
];

/// An amount after a time in which it halves every `half_life`, rounded towards zero.
pub fn decayed(amount: i64, passed: Duration, half_life: Duration) -> i64 {
    let (passed, half_life) = (passed.as_micros(), half_life.as_micros().max(1));
    let Ok(halvings) = u32::try_from(passed / half_life) else { return 0 };
    if halvings >= i64::BITS {
        return 0;
    }
    let sixteen_bits = (passed % half_life) * (1 << 16) / half_life;
    let roots = ROOTS_OF_HALF.iter().enumerate().filter(|(place, _)| sixteen_bits >> (15 - place) & 1 == 1);
    let of_fraction = roots.fold(i128::from(amount) << 32, |amount, (_, root)| (amount * root) / (1 << 32));
    i64::try_from(of_fraction / (1 << (32 + halvings))).unwrap_or(0)
}

/// A sum of amounts that halve with time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecayingSum {
    amount: i64,
    /// The time for which the amount is stated.
    at: Timestamp,
}

impl DecayingSum {
    pub fn new(amount: i64, at: Timestamp) -> Self {
        Self { amount, at }
    }

    /// Adds an amount of any time, earlier ones too.
    pub fn add(&mut self, amount: i64, at: Timestamp, half_life: Duration) {
        if at >= self.at {
            let before = self.at(at, half_life);
            *self = Self { amount: before.saturating_add(amount), at };
        } else {
            let late = decayed(amount, self.at.since(at), half_life);
            self.amount = self.amount.saturating_add(late);
        }
    }

    /// The sum at an instant. It does not grow for an earlier one.
    pub fn at(&self, instant: Timestamp, half_life: Duration) -> i64 {
        let passed = if instant > self.at { instant.since(self.at) } else { Duration::ZERO };
        decayed(self.amount, passed, half_life)
    }

    /// A number by which sums of one half-life have the same order as at any instant. Negative sums come last.
    pub fn rank(&self, half_life: Duration) -> f64 {
        if self.amount <= 0 {
            return f64::MIN;
        }
        (self.amount as f64).log2() + self.at.micros() as f64 / half_life.as_micros() as f64
    }
}

/// A user's visit: interactions that follow each other without a long pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its number among the user's sessions, from 1.
    pub number: u64,
    pub started_at: Timestamp,
    pub last_at: Timestamp,
    pub interactions: u64,
}

impl Session {
    /// Whether it has not ended at an instant.
    pub fn is_active(&self, now: Timestamp) -> bool {
        now <= self.last_at.after(SESSION_IDLE)
    }
}

/// What a user has done, over all products.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// The number of interactions of each type that occurred.
    #[serde(with = "crate::map_as_list")]
    pub interactions: BTreeMap<InteractionType, u64>,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    /// The latest session.
    pub session: Session,
}

impl Activity {
    /// The activity of a user with one interaction.
    pub fn new(kind: InteractionType, at: Timestamp) -> Self {
        let session = Session { number: 1, started_at: at, last_at: at, interactions: 1 };
        Self { interactions: BTreeMap::from([(kind, 1)]), first_at: at, last_at: at, session }
    }

    /// Counts a further interaction. Returns whether it belongs to the latest session, which it may start: one that is
    /// reported late can belong to an earlier one.
    pub fn add(&mut self, kind: InteractionType, at: Timestamp) -> bool {
        *self.interactions.entry(kind).or_default() += 1;
        self.first_at = self.first_at.min(at);
        self.last_at = self.last_at.max(at);
        let session = &mut self.session;
        if !session.is_active(at) {
            let number = session.number + 1;
            *session = Session { number, started_at: at, last_at: at, interactions: 1 };
            return true;
        }
        if at.after(SESSION_IDLE) < session.started_at {
            return false;
        }
        session.started_at = session.started_at.min(at);
        session.last_at = session.last_at.max(at);
        session.interactions += 1;
        true
    }

    pub fn total(&self) -> u64 {
        self.interactions.values().sum()
    }
}

/// The interest of a user in one product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    pub product_id: ProductId,
    pub interactions: u64,
    pub purchases: u64,
    pub last_at: Timestamp,
    long_term: DecayingSum,
    /// The latest session with an interaction, 0 if none is known.
    pub session: u64,
    /// The sums of that session.
    #[serde(with = "crate::map_as_list")]
    in_session: BTreeMap<InteractionType, DecayingSum>,
}

impl Affinity {
    /// The interest in a product without interactions.
    pub fn none(product_id: ProductId, at: Timestamp) -> Self {
        let long_term = DecayingSum::new(0, at);
        let in_session = BTreeMap::new();
        Self { product_id, interactions: 0, purchases: 0, last_at: at, long_term, session: 0, in_session }
    }

    /// Adds an interaction; with the number of the session that it belongs to, if that is the user's latest.
    pub fn add(
        &mut self,
        interaction: &InteractionRecorded,
        at: Timestamp,
        session: Option<u64>,
        settings: &Interactions,
    ) {
        let kind = interaction.interaction_type;
        let weight = settings.weight(kind, interaction.value);
        self.interactions += 1;
        self.purchases += u64::from(kind == InteractionType::Purchase);
        self.last_at = self.last_at.max(at);
        self.long_term.add(weight, at, LONG_TERM_HALF_LIFE);
        let Some(session) = session else { return };
        if self.session != session {
            self.session = session;
            self.in_session.clear();
        }
        let sum = self.in_session.entry(kind).or_insert(DecayingSum::new(0, at));
        sum.add(weight, at, settings.half_life(kind));
    }

    /// Its weight in the long-term profile at an instant.
    pub fn long_term(&self, now: Timestamp) -> i64 {
        self.long_term.at(now, LONG_TERM_HALF_LIFE)
    }

    /// Its weight in the profile of its session at an instant.
    pub fn in_session(&self, now: Timestamp, settings: &Interactions) -> i64 {
        let sums = self.in_session.iter().map(|(kind, sum)| sum.at(now, settings.half_life(*kind)));
        sums.fold(0, i64::saturating_add)
    }

    /// A number by which the products of a user are ordered by their long-term weight.
    pub fn rank(&self) -> f64 {
        self.long_term.rank(LONG_TERM_HALF_LIFE)
    }
}

#[cfg(test)]
mod tests;
