//! Many items in one body: a JSON array, or one item per line.

use std::fmt;
use std::ops::Deref;

use poem::{Request, RequestBody};
use poem_openapi::payload::Payload;
use poem_openapi::registry::{MetaMediaType, MetaRequest, MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::{ParseFromJSON, Type};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Json, MEDIA_TYPE, check_encoding, essence, malformed, parse, parse_body, reader};
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
        Some(meta_of::<T>(MAX))
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let parse = if is_in_lines::<T>(request)? { parse_lines::<T, MAX> } else { parse_array::<T, MAX> };
        parse_body(body, parse).await.map(Self)
    }
}

/// One item of a [`LenientBatch`].
#[derive(Clone, Debug)]
pub struct BatchItem<T> {
    /// The number of its line in NDJSON, from 1.
    pub line: Option<usize>,
    /// The item, or what is wrong with it.
    pub read: Result<T, Problem>,
}

/// Up to `MAX` items as in a [`Batch`], each of which is read for itself: wrong ones do not affect the others. If `ONE`, an item
/// as a JSON object, too.
#[derive(Clone, Debug)]
pub struct LenientBatch<T, const MAX: usize = 10_000, const ONE: bool = false>(pub Vec<BatchItem<T>>);

/// One item as a JSON object, or a [`LenientBatch`].
pub type OneOrBatch<T> = LenientBatch<T, 10_000, true>;

impl<'a, T: ParseFromJSON + 'static, const MAX: usize, const ONE: bool> ApiExtractor<'a>
    for LenientBatch<T, MAX, ONE>
{
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let mut meta = meta_of::<T>(MAX);
        for content in meta.content.iter_mut().filter(|_| ONE) {
            let items = std::mem::replace(&mut content.schema, T::schema_ref());
            let either = MetaSchema { one_of: vec![T::schema_ref(), items], ..MetaSchema::ANY };
            content.schema = MetaSchemaRef::Inline(Box::new(either));
            meta.description =
                Some("An item, or an array of them; or, as `application/x-ndjson`, one per line.");
        }
        Some(meta)
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let parse = match is_in_lines::<T>(request)? {
            true => read_lines::<T, MAX>,
            false if ONE => read_one_or_array::<T, MAX>,
            false => read_array::<T, MAX>,
        };
        parse_body(body, parse).await.map(Self)
    }
}

fn meta_of<T: Type>(max: usize) -> MetaRequest {
    let array = MetaSchema { max_items: Some(max), ..schema_of::<T>() };
    // Client generators drop an operation with a media type that they do not know.
    let content =
        vec![MetaMediaType { content_type: MEDIA_TYPE, schema: MetaSchemaRef::Inline(Box::new(array)) }];
    let description = Some("The items; or, as `application/x-ndjson`, one item per line.");
    MetaRequest { description, content, required: true }
}

/// Whether the body has one item per line, as its media type says.
fn is_in_lines<T: ParseFromJSON + 'static>(request: &Request) -> Result<bool, Problem> {
    let content_type = request.content_type().ok_or_else(|| unsupported_type("no type"))?;
    let lines = is_ndjson(content_type);
    if !lines && !<Json<Vec<T>> as Payload>::check_content_type(content_type) {
        return Err(unsupported_type(&format!("type `{content_type}`")));
    }
    Ok(lines)
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
        items.push(parse(line).map_err(|problem| in_line(problem).at_line(index + 1))?);
    }
    Ok(items)
}

/// The problem of a line, which names the line itself: to the parser, each is the first one.
fn in_line(mut problem: Problem) -> Problem {
    const FIRST: &str = "line 1, column";
    for error in &mut problem.errors {
        if let Some(place) = error.reason.strip_prefix(FIRST) {
            let within = error.reason.clone();
            error.reason = format!("column{place}");
            problem.detail = problem.detail.replacen(&within, &error.reason, 1).into();
        }
    }
    problem
}

/// The most errors that are kept of one item.
const ITEM_ERRORS_MAX: usize = 5;

fn read_item<T: ParseFromJSON + 'static>(text: &[u8], line: Option<usize>) -> BatchItem<T> {
    let read = parse(text).map_err(|mut problem| {
        problem.errors.truncate(ITEM_ERRORS_MAX);
        if line.is_some() { in_line(problem) } else { problem }
    });
    BatchItem { line, read }
}

