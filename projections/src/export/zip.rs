//! ZIP archives whose entries are stored as they are: NumPy maps them, and no reader needs to unpack them.
//!
//! Each entry has its length and checksum before its content, as readers of streams need it, so that a large one is produced
//! twice. Entries and archives above 4 GiB, and more than 65,534 entries, have the fields of ZIP64.

use std::io::{self, Write};

use super::ExportError;

/// 1 January 1980: exports of the same vectors are the same bytes.
const DATE: u16 = 0x0021;
const VERSION: u16 = 20;
const VERSION_ZIP64: u16 = 45;
/// Names are in UTF-8.
const FLAGS: u16 = 1 << 11;
/// The place-holder of a number that is in the ZIP64 field.
const ELSEWHERE: u32 = u32::MAX;
/// Read and write for the owner, as `unzip` sets it: the archive was made on Unix.
const MADE_ON_UNIX: u16 = 3 << 8;
const MODE: u32 = 0o100_600 << 16;

/// What an entry contains.
pub(super) trait Content {
    /// Writes the same bytes each time.
    ///
    /// # Errors
    /// Those of the sink, or of the source.
    fn write_to(&self, to: &mut impl Write) -> Result<(), ExportError>;
}

/// The bytes themselves.
impl Content for [u8] {
    fn write_to(&self, to: &mut impl Write) -> Result<(), ExportError> {
        Ok(to.write_all(self)?)
    }
}

struct Entry {
    name: String,
    crc: u32,
    bytes: u64,
    offset: u64,
}

/// An archive that is being written.
pub(super) struct Archive<W> {
    to: W,
    written: u64,
    entries: Vec<Entry>,
    /// Numbers from this one on are in ZIP64 fields.
    zip64_from: u64,
}

/// Counts bytes and computes their checksum.
#[derive(Default)]
struct Measure {
    crc: crc32fast::Hasher,
    bytes: u64,
}

impl Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.crc.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts the bytes of an entry, to compare them with what its header says.
struct Counted<'a, W> {
    to: &'a mut W,
    measure: Measure,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write_all(bytes)?;
        self.measure.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Little-endian fields.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

impl<W: Write> Archive<W> {
    pub(super) fn new(to: W) -> Self {
        Self::with_zip64_from(to, u64::from(ELSEWHERE))
    }

    /// An archive whose numbers are in ZIP64 fields from this one on.
    pub(super) fn with_zip64_from(to: W, zip64_from: u64) -> Self {
        Self { to, written: 0, entries: Vec::new(), zip64_from }
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// Those of the content and the sink.
    pub(super) fn add(&mut self, name: &str, content: &(impl Content + ?Sized)) -> Result<(), ExportError> {
        let mut measure = Measure::default();
        content.write_to(&mut measure)?;
        let (crc, bytes) = (measure.crc.finalize(), measure.bytes);
        let offset = self.written;
        let is_large = bytes >= self.zip64_from;
        let extra = if is_large { zip64(&[bytes, bytes]) } else { Vec::new() };
        let size = if is_large { ELSEWHERE } else { bytes as u32 };
        let header = Fields::default()
            .bytes(b"PK\x03\x04")
            .u16(if is_large { VERSION_ZIP64 } else { VERSION })
            .u16(FLAGS)
            .u16(0)
            .u16(0)
            .u16(DATE)
            .u32(crc)
            .u32(size)
            .u32(size)
            .u16(name.len() as u16)
            .u16(extra.len() as u16)
            .bytes(name.as_bytes())
            .bytes(&extra);
        self.write(&header.0)?;
        let mut counted = Counted { to: &mut self.to, measure: Measure::default() };
        content.write_to(&mut counted)?;
        let measure = counted.measure;
        if measure.bytes != bytes || measure.crc.finalize() != crc {
            return Err(
                io::Error::other(format!("the content of {name} changed while it was written")).into()
            );
        }
        self.written += bytes;
        self.entries.push(Entry { name: name.to_owned(), crc, bytes, offset });
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Writes the directory of the archive.
    ///
    /// # Errors
    /// Those of the sink.
    pub(super) fn finish(mut self) -> Result<(), ExportError> {
        let start = self.written;
        for entry in std::mem::take(&mut self.entries) {
            self.write(&directory_entry(&entry, self.zip64_from))?;
            self.entries.push(entry);
        }
        let (bytes, count) = (self.written - start, self.entries.len() as u64);
        let is_large = start >= self.zip64_from || count >= u64::from(u16::MAX).min(self.zip64_from);
        if is_large {
            let end = self.written;
            let record = Fields::default()
                .bytes(b"PK\x06\x06")
                .u64(44)
                .u16(MADE_ON_UNIX | VERSION_ZIP64)
                .u16(VERSION_ZIP64)
                .u32(0)
                .u32(0)
                .u64(count)
                .u64(count)
                .u64(bytes)
                .u64(start);
            let locator = Fields::default().bytes(b"PK\x06\x07").u32(0).u64(end).u32(1);
            self.write(&record.0)?;
            self.write(&locator.0)?;
        }
        let count = if is_large { u16::MAX } else { count as u16 };
        let number = |value: u64| if is_large { ELSEWHERE } else { value as u32 };
        let end = Fields::default()
            .bytes(b"PK\x05\x06")
            .u16(0)
            .u16(0)
            .u16(count)
            .u16(count)
            .u32(number(bytes))
            .u32(number(start))
            .u16(0);
        Ok(self.write(&end.0)?)
    }
}

/// The extra field with the numbers that do not fit.
fn zip64(numbers: &[u64]) -> Vec<u8> {
    let fields = Fields::default().u16(1).u16((numbers.len() * 8) as u16);
    numbers.iter().fold(fields, |fields, number| fields.u64(*number)).0
}

fn directory_entry(entry: &Entry, zip64_from: u64) -> Vec<u8> {
    let Entry { name, crc, bytes, offset } = entry;
    let fits = |number: u64| number < zip64_from;
    let mut large = Vec::new();
    if !fits(*bytes) {
        large.extend([*bytes, *bytes]);
    }
    if !fits(*offset) {
        large.push(*offset);
    }
    let extra = if large.is_empty() { Vec::new() } else { zip64(&large) };
    let number = |value: u64| if fits(value) { value as u32 } else { ELSEWHERE };
    let version = if large.is_empty() { VERSION } else { VERSION_ZIP64 };
    let fields = Fields::default()
        .bytes(b"PK\x01\x02")
        .u16(MADE_ON_UNIX | version)
        .u16(version)
        .u16(FLAGS)
        .u16(0)
        .u16(0)
        .u16(DATE)
        .u32(*crc)
        .u32(number(*bytes))
        .u32(number(*bytes))
        .u16(name.len() as u16)
        .u16(extra.len() as u16)
        .u16(0)
        .u16(0)
        .u16(0)
        .u32(MODE)
        .u32(number(*offset))
        .bytes(name.as_bytes())
        .bytes(&extra);
    fields.0
}
