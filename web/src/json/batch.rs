//! Many items in one body: a JSON array, or one item per line.

use std::ops::Deref;

use poem::{Request, RequestBody};
use poem_openapi::payload::Payload;
use poem_openapi::registry::{MetaMediaType, MetaRequest, MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::{ParseFromJSON, Type};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use super::{Json, MEDIA_TYPE, essence, parse};
use crate::problem::{Code, Problem};

const LINES: &str = "application/x-ndjson";

/// Up to `MAX` items, as a JSON array or as NDJSON: one JSON value per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch<T, const MAX: usize = 10_000>(pub Vec<T>);

impl<T, const MAX: usize> Deref for Batch<T, MAX> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<'a, T: ParseFromJSON + 'static, const MAX: usize> ApiExtractor<'a> for Batch<T, MAX> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let array = MetaSchema { max_items: Some(MAX), ..schema_of::<T>() };
        let content = vec![
            MetaMediaType { content_type: MEDIA_TYPE, schema: MetaSchemaRef::Inline(Box::new(array)) },
            MetaMediaType { content_type: LINES, schema: T::schema_ref() },
        ];
        Some(MetaRequest { description: None, content, required: true })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let content_type = request.content_type().ok_or_else(|| unsupported_type("no type"))?;
        let lines = essence(content_type) == LINES;
        if !lines && !<Json<Vec<T>> as Payload>::check_content_type(content_type) {
            return Err(unsupported_type(&format!("type `{content_type}`")).into());
        }
        let bytes = body.take()?.into_bytes().await?;
        let items = if lines { parse_lines(&bytes, MAX)? } else { parse::<Vec<T>>(&bytes)? };
        if items.len() > MAX {
            return Err(too_many(MAX).into());
        }
        Ok(Self(items))
    }
}

fn schema_of<T: Type>() -> MetaSchema {
    MetaSchema { items: Some(Box::new(T::schema_ref())), ..MetaSchema::new("array") }
}

fn unsupported_type(what: &str) -> Problem {
    let detail = format!(
        "this path does not accept a body of {what}; send {MEDIA_TYPE}, or {LINES} with one item per line"
    );
    Problem::new(Code::UnsupportedMediaType, detail)
}

fn too_many(max: usize) -> Problem {
    Problem::invalid("body", format!("must have at most {max} items; send the others in another request"))
}

/// Empty lines are ignored, so a trailing line break is fine.
fn parse_lines<T: ParseFromJSON + 'static>(text: &[u8], max: usize) -> Result<Vec<T>, Problem> {
    let mut items = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        if items.len() == max {
            return Err(too_many(max));
        }
        items.push(parse(line).map_err(|problem| problem.at_line(index + 1))?);
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Result<Vec<u32>, (String, String)> {
        parse_lines(text.as_bytes(), 3).map_err(|mut problem| {
            let error = problem.errors.remove(0);
            (error.field, error.reason)
        })
    }

    #[test]
    fn every_line_is_one_item() {
        assert_eq!(lines("1\n2\r\n\n3\n"), Ok(vec![1, 2, 3]));
        assert_eq!(lines(""), Ok(vec![]));
    }

    #[test]
    fn invalid_line_is_named() {
        assert_eq!(lines("1\n\"x\"\n"), Err(("line 2".into(), "must be an integer, not a string".into())));
        assert_eq!(lines("1\n{\n").unwrap_err().0, "line 2");
    }

    #[test]
    fn too_many_items_are_refused() {
        assert_eq!(
            lines("1\n2\n3\n4").unwrap_err().1,
            "must have at most 3 items; send the others in another request"
        );
    }
}
