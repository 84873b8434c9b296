//! The index of a segment, by ordinal and by stream: in memory while the segment is active, in a file once it is sealed.
//!
//! An index is derived data: a missing or damaged file is rebuilt from its segment.

use std::collections::HashMap;

use event_schemas::ids::Revision;
use event_schemas::stream::StreamId;
use foldhash::fast::RandomState;

use super::segment::StreamRun;

mod build;
mod file;
mod filter;

pub(super) use build::build;
pub(super) use file::IndexFile;

/// The index of an active segment. `O(events + streams of the segment)` memory.
#[derive(Debug, Default)]
pub(super) struct MemoryIndex {
    /// The offset of each event in the file. A segment is far smaller than 4 GiB.
    offsets: Vec<u32>,
    streams: HashMap<StreamId, Postings, RandomState>,
}

/// The events of one stream in one segment. Their revisions are consecutive.
#[derive(Debug)]
struct Postings {
    first: Revision,
    ordinals: Ordinals,
}

/// The ordinals of a stream's events. Most streams have one event in a segment, which needs no allocation.
#[derive(Debug)]
enum Ordinals {
    One(u32),
    Many(Vec<u32>),
}

impl Ordinals {
    fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    fn push(&mut self, ordinal: u32) {
        match self {
            Self::One(one) => *self = Self::Many(vec![*one, ordinal]),
            Self::Many(many) => many.push(ordinal),
        }
    }
}

impl MemoryIndex {
    /// An empty index with capacity for as many entries as `previous` has.
    pub(super) fn with_capacity_of(previous: &Self) -> Self {
        Self {
            offsets: Vec::with_capacity(previous.offsets.len()),
            streams: HashMap::with_capacity_and_hasher(previous.streams.len(), RandomState::default()),
        }
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.offsets.len())
            .expect("a segment is smaller than 4 GiB, an event larger than a byte")
    }

    /// Adds the next event; returns false if it does not continue its stream.
    pub(super) fn push(&mut self, stream: &StreamId, revision: Revision, offset: u64) -> bool {
        let ordinal = self.count();
        if let Some(postings) = self.streams.get_mut(stream) {
            if revision != postings.run().last().next() {
                return false;
            }
            postings.ordinals.push(ordinal);
        } else {
            let ordinals = Ordinals::One(ordinal);
            self.streams.insert(stream.clone(), Postings { first: revision, ordinals });
        }
        self.offsets.push(u32::try_from(offset).expect("a segment is smaller than 4 GiB"));
        true
    }

    pub(super) fn run(&self, stream: &StreamId) -> Option<StreamRun> {
        self.streams.get(stream).map(Postings::run)
    }

    pub(super) fn ordinals(&self, stream: &StreamId, skip: u32, take: usize) -> Vec<u32> {
        let all = self.streams.get(stream).map_or(&[][..], |postings| postings.ordinals.as_slice());
        all.iter().skip(skip as usize).take(take).copied().collect()
    }

    /// The streams with their parts in this segment, sorted by name.
    pub(super) fn into_streams(self) -> Vec<(Vec<u8>, StreamRun)> {
        let streams = self.streams.into_iter();
        let mut streams: Vec<_> =
            streams.map(|(stream, postings)| (stream.as_str().as_bytes().to_vec(), postings.run())).collect();
        streams.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        streams
    }

    pub(super) fn offset(&self, ordinal: u32) -> Option<u64> {
        self.offsets.get(ordinal as usize).copied().map(u64::from)
    }
}

impl Postings {
    fn run(&self) -> StreamRun {
        let count =
            u32::try_from(self.ordinals.as_slice().len()).expect("a segment has fewer than 2³² events");
        StreamRun { first: self.first, count }
    }
}

/// A fixed hash of a stream's name. Index files contain it, so it must never change.
fn stream_hash(name: &[u8]) -> u64 {
    let mut hash: u64 = 0x9e37_79b9_7f4a_7c15 ^ name.len() as u64;
    for chunk in name.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash.rotate_left(23) ^ u64::from_le_bytes(word)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_hash_is_stable() {
        let hashes = ["", "job-1", "matching-00000000-0000-0000-0000-000000000001.15"]
            .map(|name| format!("{:016x}", stream_hash(name.as_bytes())));
        assert_eq!(hashes, ["877e2015a156cda7", "9398a5cad6472260", "10f4e7c828503732"]);
    }
}
