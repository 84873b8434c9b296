//! Building an index file. `docs/log-format.md` shows the layout.

use event_schemas::ids::Position;

use super::file::{BLOCK_BYTES, BLOCK_PAYLOAD, Layout, STREAM_BYTES, block_crc};
use super::filter::BloomFilter;
use super::{MemoryIndex, stream_hash};

/// The bytes of the index file for a sealed segment. `O(n log n)` in its streams.
pub(in super::super) fn build(index: &MemoryIndex, first: Position, end: u64) -> Vec<u8> {
    let mut streams: Vec<_> = index.streams.iter().collect();
    streams.sort_unstable_by_key(|(stream, _)| *stream);
    let mut filter = BloomFilter::new(streams.len());
    let names_bytes = streams.iter().map(|(stream, _)| stream.as_str().len()).sum();
    let layout = Layout::new(index.offsets.len(), streams.len(), names_bytes, filter.as_bytes().len());

    let mut bytes = vec![0; layout.end];
    layout.encode(first, end, &mut bytes);
    for (n, offset) in index.offsets.iter().enumerate() {
        put_u32(&mut bytes, layout.offsets + n * 4, *offset);
    }
    let slots = layout.slots_len();
    let (mut name_at, mut posting) = (0, 0);
    for (n, (stream, postings)) in streams.iter().enumerate() {
        let name = stream.as_str().as_bytes();
        let hash = stream_hash(name);
        filter.insert(hash);
        let at = layout.streams + n * STREAM_BYTES;
        bytes[at..at + 8].copy_from_slice(&hash.to_le_bytes());
        bytes[at + 8..at + 16].copy_from_slice(&postings.first.0.to_le_bytes());
        put_u32(&mut bytes, at + 16, as_u32(name_at));
        put_u32(&mut bytes, at + 20, as_u32(name.len()));
        put_u32(&mut bytes, at + 24, as_u32(posting));
        put_u32(&mut bytes, at + 28, postings.run().count);
        bytes[layout.names + name_at..layout.names + name_at + name.len()].copy_from_slice(name);
        name_at += name.len();
        for ordinal in postings.ordinals.as_slice() {
            put_u32(&mut bytes, layout.postings + posting * 4, *ordinal);
            posting += 1;
        }
        let mut slot = hash as usize % slots;
        while bytes[layout.slots + slot * 4..layout.slots + slot * 4 + 4] != [0; 4] {
            slot = (slot + 1) % slots;
        }
        put_u32(&mut bytes, layout.slots + slot * 4, as_u32(n + 1));
    }
    bytes[layout.filter..layout.filter + filter.as_bytes().len()].copy_from_slice(filter.as_bytes());
    in_blocks(&bytes, first)
}

/// Splits the content into blocks, each with its CRC.
fn in_blocks(content: &[u8], first: Position) -> Vec<u8> {
    let mut file = Vec::with_capacity(content.len().div_ceil(BLOCK_PAYLOAD) * BLOCK_BYTES);
    for (number, payload) in content.chunks(BLOCK_PAYLOAD).enumerate() {
        let start = file.len();
        file.extend_from_slice(payload);
        file.resize(start + BLOCK_PAYLOAD, 0);
        let crc = block_crc(first, number as u64, &file[start..]);
        file.extend_from_slice(&crc.to_le_bytes());
        file.resize(start + BLOCK_BYTES, 0);
    }
    file
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn as_u32(value: usize) -> u32 {
    u32::try_from(value).expect("a segment is smaller than 4 GiB, so its index's counts are")
}
