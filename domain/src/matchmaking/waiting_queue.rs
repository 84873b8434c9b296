//! The queue of a pool: the entries in queue order, and a compact copy of each for scans over all of them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use event_schemas::ids::{EntryId, SubjectId};

use super::compatibility::Terms;
use super::{Blocks, QueueKey, WaitingEntry};

/// The queue of a pool.
///
/// A player who asks for their status needs a scan over all entries, and whole entries are large and
/// scattered in memory. But for two strangers, the usual case, only the terms matter. So the terms are stored
/// side by side, in no order.
#[derive(Clone, Debug, Default)]
pub(super) struct WaitingQueue {
    /// Each entry with the index of its compact copy.
    entries: BTreeMap<QueueKey, (WaitingEntry, usize)>,
    compact: Vec<CompactEntry>,
    /// The entry id of each compact copy.
    ids: Vec<EntryId>,
}

/// A compact entry: enough to evaluate a stranger, and to recognise a player who may not be one.
#[derive(Clone, Copy, Debug)]
struct CompactEntry {
    terms: Terms,
    player: u32,
    /// The player's own digest if there is no last opponent.
    last_opponent: u32,
}

/// An entry as seen from another entry of the same queue.
#[derive(Clone, Copy, Debug)]
pub(super) enum EntryView<'a> {
    /// A stranger: neither the same player, nor blocked by either, nor the last opponent.
    Compact(&'a Terms),
    /// Possibly not a stranger, or the entry itself.
    Full(&'a WaitingEntry),
}

impl WaitingQueue {
    /// O(log queue).
    pub(super) fn insert(&mut self, waiting: WaitingEntry) {
        let compact = CompactEntry::of(&waiting);
        match self.entries.entry(waiting.key()) {
            Entry::Occupied(mut known) => {
                let index = known.get().1;
                self.compact[index] = compact;
                known.insert((waiting, index));
            }
            Entry::Vacant(vacant) => {
                let index = self.compact.len();
                self.compact.push(compact);
                self.ids.push(waiting.entry_id);
                vacant.insert((waiting, index));
            }
        }
    }

    /// O(log queue).
    pub(super) fn remove(&mut self, key: &QueueKey) {
        let Some((_, index)) = self.entries.remove(key) else { return };
        self.compact.swap_remove(index);
        self.ids.swap_remove(index);
        // The last compact entry fills the gap, unless it was the removed one.
        let moved = self.compact.get(index).map(|compact| (compact.terms.queued_at, self.ids[index]));
        if let Some((_, of)) = moved.and_then(|moved| self.entries.get_mut(&moved)) {
            *of = index;
        }
    }

    pub(super) fn get(&self, key: &QueueKey) -> Option<&WaitingEntry> {
        self.entries.get(key).map(|(waiting, _)| waiting)
    }

    /// In queue order.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &WaitingEntry> {
        self.entries.values().map(|(waiting, _)| waiting)
    }

    /// All entries as seen from one of them, in no order, and whether they are before it in the queue.
    pub(super) fn views_for<'a>(
        &'a self,
        of: &WaitingEntry,
        blocks: &Blocks,
    ) -> impl Iterator<Item = (EntryView<'a>, bool)> {
        let related = RelatedPlayers::of(of, blocks);
        let own = of.key();
        self.compact.iter().zip(&self.ids).map(move |(compact, id)| {
            let queued_at = compact.terms.queued_at;
            let is_before = queued_at < own.0 || (queued_at == own.0 && *id < own.1);
            let known = related.may_contain(compact).then(|| self.get(&(queued_at, *id))).flatten();
            (known.map_or(EntryView::Compact(&compact.terms), EntryView::Full), is_before)
        })
    }
}

/// The order of the compact entries is not part of the value.
impl PartialEq for WaitingQueue {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl FromIterator<WaitingEntry> for WaitingQueue {
    fn from_iter<T: IntoIterator<Item = WaitingEntry>>(entries: T) -> Self {
        let mut queue = Self::default();
        entries.into_iter().for_each(|waiting| queue.insert(waiting));
        queue
    }
}

impl CompactEntry {
    fn of(waiting: &WaitingEntry) -> Self {
        let player = digest(waiting.player);
        let last_opponent = waiting.last_opponent.map_or(player, digest);
        Self { terms: waiting.terms(), player, last_opponent }
    }
}

/// The last bits of a random id. Two different players share them once in billions; then the whole entry is
/// evaluated.
fn digest(player: SubjectId) -> u32 {
    player.0.as_u128() as u32
}

/// The players to whom an entry's player is not a stranger: a filter with false positives, but no false
/// negatives.
struct RelatedPlayers {
    player: u32,
    /// One bit for all digests with the same last bits.
    bits: Vec<u64>,
}

impl RelatedPlayers {
    /// The number of bits per member: the rate of false positives is one in this many.
    const BITS_A_MEMBER: usize = 256;

    fn of(waiting: &WaitingEntry, blocks: &Blocks) -> Self {
        let player = waiting.player;
        let members: Vec<u32> = [player]
            .into_iter()
            .chain(waiting.last_opponent)
            .chain(blocks.around(player))
            .map(digest)
            .collect();
        let words = (members.len() * Self::BITS_A_MEMBER / 64).next_power_of_two();
        let mut related = Self { player: digest(player), bits: vec![0; words] };
        for member in members {
            let (word, bit) = related.bit_of(member);
            related.bits[word] |= bit;
        }
        related
    }

    fn bit_of(&self, digest: u32) -> (usize, u64) {
        ((digest / 64) as usize & (self.bits.len() - 1), 1 << (digest % 64))
    }

    fn may_contain(&self, compact: &CompactEntry) -> bool {
        let (word, bit) = self.bit_of(compact.player);
        self.bits[word] & bit != 0 || compact.last_opponent == self.player
    }
}
