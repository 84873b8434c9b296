//! A file with the vectors of texts, so that a start need not compute them again. It is a cache: a damaged part is left out.
//!
//! It starts with the hash of the model, and then has one record per text: the hash of the text, the numbers and a checksum.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::store::StoreError;
use crate::text_encoder::TextEncoder;

const MAGIC: &[u8] = b"matchbook vectors of texts 1\n";
const KEY_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;
/// A file is written again without the texts that no product has any more, if they are most of it and at least as many.
const UNUSED_MIN: usize = 1_000;

/// The vectors of texts in a file.
#[derive(Debug)]
pub(super) struct TextVectors {
    path: PathBuf,
    header: Vec<u8>,
    dimension: usize,
    file: File,
    /// Where the record of each text starts.
    records: HashMap<Uuid, u64>,
    /// The end of the last complete record.
    end: u64,
    /// The texts that were asked for or added.
    used: HashSet<Uuid>,
    /// The records have been read.
    is_indexed: bool,
}

/// The start of the file, with a checksum.
fn header(fingerprint: &str) -> Vec<u8> {
    let mut header = [MAGIC, fingerprint.as_bytes()].concat();
    header.extend(crc32c::crc32c(&header).to_le_bytes());
    header
}

/// Whether this is the start of some model's file. A damaged one is not, and is written again.
fn is_header(found: &[u8]) -> bool {
    found.split_last_chunk().is_some_and(|(content, checksum)| {
        content.starts_with(MAGIC) && crc32c::crc32c(content) == u32::from_le_bytes(*checksum)
    })
}

fn key(text: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes())
}

impl TextVectors {
    /// Opens the file of an encoder in a folder, or creates it.
    ///
    /// # Errors
    /// The file cannot be used, or has the vectors of another model with the same name.
    pub(super) fn open(folder: &Path, encoder: &TextEncoder) -> Result<Self, StoreError> {
        let path = folder.join(format!("{}.texts", encoder.model));
        let failed = |source| StoreError::Folder { folder: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let header = header(&encoder.fingerprint);
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        let mut found = Vec::new();
        Read::by_ref(&mut file).take(header.len() as u64).read_to_end(&mut found).map_err(failed)?;
        if found != header {
            if is_header(&found) {
                return Err(StoreError::OtherWeights { model: encoder.model.to_string(), file: path });
            }
            file.set_len(0).map_err(failed)?;
            file.write_all_at(&header, 0).map_err(failed)?;
        }
        let end = header.len() as u64;
        let (records, used, dimension) = (HashMap::new(), HashSet::new(), encoder.dimension);
        Ok(Self { path, header, dimension, file, records, end, used, is_indexed: false })
    }

    fn record_bytes(&self) -> usize {
        KEY_BYTES + 4 * self.dimension + CHECKSUM_BYTES
    }

    /// Reads all records, once. What follows a damaged one is lost.
    fn index(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.is_indexed, true) {
            return Ok(());
        }
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        let mut record = vec![0; self.record_bytes()];
        let mut header = vec![0; self.header.len()];
        io::Seek::rewind(&mut reader)?;
        reader.read_exact(&mut header)?;
        while reader.read_exact(&mut record).is_ok() {
            let Some((key, _)) = parse(&record) else { break };
            self.records.insert(key, self.end);
            self.end += record.len() as u64;
        }
        self.file.set_len(self.end)
    }

    /// The vector of a text, if the file has it.
    pub(super) fn get(&mut self, text: &str) -> Option<Vec<f32>> {
        self.index().ok()?;
        let key = key(text);
        let start = *self.records.get(&key)?;
        let mut record = vec![0; self.record_bytes()];
        self.file.read_exact_at(&mut record, start).ok()?;
        let (found, vector) = parse(&record)?;
        self.used.insert(key);
        (found == key).then_some(vector)
    }

    /// Adds the vector of a text.
    pub(super) fn add(&mut self, text: &str, vector: &[f32]) -> io::Result<()> {
        self.index()?;
        let key = key(text);
        let mut record = key.as_bytes().to_vec();
        record.extend(vector.iter().flat_map(|value| value.to_le_bytes()));
        record.extend(crc32c::crc32c(&record).to_le_bytes());
        self.file.write_all_at(&record, self.end)?;
        self.records.insert(key, self.end);
        self.used.insert(key);
        self.end += record.len() as u64;
        Ok(())
    }

