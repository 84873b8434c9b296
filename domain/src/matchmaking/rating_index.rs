//! An index of queued entries by rating, built in one pass over the queue for one pairing pass or timer
//! computation.

use std::cmp::Ordering;

use event_schemas::rating::RATING_MAX;

use super::WaitingEntry;

const RATINGS: usize = RATING_MAX as usize + 1;
const WORD: usize = u64::BITS as usize;

/// The entries of a queue, indexed by rating. Ratings are whole numbers, so each rating has a row, with its
/// entries in queue order.
#[derive(Debug)]
pub(super) struct RatingIndex<'a> {
    /// In queue order; all other fields refer to an entry by its index here.
    entries: Vec<&'a WaitingEntry>,
    removed: Vec<bool>,
    /// All rows, concatenated.
    rows: Vec<u32>,
    /// The start of each rating's row in `rows`; all entries before it in the row are removed.
    starts: Vec<u32>,
    ends: Vec<u32>,
    /// One bit per rating, set while its row has entries left.
    occupied: Vec<u64>,
}

impl<'a> RatingIndex<'a> {
    /// Indexes entries in queue order. O(entries).
    pub(super) fn new(entries: Vec<&'a WaitingEntry>) -> Self {
        let rating = |waiting: &WaitingEntry| usize::from(waiting.rating.points());
        let mut ends = vec![0_u32; RATINGS];
        for waiting in &entries {
            ends[rating(waiting)] += 1;
        }
        let mut starts = vec![0_u32; RATINGS];
        let mut occupied = vec![0_u64; RATINGS.div_ceil(WORD)];
        let mut next = 0;
        for points in 0..RATINGS {
            let count = ends[points];
            starts[points] = next;
            ends[points] = next;
            next += count;
            if count > 0 {
                occupied[points / WORD] |= 1 << (points % WORD);
            }
        }
        let mut rows = vec![0; entries.len()];
        for (index, waiting) in (0..).zip(&entries) {
            let end = &mut ends[rating(waiting)];
            rows[*end as usize] = index;
            *end += 1;
        }
        Self { removed: vec![false; entries.len()], entries, rows, starts, ends, occupied }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, index: usize) -> &'a WaitingEntry {
        self.entries[index]
    }

    pub(super) fn is_removed(&self, index: usize) -> bool {
        self.removed[index]
    }

    /// Removes the entry.
    pub(super) fn remove(&mut self, index: usize) {
        self.removed[index] = true;
        let rating = usize::from(self.entries[index].rating.points());
        let (start, end) = (&mut self.starts[rating], self.ends[rating]);
        while *start < end && self.removed[self.rows[*start as usize] as usize] {
            *start += 1;
        }
        if *start == end {
            self.occupied[rating / WORD] &= !(1 << (rating % WORD));
        }
    }

    /// The remaining entries with this rating, in queue order.
    pub(super) fn row(&self, rating: u16) -> impl Iterator<Item = usize> {
        let rating = usize::from(rating);
        let row = &self.rows[self.starts[rating] as usize..self.ends[rating] as usize];
        row.iter().map(|index| *index as usize).filter(|index| !self.removed[*index])
    }

    /// The ratings of the remaining entries by their distance from this one, the nearest first.
    pub(super) fn outwards(&self, from: u16) -> Outwards<'_, 'a> {
        Outwards { index: self, from, up: self.at_or_above(from), down: self.below(from) }
    }

    fn at_or_above(&self, rating: u16) -> Option<u16> {
        let rating = usize::from(rating);
        let mut word = rating / WORD;
        let mut bits = self.occupied.get(word)? & (u64::MAX << (rating % WORD));
        while bits == 0 {
            word += 1;
            bits = *self.occupied.get(word)?;
        }
        u16::try_from(word * WORD + bits.trailing_zeros() as usize).ok()
    }

    fn below(&self, rating: u16) -> Option<u16> {
        let rating = usize::from(rating);
        let mut word = rating / WORD;
        let mut bits = self.occupied.get(word)? & !(u64::MAX << (rating % WORD));
        while bits == 0 {
            word = word.checked_sub(1)?;
            bits = *self.occupied.get(word)?;
        }
        u16::try_from(word * WORD + WORD - 1 - bits.leading_zeros() as usize).ok()
    }
}

/// An iterator over ratings outwards from one rating.
pub(super) struct Outwards<'s, 'a> {
    index: &'s RatingIndex<'a>,
    from: u16,
    up: Option<u16>,
    down: Option<u16>,
}

/// The ratings at one distance: one, or one on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ring {
    pub(super) distance: u16,
    pub(super) ratings: [Option<u16>; 2],
}

impl Iterator for Outwards<'_, '_> {
    type Item = Ring;

    fn next(&mut self) -> Option<Ring> {
        let above = self.up.map(|up| up - self.from);
        let below = self.down.map(|down| self.from - down);
        let order = match (above, below) {
            (None, None) => return None,
            (Some(above), Some(below)) => above.cmp(&below),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
        };
        let distance = above.into_iter().chain(below).min()?;
        let up = self.up.filter(|_| order != Ordering::Greater);
        let down = self.down.filter(|_| order != Ordering::Less);
        if let Some(up) = up {
            self.up = self.index.at_or_above(up + 1);
        }
        if let Some(down) = down {
            self.down = self.index.below(down);
        }
        Some(Ring { distance, ratings: [up, down] })
    }
}
