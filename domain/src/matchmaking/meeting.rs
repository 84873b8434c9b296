//! The one rule of who may meet, and from when on. Every path asks it: the pass, the timer, the explanation.

use std::time::Duration;

use event_schemas::pool::{PoolSettings, WindowPolicy};
use event_schemas::rating::Rating;
use event_schemas::time::Timestamp;

use super::{Blocks, Waiting};
use crate::pool;

/// Why two never meet, however long they wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    SamePlayer,
    /// One of them blocks the other.
    Blocked,
    /// They are farther apart than one of them wants.
    Gap,
    /// They are farther apart than any window reaches.
    Window,
    /// One of them stops waiting before they may meet.
    Expiry,
}

/// From when on two may meet, and for what they wait until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meeting {
    pub at: Timestamp,
    pub behind: Behind,
}

/// What is the last to allow a meeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Nothing: they may meet since the later of them is there.
    Arrival,
    /// The window.
    Window,
    /// They met last, and play each other again only after some waiting.
    Rematch,
    /// A game could not be made for one of them, who is not matched at once again.
    Eligibility,
}

/// All of an entry that decides when it may meet a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) queued_at: Timestamp,
    eligible_at: Timestamp,
    expires_at: Timestamp,
    pub(super) rating: Rating,
    max_rating_gap: Option<u16>,
}

impl Waiting {
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

/// From when on two entries of one pool may meet. Symmetric.
///
/// Whose window counts, theirs is also the waiting that allows a rematch: that of who has waited longer, or of both.
///
/// # Errors
/// If they never meet.
pub fn meeting(a: &Waiting, b: &Waiting, settings: &PoolSettings, blocks: &Blocks) -> Result<Meeting, Bar> {
    if a.player == b.player {
        return Err(Bar::SamePlayer);
    }
    let [one, other] = [a.terms(), b.terms()];
    let distance = near_enough(&one, &other)?;
    if blocks.between(a.player, b.player) {
        return Err(Bar::Blocked);
    }
    let wait = pool::wait_for(settings, distance).ok_or(Bar::Window)?;
    let met_last = a.last_opponent == Some(b.player) || b.last_opponent == Some(a.player);
    let rematch = Duration::from_secs(if met_last { settings.rematch_after_seconds.into() } else { 0 });
    after_waiting(&one, &other, settings.window_policy, wait, rematch)
}

/// The same of two who are different players, do not block each other and did not meet last. `waits` has for each
/// distance, as far as windows reach, how long someone must wait: see [`pool::waits`].
#[inline]
pub(super) fn meeting_of_strangers(
    a: &Terms,
    b: &Terms,
    policy: WindowPolicy,
    waits: &[Duration],
) -> Result<Meeting, Bar> {
    let distance = near_enough(a, b)?;
    let wait = waits.get(usize::from(distance)).ok_or(Bar::Window)?;
    after_waiting(a, b, policy, *wait, Duration::ZERO)
}

/// How far apart the two are, unless that is too far for one of them.
#[inline]
fn near_enough(a: &Terms, b: &Terms) -> Result<u16, Bar> {
    let distance = a.rating.distance(b.rating);
    let too_far = |terms: &Terms| terms.max_rating_gap.is_some_and(|gap| distance > gap);
    if too_far(a) || too_far(b) { Err(Bar::Gap) } else { Ok(distance) }
}

/// From when on they may meet whose window must open for so long, and who must wait so long for a rematch.
#[inline]
fn after_waiting(
    a: &Terms,
    b: &Terms,
    policy: WindowPolicy,
    wait: Duration,
    rematch: Duration,
) -> Result<Meeting, Bar> {
    let counts_from = match policy {
        WindowPolicy::LongestWaiting => a.queued_at.min(b.queued_at),
        WindowPolicy::Both => a.queued_at.max(b.queued_at),
    };
    let mut meeting = Meeting { at: a.queued_at.max(b.queued_at), behind: Behind::Arrival };
    for (at, behind) in [
        (counts_from.after(wait), Behind::Window),
        (counts_from.after(rematch), Behind::Rematch),
        (a.eligible_at.max(b.eligible_at), Behind::Eligibility),
    ] {
        if at > meeting.at {
            meeting = Meeting { at, behind };
        }
    }
    if meeting.at >= a.expires_at.min(b.expires_at) { Err(Bar::Expiry) } else { Ok(meeting) }
}

/// Whether two entries of one pool may meet at this instant.
pub fn may_meet(a: &Waiting, b: &Waiting, settings: &PoolSettings, blocks: &Blocks, now: Timestamp) -> bool {
    now < a.expires_at.min(b.expires_at)
        && meeting(a, b, settings, blocks).is_ok_and(|meeting| meeting.at <= now)
}
