//! The size limit of a request body, with or without a `Content-Length`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use poem::http::header;
use poem::{Body, Request};

use crate::problem::{BodyTooLarge, Code, Problem};

/// The most bytes of a body over the limit that are discarded, and the longest time for it.
const DRAIN_BYTES_MAX: usize = 64 << 20;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// Reports whether the body has been read completely.
#[derive(Clone, Debug)]
pub(super) struct BodyArrival(Arc<AtomicBool>);

impl BodyArrival {
    pub(super) fn is_complete(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Reads and discards the rest of a body, within limits: a client that is still sending when the connection closes may
/// not receive the response.
async fn drain_body(mut body: impl Stream<Item = io::Result<Bytes>> + Unpin) {
    let all = async {
        let mut left = DRAIN_BYTES_MAX;
        while let Some(Ok(chunk)) = body.next().await
            && chunk.len() <= left
        {
            left -= chunk.len();
        }
    };
    // A client that still sends after this has had the time to read the response.
    let _ = tokio::time::timeout(DRAIN_TIME_MAX, all).await;
}

/// Drains a refused body, unless its client waits for `100 Continue` and has not sent it.
pub(super) async fn refuse(body: Body, expects_continue: bool) {
    if !expects_continue {
        drain_body(body.into_bytes_stream().boxed()).await;
    }
}

/// Refuses a body whose `Content-Length` is over `limit`, and aborts one without a length that exceeds it.
///
/// # Errors
/// 413 for a length over the limit; 415 for a compressed body, because its decompressed size cannot be checked in advance.
pub(super) fn limit(request: &mut Request, limit: usize) -> Result<BodyArrival, Problem> {
    if let Some(coding) = request.header(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        let detail = format!("bodies must be uncompressed, not {coding}");
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    let too_large = BodyTooLarge { limit };
    let content_length = request.header(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if content_length.is_some_and(|length| length > limit as u64) {
        return Err(Problem::new(Code::PayloadTooLarge, too_large.to_string()));
    }
    let body = request.take_body();
    let arrived = BodyArrival(Arc::new(AtomicBool::new(body.is_empty())));
    if arrived.is_complete() {
        return Ok(arrived);
    }
    let at_end = arrived.clone();
    let chunks = stream::unfold(Some((body.into_bytes_stream().boxed(), 0)), move |state| async move {
        let (mut body, read) = state?;
        let chunk = match body.next().await? {
            Ok(chunk) => chunk,
            Err(error) => return Some((Err(error), None)),
        };
        let read = read + chunk.len();
        if read > limit {
            drain_body(body).await;
            return Some((Err(io::Error::other(too_large)), None));
        }
        Some((Ok(chunk), Some((body, read))))
    });
    let end = stream::poll_fn(move |_| {
        at_end.0.store(true, Ordering::Relaxed);
        std::task::Poll::Ready(None)
    });
    request.set_body(Body::from_bytes_stream(chunks.chain(end)));
    Ok(arrived)
}
