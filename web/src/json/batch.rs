//! Many items in one body: a JSON array, or one item per line.

use std::ops::Deref;

use poem::{Request, RequestBody};
use poem_openapi::payload::Payload;
use poem_openapi::registry::{MetaMediaType, MetaRequest, MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::{ParseFromJSON, Type};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use super::{Json, MEDIA_TYPE, check_encoding, essence, parse, parse_body, reader};
use crate::problem::{Code, Problem};

/// The media types of NDJSON, the usual one first.
pub const NDJSON: [&str; 4] =
    ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"];

/// Whether the media type is one of NDJSON.
pub fn is_ndjson(media_type: &str) -> bool {
    NDJSON.contains(&essence(media_type).as_str())
}

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
        // Client generators drop an operation with a media type that they do not know.
        let content =
            vec![MetaMediaType { content_type: MEDIA_TYPE, schema: MetaSchemaRef::Inline(Box::new(array)) }];
        let description = Some("The items; or, as `application/x-ndjson`, one item per line.");
        Some(MetaRequest { description, content, required: true })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let content_type = request.content_type().ok_or_else(|| unsupported_type("no type"))?;
        let lines = is_ndjson(content_type);
        if !lines && !<Json<Vec<T>> as Payload>::check_content_type(content_type) {
            return Err(unsupported_type(&format!("type `{content_type}`")).into());
        }
        let parse = if lines { parse_lines::<T, MAX> } else { parse_array::<T, MAX> };
        parse_body(body, parse).await.map(Self)
    }
}

fn schema_of<T: Type>() -> MetaSchema {
    MetaSchema { items: Some(Box::new(T::schema_ref())), ..MetaSchema::new("array") }
}

fn unsupported_type(what: &str) -> Problem {
    let detail = format!(
        "this path does not accept a body of {what}; send {MEDIA_TYPE}, or {} with one item per line",
        NDJSON[0]
    );
    Problem::new(Code::UnsupportedMediaType, detail)
}

pub(super) fn too_many(max: usize) -> String {
    format!("must have at most {max} items; send the others in another request")
}

fn parse_array<T: ParseFromJSON + 'static, const MAX: usize>(text: &[u8]) -> Result<Vec<T>, Problem> {
    if text.trim_ascii_start().starts_with(b"[") { reader::read_items(text, MAX) } else { parse(text) }
}

/// Empty lines are ignored, so a trailing line break is fine.
fn parse_lines<T: ParseFromJSON + 'static, const MAX: usize>(text: &[u8]) -> Result<Vec<T>, Problem> {
    check_encoding(text)?;
    let mut items = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        if items.len() == MAX {
            return Err(Problem::invalid("body", too_many(MAX)));
        }
        items.push(parse(line).map_err(|problem| problem.at_line(index + 1))?);
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Result<Vec<u32>, (String, String)> {
        parse_lines::<u32, 3>(text.as_bytes()).map_err(|mut problem| {
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

    #[test]
    fn items_of_an_array_are_read_up_to_the_limit() {
        let array = |text: &str| {
            parse_array::<u32, 3>(text.as_bytes()).map_err(|mut problem| {
                let error = problem.errors.remove(0);
                (error.field, error.reason)
            })
        };
        assert_eq!(array(" [1, 2,3] "), Ok(vec![1, 2, 3]));
        assert_eq!(array("[1,2,3,4, and what is not JSON").unwrap_err().1, too_many(3));
        assert_eq!(array("[1,2").unwrap_err().0, "body");
        assert_eq!(array("[1] 2").unwrap_err().0, "body");
        assert_eq!(array("[1,-2]"), Err(("body[1]".into(), "must be at least 0".into())));
        assert_eq!(array("{}").unwrap_err().1, "must be an array, not an object");
    }
}