    /// Writes the file again without the texts that were not used since it was opened, if they are many.
    pub(super) fn compact(&mut self) -> io::Result<()> {
        let unused = self.records.len().saturating_sub(self.used.len());
        if unused < UNUSED_MIN.max(self.used.len()) {
            return Ok(());
        }
        let new_path = self.path.with_extension("texts.new");
        let mut options = OpenOptions::new();
        let new = options.read(true).write(true).create(true).truncate(true).open(&new_path)?;
        let mut writer = io::BufWriter::new(&new);
        writer.write_all(&self.header)?;
        let (mut records, mut end) = (HashMap::new(), self.header.len() as u64);
        let mut record = vec![0; self.record_bytes()];
        for (key, start) in self.records.iter().filter(|(key, _)| self.used.contains(*key)) {
            self.file.read_exact_at(&mut record, *start)?;
            writer.write_all(&record)?;
            records.insert(*key, end);
            end += record.len() as u64;
        }
        writer.flush()?;
        drop(writer);
        std::fs::rename(&new_path, &self.path)?;
        (self.file, self.records, self.end) = (new, records, end);
        Ok(())
    }
}

/// The text and the vector of a record; none if it is damaged.
fn parse(record: &[u8]) -> Option<(Uuid, Vec<f32>)> {
    let (content, checksum) = record.split_last_chunk::<CHECKSUM_BYTES>()?;
    if crc32c::crc32c(content) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let (key, numbers) = content.split_first_chunk::<KEY_BYTES>()?;
    let (numbers, _) = numbers.as_chunks();
    Some((Uuid::from_bytes(*key), numbers.iter().map(|number| f32::from_le_bytes(*number)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoder(fingerprint: &str) -> TextEncoder {
        TextEncoder::new("mini".parse().unwrap(), 2, fingerprint.to_owned(), |_| Ok(None))
    }

    fn open(folder: &Path) -> TextVectors {
        TextVectors::open(folder, &encoder("aa")).unwrap()
    }

    fn number(n: usize) -> [f32; 2] {
        [n as f32, 1.0]
    }

    #[test]
    fn vectors_are_found_again_after_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let mut vectors = open(folder.path());
        assert_eq!(vectors.get("shoe"), None);
        vectors.add("shoe", &[0.5, -1.5]).unwrap();
        vectors.add("kettle", &number(2)).unwrap();
        assert_eq!(vectors.get("shoe"), Some(vec![0.5, -1.5]));
        let mut again = open(folder.path());
        assert_eq!(again.get("shoe"), Some(vec![0.5, -1.5]));
        assert_eq!(again.get("kettle"), Some(vec![2.0, 1.0]));
        assert_eq!(again.get("hat"), None);
    }

    #[test]
    fn vectors_of_other_weights_are_refused_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path()).add("shoe", &number(1)).unwrap();
        let refused = TextVectors::open(folder.path(), &encoder("bb")).unwrap_err();
        assert!(refused.to_string().contains("rename"), "{refused}");
        assert_eq!(open(folder.path()).get("shoe"), Some(vec![1.0, 1.0]));
    }

    #[test]
    fn damaged_records_are_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mini.texts");
        let mut vectors = open(folder.path());
        for n in 0..10 {
            vectors.add(&n.to_string(), &number(n)).unwrap();
        }
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            std::fs::write(&path, &bytes).unwrap();
            let mut vectors = open(folder.path());
            for n in 0..10 {
                let found = vectors.get(&n.to_string());
                assert!(found.is_none_or(|found| found == number(n)), "byte {at}");
            }
            vectors.add("more", &number(77)).unwrap();
            assert_eq!(open(folder.path()).get("more"), Some(vec![77.0, 1.0]), "byte {at}");
        }
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let mut vectors = open(folder.path());
            vectors.add("more", &number(77)).unwrap();
            assert_eq!(open(folder.path()).get("more"), Some(vec![77.0, 1.0]), "cut at {length}");
        }
    }

    #[test]
    fn texts_that_no_product_has_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let mut vectors = open(folder.path());
        for n in 0..3_000 {
            vectors.add(&n.to_string(), &number(n)).unwrap();
        }
        let mut vectors = open(folder.path());
        assert!((0..1_000).all(|n| vectors.get(&n.to_string()).is_some()));
        vectors.compact().unwrap();
        vectors.add("more", &number(77)).unwrap();
        for mut vectors in [vectors, open(folder.path())] {
            assert!((0..1_000).all(|n| vectors.get(&n.to_string()) == Some(number(n).to_vec())));
            assert_eq!(vectors.get("more"), Some(vec![77.0, 1.0]));
            assert_eq!(vectors.get("1000"), None);
        }
    }
}
