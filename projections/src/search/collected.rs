//! The vectors of a model, copied out of the index for an export.
//!
//! The index is locked only for a few vectors at a time, so that it follows the log meanwhile. Vectors that change while others
//! are copied are copied again, until a last step finds few changes: it copies these and lists all vectors under one lock, so
//! that the export is as of that position.

use std::path::Path;
use std::sync::Arc;

use domain::recommend::sources::ListSources;
use domain::search::model_vectors::ModelVectors;
use domain::search::number_set::NumberSet;
use event_schemas::export::{ExportFilters, ExportTarget};
use event_schemas::ids::{ModelId, Position};

use super::graphs::VectorsOf;
use super::{Generation, ProductSearch};
use crate::export::{
    Export, ExportError, ExportProgress, Exported, ExportedKind, ExportedRow, Rows, Spool, check_model,
};

/// The number of vectors that are copied under one lock: about 50 µs.
const COPIED_AT_ONCE: usize = 512;

/// A vector of the export. Four numbers, because there can be millions.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// The place of the vector in the temporary file.
    place: u32,
    of: VectorsOf,
    /// Its slot among the model's vectors.
    slot: u32,
    /// The number of the product that a cutout shows, as of the export's position.
    shown: Option<u32>,
}

/// Where the copying of products' or cutouts' vectors is.
#[derive(Debug)]
struct Copying {
    of: VectorsOf,
    /// All vectors up to this change are copied.
    change: u64,
    /// The place of each slot's vector.
    places: Vec<Option<u32>>,
}

/// The collected vectors.
#[derive(Debug)]
pub(crate) struct Collected<'a> {
    live: Arc<Generation>,
    export: &'a Export,
    progress: &'a ExportProgress,
    spool: Spool,
    rows: Vec<Row>,
    dimension: u32,
    position: Position,
    products: u64,
}

fn vectors_of<'a>(fold: &'a ListSources, model: &ModelId, of: VectorsOf) -> Option<&'a ModelVectors> {
    match of {
        VectorsOf::Products => fold.products.model_vectors(model),
        VectorsOf::Cutouts => fold.cutouts.model_vectors(model),
    }
}

/// What the filters ask for, by the numbers of the index.
struct Selection<'a> {
    filters: &'a ExportFilters,
    fold: &'a ListSources,
    /// None for all.
    products: Option<NumberSet>,
}

impl<'a> Selection<'a> {
    fn new(filters: &'a ExportFilters, fold: &'a ListSources) -> Self {
        let products = (!filters.product_ids.is_empty()).then(|| {
            let mut numbers = NumberSet::default();
            filters.product_ids.iter().filter_map(|id| fold.products.number(id)).for_each(|number| {
                numbers.insert(number);
            });
            numbers
        });
        Self { filters, fold, products }
    }

    fn admits_product(&self, number: u32) -> bool {
        let is_listed = self.products.as_ref().is_none_or(|products| products.contains(number));
        let category = self.filters.category_id.as_ref();
        is_listed
            && category.is_none_or(|id| self.fold.products.details(number).category_id.as_ref() == Some(id))
    }

    /// Whether the vector of this product or cutout is exported; with the product that a cutout shows.
    fn admits(&self, of: VectorsOf, number: u32) -> Option<Option<u32>> {
        match of {
            VectorsOf::Products => {
                let is_active = self.fold.products.details(number).is_active;
                (is_active && self.admits_product(number)).then_some(None)
            }
            VectorsOf::Cutouts => {
                let (_, shown) = self.fold.cutouts.cutout(number);
                let shown = shown.and_then(|product| self.fold.products.number(product));
                let is_any = self.products.is_none() && self.filters.category_id.is_none();
                let admits = self.filters.matched.is_none_or(|matched| matched == shown.is_some())
                    && (is_any || shown.is_some_and(|product| self.admits_product(product)));
                admits.then_some(shown)
            }
        }
    }
}

/// Vectors that were copied under a lock and are not in the file yet.
#[derive(Debug, Default)]
struct Copied {
    places: Vec<u32>,
    bytes: Vec<u8>,
}

