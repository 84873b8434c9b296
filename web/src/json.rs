//! JSON requests and responses, and responses with the status 201 or 202.
//!
//! The errors of poem-openapi's own `Json` name the expected type but not the field. This one names the field, and accepts
//! bodies of any `application/…json` type.

mod batch;
mod diagnosis;
mod free_form;
mod reader;

use std::ops::Deref;
use std::sync::OnceLock;
use std::thread::available_parallelism;

use poem::http::{HeaderValue, StatusCode, header};
use poem::{IntoResponse, Request, RequestBody, Response};
use poem_openapi::error::ContentTypeError;
use poem_openapi::payload::{ParsePayload, Payload};
use poem_openapi::registry::{
    MetaHeader, MetaMediaType, MetaRequest, MetaResponse, MetaResponses, MetaSchemaRef, Registry,
};
use poem_openapi::types::{ParseFromJSON, ToJSON, Type};
use poem_openapi::{ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::problem::{Code, FieldError, Problem};

pub use batch::{Batch, BatchItem, LenientBatch, NDJSON, OneOrBatch, is_ndjson};

const MEDIA_TYPE: &str = "application/json";

/// A JSON body of a request or a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T> Deref for Json<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Type> Payload for Json<T> {
    const CONTENT_TYPE: &'static str = MEDIA_TYPE;

    fn check_content_type(content_type: &str) -> bool {
        let essence = essence(content_type);
        essence == MEDIA_TYPE || (essence.starts_with("application/") && essence.ends_with("+json"))
    }

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: ParseFromJSON + 'static> ParsePayload for Json<T> {
    const IS_REQUIRED: bool = T::IS_REQUIRED;

    async fn from_request(_: &Request, body: &mut RequestBody) -> poem::Result<Self> {
        parse_body(body, parse).await.map(Self)
    }
}

/// A body that is required names its media type; an optional one may be left out together with it.
impl<'a, T: ParseFromJSON + 'static> ApiExtractor<'a> for Json<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <Self as Payload>::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let content = MetaMediaType { content_type: MEDIA_TYPE, schema: <Self as Payload>::schema_ref() };
        Some(MetaRequest { description: None, content: vec![content], required: T::IS_REQUIRED })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        match request.content_type() {
            Some(content_type) if <Self as Payload>::check_content_type(content_type) => {
                <Self as ParsePayload>::from_request(request, body).await
            }
            Some(other) => Err(ContentTypeError::NotSupported { content_type: other.to_owned() }.into()),
            None if !T::IS_REQUIRED && body.take()?.into_bytes().await?.is_empty() => Ok(Self(parse(b"")?)),
            None => Err(ContentTypeError::ExpectContentType.into()),
        }
    }
}

/// A media type without its parameters.
fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Larger bodies are parsed on threads for blocking work, so that other requests are answered meanwhile.
const BYTES_PARSED_AT_ONCE: usize = 64 * 1024;

/// The turns of parsing a large body.
fn parsers() -> &'static Semaphore {
    static PARSERS: OnceLock<Semaphore> = OnceLock::new();
    PARSERS.get_or_init(|| Semaphore::new(available_parallelism().map_or(1, |cores| cores.get() / 2).max(1)))
}

/// The body of a request, parsed by `parse`. At most half of the cores parse large bodies at a time.
async fn parse_body<T: Send + 'static>(
    body: &mut RequestBody,
    parse: fn(&[u8]) -> Result<T, Problem>,
) -> poem::Result<T> {
    let bytes = body.take()?.into_bytes().await?;
    if bytes.len() <= BYTES_PARSED_AT_ONCE {
        return Ok(parse(&bytes)?);
    }
    let turn = parsers().acquire().await.map_err(|error| Problem::internal(&error))?;
    let parsed = tokio::task::spawn_blocking(move || {
        let parsed = parse(&bytes);
        drop(turn);
        parsed
    });
    Ok(parsed.await.map_err(|error| Problem::internal(&error))??)
}

/// Parses a `T` from JSON text.
///
/// Each value is validated against the schema of the OpenAPI document, because poem-openapi accepts more than it
/// documents, for example a number for a string. So exactly what is documented is accepted, and all errors are reported
/// at once.
///
/// # Errors
/// 400: with line and column if the text is not JSON, otherwise with the path of each wrong field. 422 for free-form data
/// that is too large.
pub fn parse<T: ParseFromJSON + 'static>(text: &[u8]) -> Result<T, Problem> {
    let text = text.trim_ascii();
    check_encoding(text)?;
    if text.is_empty() || text == b"null" {
        return T::parse_from_json(None).map_err(|_| {
            let what = if text.is_empty() { "empty" } else { "null" };
            let detail = format!("the body is {what}; it must be JSON as /openapi.json describes");
            Problem::new(Code::InvalidRequest, detail).error(FieldError::new("body", "is missing"))
        });
    }
    reader::read(text)
}

/// Parses JSON of another service or of a token by the rules of bodies: a member that is given twice is refused.
///
/// # Errors
/// If the text is not JSON, or not that of a `T`.
pub fn parse_strictly<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    reader::check(text).map_err(|error| error.to_string())?;
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

