//! The rule that decides whether, and from when on, two players can be paired. The pass, the timer and the
//! explanation all use it.

use std::time::Duration;

use event_schemas::pool::{PoolSettings, WindowPolicy};
use event_schemas::rating::Rating;
use event_schemas::time::Timestamp;

use super::{Blocks, WaitingEntry};
use crate::pool;

/// The reason why two entries can never be paired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incompatible {
    SamePlayer,
    /// One of them blocks the other.
    Blocked,
    /// Their rating distance exceeds the limit of one of them.
    Gap,
    /// Their rating distance exceeds the maximum of the rating window.
    Window,
    /// One of them expires before they could be paired.
    Expiry,
}

/// The earliest time at which two entries can be paired, and the condition that is fulfilled last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarliestPairing {
    pub at: Timestamp,
    pub delayed_by: DelayedBy,
}

/// The condition that is fulfilled last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelayedBy {
    /// None: they can be paired as soon as both are queued.
    Arrival,
    /// The rating window.
    Window,
    /// They were each other's last opponent; a rematch needs some waiting.
    Rematch,
    /// The cooldown of one of them, after a game that could not be created.
    Eligibility,
}

/// The part of an entry that decides when it can be paired with a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) queued_at: Timestamp,
    eligible_at: Timestamp,
    expires_at: Timestamp,
    pub(super) rating: Rating,
    max_rating_gap: Option<u16>,
}

impl WaitingEntry {
    pub(super) fn terms(&self) -> Terms {
        Terms {
            queued_at: self.queued_at,
            eligible_at: self.eligible_at,
            expires_at: self.expires_at,
            rating: self.rating,
            max_rating_gap: self.max_rating_gap,
        }
    }
}

/// The earliest time at which two entries of one pool can be paired. Symmetric.
///
/// The waiting time for a rematch is measured for the same player as the rating window: for the longer
/// waiting one, or for both.
///
/// # Errors
/// If they can never be paired.
pub fn earliest_pairing(
    a: &WaitingEntry,
    b: &WaitingEntry,
    settings: &PoolSettings,
    blocks: &Blocks,
) -> Result<EarliestPairing, Incompatible> {
    if a.player == b.player {
        return Err(Incompatible::SamePlayer);
    }
    let [one, other] = [a.terms(), b.terms()];
    let distance = allowed_distance(&one, &other)?;
    if blocks.between(a.player, b.player) {
        return Err(Incompatible::Blocked);
    }
    let wait = pool::wait_for(settings, distance).ok_or(Incompatible::Window)?;
    let met_last = a.last_opponent == Some(b.player) || b.last_opponent == Some(a.player);
    let rematch = Duration::from_secs(if met_last { settings.rematch_after_seconds.into() } else { 0 });
    earliest_after_waits(&one, &other, settings.window_policy, wait, rematch)
}

/// The same for two different players who do not block each other and were not each other's last opponent.
/// `waits` contains the waiting time for each distance within the maximum of the window: see [`pool::waits`].
#[inline]
pub(super) fn earliest_pairing_of_strangers(
    a: &Terms,
    b: &Terms,
    policy: WindowPolicy,
    waits: &[Duration],
) -> Result<EarliestPairing, Incompatible> {
    let distance = allowed_distance(a, b)?;
    let wait = waits.get(usize::from(distance)).ok_or(Incompatible::Window)?;
    earliest_after_waits(a, b, policy, *wait, Duration::ZERO)
}

/// The rating distance, unless it exceeds the limit of one of them.
#[inline]
fn allowed_distance(a: &Terms, b: &Terms) -> Result<u16, Incompatible> {
    let distance = a.rating.distance(b.rating);
    let too_far = |terms: &Terms| terms.max_rating_gap.is_some_and(|gap| distance > gap);
    if too_far(a) || too_far(b) { Err(Incompatible::Gap) } else { Ok(distance) }
}

/// The earliest time at which they can be paired, given the waiting times that the window and a rematch need.
#[inline]
fn earliest_after_waits(
    a: &Terms,
    b: &Terms,
    policy: WindowPolicy,
    wait: Duration,
    rematch: Duration,
) -> Result<EarliestPairing, Incompatible> {
    let counts_from = match policy {
        WindowPolicy::LongestWaiting => a.queued_at.min(b.queued_at),
        WindowPolicy::Both => a.queued_at.max(b.queued_at),
    };
    let mut earliest = EarliestPairing { at: a.queued_at.max(b.queued_at), delayed_by: DelayedBy::Arrival };
    for (at, delayed_by) in [
        (counts_from.after(wait), DelayedBy::Window),
        (counts_from.after(rematch), DelayedBy::Rematch),
        (a.eligible_at.max(b.eligible_at), DelayedBy::Eligibility),
    ] {
        if at > earliest.at {
            earliest = EarliestPairing { at, delayed_by };
        }
    }
    if earliest.at >= a.expires_at.min(b.expires_at) { Err(Incompatible::Expiry) } else { Ok(earliest) }
}

/// Whether two entries of one pool can be paired at this time.
pub fn can_pair(
    a: &WaitingEntry,
    b: &WaitingEntry,
    settings: &PoolSettings,
    blocks: &Blocks,
    now: Timestamp,
) -> bool {
    now < a.expires_at.min(b.expires_at)
        && earliest_pairing(a, b, settings, blocks).is_ok_and(|earliest| earliest.at <= now)
}
