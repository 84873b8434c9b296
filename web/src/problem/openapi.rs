//! Problems in the OpenAPI document.

use poem_openapi::ApiResponse;
use poem_openapi::registry::{
    MetaHeader, MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
};
use poem_openapi::types::Type;

use super::{Code, MEDIA_TYPE, Problem};

/// What any operation may answer. [`crate::openapi::document`] takes away what an operation without a body cannot.
const ANSWERS: [(u16, &str); 14] = [
    (400, "The request cannot be read"),
    (401, "Credentials are missing or not valid"),
    (403, "The caller lacks a right"),
    (404, "There is no such thing"),
    (408, "The request took too long to arrive"),
    (409, "The state of the thing forbids it"),
    (410, "It is no longer there"),
    (413, "The request is too large"),
    (415, "The body has a form this path does not take"),
    (422, "The content is refused"),
    (429, "Too much at once"),
    (500, "The server failed"),
    (503, "Not available at present, or the outcome is not known"),
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
    let codes = Code::ALL.iter().map(|code| code.as_str().into()).collect();
    let error = MetaSchema {
        required: vec!["field", "reason"],
        properties: vec![("field", string()), ("reason", string())],
        ..MetaSchema::new("object")
    };
    let errors = MetaSchema {
        items: Some(Box::new(MetaSchemaRef::Inline(Box::new(error)))),
        ..MetaSchema::new("array")
    };
    MetaSchema {
        description: Some("Why a request was refused (RFC 9457)."),
        required: vec!["type", "title", "status", "code", "detail"],
        properties: vec![
            ("type", described(MetaSchema::new("string"), "A link to what the code means.")),
            ("title", string()),
            ("status", described(MetaSchema::new("integer"), "The HTTP status.")),
            (
                "code",
                described(
                    MetaSchema { enum_items: codes, ..MetaSchema::new("string") },
                    "What a program matches on.",
                ),
            ),
            ("detail", described(MetaSchema::new("string"), "A sentence about this request.")),
            ("errors", described(errors, "What is wrong, by field.")),
            ("request_id", described(MetaSchema::new("string"), "Finds the request in the server's log.")),
        ],
        ..MetaSchema::new("object")
    }
}

impl ApiResponse for Problem {
    fn meta() -> MetaResponses {
        let answer = |(status, description)| {
            let mut headers =
                vec![header("X-REQUEST-ID", string(), "Finds the request in the server's log.")];
            if matches!(status, 429 | 503 | 507) {
                let seconds = MetaSchema { minimum: Some(1.0), ..MetaSchema::new("integer") };
                let seconds = MetaSchemaRef::Inline(Box::new(seconds));
                headers.push(header("RETRY-AFTER", seconds, "After how many seconds to try again."));
            }
            if status == 401 {
                headers.push(header("WWW-AUTHENTICATE", string(), "What to authenticate with."));
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
        MetaResponses { responses: ANSWERS.into_iter().map(answer).collect() }
    }

    fn register(registry: &mut Registry) {
        registry.create_schema::<Self, _>("Problem".into(), |_| schema());
    }
}
