//! A stream as a response.

use std::marker::PhantomData;

use poem::http::{StatusCode, header};
use poem::{Body, IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::registry::{
    MetaHeader, MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
};
use poem_openapi::types::Type;
use schemars::JsonSchema;

use super::queue::{Outgoing, SseQueue};
use super::{OpenStream, Reader};
use crate::routes::STREAM;
use crate::schema;
use crate::stream_permit::{StreamEnd, StreamPermit};

/// An open stream whose data is a `T` with the additional members `event`, `connection_id` and `update_count`.
#[derive(Debug)]
pub struct Events<T> {
    pub(super) reader: Reader,
    kind: PhantomData<fn() -> T>,
}

impl<T> Events<T> {
    pub(super) fn new(reader: Reader) -> Self {
        Self { reader, kind: PhantomData }
    }

    /// What to send next, for a connection that is not a response; waits if there is nothing. None at the end.
    pub async fn next_outgoing(&mut self) -> Option<Outgoing> {
        self.reader.wait(SseQueue::next_outgoing).await
    }

    /// Ends the stream when its permit does. For a connection that is not a response: others get theirs from the layers.
    pub fn govern(&mut self, permit: StreamPermit) {
        self.reader.shared.permit.put(permit);
    }

    /// Why the stream ended before its object, if it did.
    pub fn end(&self) -> Option<StreamEnd> {
        self.reader.end
    }
}

impl<T> IntoResponse for Events<T> {
    fn into_response(self) -> Response {
        let mut response = Response::builder()
            .content_type(STREAM)
            .header(header::CACHE_CONTROL, "no-cache, no-transform")
            .header("x-accel-buffering", "no")
            .finish();
        response.set_data(OpenStream(self.reader.shared.clone()));
        response.set_body(Body::from_bytes_stream(self.reader.into_stream()));
        response
    }
}

/// The response of a stream route.
#[derive(Debug)]
pub enum StreamResponse<T> {
    Open(Events<T>),
    /// 204: the subscriber has received the last event already; a browser then stops reconnecting.
    Ended,
}

impl<T> IntoResponse for StreamResponse<T> {
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

/// The text of the stream. The data of an event is JSON text of a `T`, which the document describes beside it: client
/// generators know a stream as text only.
fn events<T: JsonSchema>() -> MetaSchemaRef {
    described(
        "string",
        schema::intern(&format!(
            "Server-sent events with `event`, the event's name; `id`, the log position, to be sent as Last-Event-ID to \
             resume; `data`, JSON text of a `{}`; and `retry`, the number of milliseconds after which to reconnect.",
            T::schema_name()
        )),
    )
}

impl<T: JsonSchema> ApiResponse for StreamResponse<T> {
    fn meta() -> MetaResponses {
        let header = |name: &str, value: &str| MetaHeader {
            name: name.into(),
            description: Some(value.into()),
            required: false,
            deprecated: false,
            schema: String::schema_ref(),
        };
        let open = MetaResponse {
            description: "OK: a stream of events, each with its name, its log position as id, and data",
            status: Some(200),
            status_range: None,
            content: vec![MetaMediaType { content_type: STREAM, schema: events::<T>() }],
            headers: vec![
                header("CACHE-CONTROL", "no-cache, no-transform"),
                header("X-ACCEL-BUFFERING", "no"),
            ],
        };
        let ended = MetaResponse {
            description: "No content: the subscriber has received the last event",
            status: Some(204),
            status_range: None,
            content: vec![],
            headers: vec![],
        };
        MetaResponses { responses: vec![open, ended] }
    }

    fn register(registry: &mut Registry) {
        schema::register::<T>(registry);
    }
}
