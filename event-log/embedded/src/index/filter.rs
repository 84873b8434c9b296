//! A Bloom filter, which excludes most streams that a segment does not contain, without a disk read.
//!
//! It consists of blocks of one cache line, so that a lookup costs one cache miss per segment.

/// The size of a block: one cache line.
const BLOCK_BYTES: usize = 64;
/// Twelve bits per stream give a false positive rate of about one in a hundred.
const BITS_PER_STREAM: usize = 12;
/// The number of bits that are set for each stream in its block.
const PROBES: u32 = 6;

#[derive(Debug)]
pub(super) struct BloomFilter(Vec<u8>);

impl BloomFilter {
    pub(super) fn new(streams: usize) -> Self {
        let blocks = (streams * BITS_PER_STREAM).div_ceil(BLOCK_BYTES * 8).max(1);
        Self(vec![0; blocks * BLOCK_BYTES])
    }

    /// `None` if the bytes are not a filter.
    pub(super) fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        (!bytes.is_empty() && bytes.len().is_multiple_of(BLOCK_BYTES)).then_some(Self(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn insert(&mut self, hash: u64) {
        let start = self.block(hash);
        for (byte, bit) in probes(hash) {
            self.0[start + byte] |= bit;
        }
    }

    pub(super) fn may_contain(&self, hash: u64) -> bool {
        let start = self.block(hash);
        probes(hash).all(|(byte, bit)| self.0[start + byte] & bit != 0)
    }

    fn block(&self, hash: u64) -> usize {
        let blocks = (self.0.len() / BLOCK_BYTES) as u64;
        // The high half selects the block, so that it does not depend on the bits that select the probes.
        (((hash >> 32) * blocks) >> 32) as usize * BLOCK_BYTES
    }
}

/// The bits of its block that a stream sets, as byte and mask.
fn probes(hash: u64) -> impl Iterator<Item = (usize, u8)> {
    let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..PROBES).map(move |probe| {
        let bit = (mixed >> (9 * probe)) & 511;
        ((bit >> 3) as usize, 1 << (bit & 7))
    })
}

#[cfg(test)]
mod tests {
    use super::super::stream_hash;
    use super::*;

    #[test]
    fn contained_streams_always_pass_and_few_others_do() {
        let name = |n: u32| stream_hash(format!("matching-{n}").as_bytes());
        let mut filter = BloomFilter::new(10_000);
        (0..10_000).for_each(|n| filter.insert(name(n)));
        assert!((0..10_000).all(|n| filter.may_contain(name(n))));
        let passed = (10_000..110_000).filter(|n| filter.may_contain(name(*n))).count();
        assert!(passed < 3_000, "{passed} of 100000 foreign streams passed");
    }
}
