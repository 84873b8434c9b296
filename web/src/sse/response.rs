//! A stream as an answer.

use std::marker::PhantomData;

use poem::http::{StatusCode, header};
use poem::{Body, IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::registry::{
    MetaHeader, MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
};
use poem_openapi::types::Type;

use super::Reader;

const MEDIA_TYPE: &str = "text/event-stream";

/// An open stream whose data is a `T` with `event`, `connection_id` and `update_count` beside.
#[derive(Debug)]
pub struct Events<T> {
    pub(super) reader: Reader,
    kind: PhantomData<fn() -> T>,
}

impl<T> Events<T> {
    pub(super) fn new(reader: Reader) -> Self {
        Self { reader, kind: PhantomData }
    }
}

impl<T> IntoResponse for Events<T> {
    fn into_response(self) -> Response {
        Response::builder()
            .content_type(MEDIA_TYPE)
            .header(header::CACHE_CONTROL, "no-cache, no-transform")
            .header("x-accel-buffering", "no")
            .body(Body::from_bytes_stream(self.reader.into_stream()))
    }
}

/// What a stream's route answers.
#[derive(Debug)]
pub enum Answer<T> {
    Open(Events<T>),
    /// 204: the reader has seen the last event already; a browser then stops coming back.
    Ended,
}

impl<T> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        match self {
            Self::Open(events) => events.into_response(),
            Self::Ended => StatusCode::NO_CONTENT.into_response(),
        }
    }
}

fn described(ty: &'static str, description: &'static str) -> MetaSchemaRef {
    let schema = MetaSchema { description: Some(description), ..MetaSchema::new(ty) };
    MetaSchemaRef::Inline(Box::new(schema))
}

/// One event of the stream. Its data is text on the way, and a `T` once that is read as JSON.
fn event<T: Type>() -> MetaSchemaRef {
    let data = MetaSchema {
        description: Some("JSON text; read, it is the object described here."),
        any_of: vec![MetaSchemaRef::Inline(Box::new(MetaSchema::new("string"))), T::schema_ref()],
        ..MetaSchema::ANY
    };
    let properties = vec![
        ("event", described("string", "The event's name.")),
        ("id", described("string", "The log position; send the last one as Last-Event-ID to go on.")),
        ("data", MetaSchemaRef::Inline(Box::new(data))),
        ("retry", described("integer", "After how many milliseconds to come back.")),
    ];
    let schema =
        MetaSchema { properties, description: Some("One event of the stream."), ..MetaSchema::new("object") };
    MetaSchemaRef::Inline(Box::new(schema))
}

impl<T: Type> ApiResponse for Answer<T> {
    fn meta() -> MetaResponses {
        let header = |name: &str, value: &str| MetaHeader {
            name: name.into(),
            description: Some(value.into()),
            required: false,
            deprecated: false,
            schema: String::schema_ref(),
        };
        let open = MetaResponse {
            description: "Events until the end, each with its name, its position as id, and data as described",
            status: Some(200),
            status_range: None,
            content: vec![MetaMediaType { content_type: MEDIA_TYPE, schema: event::<T>() }],
            headers: vec![
                header("CACHE-CONTROL", "no-cache, no-transform"),
                header("X-ACCEL-BUFFERING", "no"),
            ],
        };
        let ended = MetaResponse {
            description: "The reader has seen the last event",
            status: Some(204),
            status_range: None,
            content: vec![],
            headers: vec![],
        };
        MetaResponses { responses: vec![open, ended] }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}
