//! JSON requests and responses, and responses with the status 201 or 202.
//!
//! The errors of poem-openapi's own `Json` name the expected type but not the field. This one names the field, and accepts
//! bodies of any `application/…json` type.

mod batch;
mod diagnosis;

use std::ops::Deref;

use poem::http::{HeaderValue, StatusCode, header};
use poem::{IntoResponse, Request, RequestBody, Response};
use poem_openapi::payload::{ParsePayload, Payload};
use poem_openapi::registry::{
    MetaHeader, MetaMediaType, MetaResponse, MetaResponses, MetaSchemaRef, Registry,
};
use poem_openapi::types::{ParseFromJSON, ToJSON, Type};
use poem_openapi::{ApiResponse, impl_apirequest_for_payload};
use serde_json::Value;

use crate::problem::{Code, FieldError, Problem};

pub use batch::Batch;

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
        let bytes = body.take()?.into_bytes().await?;
        Ok(Self(parse(&bytes)?))
    }
}

impl_apirequest_for_payload!(Json<T>, T: ParseFromJSON + 'static);

/// A media type without its parameters.
fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Parses a `T` from JSON text.
///
/// The value is first validated against the schema of the OpenAPI document, because poem-openapi accepts more than it
/// documents, for example a number for a string. So exactly what is documented is accepted, and all errors are reported
/// at once.
///
/// # Errors
/// 400: with line and column if the text is not JSON, otherwise with the path of each wrong field.
pub fn parse<T: ParseFromJSON + 'static>(text: &[u8]) -> Result<T, Problem> {
    let value = if text.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(text).map_err(|error| malformed(&error))?
    };
    if value.is_null() {
        return T::parse_from_json(None).map_err(|_| {
            let what = if text.is_empty() { "empty" } else { "null" };
            let detail = format!("the body is {what}; it must be JSON as /openapi.json describes");
            Problem::new(Code::InvalidRequest, detail).error(FieldError::new("body", "is missing"))
        });
    }
    let errors = diagnosis::errors_of::<T>(&value);
    if !errors.is_empty() {
        return Err(refusal(errors));
    }
    T::parse_from_json(Some(value)).map_err(|error| refusal(vec![diagnosis::from_message(error.message())]))
}

fn malformed(error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    let reason = format!("line {}, column {}: {reason}", error.line(), error.column());
    Problem::new(Code::InvalidRequest, format!("the body is not valid JSON: {reason}"))
        .error(FieldError::new("body", reason))
}

fn refusal(errors: Vec<FieldError>) -> Problem {
    let first =
        errors.first().map(|first| format!("`{}`: {}", first.field, first.reason)).unwrap_or_default();
    let detail = match errors.len() {
        1 => first,
        others => format!("{first}; and {} more", others - 1),
    };
    let problem = Problem::new(Code::InvalidRequest, detail);
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

#[cfg(test)]
mod tests {
    use poem_openapi::Object;

    use super::*;

    #[derive(Debug, Object, PartialEq)]
    struct Image {
        img_id: String,
        #[oai(validator(minimum(value = "0")))]
        width: u32,
    }

    #[derive(Debug, Object, PartialEq)]
    #[oai(deny_unknown_fields)]
    struct Product {
        #[oai(validator(max_length = 5))]
        product_id: String,
        images: Vec<Image>,
        note: Option<String>,
    }

    fn errors(text: &str) -> Vec<(String, String)> {
        let problem = parse::<Product>(text.as_bytes()).unwrap_err();
        assert_eq!(problem.code, Code::InvalidRequest);
        problem.errors.into_iter().map(|error| (error.field, error.reason)).collect()
    }

    fn error(text: &str) -> (String, String) {
        let mut errors = errors(text);
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors.remove(0)
    }

    #[test]
    fn valid_body_is_parsed() {
        let product: Product =
            parse(br#"{"product_id": "a", "images": [{"img_id": "x", "width": 1}]}"#).unwrap();
        assert_eq!(product.images, [Image { img_id: "x".into(), width: 1 }]);
    }

    #[test]
    fn malformed_json_is_reported_by_line_and_column() {
        let (field, reason) = error("{\n  \"product_id\": \"a\",,\n}");
        assert_eq!((field.as_str(), reason.as_str()), ("body", "line 2, column 21: key must be a string"));
    }

    #[test]
    fn empty_body_is_reported() {
        assert_eq!(error("").1, "is missing");
    }

    #[test]
    fn missing_field_is_named() {
        assert_eq!(error(r#"{"images": []}"#), ("product_id".into(), "is missing".into()));
    }

    #[test]
    fn mistyped_nested_field_is_named_by_its_path() {
        let text =
            r#"{"product_id": "a", "images": [{"img_id": "x", "width": 1}, {"img_id": 7, "width": 1}]}"#;
        assert_eq!(error(text), ("images[1].img_id".into(), "must be a string, not a number".into()));
    }

    #[test]
    fn optional_member_may_be_null() {
        let text = br#"{"product_id": "a", "images": [], "note": null}"#;
        assert_eq!(parse::<Product>(text).unwrap().note, None);
        assert_eq!(error(r#"{"product_id": null, "images": []}"#).1, "must be a string, not null");
    }

    #[test]
    fn all_errors_are_reported_at_once() {
        let errors = errors(r#"{"product_id": "abcdef", "images": [{"img_id": "x", "width": -1}]}"#);
        assert_eq!(
            errors,
            [
                ("product_id".to_owned(), "must have at most 5 characters".to_owned()),
                ("images[0].width".to_owned(), "must be at least 0".to_owned())
            ]
        );
    }

    #[test]
    fn unknown_field_is_named() {
        assert_eq!(
            error(r#"{"product_id": "a", "images": [], "tenant": "b"}"#),
            ("tenant".into(), "unknown field".into())
        );
    }

    #[test]
    fn json_media_types_are_accepted_and_others_refused() {
        for accepted in ["application/json", "application/json; charset=utf-8", "application/vnd.api+JSON"] {
            assert!(<Json<Product> as Payload>::check_content_type(accepted), "{accepted}");
        }
        for refused in ["text/plain", "application/jsonp", "application/x-www-form-urlencoded"] {
            assert!(!<Json<Product> as Payload>::check_content_type(refused), "{refused}");
        }
    }
}
