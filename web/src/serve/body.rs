//! The limit of a body, whether its length was announced or not.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use poem::http::header;
use poem::{Body, Request};

use crate::problem::{BodyTooLarge, Code, Problem};

/// How much of a body that is too large is read to its end, and for how long.
const POURED_AWAY_MAX: usize = 64 << 20;
const POURING_MAX: Duration = Duration::from_secs(2);

/// Tells whether the whole body has been read.
#[derive(Clone, Debug)]
pub(super) struct Arrived(Arc<AtomicBool>);

impl Arrived {
    pub(super) fn is_complete(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Reads what nobody wants, for a while: a client that is still sending when the connection closes may never see why.
async fn pour_away(mut body: impl Stream<Item = io::Result<Bytes>> + Unpin) {
    let all = async {
        let mut left = POURED_AWAY_MAX;
        while let Some(Ok(chunk)) = body.next().await
            && chunk.len() <= left
        {
            left -= chunk.len();
        }
    };
    // Whoever sends on and on has had the time to look for an answer.
    let _ = tokio::time::timeout(POURING_MAX, all).await;
}

/// The same for a whole body that has been refused. One whose client waits for `100 Continue` is not asked for.
pub(super) async fn refuse(body: Body, is_waiting: bool) {
    if !is_waiting {
        pour_away(body.into_bytes_stream().boxed()).await;
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
    let chunks = stream::unfold(Some((body.into_bytes_stream().boxed(), 0)), move |state| async move {
        let (mut body, read) = state?;
        let chunk = match body.next().await? {
            Ok(chunk) => chunk,
            Err(error) => return Some((Err(error), None)),
        };
        let read = read + chunk.len();
        if read > limit {
            pour_away(body).await;
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
