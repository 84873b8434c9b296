//! Count, mean and 90th percentile of a job's scores, equal to PostgreSQL's results for the same scores.
//!
//! PostgreSQL's `percentile_cont(p)` interpolates between the scores of the ranks below and above `p·(N−1)`
//! of N sorted scores; `round(x::numeric, 2)` takes 15 significant digits and rounds half away from zero. Up
//! to [`PLAIN_MAX`] scores are stored individually, sorted. Beyond that, two levels of counts (256 × 256
//! buckets) with the minimum and the maximum of each bucket give bounds for the result. Nearly always both
//! bounds round to the same two decimals, and then that is the result. If not, the one or two relevant
//! buckets are returned, and the scores in them resolve it ([`AmbiguousPercentile::resolve`]).
//!
//! The mean is exact, like PostgreSQL's over `numeric`. Over `double precision` PostgreSQL accumulates
//! rounding errors in row order, so that at an edge such as 0.285 its second decimal may depend on that
//! order.
//!
//! An insert costs a memory move of at most 160 kB at first and two increments later; the cost of a query
//! does not depend on N; the memory is at most 1.5 MB. The order of the scores never matters.

use event_schemas::ids::Score;
use serde::{Deserialize, Serialize};

/// The maximum number of individually stored scores.
pub const PLAIN_MAX: usize = 20_000;

const COARSE: usize = 256;
const FINE: usize = COARSE * COARSE;

/// Scores are summed as integers in units of 2⁻⁸⁸: exact for every score of at least 2⁻³⁵, with room for 2⁴⁰
/// of them.
const SUM_BITS: i32 = 88;

/// The scores of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Scores {
    count: u64,
    sum: u128,
    spread: Spread,
}

#[derive(Clone, Debug, PartialEq)]
enum Spread {
    /// All scores, sorted.
    Plain(Vec<f64>),
    Bucketed(Box<Buckets>),
}

impl Default for Spread {
    fn default() -> Self {
        Self::Plain(Vec::new())
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Buckets {
    /// The number of scores in each group of 256 fine buckets.
    coarse: Vec<u64>,
    fine: Vec<Bucket>,
}

/// The scores from `index / 65536` up to the next bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket {
    count: u32,
    min: f64,
    max: f64,
}

const EMPTY: Bucket = Bucket { count: 0, min: f64::INFINITY, max: f64::NEG_INFINITY };

/// A 90th percentile, or the range of scores needed to compute it.
#[derive(Clone, Debug, PartialEq)]
pub enum Percentile {
    /// There are no scores.
    None,
    /// Rounded to two decimals.
    Known(f64),
    /// It depends on the scores in a small range.
    Ambiguous(AmbiguousPercentile),
}

/// The range of scores that decides a percentile, from `from` to `to` inclusive.
#[derive(Clone, Debug, PartialEq)]
pub struct AmbiguousPercentile {
    pub from: f64,
    pub to: f64,
    /// The number of scores in the range.
    pub within: u64,
    /// The rank, within the range, of the score below the percentile; from 0.
    low: usize,
    /// The rank of the score above it: the same, or the next.
    high: usize,
    /// The position of the percentile between the two scores, from 0 to 1.
    proportion: f64,
}

impl AmbiguousPercentile {
    /// The percentile, rounded to two decimals, computed from the scores in the range, in any order. None if
    /// their number is wrong, that is, if they were read at another position than the counts.
    pub fn resolve(&self, scores: &[f64]) -> Option<f64> {
        let mut sorted = scores.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let fits = sorted.len() as u64 == self.within
            && sorted.first().is_some_and(|least| *least >= self.from)
            && sorted.last().is_some_and(|greatest| *greatest <= self.to);
        if !fits {
            return None;
        }
        let (low, high) = (sorted.get(self.low)?, sorted.get(self.high)?);
        Some(round_to_hundredths(between(*low, *high, self.proportion)))
    }
}

impl Scores {
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn insert(&mut self, score: Score) {
        let score = score.get();
        self.count += 1;
        self.sum += in_sum_units(score);
        match &mut self.spread {
            Spread::Plain(sorted) => {
                let place = sorted.partition_point(|known| *known <= score);
                sorted.insert(place, score);
                if sorted.len() > PLAIN_MAX {
                    self.spread = Spread::Bucketed(Box::new(Buckets::of(sorted)));
                }
            }
            Spread::Bucketed(buckets) => buckets.insert(score),
        }
    }

    /// The mean, rounded to two decimals; none without scores.
    pub fn mean(&self) -> Option<f64> {
        let mean = self.sum.checked_div(u128::from(self.count))?;
        Some(round_to_hundredths(mean as f64 * 2.0_f64.powi(-SUM_BITS)))
    }

    /// The 90th percentile by linear interpolation. O(1) over plain scores, O(512) over buckets.
    pub fn p90(&self) -> Percentile {
        let Some(last) = self.count.checked_sub(1) else { return Percentile::None };
        let place = 0.9 * last as f64;
        let (low, high, proportion) = (place.floor(), place.ceil(), place - place.floor());
        match &self.spread {
            Spread::Plain(sorted) => match (sorted.get(low as usize), sorted.get(high as usize)) {
                (Some(low), Some(high)) => {
                    Percentile::Known(round_to_hundredths(between(*low, *high, proportion)))
                }
                _ => Percentile::None,
            },
            Spread::Bucketed(buckets) => buckets.percentile(low as u64, high as u64, proportion),
        }
    }
}

impl Buckets {
    fn of(scores: &[f64]) -> Self {
        let mut buckets = Self { coarse: vec![0; COARSE], fine: vec![EMPTY; FINE] };
        for score in scores {
            buckets.insert(*score);
        }
        buckets
    }

