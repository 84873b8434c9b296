//! Those who wait in a pool, found by their rating: an index that is made for one look at the line, in one walk over it.

use std::cmp::Ordering;

use event_schemas::rating::RATING_MAX;

use super::Waiting;

const RATINGS: usize = RATING_MAX as usize + 1;
const WORD: usize = u64::BITS as usize;

/// A line, and the same entries by rating. Ratings are whole, so each has a row, in which those stand in line order.
#[derive(Debug)]
pub(super) struct Seats<'a> {
    /// In line order; everything else names an entry by its index here.
    line: Vec<&'a Waiting>,
    gone: Vec<bool>,
    /// All rows one behind the other.
    rows: Vec<u32>,
    /// Where each rating's row begins in `rows`; everyone before has gone.
    starts: Vec<u32>,
    ends: Vec<u32>,
    /// One bit for each rating whose row has someone left.
    occupied: Vec<u64>,
}

impl<'a> Seats<'a> {
    /// Of entries in line order. O(entries).
    pub(super) fn new(line: Vec<&'a Waiting>) -> Self {
        let rating = |waiting: &Waiting| usize::from(waiting.rating.points());
        let mut ends = vec![0_u32; RATINGS];
        for waiting in &line {
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
        let mut rows = vec![0; line.len()];
        for (index, waiting) in (0..).zip(&line) {
            let end = &mut ends[rating(waiting)];
            rows[*end as usize] = index;
            *end += 1;
        }
        Self { gone: vec![false; line.len()], line, rows, starts, ends, occupied }
    }

    pub(super) fn len(&self) -> usize {
        self.line.len()
    }

    pub(super) fn get(&self, index: usize) -> &'a Waiting {
        self.line[index]
    }

    pub(super) fn is_gone(&self, index: usize) -> bool {
        self.gone[index]
    }

    /// Takes the entry out.
    pub(super) fn leave(&mut self, index: usize) {
        self.gone[index] = true;
        let rating = usize::from(self.line[index].rating.points());
        let (start, end) = (&mut self.starts[rating], self.ends[rating]);
        while *start < end && self.gone[self.rows[*start as usize] as usize] {
            *start += 1;
        }
        if *start == end {
            self.occupied[rating / WORD] &= !(1 << (rating % WORD));
        }
    }

    /// Those left with this rating, in line order.
    pub(super) fn row(&self, rating: u16) -> impl Iterator<Item = usize> {
        let rating = usize::from(rating);
        let row = &self.rows[self.starts[rating] as usize..self.ends[rating] as usize];
        row.iter().map(|index| *index as usize).filter(|index| !self.gone[*index])
    }

    /// The ratings of those left, by their distance from this one, from the nearest on.
    pub(super) fn outwards(&self, from: u16) -> Outwards<'_, 'a> {
        Outwards { seats: self, from, up: self.at_or_above(from), down: self.below(from) }
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

/// A walk from one rating outwards.
pub(super) struct Outwards<'s, 'a> {
    seats: &'s Seats<'a>,
    from: u16,
    up: Option<u16>,
    down: Option<u16>,
}

/// Those at one distance: one rating, or one on either side.
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
            self.up = self.seats.at_or_above(up + 1);
        }
        if let Some(down) = down {
            self.down = self.seats.below(down);
        }
        Some(Ring { distance, ratings: [up, down] })
    }
}
