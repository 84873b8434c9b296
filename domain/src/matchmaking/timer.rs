//! When the next two may meet, if nothing happens before.

use event_schemas::pool::PoolSettings;
use event_schemas::time::Timestamp;

use super::meeting::meeting;
use super::seats::Seats;
use super::{Blocks, Waiting};
use crate::pool;

/// The first instant at which any two of these entries of one pool, in line order, may meet; none if none ever may. At that
/// instant a pass finds somebody, and before it nobody.
///
/// Whose time is over `now` meets nobody any more, although nobody may have ended their entry yet: a meeting that they
/// missed is no instant to wait for.
///
/// Each entry looks outwards for who came after it, only as far as could still be earlier than what is known: mostly at
/// a neighbour or two.
pub fn next_meeting<'a>(
    line: impl IntoIterator<Item = &'a Waiting>,
    settings: &PoolSettings,
    blocks: &Blocks,
    now: Timestamp,
) -> Option<Timestamp> {
    let waits = |waiting: &&Waiting| now < waiting.expires_at;
    let mut seats = Seats::new(line.into_iter().filter(waits).collect());
    let mut first: Option<Timestamp> = None;
    for index in 0..seats.len() {
        seats.leave(index);
        first = earliest(&seats, seats.get(index), settings, blocks, first);
    }
    first
}

fn earliest(
    seats: &Seats<'_>,
    seed: &Waiting,
    settings: &PoolSettings,
    blocks: &Blocks,
    mut first: Option<Timestamp>,
) -> Option<Timestamp> {
    for ring in seats.outwards(seed.rating.points()) {
        if seed.max_rating_gap.is_some_and(|gap| ring.distance > gap) {
            break;
        }
        // Nobody at this distance or farther can be met earlier than the seed's own window and eligibility allow.
        let Some(wait) = pool::wait_for(settings, ring.distance) else { break };
        let bound = seed.queued_at.after(wait).max(seed.eligible_at);
        let is_late = |first: Option<Timestamp>| first.is_some_and(|first| first <= bound);
        if is_late(first) {
            break;
        }
        for index in ring.ratings.into_iter().flatten().flat_map(|rating| seats.row(rating)) {
            if let Ok(meeting) = meeting(seed, seats.get(index), settings, blocks) {
                first = Some(first.map_or(meeting.at, |first| first.min(meeting.at)));
                if is_late(first) {
                    return first;
                }
            }
        }
    }
    first
}
