//! NumPy's archive of arrays (`.npz`): `embeddings`, `ids`, `product_ids` and `kinds`. No array has objects, so that
//! `numpy.load` needs no `allow_pickle`.

use std::io::Write;

use super::zip::{Archive, Content};
use super::{Blocks, ExportError, ExportProgress, ExportedRow, Rows};

/// A header is padded to a multiple of this, so that arrays can be mapped.
const ALIGNMENT: usize = 64;
/// The magic bytes, the version 1.0 and the length of the header.
const PREFIX_BYTES: usize = 10;

/// The header of an array in format 1.0.
fn header(descr: &str, shape: &str) -> Vec<u8> {
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    let length = (PREFIX_BYTES + text.len() + 1).next_multiple_of(ALIGNMENT);
    while PREFIX_BYTES + text.len() + 1 < length {
        text.push(' ');
    }
    text.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((text.len() as u16).to_le_bytes());
    header.extend(text.as_bytes());
    header
}

struct Embeddings<'a, R>(Blocks<'a, R>);

impl<R: Rows> Content for Embeddings<'_, R> {
    fn write_to(&self, to: &mut impl Write) -> Result<(), ExportError> {
        let rows = self.0.rows;
        to.write_all(&header("<f4", &format!("{}, {}", rows.len(), rows.dimension())))?;
        self.0.write_to(to)
    }
}

type Text = fn(&ExportedRow) -> &str;

/// An array of texts of a fixed width, in letters of four bytes.
struct Texts<'a, R> {
    rows: &'a R,
    width: usize,
    text: Text,
}

impl<R: Rows> Content for Texts<'_, R> {
    fn write_to(&self, to: &mut impl Write) -> Result<(), ExportError> {
        let Self { rows, width, text } = self;
        to.write_all(&header(&format!("<U{width}"), &format!("{},", rows.len())))?;
        let mut letters = Vec::new();
        rows.for_each(|row| {
            letters.clear();
            letters.extend(text(row).chars().flat_map(|letter| u32::from(letter).to_le_bytes()));
            letters.resize(width * size_of::<u32>(), 0);
            Ok(to.write_all(&letters)?)
        })
    }
}

pub(super) fn write(
    rows: &impl Rows,
    progress: &ExportProgress,
    to: &mut impl Write,
) -> Result<(), ExportError> {
    let texts: [(&str, Text); 3] = [
        ("ids.npy", |row| &row.id),
        ("product_ids.npy", |row| row.product_id.as_deref().unwrap_or_default()),
        ("kinds.npy", |row| row.kind.into()),
    ];
    // NumPy has no texts of no letters.
    let mut widths = [1; 3];
    rows.for_each(|row| {
        for (width, (_, text)) in widths.iter_mut().zip(texts) {
            *width = text(row).chars().count().max(*width);
        }
        Ok(())
    })?;
    let mut archive = Archive::new(to);
    archive.add("embeddings.npy", &Embeddings(Blocks::new(rows, progress)))?;
    for (width, (name, text)) in widths.into_iter().zip(texts) {
        archive.add(name, &Texts { rows, width, text })?;
    }
    archive.finish()
}
