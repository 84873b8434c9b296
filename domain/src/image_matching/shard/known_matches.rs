//! The ids of a shard's matches, in 16 to 20 bytes each.
//!
//! A job may have ten million matches, and the state of its shards is kept in memory while it runs. So of each match only a
//! number of 128 bits is kept: 80 bits of the digest of its id, and 48 bits of the digest of its evidence path. The
//! probability that two of n ids of a shard have the same digest is n²/2⁸¹: for ten million matches, in 16 shards, 3 in 10¹².

use std::collections::HashMap;

use event_schemas::ids::uuid_v5;
use uuid::Uuid;

/// The number of bits of the digest of an evidence path.
const EVIDENCE_BITS: u32 = 48;

/// The number of ids that are sorted together, at least.
const RECENT_MIN: usize = 1024;

/// The memory of an entry of the map of recent ids, with its share of free ones.
const RECENT_BYTES: usize = 48;

/// The matches of a shard, with their evidence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KnownMatches {
    /// The digests of id and evidence as one number each, sorted. A hash map would need twice the memory.
    sorted: Vec<u128>,
    /// The latest ids with their evidence. When they are a sixteenth of all, they are sorted in.
    recent: HashMap<u128, u64>,
}

/// A match that is known, and the digest of its evidence path; 0 if it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known(u64);

impl Known {
    pub(super) fn has_evidence(self) -> bool {
        self.0 != 0
    }

    pub(super) fn has_path(self, evidence_path: &str) -> bool {
        self.0 == evidence_digest(evidence_path)
    }
}

impl KnownMatches {
    pub(super) fn len(&self) -> usize {
        self.sorted.len() + self.recent.len()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.sorted.capacity() * size_of::<u128>() + self.recent.capacity() * RECENT_BYTES
    }

    /// The match whose id has this digest.
    pub(super) fn find(&self, id: u128) -> Option<Known> {
        if let Some(evidence) = self.recent.get(&id) {
            return Some(Known(*evidence));
        }
        Some(Known((self.sorted[self.index(id)?] & EVIDENCE_MASK) as u64))
    }

    /// Adds a match. A known one stays as it is.
    pub(super) fn add(&mut self, id: u128, evidence_path: Option<&str>) {
        if self.find(id).is_none() {
            self.recent.insert(id, evidence_path.map_or(0, evidence_digest));
            if self.recent.len() >= (self.sorted.len() / 16).max(RECENT_MIN) {
                self.sort_recent();
            }
        }
    }

    /// Sets the evidence of a match, which is added if it is not known.
    pub(super) fn set_evidence(&mut self, id: u128, evidence_path: &str) {
        let evidence = evidence_digest(evidence_path);
        match self.index(id) {
            Some(index) => self.sorted[index] = entry(id, evidence),
            None => {
                self.recent.insert(id, evidence);
            }
        }
    }

    fn sort_recent(&mut self) {
        self.sorted.reserve_exact(self.recent.len());
        let first = self.sorted.len();
        self.sorted.extend(self.recent.drain().map(|(id, evidence)| entry(id, evidence)));
        self.sorted[first..].sort_unstable();
        // The stable sort finds the two sorted parts, and merges them.
        self.sorted.sort();
    }

    /// The index of the id in the sorted ones.
    fn index(&self, id: u128) -> Option<usize> {
        let first = id << EVIDENCE_BITS;
        // Digests are spread evenly, so that an id is near its share of the length: within four standard deviations, nearly
        // always.
        let len = self.sorted.len();
        let expected = (((first >> 64) * len as u128) >> 64) as usize;
        let radius = 2 * len.isqrt() + 1;
        let (start, end) = (expected.saturating_sub(radius), len.min(expected + radius));
        let is_within = self.sorted.get(start).is_some_and(|entry| *entry < first)
            && self.sorted.get(end).is_some_and(|entry| *entry >= first);
        let (start, end) = if is_within { (start, end) } else { (0, len) };
        let index = start + self.sorted[start..end].partition_point(|entry| *entry < first);
        self.sorted.get(index).is_some_and(|entry| entry >> EVIDENCE_BITS == id).then_some(index)
    }
}

const EVIDENCE_MASK: u128 = (1 << EVIDENCE_BITS) - 1;

fn entry(id: u128, evidence: u64) -> u128 {
    (id << EVIDENCE_BITS) | u128::from(evidence)
}

/// The digest of a match's id. It is the same on every machine and in every version, which the hashes of the standard
/// library do not guarantee. The bits of a UUID between the ones used contain its version.
pub(super) fn id_digest(id: &str) -> u128 {
    let digest = digest(id);
    ((digest >> 80) << 32) | (digest & 0xffff_ffff)
}

fn evidence_digest(path: &str) -> u64 {
    // The last bit is sacrificed so that the number is never zero.
    (digest(path) & EVIDENCE_MASK) as u64 | 1
}

fn digest(text: &str) -> u128 {
    uuid_v5(Uuid::NAMESPACE_OID, text.as_bytes()).as_u128()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_matches_are_found_before_and_after_sorting() {
        let mut known = KnownMatches::default();
        let ids: Vec<u128> = (0..40_000).map(|n| id_digest(&format!("m{n}"))).collect();
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(known.find(*id), None);
            known.add(*id, (n % 3 == 0).then_some("x.png"));
        }
        assert_eq!(known.len(), ids.len());
        for (n, id) in ids.iter().enumerate() {
            let found = known.find(*id).unwrap();
            assert_eq!((found.has_evidence(), found.has_path("x.png")), (n % 3 == 0, n % 3 == 0));
        }
        assert!(known.heap_bytes() < 40_000 * 24, "{}", known.heap_bytes());
    }

    proptest! {
        /// Few and uneven ids, so that the guess of the position is often wrong.
        #[test]
        fn known_matches_equal_a_map(
            steps in proptest::collection::vec((0..2_000_u128, any::<bool>(), 0..3_u8), 0..3_000),
        ) {
            let (mut known, mut map) = (KnownMatches::default(), HashMap::new());
            for (n, is_evidence, path) in steps {
                let (id, path) = (n * n, format!("{path}.png"));
                if is_evidence {
                    known.set_evidence(id, &path);
                    map.insert(id, Some(path));
                } else {
                    known.add(id, None);
                    map.entry(id).or_insert(None);
                }
            }
            prop_assert_eq!(known.len(), map.len());
            for (id, path) in map {
                let found = known.find(id).unwrap();
                prop_assert_eq!(found.has_evidence(), path.is_some());
                prop_assert_eq!(found.has_path("1.png"), path.as_deref() == Some("1.png"));
            }
        }
    }
}
