//! A line of JSON for each vector.

use std::io::Write;

use event_schemas::ids::ModelId;
use serde::Serialize;

use super::{ExportError, ExportProgress, ExportedKind, ExportedRow, Rows};

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    kind: ExportedKind,
    model_id: &'a ModelId,
    product_id: Option<&'a str>,
    vector: &'a [f32],
}

pub(super) fn write(
    rows: &impl Rows,
    progress: &ExportProgress,
    to: &mut impl Write,
) -> Result<(), ExportError> {
    let mut line = Vec::new();
    rows.for_each_vector(|ExportedRow { kind, id, product_id }, vector| {
        line.clear();
        let (kind, model_id, product_id) = (*kind, rows.model_id(), product_id.as_deref());
        serde_json::to_writer(&mut line, &Line { id, kind, model_id, product_id, vector })
            .map_err(std::io::Error::from)?;
        line.push(b'\n');
        to.write_all(&line)?;
        progress.wrote(1);
        Ok(())
    })
}
