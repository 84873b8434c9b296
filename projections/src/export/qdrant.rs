//! Request bodies for Qdrant: `collection.json` for `PUT /collections/{name}`, and `points-00001.json` and so on for
//! `PUT /collections/{name}/points`.

use std::io::Write;

use event_schemas::ids::ModelId;
use serde::Serialize;
use uuid::Uuid;

use super::zip::Archive;
use super::{ExportError, ExportProgress, ExportedKind, ExportedRow, Rows};

/// The largest body of points: Qdrant takes up to 32 MiB, unless it is configured otherwise.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The most points of a body.
const POINTS_MAX: usize = 1_000;

#[derive(Serialize)]
struct Point<'a> {
    id: Uuid,
    vector: &'a [f32],
    payload: Payload<'a>,
}

#[derive(Serialize)]
struct Payload<'a> {
    id: &'a str,
    kind: ExportedKind,
    model_id: &'a ModelId,
    #[serde(skip_serializing_if = "Option::is_none")]
    product_id: Option<&'a str>,
}

/// The points of a body that is not complete.
struct Body {
    text: Vec<u8>,
    points: usize,
    number: u32,
}

impl Body {
    fn end<W: Write>(&mut self, archive: &mut Archive<W>) -> Result<(), ExportError> {
        if self.points == 0 {
            return Ok(());
        }
        self.text.extend(b"]}");
        self.number += 1;
        archive.add(&format!("points-{:05}.json", self.number), self.text.as_slice())?;
        self.points = 0;
        Ok(())
    }

    fn add(&mut self, point: &Point<'_>) -> Result<(), ExportError> {
        if self.points == 0 {
            self.text.clear();
            self.text.extend(b"{\"points\":[");
        } else {
            self.text.push(b',');
        }
        serde_json::to_writer(&mut self.text, point).map_err(std::io::Error::from)?;
        self.points += 1;
        Ok(())
    }
}

pub(super) fn write(
    rows: &impl Rows,
    progress: &ExportProgress,
    to: &mut impl Write,
) -> Result<(), ExportError> {
    let mut archive = Archive::new(to);
    let collection =
        serde_json::json!({"vectors": {"size": rows.dimension(), "distance": "Cosine"}}).to_string();
    archive.add("collection.json", collection.as_bytes())?;
    let mut body = Body { text: Vec::new(), points: 0, number: 0 };
    rows.for_each_vector(|row, vector| {
        let ExportedRow { kind, id, product_id } = row;
        let (kind, model_id, product_id) = (*kind, rows.model_id(), product_id.as_deref());
        body.add(&Point { id: row.point_id(), vector, payload: Payload { id, kind, model_id, product_id } })?;
        if body.points == POINTS_MAX || body.text.len() >= BODY_BYTES_MAX {
            body.end(&mut archive)?;
        }
        progress.wrote(1);
        Ok(())
    })?;
    body.end(&mut archive)?;
    archive.finish()
}