fn read_lines<T: ParseFromJSON + 'static, const MAX: usize>(
    text: &[u8],
) -> Result<Vec<BatchItem<T>>, Problem> {
    check_encoding(text)?;
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    let mut items = Vec::new();
    for (index, line) in lines.filter(|(_, line)| !line.trim_ascii().is_empty()) {
        if items.len() == MAX {
            return Err(Problem::invalid("body", too_many(MAX)));
        }
        items.push(read_item(line, Some(index + 1)));
    }
    Ok(items)
}

fn read_array<T: ParseFromJSON + 'static, const MAX: usize>(
    text: &[u8],
) -> Result<Vec<BatchItem<T>>, Problem> {
    check_encoding(text)?;
    if !text.trim_ascii_start().starts_with(b"[") {
        // What is not an array is refused as a whole.
        return parse::<Vec<T>>(text).map(|_| Vec::new());
    }
    let mut items = ArrayItems { items: Vec::new(), max: MAX, is_too_long: false };
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let read = (&mut items).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match read {
        _ if items.is_too_long => Err(Problem::invalid("body", too_many(MAX))),
        Err(error) => Err(malformed(&error)),
        Ok(()) => Ok(items.items),
    }
}

/// The only item is refused as a whole, so that its problem names its members as they are in the body.
fn read_one_or_array<T: ParseFromJSON + 'static, const MAX: usize>(
    text: &[u8],
) -> Result<Vec<BatchItem<T>>, Problem> {
    if text.trim_ascii_start().starts_with(b"[") {
        return read_array::<T, MAX>(text);
    }
    Ok(vec![BatchItem { line: None, read: Ok(parse(text)?) }])
}

/// Reads the items of an array, each for itself.
struct ArrayItems<T> {
    items: Vec<BatchItem<T>>,
    max: usize,
    is_too_long: bool,
}

impl<'de, T: ParseFromJSON + 'static> DeserializeSeed<'de> for &mut ArrayItems<T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: ParseFromJSON + 'static> Visitor<'de> for &mut ArrayItems<T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(item) = list.next_element::<&RawValue>()? {
            if self.items.len() == self.max {
                self.is_too_long = true;
                return Err(A::Error::custom("the rest is not read"));
            }
            self.items.push(read_item(item.get().as_bytes(), None));
        }
        Ok(())
    }
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
        let broken = ("line 2".to_owned(), "column 1: EOF while parsing an object".to_owned());
        assert_eq!(lines("1\n{\n"), Err(broken));
        let whole = parse_lines::<u32, 3>(b"1\n2 3").unwrap_err().detail;
        assert_eq!(whole, "line 2: the body is not valid JSON: column 3: trailing characters");
        let item = read_item::<u32>(b"2 3", Some(2)).read.unwrap_err();
        assert_eq!(item.errors[0].reason, "column 3: trailing characters");
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

    /// The items that were read, and the line and the field of the others.
    fn lenient(items: Result<Vec<BatchItem<u32>>, Problem>) -> Vec<Result<u32, (Option<usize>, String)>> {
        let field = |line, problem: &Problem| (line, problem.errors[0].field.clone());
        let items = items.unwrap().into_iter();
        items.map(|item| item.read.map_err(|problem| field(item.line, &problem))).collect()
    }

    #[test]
    fn wrong_items_do_not_affect_the_others() {
        let wrong = |line| Err((line, "body".to_owned()));
        let expected = |lines: [Option<usize>; 2]| [Ok(1), wrong(lines[0]), Ok(3), wrong(lines[1])];
        let array = lenient(read_array::<u32, 4>(b"[1, \"x\",3, null]"));
        assert_eq!(array, expected([None, None]));
        let lines = lenient(read_lines::<u32, 4>(b"1\n{\n\n3\n-4\n"));
        assert_eq!(lines, expected([Some(2), Some(5)]));
        assert_eq!(lenient(read_array::<u32, 4>(b"[]")), []);
    }

    #[test]
    fn batch_that_is_none_is_refused_as_a_whole() {
        for (text, reason) in
            [("[1,2", "EOF"), ("[1] 2", "trailing"), ("{}", "must be an array"), ("", "missing")]
        {
            let refused = read_array::<u32, 3>(text.as_bytes()).unwrap_err();
            assert!(refused.errors[0].reason.contains(reason), "{text}: {refused:?}");
        }
        for long in [read_array::<u32, 3>(b"[1,2,3,4, and more"), read_lines::<u32, 3>(b"1\n2\n3\n{")] {
            assert_eq!(long.unwrap_err().errors[0].reason, too_many(3));
        }
    }
}
