//! An index of FAISS with all vectors, `IndexIDMap` of `IndexFlatIP`, and the ids of its vectors. The vectors have the length 1, so
//! that their inner product is the cosine similarity.
//!
//! FAISS knows a vector by a number: its place in `ids.ndjson`, from 0.

use std::io::Write;

use super::zip::{Archive, Content};
use super::{Blocks, ExportError, ExportProgress, Rows};

const INNER_PRODUCT: i32 = 0;

/// The fields with which each index starts.
fn header(kind: &[u8; 4], dimension: u32, count: u64) -> Vec<u8> {
    // A field that FAISS does not use any more.
    const UNUSED: i64 = 1 << 20;
    let mut header = kind.to_vec();
    header.extend(dimension.to_le_bytes());
    header.extend(count.to_le_bytes());
    header.extend(UNUSED.to_le_bytes());
    header.extend(UNUSED.to_le_bytes());
    let is_trained = 1;
    header.push(is_trained);
    header.extend(INNER_PRODUCT.to_le_bytes());
    header
}

struct Index<'a, R>(Blocks<'a, R>);

impl<R: Rows> Content for Index<'_, R> {
    fn write_to(&self, to: &mut impl Write) -> Result<(), ExportError> {
        let rows = self.0.rows;
        let (dimension, count) = (rows.dimension(), rows.len());
        to.write_all(&header(b"IxMp", dimension, count))?;
        to.write_all(&header(b"IxFI", dimension, count))?;
        to.write_all(&(count * u64::from(dimension)).to_le_bytes())?;
        self.0.write_to(to)?;
        to.write_all(&count.to_le_bytes())?;
        for number in 0..count {
            to.write_all(&number.to_le_bytes())?;
        }
        Ok(())
    }
}

struct Ids<'a, R>(&'a R);

impl<R: Rows> Content for Ids<'_, R> {
    fn write_to(&self, to: &mut impl Write) -> Result<(), ExportError> {
        let mut number = 0_u64;
        self.0.for_each(|row| {
            let line = serde_json::json!({
                "number": number, "id": row.id, "kind": row.kind, "product_id": row.product_id,
            });
            writeln!(to, "{line}")?;
            number += 1;
            Ok(())
        })
    }
}

pub(super) fn write(
    rows: &impl Rows,
    progress: &ExportProgress,
    to: &mut impl Write,
) -> Result<(), ExportError> {
    let mut archive = Archive::new(to);
    archive.add("index.faiss", &Index(Blocks::new(rows, progress)))?;
    archive.add("ids.ndjson", &Ids(rows))?;
    archive.finish()
}
