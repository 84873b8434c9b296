//! Streams of server-sent events, which end with their clients.

use futures_util::{FutureExt, StreamExt};
use poem::{Body, Response};

use crate::server::ClientSide;

/// Ends a stream when its client closes its side, after what is to be sent at once: most clients that do so are gone.
pub(super) fn end_with_client(mut response: Response, client: ClientSide) -> Response {
    if !response.content_type().is_some_and(|content_type| content_type.starts_with("text/event-stream")) {
        return response;
    }
    let closed = async move { client.closed().await }.boxed().into_stream().map(|()| None);
    let chunks = response.take_body().into_bytes_stream().map(Some);
    // Chunks are taken first, as long as there are any.
    let both = futures_util::stream::select_with_strategy(
        chunks.chain(futures_util::stream::once(async { None })),
        closed,
        |(): &mut ()| futures_util::stream::PollNext::Left,
    );
    let until_closed =
        both.take_while(|chunk| std::future::ready(chunk.is_some())).filter_map(std::future::ready);
    response.set_body(Body::from_bytes_stream(until_closed));
    response
}