impl Copied {
    fn push(&mut self, place: u32, vector: &[f32]) {
        self.places.push(place);
        self.bytes.extend(vector.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// Writes the vectors to the file, consecutive ones at once.
    fn store(&mut self, spool: &Spool) -> Result<(), ExportError> {
        let mut rest = self.bytes.as_slice();
        for run in self.places.chunk_by(|one, next| one + 1 == *next) {
            let (bytes, after) = rest.split_at(run.len() * spool.vector_bytes());
            spool.write(run[0], bytes)?;
            rest = after;
        }
        self.places.clear();
        self.bytes.clear();
        Ok(())
    }
}

impl Copying {
    /// The place of a slot's vector, a new one if it has none.
    fn place(&mut self, slot: u32, next: &mut u32) -> u32 {
        let slot = slot as usize;
        if self.places.len() <= slot {
            self.places.resize(slot + 1, None);
        }
        *self.places[slot].get_or_insert_with(|| {
            *next += 1;
            *next - 1
        })
    }

    /// Copies some of the vectors that were set since. True if that were all.
    fn copy(
        &mut self,
        vectors: &ModelVectors,
        selection: &Selection<'_>,
        next: &mut u32,
        copied: &mut Copied,
    ) -> bool {
        let mut count = 0;
        for (change, slot) in vectors.changed_after(self.change, COPIED_AT_ONCE) {
            count += 1;
            self.change = change;
            if let (Some(_), Some(vector)) =
                (selection.admits(self.of, vectors.owner(slot).0), vectors.vector(slot))
            {
                copied.push(self.place(slot, next), vector);
            }
        }
        count < COPIED_AT_ONCE
    }

    /// Lists all vectors. Those that were not wanted when they could have been copied are copied now: there are few.
    fn list(
        &mut self,
        vectors: &ModelVectors,
        selection: &Selection<'_>,
        next: &mut u32,
        copied: &mut Copied,
    ) -> Vec<Row> {
        let mut rows = Vec::with_capacity(self.places.len());
        for (_, slot) in vectors.changed_after(0, usize::MAX) {
            let Some(shown) = selection.admits(self.of, vectors.owner(slot).0) else { continue };
            let known = self.places.get(slot as usize).copied().flatten();
            let place = known.unwrap_or_else(|| {
                let place = self.place(slot, next);
                if let Some(vector) = vectors.vector(slot) {
                    copied.push(place, vector);
                }
                place
            });
            rows.push(Row { place, of: self.of, slot, shown });
        }
        rows
    }
}

impl<'a> Collected<'a> {
    /// Copies the vectors. The folder is for a temporary file.
    ///
    /// # Errors
    /// The model has no vectors to export; the disk is full; the export was cancelled.
    fn new(
        live: Arc<Generation>,
        export: &'a Export,
        folder: &Path,
        progress: &'a ExportProgress,
    ) -> Result<Self, ExportError> {
        let targets: &[VectorsOf] = match export.filters.target {
            ExportTarget::All => &[VectorsOf::Products, VectorsOf::Cutouts],
            ExportTarget::Products => &[VectorsOf::Products],
            ExportTarget::Cutouts => &[VectorsOf::Cutouts],
        };
        let mut copying: Vec<Copying> =
            targets.iter().map(|of| Copying { of: *of, change: 0, places: Vec::new() }).collect();
        let (dimension, estimate) = live.read(&export.tenant, |fold, _| {
            let model = checked(fold, &export.model_id)?;
            let vectors = targets.iter().filter_map(|of| vectors_of(fold, &export.model_id, *of));
            Ok::<_, ExportError>((model, vectors.map(ModelVectors::present).sum::<usize>()))
        })?;
        progress.set_total(estimate as u64);
        let spool = Spool::new(folder, dimension as usize)?;
        let (mut next, mut copied) = (0, Copied::default());
        let (mut rows, position, products) = loop {
            progress.check()?;
            let step = live.read(&export.tenant, |fold, position| {
                checked(fold, &export.model_id)?;
                let selection = Selection::new(&export.filters, fold);
                let vectors = |of| vectors_of(fold, &export.model_id, of);
                let mut is_complete = true;
                for part in &mut copying {
                    let Some(vectors) = vectors(part.of) else { continue };
                    is_complete &= part.copy(vectors, &selection, &mut next, &mut copied);
                }
                if !is_complete {
                    return Ok(None);
                }
                let list = |part: &mut Copying| {
                    let vectors = vectors(part.of);
                    vectors.map(|vectors| part.list(vectors, &selection, &mut next, &mut copied))
                };
                let rows: Vec<Row> = copying.iter_mut().filter_map(list).flatten().collect();
                let products = count_products(fold, &export.model_id, &rows);
                Ok::<_, ExportError>(Some((rows, position, products)))
            })?;
            copied.store(&spool)?;
            if let Some(step) = step {
                break step;
            }
        };
        // The file is read from its start to its end.
        rows.sort_unstable_by_key(|row| row.place);
        progress.set_total(rows.len() as u64);
        Ok(Self { live, export, progress, spool, rows, dimension, position, products })
    }

    fn exported(&self) -> Exported {
        let Self { position, products, dimension, .. } = *self;
        Exported { position, vectors: self.rows.len() as u64, products, dimension }
    }

    /// What the vectors are of. Only the place among the model's vectors is looked up, which never belongs to another one.
    fn described(&self, rows: &[Row]) -> Result<Vec<ExportedRow>, ExportError> {
        let model = &self.export.model_id;
        self.live.read(&self.export.tenant, |fold, _| {
            checked(fold, model)?;
            let describe = |row: &Row| {
                let vectors = vectors_of(fold, model, row.of);
                let vectors = vectors.ok_or_else(|| ExportError::Deleted(model.clone()))?;
                let (number, image) = vectors.owner(row.slot);
                let product_id = |number: u32| fold.products.id(number).to_string();
                Ok(match (row.of, image) {
                    (VectorsOf::Products, None) => {
                        let id = product_id(number);
                        ExportedRow { kind: ExportedKind::Product, product_id: Some(id.clone()), id }
                    }
                    (VectorsOf::Products, Some(image)) => {
                        let (id, product_id) = (image.to_string(), Some(product_id(number)));
                        ExportedRow { kind: ExportedKind::Image, id, product_id }
                    }
                    (VectorsOf::Cutouts, _) => {
                        let id = fold.cutouts.cutout(number).0.to_string();
                        ExportedRow { kind: ExportedKind::Cutout, id, product_id: row.shown.map(product_id) }
                    }
                })
            };
            rows.iter().map(describe).collect()
        })
    }

    /// The vectors of some rows, in their order.
    fn read(&self, rows: &[Row], bytes: &mut Vec<u8>) -> Result<(), ExportError> {
        bytes.resize(rows.len() * self.spool.vector_bytes(), 0);
        let mut rest = bytes.as_mut_slice();
        for run in rows.chunk_by(|one, next| one.place + 1 == next.place) {
            let (vectors, after) = rest.split_at_mut(run.len() * self.spool.vector_bytes());
            self.spool.read(run[0].place, vectors)?;
            rest = after;
        }
        Ok(())
    }
}

/// The length of the vectors of a model that can be exported.
fn checked(fold: &ListSources, id: &ModelId) -> Result<u32, ExportError> {
    check_model(fold.models(), id)?;
    fold.models().model(id).map(|model| model.dimension).ok_or_else(|| ExportError::UnknownModel(id.clone()))
}

fn count_products(fold: &ListSources, model: &ModelId, rows: &[Row]) -> u64 {
    let mut products = NumberSet::default();
    for row in rows {
        let own = vectors_of(fold, model, row.of).filter(|_| row.of == VectorsOf::Products);
        if let Some(number) = own.map(|vectors| vectors.owner(row.slot).0).or(row.shown) {
            products.insert(number);
        }
    }
    products.len() as u64
}

impl Rows for Collected<'_> {
    fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    fn dimension(&self) -> u32 {
        self.dimension
    }

    fn model_id(&self) -> &ModelId {
        &self.export.model_id
    }

    fn for_each(
        &self,
        mut of_each: impl FnMut(&ExportedRow) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        for rows in self.rows.chunks(COPIED_AT_ONCE) {
            self.progress.check()?;
            self.described(rows)?.iter().try_for_each(&mut of_each)?;
        }
        Ok(())
    }

    fn for_each_block(
        &self,
        mut of_block: impl FnMut(&[u8]) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let mut bytes = Vec::new();
        for rows in self.rows.chunks(COPIED_AT_ONCE) {
            self.progress.check()?;
            self.read(rows, &mut bytes)?;
            of_block(&bytes)?;
        }
        Ok(())
    }

    fn for_each_vector(
        &self,
        mut of_each: impl FnMut(&ExportedRow, &[f32]) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let (mut bytes, mut vector) = (Vec::new(), Vec::new());
        for rows in self.rows.chunks(COPIED_AT_ONCE) {
            self.progress.check()?;
            self.read(rows, &mut bytes)?;
            let described = self.described(rows)?;
            for (row, bytes) in described.iter().zip(bytes.chunks_exact(self.spool.vector_bytes())) {
                vector.clear();
                vector.extend(bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)));
                of_each(row, &vector)?;
            }
        }
        Ok(())
    }
}

impl ProductSearch {
    /// Writes an export, on the thread that calls it. The folder is for a temporary file with the vectors.
    ///
    /// # Errors
    /// [`ExportError`]: what was written so far is no export.
    pub fn export(
        &self,
        export: &Export,
        folder: &Path,
        progress: &ExportProgress,
        to: &mut impl std::io::Write,
    ) -> Result<Exported, ExportError> {
        export_of(self.live()?, export, folder, progress, to)
    }
}

pub(super) fn export_of(
    live: Arc<Generation>,
    export: &Export,
    folder: &Path,
    progress: &ExportProgress,
    to: &mut impl std::io::Write,
) -> Result<Exported, ExportError> {
    let collected = Collected::new(live, export, folder, progress)?;
    crate::export::write(&collected, export.format, progress, to)?;
    // A model that is deleted meanwhile has no vectors any more.
    collected.live.read(&export.tenant, |fold, _| checked(fold, &export.model_id))?;
    Ok(collected.exported())
}