/// Refuses JSON that gives a member twice. Any other mistake is left to the parser.
///
/// # Errors
/// With the path of the member.
pub(crate) fn check_members(text: &[u8]) -> Result<(), String> {
    match reader::check(text) {
        Err(reader::Unreadable::Twice(member)) => Err(member),
        Ok(()) | Err(reader::Unreadable::NotJson(_)) => Ok(()),
    }
}

/// Refuses a text that starts with a byte order mark, which no JSON text does.
fn check_encoding(text: &[u8]) -> Result<(), Problem> {
    let reason = if text.starts_with(b"\xef\xbb\xbf") {
        "starts with a byte order mark; send UTF-8 without one"
    } else if text.starts_with(b"\xfe\xff") || text.starts_with(b"\xff\xfe") {
        "starts with the byte order mark of UTF-16; send UTF-8 without a byte order mark"
    } else {
        return Ok(());
    };
    Err(Problem::invalid("body", reason))
}

/// What the parser says of a number that no 64-bit float holds, although it is valid JSON.
const NUMBER_TOO_LARGE: &str = "number out of range";

fn malformed(error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let reason = match text.split(" at line ").next().unwrap_or(&text) {
        "recursion limit exceeded" => "nested more than 128 levels deep",
        reason => reason,
    };
    let is_number = reason == NUMBER_TOO_LARGE;
    let reason = format!("line {}, column {}: {reason}", error.line(), error.column());
    let fault = if is_number { "has a number beyond 1.7e308" } else { "is not valid JSON" };
    Problem::new(Code::InvalidRequest, format!("the body {fault}: {reason}"))
        .error(FieldError::new("body", reason))
}

fn refusal(errors: Vec<FieldError>) -> Problem {
    problem_of(Code::InvalidRequest, errors)
}

fn unprocessable(errors: Vec<FieldError>) -> Problem {
    problem_of(Code::Unprocessable, errors)
}

fn problem_of(code: Code, errors: Vec<FieldError>) -> Problem {
    let first =
        errors.first().map(|first| format!("`{}`: {}", first.field, first.reason)).unwrap_or_default();
    let detail = match errors.len() {
        1 => first,
        others => format!("{first}; and {} more", others - 1),
    };
    let problem = Problem::new(code, detail);
    errors.into_iter().fold(problem, Problem::error)
}

/// The body of a response.
pub(crate) fn write<T: ToJSON>(value: &T) -> String {
    value.to_json().unwrap_or(Value::Null).to_string()
}

fn respond<T: ToJSON>(status: StatusCode, value: &T) -> Response {
    Response::builder().status(status).content_type(MEDIA_TYPE).body(write(value))
}

pub(crate) fn meta<T: Type>(
    status: u16,
    description: &'static str,
    headers: Vec<MetaHeader>,
) -> MetaResponse {
    MetaResponse {
        description,
        status: Some(status),
        status_range: None,
        content: vec![MetaMediaType { content_type: MEDIA_TYPE, schema: T::schema_ref() }],
        headers,
    }
}

impl<T: ToJSON> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        respond(StatusCode::OK, &self.0)
    }
}

impl<T: ToJSON> ApiResponse for Json<T> {
    fn meta() -> MetaResponses {
        MetaResponses { responses: vec![meta::<T>(200, "OK", vec![])] }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

fn location_header() -> MetaHeader {
    MetaHeader {
        name: "LOCATION".into(),
        description: Some("The URL of the resource.".into()),
        required: false,
        deprecated: false,
        schema: String::schema_ref(),
    }
}

fn located(mut response: Response, location: &str) -> Response {
    // An id may contain characters that a header cannot; the body has the id anyway.
    if let Ok(value) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// 201: created; `location` is its URL.
#[derive(Clone, Debug)]
pub struct Created<T> {
    pub location: String,
    pub body: T,
}

impl<T: ToJSON> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        located(respond(StatusCode::CREATED, &self.body), &self.location)
    }
}

impl<T: ToJSON> ApiResponse for Created<T> {
    fn meta() -> MetaResponses {
        MetaResponses { responses: vec![meta::<T>(201, "Created", vec![location_header()])] }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// 202: accepted for processing; `location` reports the progress. 200 if an earlier request is in progress already.
#[derive(Clone, Debug)]
pub enum Accepted<T> {
    New { location: String, body: T },
    Existing { location: String, body: T },
}

impl<T: ToJSON> IntoResponse for Accepted<T> {
    fn into_response(self) -> Response {
        match self {
            Self::New { location, body } => located(respond(StatusCode::ACCEPTED, &body), &location),
            Self::Existing { location, body } => located(respond(StatusCode::OK, &body), &location),
        }
    }
}

impl<T: ToJSON> ApiResponse for Accepted<T> {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![
                meta::<T>(202, "Accepted for processing", vec![location_header()]),
                meta::<T>(200, "An earlier request is in progress", vec![location_header()]),
            ],
        }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// 202: recorded; what follows from it is visible later.
#[derive(Clone, Debug)]
pub struct Recorded<T>(pub T);

impl<T: ToJSON> IntoResponse for Recorded<T> {
    fn into_response(self) -> Response {
        respond(StatusCode::ACCEPTED, &self.0)
    }
}

impl<T: ToJSON> ApiResponse for Recorded<T> {
    fn meta() -> MetaResponses {
        MetaResponses { responses: vec![meta::<T>(202, "Accepted", vec![])] }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
