//! A filter that says of most streams that a segment has nothing of them, without asking the disk.
//!
//! A Bloom filter in blocks of one cache line: looking costs one miss of the cache a segment.

/// Bytes of one block: a cache line.
const BLOCK_BYTES: usize = 64;
/// Twelve bits a stream let about one foreign stream in a hundred pass.
const BITS_PER_STREAM: usize = 12;
/// Bits set for each stream in its block.
const PROBES: u32 = 6;

#[derive(Debug)]
pub(super) struct Filter(Vec<u8>);

impl Filter {
    pub(super) fn new(streams: usize) -> Self {
        let blocks = (streams * BITS_PER_STREAM).div_ceil(BLOCK_BYTES * 8).max(1);
        Self(vec![0; blocks * BLOCK_BYTES])
    }

    /// None if the bytes are no filter's.
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
        // The high half picks the block, so that it does not depend on the bits that pick the probes.
        (((hash >> 32) * blocks) >> 32) as usize * BLOCK_BYTES
    }
}

/// Which bits of its block a stream sets: byte and mask.
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
    fn what_was_put_in_is_never_denied_and_little_else_passes() {
        let name = |n: u32| stream_hash(format!("matching-{n}").as_bytes());
        let mut filter = Filter::new(10_000);
        (0..10_000).for_each(|n| filter.insert(name(n)));
        assert!((0..10_000).all(|n| filter.may_contain(name(n))));
        let passed = (10_000..110_000).filter(|n| filter.may_contain(name(*n))).count();
        assert!(passed < 3_000, "{passed} of 100000 foreign streams passed");
    }
}
