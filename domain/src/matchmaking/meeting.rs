//! The one rule of who may meet, and from when on. Every path asks it: the pass, the timer, the explanation.

use std::time::Duration;

use event_schemas::pool::{PoolSettings, WindowPolicy};
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
    let distance = a.rating.distance(b.rating);
    let too_far = |entry: &Waiting| entry.max_rating_gap.is_some_and(|gap| distance > gap);
    if too_far(a) || too_far(b) {
        return Err(Bar::Gap);
    }
    if blocks.between(a.player, b.player) {
        return Err(Bar::Blocked);
    }
    let wait = pool::wait_for(settings, distance).ok_or(Bar::Window)?;
    let counts_from = match settings.window_policy {
        WindowPolicy::LongestWaiting => a.queued_at.min(b.queued_at),
        WindowPolicy::Both => a.queued_at.max(b.queued_at),
    };
    let met_last = a.last_opponent == Some(b.player) || b.last_opponent == Some(a.player);
    let rematch = Duration::from_secs(if met_last { settings.rematch_after_seconds.into() } else { 0 });
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
