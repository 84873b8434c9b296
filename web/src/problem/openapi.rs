//! Problems in the OpenAPI document.

use poem_openapi::ApiResponse;
use poem_openapi::registry::{
    MetaHeader, MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
};
use poem_openapi::types::Type;

use super::{Code, MEDIA_TYPE, Part, Problem};
use crate::schema::{reference, register};

/// The error responses of an operation. [`crate::openapi::document`] removes those that an operation cannot return.
const RESPONSES: [(u16, &str); 15] = [
    (400, "The request is not valid"),
    (401, "Credentials are missing or not valid"),
    (403, "The caller lacks a role"),
    (404, "Not found"),
    (408, "The request took too long to arrive"),
    (409, "The state of the resource does not allow it"),
    (410, "It no longer exists"),
    (413, "The request is too large"),
    (415, "The media type is not supported"),
    (416, "The range is not satisfiable"),
    (422, "The content is refused"),
    (429, "Too many requests"),
    (500, "The server failed"),
    (503, "Temporarily unavailable, or the outcome is unknown"),
    (507, "The disk is full"),
];

fn string() -> MetaSchemaRef {
    String::schema_ref()
}

fn described(schema: MetaSchema, description: &'static str) -> MetaSchemaRef {
    MetaSchemaRef::Inline(Box::new(MetaSchema { description: Some(description), ..schema }))
}

fn header(name: &str, schema: MetaSchemaRef, description: &str) -> MetaHeader {
    MetaHeader {
        name: name.into(),
        description: Some(description.into()),
        required: false,
        deprecated: false,
        schema,
    }
}

fn schema() -> MetaSchema {
    let codes = Code::ALL.iter().map(|code| code.into_str().into()).collect();
    let error = MetaSchema {
        required: vec!["field", "reason"],
        properties: vec![("field", string()), ("reason", string())],
        ..MetaSchema::new("object")
    };
    let errors = MetaSchema {
        items: Some(Box::new(MetaSchemaRef::Inline(Box::new(error)))),
        ..MetaSchema::new("array")
    };
    let parts = MetaSchema { items: Some(Box::new(reference::<Part>())), ..MetaSchema::new("array") };
    MetaSchema {
        description: Some("An error (RFC 9457)."),
        required: vec!["type", "title", "status", "code", "detail"],
        properties: vec![
            ("type", described(MetaSchema::new("string"), "A link to the description of the code.")),
            ("title", string()),
            ("status", described(MetaSchema::new("integer"), "The HTTP status.")),
            (
                "code",
                described(
                    MetaSchema { enum_items: codes, ..MetaSchema::new("string") },
                    "The machine-readable code.",
                ),
            ),
            ("detail", described(MetaSchema::new("string"), "A sentence about this request.")),
            ("errors", described(errors, "The invalid fields.")),
            ("parts", described(parts, "What happened to each part of a request that was recorded in part.")),
            (
                "request_id",
                described(MetaSchema::new("string"), "The id of the request in the server's log."),
            ),
        ],
        ..MetaSchema::new("object")
    }
}

impl ApiResponse for Problem {
    fn meta() -> MetaResponses {
        let response = |(status, description)| {
            let mut headers =
                vec![header("X-REQUEST-ID", string(), "The id of the request in the server's log.")];
            if matches!(status, 429 | 503 | 507) {
                let seconds = MetaSchema { minimum: Some(1.0), ..MetaSchema::new("integer") };
                let seconds = MetaSchemaRef::Inline(Box::new(seconds));
                headers.push(header("RETRY-AFTER", seconds, "The number of seconds after which to retry."));
            }
            if status == 401 {
                headers.push(header("WWW-AUTHENTICATE", string(), "The authentication scheme."));
            }
            MetaResponse {
                description,
                status: Some(status),
                status_range: None,
                content: vec![MetaMediaType {
                    content_type: MEDIA_TYPE,
                    schema: MetaSchemaRef::Reference("Problem".into()),
                }],
                headers,
            }
        };
        MetaResponses { responses: RESPONSES.into_iter().map(response).collect() }
    }

    fn register(registry: &mut Registry) {
        register::<Part>(registry);
        registry.create_schema::<Self, _>("Problem".into(), |_| schema());
    }
}
