//! Exports: the vectors of a model in the formats of other programs, and the files that contain them.
//!
//! [`crate::search::collected`] takes the vectors out of the index, all as of one position. A format writes them to a file;
//! [`files`] keeps the files. The memory of an export depends on the number of its vectors by a few bytes for each: the vectors
//! themselves are in a temporary file.

mod faiss;
pub mod files;
mod lines;
mod npy;
mod qdrant;
mod row;
mod spool;
#[cfg(test)]
mod tests;
mod zip;

use std::cell::Cell;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use event_schemas::export::{ExportFilters, ExportFormat};
use event_schemas::ids::{ModelId, Position, Tenant};

use crate::generation::QueryError;

pub use row::{ExportedKind, ExportedRow};
pub(crate) use spool::Spool;

/// What is exported, and how.
#[derive(Clone, Debug)]
pub struct Export {
    pub tenant: Tenant,
    pub model_id: ModelId,
    pub format: ExportFormat,
    pub filters: ExportFilters,
}

/// An export that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The position of the log that all of its vectors are as of.
    pub position: Position,
    pub vectors: u64,
    /// The number of different products that its vectors belong to.
    pub products: u64,
    pub dimension: u32,
}

/// Why an export is not written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("the model `{0}` was deleted; export another one")]
    Deleted(ModelId),
    #[error("there is no model `{0}`; export another one")]
    UnknownModel(ModelId),
    /// The vectors of the built-in encoder follow from the texts of products, and are not kept for all of them.
    #[error("the vectors of the built-in encoder `{0}` are not exported; export a model of your own")]
    BuiltIn(ModelId),
    #[error("the export was cancelled")]
    Cancelled,
    #[error(transparent)]
    Index(#[from] QueryError),
    #[error("the file cannot be written: {0}; check the disk and the object store")]
    Write(#[from] io::Error),
}

impl From<ExportError> for io::Error {
    fn from(error: ExportError) -> Self {
        Self::other(error)
    }
}

/// Whether vectors of the model can be exported.
///
/// # Errors
/// Why not.
pub fn check_model(models: &domain::model::State, id: &ModelId) -> Result<(), ExportError> {
    match models.model(id) {
        Some(_) if id.as_str() == domain::search::encoder::MODEL => Err(ExportError::BuiltIn(id.clone())),
        Some(_) => Ok(()),
        None if models.is_deleted(id) => Err(ExportError::Deleted(id.clone())),
        None => Err(ExportError::UnknownModel(id.clone())),
    }
}

/// How far an export is, for the task that waits for it.
#[derive(Debug, Default)]
pub struct ExportProgress {
    written: AtomicU64,
    /// The number of vectors; an estimate until they are collected.
    total: AtomicU64,
    is_cancelled: AtomicBool,
}

impl ExportProgress {
    /// Ends the export at its next step.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// The vectors that are in the file.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// The vectors that will be in the file; 0 while it is not known.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    pub(crate) fn set_total(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    fn wrote(&self, vectors: u64) {
        self.written.fetch_add(vectors, Ordering::Relaxed);
    }

    /// # Errors
    /// The export was cancelled.
    pub(crate) fn check(&self) -> Result<(), ExportError> {
        if self.is_cancelled.load(Ordering::Relaxed) { Err(ExportError::Cancelled) } else { Ok(()) }
    }
}

/// The vectors of an export, and what they are of, in one order.
pub(crate) trait Rows {
    fn len(&self) -> u64;

    fn dimension(&self) -> u32;

    fn model_id(&self) -> &ModelId;

    /// What each vector is of.
    ///
    /// # Errors
    /// Those of the function; the model was deleted; the export was cancelled.
    fn for_each(
        &self,
        of_each: impl FnMut(&ExportedRow) -> Result<(), ExportError>,
    ) -> Result<(), ExportError>;

    /// The vectors in blocks, as little-endian `f32`.
    ///
    /// # Errors
    /// Those of the function; the temporary file cannot be read; the export was cancelled.
    fn for_each_block(
        &self,
        of_block: impl FnMut(&[u8]) -> Result<(), ExportError>,
    ) -> Result<(), ExportError>;

    /// What each vector is of, with the vector.
    ///
    /// # Errors
    /// As [`Self::for_each`] and [`Self::for_each_block`].
    fn for_each_vector(
        &self,
        of_each: impl FnMut(&ExportedRow, &[f32]) -> Result<(), ExportError>,
    ) -> Result<(), ExportError>;
}

/// Writes all vectors one after the other. An archive takes its entries twice, first to measure them: only what follows is progress.
struct Blocks<'a, R> {
    rows: &'a R,
    progress: &'a ExportProgress,
    is_measured: Cell<bool>,
}

impl<'a, R: Rows> Blocks<'a, R> {
    fn new(rows: &'a R, progress: &'a ExportProgress) -> Self {
        Self { rows, progress, is_measured: Cell::new(false) }
    }

    fn write_to(&self, to: &mut impl Write) -> Result<(), ExportError> {
        let is_progress = self.is_measured.replace(true);
        let vector_bytes = self.rows.dimension() as usize * size_of::<f32>();
        self.rows.for_each_block(|block| {
            to.write_all(block)?;
            if is_progress {
                self.progress.wrote((block.len() / vector_bytes) as u64);
            }
            Ok(())
        })
    }
}

/// Writes the rows in a format. Each vector counts as written once, although a format may read it twice.
///
/// # Errors
/// [`ExportError`] if the export cannot be completed: what was written so far is no export.
pub(crate) fn write(
    rows: &impl Rows,
    format: ExportFormat,
    progress: &ExportProgress,
    to: &mut impl Write,
) -> Result<(), ExportError> {
    match format {
        ExportFormat::Json => lines::write(rows, progress, to),
        ExportFormat::Numpy => npy::write(rows, progress, to),
        ExportFormat::Faiss => faiss::write(rows, progress, to),
        ExportFormat::Qdrant => qdrant::write(rows, progress, to),
    }?;
    Ok(to.flush()?)
}

/// The end of the name of a file in this format.
pub fn extension(format: ExportFormat) -> &'static str {
    match format {
        ExportFormat::Json => "ndjson",
        ExportFormat::Numpy => "npz",
        ExportFormat::Faiss => "faiss.zip",
        ExportFormat::Qdrant => "qdrant.zip",
    }
}
