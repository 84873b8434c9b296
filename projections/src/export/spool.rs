//! A temporary file with the vectors of an export, so that they are all of one position although they are copied in small steps.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Vectors of one length by the numbers of their places. The file has no name, so that nothing of it stays after a crash.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    vector_bytes: usize,
}

impl Spool {
    /// # Errors
    /// The folder cannot be written to.
    pub(crate) fn new(folder: &Path, dimension: usize) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { file: tempfile::tempfile_in(folder)?, vector_bytes: dimension * size_of::<f32>() })
    }

    pub(crate) fn vector_bytes(&self) -> usize {
        self.vector_bytes
    }

    fn offset(&self, place: u32) -> u64 {
        u64::from(place) * self.vector_bytes as u64
    }

    /// Sets the vector of a place, given as little-endian numbers.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub(crate) fn write(&self, place: u32, vectors: &[u8]) -> io::Result<()> {
        self.file.write_all_at(vectors, self.offset(place))
    }

    /// Reads vectors of consecutive places.
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) fn read(&self, place: u32, vectors: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(vectors, self.offset(place))
    }
}