    fn insert(&mut self, score: f64) {
        let index = bucket_of(score);
        self.coarse[index / COARSE] += 1;
        let bucket = &mut self.fine[index];
        bucket.count += 1;
        bucket.min = bucket.min.min(score);
        bucket.max = bucket.max.max(score);
    }

    fn percentile(&self, low_rank: u64, high_rank: u64, proportion: f64) -> Percentile {
        let (Some((low, below)), Some((high, _))) = (self.find(low_rank), self.find(high_rank)) else {
            return Percentile::None;
        };
        let (low_bucket, high_bucket) = (&self.fine[low], &self.fine[high]);
        let least = round_to_hundredths(between(low_bucket.min, high_bucket.min, proportion));
        let greatest = round_to_hundredths(between(low_bucket.max, high_bucket.max, proportion));
        if least == greatest {
            return Percentile::Known(least);
        }
        let within = u64::from(low_bucket.count) + if low == high { 0 } else { u64::from(high_bucket.count) };
        Percentile::Ambiguous(AmbiguousPercentile {
            from: low_bucket.min,
            to: high_bucket.max,
            within,
            low: (low_rank - below) as usize,
            high: (high_rank - below) as usize,
            proportion,
        })
    }

    /// The bucket of the score with this rank, and how many scores lie in the buckets before it.
    fn find(&self, rank: u64) -> Option<(usize, u64)> {
        let mut below = 0;
        let coarse = self.coarse.iter().position(|count| {
            let is_here = rank < below + count;
            below += if is_here { 0 } else { *count };
            is_here
        })?;
        let first = coarse * COARSE;
        let fine = self.fine[first..first + COARSE].iter().position(|bucket| {
            let is_here = rank < below + u64::from(bucket.count);
            below += if is_here { 0 } else { u64::from(bucket.count) };
            is_here
        })?;
        Some((first + fine, below))
    }
}

fn bucket_of(score: f64) -> usize {
    ((score * FINE as f64) as usize).min(FINE - 1)
}

fn in_sum_units(score: f64) -> u128 {
    // Multiplying by a power of two changes the exponent only; the part below 2⁻⁸⁸ is truncated.
    (score * 2.0_f64.powi(SUM_BITS)) as u128
}

/// Interpolates like PostgreSQL, operation by operation.
fn between(low: f64, high: f64, proportion: f64) -> f64 {
    low + proportion * (high - low)
}

/// `round(x::numeric, 2)` for a number from 0 to a million: 15 significant digits, then half away from zero.
fn round_to_hundredths(x: f64) -> f64 {
    let written = format!("{x:.14e}");
    let (mantissa, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let digits: u64 =
        mantissa.bytes().filter(u8::is_ascii_digit).fold(0, |n, d| n * 10 + u64::from(d - b'0'));
    // The number is digits · 10^(exponent − 14), so this many digits after the hundredths are rounded away.
    let cut = 12 - exponent.parse::<i32>().unwrap_or(0);
    let hundredths = match u32::try_from(cut).ok().and_then(|cut| 10_u64.checked_pow(cut)) {
        Some(unit) => (digits + unit / 2) / unit,
        None => 0,
    };
    hundredths as f64 / 100.0
}

/// The stored form of scores: only the non-empty buckets, in order, so that equal scores give equal bytes.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// The upper and the lower half of the sum, because not every format supports 128 bits.
    sum: (u64, u64),
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    plain: Vec<f64>,
    /// Index, count, minimum and maximum.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    buckets: Vec<(u16, u32, f64, f64)>,
}

impl From<Scores> for Stored {
    fn from(scores: Scores) -> Self {
        let sum = ((scores.sum >> 64) as u64, scores.sum as u64);
        match scores.spread {
            Spread::Plain(plain) => Self { sum, plain, buckets: Vec::new() },
            Spread::Bucketed(buckets) => {
                let filled = buckets.fine.iter().zip(0_u16..=u16::MAX).filter(|(bucket, _)| bucket.count > 0);
                let buckets =
                    filled.map(|(bucket, index)| (index, bucket.count, bucket.min, bucket.max)).collect();
                Self { sum, plain: Vec::new(), buckets }
            }
        }
    }
}

impl From<Stored> for Scores {
    fn from(stored: Stored) -> Self {
        let sum = (u128::from(stored.sum.0) << 64) | u128::from(stored.sum.1);
        if stored.buckets.is_empty() {
            return Self { count: stored.plain.len() as u64, sum, spread: Spread::Plain(stored.plain) };
        }
        let mut buckets = Buckets::of(&[]);
        let mut all = 0;
        for (index, count, min, max) in stored.buckets {
            let index = usize::from(index);
            buckets.fine[index] = Bucket { count, min, max };
            buckets.coarse[index / COARSE] += u64::from(count);
            all += u64::from(count);
        }
        Self { count: all, sum, spread: Spread::Bucketed(Box::new(buckets)) }
    }
}

#[cfg(test)]
mod tests;
