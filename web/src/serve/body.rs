//! The size limit of a request body, with or without a `Content-Length`, the memory of all bodies in flight, and what
//! becomes of a body that is refused.

mod budget;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use poem::http::header;
use poem::{Body, Request};

use crate::problem::{BodyTooLarge, Code, Problem};
use budget::Share;

pub(super) use budget::BodyBudget;

/// The most bytes of a body over the limit that are discarded, and the longest time for it.
const DRAIN_BYTES_MAX: usize = 64 << 20;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// A body that is being read: what has not been read of it, until it is complete.
#[derive(Clone)]
pub(super) struct ArrivingBody(Arc<Mutex<Unread>>);

struct Unread {
    /// None once the body is complete.
    chunks: Option<BoxStream<'static, io::Result<Bytes>>>,
    /// The number of bytes that may still be read.
    left: usize,
    /// True once a route reads it, for which a client with `Expect` gets `100 Continue`.
    is_requested: bool,
    /// The memory that is reserved for it, until the response starts.
    share: Share,
    /// The length that was announced.
    announced: usize,
}

impl ArrivingBody {
    pub(super) fn is_complete(&self) -> bool {
        self.locked().chunks.is_none()
    }

    /// Discards what a refused request has not read, unless its client waits for `100 Continue` and has not sent it.
    pub(super) async fn discard(&self, expects_continue: bool) {
        let (chunks, is_requested) = {
            let mut unread = self.locked();
            (unread.chunks.take(), unread.is_requested)
        };
        if let Some(chunks) = chunks.filter(|_| is_requested || !expects_continue) {
            drain_body(chunks).await;
        }
    }

    fn poll_next(&self, limit: usize, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let mut unread = self.locked();
        unread.is_requested = true;
        let Some(chunks) = &mut unread.chunks else { return Poll::Ready(None) };
        let chunk = ready!(chunks.poll_next_unpin(context));
        match &chunk {
            Some(Ok(chunk)) if chunk.len() > unread.left => {
                return Poll::Ready(Some(Err(io::Error::other(BodyTooLarge { limit }))));
            }
            Some(Ok(chunk)) => {
                unread.left -= chunk.len();
                // What is announced is reserved at once, so that bodies are refused rather than interrupted.
                let arrived = (limit - unread.left).max(unread.announced);
                if let Err(used_up) = unread.share.grow_to(arrived) {
                    return Poll::Ready(Some(Err(io::Error::other(used_up))));
                }
            }
            Some(Err(_)) => {}
            None => unread.chunks = None,
        }
        Poll::Ready(chunk)
    }

    fn locked(&self) -> MutexGuard<'_, Unread> {
        // Each poll is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Limits a body, which the route reads from the request as before.
pub(super) fn limit(request: &mut Request, limit: usize, budget: &BodyBudget) -> ArrivingBody {
    let share = budget.share(request);
    let announced = length(request).and_then(|length| usize::try_from(length).ok()).unwrap_or(0).min(limit);
    let body = request.take_body();
    let chunks = (!body.is_empty()).then(|| body.into_bytes_stream().boxed());
    let arriving = ArrivingBody(Arc::new(Mutex::new(Unread {
        chunks,
        left: limit,
        is_requested: false,
        share,
        announced,
    })));
    if !arriving.is_complete() {
        let body = arriving.clone();
        request.set_body(Body::from_bytes_stream(stream::poll_fn(move |context| {
            body.poll_next(limit, context)
        })));
    }
    arriving
}

/// Refuses a body by its headers.
///
/// # Errors
/// 413 for a length over the limit; 415 for a compressed body, because its decompressed size cannot be checked in advance.
pub(super) fn check_headers(request: &Request, limit: usize) -> Result<(), Problem> {
    if let Some(coding) = request.header(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        let detail = format!("bodies must be uncompressed, not {coding}");
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    if length(request).is_some_and(|length| length > limit as u64) {
        return Err(Problem::new(Code::PayloadTooLarge, BodyTooLarge { limit }.to_string()));
    }
    Ok(())
}

fn length(request: &Request) -> Option<u64> {
    request.header(header::CONTENT_LENGTH)?.parse().ok()
}
