//! Those who wait in a pool, in line order, and once more in little room for those who look at all of them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use event_schemas::ids::{EntryId, SubjectId};

use super::meeting::Terms;
use super::{Blocks, Place, Waiting};

/// The line of a pool.
///
/// A player who asks how they stand asks about everyone, and whole entries are large and far apart. Of two entries,
/// however, nearly always only the terms matter, because the two are strangers. So these stand side by side, in no order.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    /// With each entry, where its brief is.
    in_order: BTreeMap<Place, (Waiting, usize)>,
    briefs: Vec<Brief>,
    /// Whose each of the briefs is.
    ids: Vec<EntryId>,
}

/// An entry in little room: enough to count a stranger, and to tell who may be none.
#[derive(Clone, Copy, Debug)]
struct Brief {
    terms: Terms,
    player: u32,
    /// The player's own if they remember nobody.
    last_opponent: u32,
}

/// Somebody in line, as one of the others sees them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seen<'a> {
    /// Neither the same player nor blocked by one of the two, and they did not meet last.
    Stranger(&'a Terms),
    /// Perhaps more than a stranger, or the entry itself.
    Known(&'a Waiting),
}

impl Line {
    /// O(log line).
    pub(super) fn insert(&mut self, waiting: Waiting) {
        let brief = Brief::of(&waiting);
        match self.in_order.entry(waiting.place()) {
            Entry::Occupied(mut known) => {
                let index = known.get().1;
                self.briefs[index] = brief;
                known.insert((waiting, index));
            }
            Entry::Vacant(place) => {
                let index = self.briefs.len();
                self.briefs.push(brief);
                self.ids.push(waiting.entry_id);
                place.insert((waiting, index));
            }
        }
    }

    /// O(log line).
    pub(super) fn remove(&mut self, place: &Place) {
        let Some((_, index)) = self.in_order.remove(place) else { return };
        self.briefs.swap_remove(index);
        self.ids.swap_remove(index);
        // The last brief fills the gap, unless it was the one that left.
        let moved = self.briefs.get(index).map(|brief| (brief.terms.queued_at, self.ids[index]));
        if let Some((_, of)) = moved.and_then(|moved| self.in_order.get_mut(&moved)) {
            *of = index;
        }
    }

    pub(super) fn get(&self, place: &Place) -> Option<&Waiting> {
        self.in_order.get(place).map(|(waiting, _)| waiting)
    }

    /// In line order.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Waiting> {
        self.in_order.values().map(|(waiting, _)| waiting)
    }

    /// Everyone in the eyes of one of them, in no order, and whether they stand before that one.
    pub(super) fn seen_by<'a>(
        &'a self,
        of: &Waiting,
        blocks: &Blocks,
    ) -> impl Iterator<Item = (Seen<'a>, bool)> {
        let circle = Circle::of(of, blocks);
        let own = of.place();
        self.briefs.iter().zip(&self.ids).map(move |(brief, id)| {
            let queued_at = brief.terms.queued_at;
            let is_before = queued_at < own.0 || (queued_at == own.0 && *id < own.1);
            let known = circle.may_have(brief).then(|| self.get(&(queued_at, *id))).flatten();
            (known.map_or(Seen::Stranger(&brief.terms), Seen::Known), is_before)
        })
    }
}

/// Where the briefs are is nobody's business.
impl PartialEq for Line {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl FromIterator<Waiting> for Line {
    fn from_iter<T: IntoIterator<Item = Waiting>>(entries: T) -> Self {
        let mut line = Self::default();
        entries.into_iter().for_each(|waiting| line.insert(waiting));
        line
    }
}

impl Brief {
    fn of(waiting: &Waiting) -> Self {
        let player = digest(waiting.player);
        let last_opponent = waiting.last_opponent.map_or(player, digest);
        Self { terms: waiting.terms(), player, last_opponent }
    }
}

/// The last bits of an id, which chance made. Different players have the same once in billions; whoever looks like
/// somebody known is looked at as a whole.
fn digest(player: SubjectId) -> u32 {
    player.0.as_u128() as u32
}

/// Those to whom an entry's player is more than a stranger: a set that may have too many, and never too few.
struct Circle {
    player: u32,
    /// One bit for all digests that have these last bits.
    bits: Vec<u64>,
}

impl Circle {
    /// So many bits there are for each member: one in so many strangers is taken for known.
    const BITS_A_MEMBER: usize = 256;

    fn of(waiting: &Waiting, blocks: &Blocks) -> Self {
        let player = waiting.player;
        let members: Vec<u32> = [player]
            .into_iter()
            .chain(waiting.last_opponent)
            .chain(blocks.around(player))
            .map(digest)
            .collect();
        let words = (members.len() * Self::BITS_A_MEMBER / 64).next_power_of_two();
        let mut circle = Self { player: digest(player), bits: vec![0; words] };
        for member in members {
            let (word, bit) = circle.place(member);
            circle.bits[word] |= bit;
        }
        circle
    }

    fn place(&self, digest: u32) -> (usize, u64) {
        ((digest / 64) as usize & (self.bits.len() - 1), 1 << (digest % 64))
    }

    fn may_have(&self, brief: &Brief) -> bool {
        let (word, bit) = self.place(brief.player);
        self.bits[word] & bit != 0 || brief.last_opponent == self.player
    }
}
