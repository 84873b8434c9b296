//! The limit of a body, whether its length was announced or not.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use poem::http::header;
use poem::{Body, Request};

use crate::problem::{BodyTooLarge, Code, Problem};

/// Tells whether the whole body has been read.
#[derive(Clone, Debug)]
pub(super) struct Arrived(Arc<AtomicBool>);

impl Arrived {
    pub(super) fn is_complete(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Refuses a body that announces more than `limit` bytes, and ends one that turns out to have more.
///
/// # Errors
/// 413 for a length over the limit; 415 for a compressed body, as unpacking has no limit that could be checked beforehand.
pub(super) fn limit(request: &mut Request, limit: usize) -> Result<Arrived, Problem> {
    if let Some(coding) = request.header(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        let detail = format!("bodies are taken uncompressed, not as {coding}");
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    let too_large = BodyTooLarge { limit };
    let announced = request.header(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(Problem::new(Code::PayloadTooLarge, too_large.to_string()));
    }
    let body = request.take_body();
    let arrived = Arrived(Arc::new(AtomicBool::new(body.is_empty())));
    if arrived.is_complete() {
        return Ok(arrived);
    }
    let at_end = arrived.clone();
    let mut read = 0;
    let chunks = body.into_bytes_stream().map(move |chunk| {
        let chunk = chunk?;
        read += chunk.len();
        if read > limit { Err(io::Error::other(too_large)) } else { Ok(chunk) }
    });
    let end = futures_util::stream::poll_fn(move |_| {
        at_end.0.store(true, Ordering::Relaxed);
        std::task::Poll::Ready(None)
    });
    request.set_body(Body::from_bytes_stream(chunks.chain(end)));
    Ok(arrived)
}
